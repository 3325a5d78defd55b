//! Two rows of weights beside each other, in one pass: their squares, their product, their distance. And the squares of one alone.
//!
//! Rows are read in pieces of [`PIECE`] elements. A piece is summed in `f32`, in two vectors of lanes; what the pieces give is
//! added in `f64`, in order. So each sum of a piece errs by at most `PIECE / (2 LANES) + 8` units of rounding of the sum of its
//! terms' magnitudes (Higham 2002, section 3.1), whatever the length of the row: 2.4e-6 with 8 lanes; and as the errors of
//! pieces have both signs, those of a large tensor by much less.

use crate::Element;
use crate::simd::{Simd, stamp};

/// Elements that are summed in `f32`.
pub(crate) const PIECE: usize = 512;
/// Numbers that a piece gives: the four sums of a [`Difference`] and its largest.
pub(crate) const NUMBERS: usize = 5;

/// Two lists of numbers, `a` and `b`, beside each other. What is added up describes them end to end.
///
/// Numbers above 1e18 overflow the squares, which are infinite then; below 1e-19, they do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Difference {
    /// The sums of `a²` and of `b²`.
    pub squares: [f64; 2],
    /// The sum of `a b`.
    pub product: f64,
    /// The sum of `(b - a)²`.
    pub distance_squared: f64,
    /// The largest `|b - a|`; what is not a number shows in the sums only.
    pub largest: f32,
}

impl std::ops::AddAssign<&Difference> for Difference {
    fn add_assign(&mut self, other: &Difference) {
        self.squares[0] += other.squares[0];
        self.squares[1] += other.squares[1];
        self.product += other.product;
        self.distance_squared += other.distance_squared;
        self.largest = self.largest.max(other.largest);
    }
}

impl<'a> std::iter::Sum<&'a Difference> for Difference {
    fn sum<I: Iterator<Item = &'a Difference>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }
}

impl Difference {
    /// The Euclidean norms `‖a‖` and `‖b‖`.
    pub fn norms(&self) -> [f64; 2] {
        self.squares.map(f64::sqrt)
    }

    /// The relative distance `‖b - a‖ / ‖a‖`: infinite if only `a` is zero, 0 if both are.
    pub fn relative(&self) -> f64 {
        if self.distance_squared == 0.0 { 0.0 } else { (self.distance_squared / self.squares[0]).sqrt() }
    }

    /// The cosine of the angle between `a` and `b`, exactly 1 if they are equal; `None` if one is zero.
    pub fn cosine(&self) -> Option<f64> {
        let [a, b] = self.squares;
        (a != 0.0 && b != 0.0).then(|| (self.product / (a * b).sqrt()).clamp(-1.0, 1.0))
    }

    /// Adds up what [`difference_row`] made of a row.
    pub(crate) fn of_pieces(pieces: &[f32]) -> Self {
        let (pieces, _) = pieces.as_chunks::<NUMBERS>();
        let piece = |&[a, b, product, distance, largest]: &[f32; NUMBERS]| Self {
            squares: [a, b].map(f64::from),
            product: product.into(),
            distance_squared: distance.into(),
            largest,
        };
        pieces.iter().fold(Self::default(), |mut sum, numbers| {
            sum += &piece(numbers);
            sum
        })
    }
}

stamp! {
    /// The [`NUMBERS`] of each piece of two rows, one piece after the other.
    pub(crate) fn difference_row[A: Element, B: Element](a: &[A], b: &[B], out: &mut [f32]) = difference_body;
    /// The sum of the squares of a row: the bits of the [`Difference::squares`] of its pieces.
    pub(crate) fn squares_row[A: Element](a: &[A]) -> f64 = squares_body;
}

#[inline(always)]
fn difference_body<S: Simd, A: Element, B: Element>(s: S, a: &[A], b: &[B], out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(NUMBERS).enumerate() {
        let end = (i * PIECE + PIECE).min(a.len());
        let (a, b) = (&a[i * PIECE..end], &b[i * PIECE..end]);
        let mut sums = [[s.zero(); NUMBERS]; 2];
        let whole = a.len() / (2 * S::LANES) * 2 * S::LANES;
        for at in (0..whole).step_by(2 * S::LANES) {
            add(s, &mut sums[0], A::load(s, &a[at..]), B::load(s, &b[at..]));
            add(s, &mut sums[1], A::load(s, &a[at + S::LANES..]), B::load(s, &b[at + S::LANES..]));
        }
        for at in (whole..a.len()).step_by(S::LANES) {
            add(s, &mut sums[0], A::load_part(s, &a[at..]), B::load_part(s, &b[at..]));
        }
        let [mut sums, others] = sums;
        for n in 0..4 {
            sums[n] = s.add(sums[n], others[n]);
        }
        out[..4].copy_from_slice(&s.sum4([sums[0], sums[1], sums[2], sums[3]]));
        out[4] = s.reduce_max(s.max(sums[4], others[4]));
    }
}

#[inline(always)]
fn add<S: Simd>(s: S, sums: &mut [S::F32; NUMBERS], a: S::F32, b: S::F32) {
    let d = s.sub(b, a);
    sums[0] = s.mul_add(a, a, sums[0]);
    sums[1] = s.mul_add(b, b, sums[1]);
    sums[2] = s.mul_add(a, b, sums[2]);
    sums[3] = s.mul_add(d, d, sums[3]);
    sums[4] = s.max(s.abs(d), sums[4]);
}

#[inline(always)]
fn squares_body<S: Simd, A: Element>(s: S, a: &[A]) -> f64 {
    let mut total = 0.0;
    for a in a.chunks(PIECE) {
        let mut sums = [s.zero(); 2];
        let whole = a.len() / (2 * S::LANES) * 2 * S::LANES;
        for at in (0..whole).step_by(2 * S::LANES) {
            let x = [A::load(s, &a[at..]), A::load(s, &a[at + S::LANES..])];
            sums = [s.mul_add(x[0], x[0], sums[0]), s.mul_add(x[1], x[1], sums[1])];
        }
        for at in (whole..a.len()).step_by(S::LANES) {
            let x = A::load_part(s, &a[at..]);
            sums[0] = s.mul_add(x, x, sums[0]);
        }
        total += f64::from(s.sum(s.add(sums[0], sums[1])));
    }
    total
}

/// The plain twin, in `f64`; only the largest is as rounded as its two numbers' difference in `f32`.
pub fn difference_reference(a: &[f32], b: &[f32]) -> Difference {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    Difference {
        squares: [pairs().map(|(a, _)| a * a).sum(), pairs().map(|(_, b)| b * b).sum()],
        product: pairs().map(|(a, b)| a * b).sum(),
        distance_squared: pairs().map(|(a, b)| (b - a).powi(2)).sum(),
        largest: pairs().map(|(a, b)| (b - a).abs() as f32).fold(0.0, f32::max),
    }
}
