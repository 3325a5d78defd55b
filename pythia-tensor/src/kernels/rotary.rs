//! Rotary position embedding (Su et al. 2021), by halves, on the first dimensions of each head.

/// Cosines and sines of every position's angles, in `f32` throughout as transformers computes them: a different
/// rounding of an inverse frequency would shift the angle of position 2000 by 1e-4.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// Half the rotated dimensions: the number of angles.
    half: usize,
    /// `[position][cos of each angle, sin of each angle]`.
    table: Vec<f32>,
}

impl Rotary {
    /// Tables for `positions` positions and the first `dims` dimensions of each head; the angle of pair `i` at
    /// position `p` is `p / base^(2i / dims)`.
    ///
    /// # Panics
    /// If `dims` is odd.
    pub fn new(dims: usize, base: f64, positions: usize) -> Self {
        assert!(dims.is_multiple_of(2), "rotary over {dims} dimensions");
        let half = dims / 2;
        let inverse = |i: usize| 1.0 / base.powf(f64::from((2 * i) as f32 / dims as f32)) as f32;
        let inverse: Vec<f32> = (0..half).map(inverse).collect();
        let mut table = Vec::with_capacity(positions * dims);
        for p in 0..positions {
            table.extend(inverse.iter().map(|f| f64::from(p as f32 * f).cos() as f32));
            table.extend(inverse.iter().map(|f| f64::from(p as f32 * f).sin() as f32));
        }
        Self { half, table }
    }

    /// The number of positions in the tables.
    pub fn positions(&self) -> usize {
        self.table.len().checked_div(2 * self.half).unwrap_or(usize::MAX)
    }

    /// Rotates one head's query or key, `[D]`, to `position`: pair `i` is dimensions `i` and `i + dims / 2`.
    ///
    /// # Panics
    /// If the position is not in the tables or the head is shorter than the rotated dimensions.
    #[inline]
    pub fn rotate(&self, head: &mut [f32], position: usize) {
        let (cos, sin) = self.table[position * 2 * self.half..][..2 * self.half].split_at(self.half);
        let (first, second) = head[..2 * self.half].split_at_mut(self.half);
        for (((x, y), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
        }
    }
}

/// The plain twin of [`Rotary::rotate`]: the angle and the rotation in `f64`.
pub fn rotary_reference(head: &[f32], dims: usize, base: f64, position: usize) -> Vec<f64> {
    let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    for i in 0..dims / 2 {
        let (sin, cos) = (position as f64 / base.powf(2.0 * i as f64 / dims as f64)).sin_cos();
        let (x, y) = (f64::from(head[i]), f64::from(head[i + dims / 2]));
        out[i] = x * cos - y * sin;
        out[i + dims / 2] = y * cos + x * sin;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The angle, up to `position`, is rounded three times (power, inverse, product): it is off by up to
        /// `4 u position`, and the rotation by that times the length of the pair.
        #[test]
        fn matches_the_reference(half in 0..33_usize, extra in 0..40_usize, position in 0..2048_usize, base in 1e3..1e6_f64) {
            let head: Vec<f32> = (0..2 * half + extra).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
            let mut got = head.clone();
            Rotary::new(2 * half, base, position + 1).rotate(&mut got, position);
            let want = rotary_reference(&head, 2 * half, base, position);
            let bound = (4.0 * position as f64 + 4.0) * f64::from(f32::EPSILON / 2.0) * 3.0 * 2.0_f64.sqrt();
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((f64::from(*got) - want).abs() <= bound, "{} for {}", got, want);
            }
        }
    }
}
