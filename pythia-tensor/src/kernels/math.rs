//! `exp`, `exp2`, `erf`, `tanh` and the two GELUs on a vector of lanes.
//!
//! The coefficients are minimax polynomials (Remez exchange in 40-digit arithmetic, relative weight) made for this
//! crate. Measured largest errors over all `f32` of the stated ranges, in units in the last place of the correctly
//! rounded result (`ulp_bounds` in this file's tests, which is run in full with `--ignored`):
//!
//! | function | ulp |
//! |---|---|
//! | `exp` on [-87, 87] | 1.05 |
//! | `exp2` on [-126, 126] | 1.25 |
//! | `exp2_for_bf16`, the same | 49 |
//! | `erf` everywhere | 1.4 |
//! | `tanh` everywhere | 1.4 |
//!
//! `exp` of less than -87.3 passes through subnormal numbers to zero, of more than 88.7 is infinite. `exp2` of less than -126 is zero: a subnormal
//! result takes the processor more than a hundred cycles, and the scores that a mask hides come to one each.

use crate::simd::Arithmetic;

/// `c[0] + c[1] x + c[2] x^2 + ...` by Horner's rule.
#[inline(always)]
fn polynomial<S: Arithmetic, const N: usize>(s: S, x: S::F32, c: [f32; N]) -> S::F32 {
    let mut y = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        y = s.mul_add(y, x, s.splat(c[i]));
    }
    y
}

/// `e^x`. Cody and Waite's reduction `x = n ln 2 + r`, `|r| <= ln 2 / 2`, then `2^n (1 + r + r^2 q(r))`.
#[inline(always)]
pub(crate) fn exp<S: Arithmetic>(s: S, x: S::F32) -> S::F32 {
    // Beyond these the result is 0 or infinity; within them 2^n stays in the range of `scale_pow2`.
    let x = s.max(s.splat(-105.0), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts; the upper has few enough bits that n times it is exact.
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let q = polynomial(s, r, [0.499_999_93, 0.166_665_2, 0.041_668_39, 0.008_368_717, 0.001_381_46]);
    let e = s.add(s.mul_add(s.mul(r, r), q, r), s.splat(1.0));
    s.scale_pow2(e, n)
}

/// `2^x` for `x` up to 127, and 0 below -126. `x = n + r`, `|r| <= 1 / 2`, then `2^n (1 + r q(r))`: 1 where `x` is 0.
#[inline(always)]
pub(crate) fn exp2<S: Arithmetic>(s: S, x: S::F32) -> S::F32 {
    let c = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_48,
        0.055_503_324,
        0.009_618_437,
        0.001_339_887_4,
        1.535_336_2e-4,
    ];
    exp2_by(s, x, c)
}

/// The same to 2.9e-6 of it and a rounding, for what becomes `bf16`, whose numbers lie 3.9e-3 of themselves apart and more.
#[inline(always)]
pub(crate) fn exp2_for_bf16<S: Arithmetic>(s: S, x: S::F32) -> S::F32 {
    exp2_by(s, x, [1.0, 0.693_124_2, 0.240_240_92, 0.055_906_49, 0.009_583_127])
}

#[inline(always)]
fn exp2_by<S: Arithmetic, const N: usize>(s: S, x: S::F32, c: [f32; N]) -> S::F32 {
    let n = s.round(x);
    // Nothing subnormal is computed, not even where the result is 0.
    s.scale_pow2_from((x, -126.0), polynomial(s, s.sub(x, n), c), n)
}

/// The error function: `x + x p(x^2)` below 1, `1 - e^-Q(|x|)` above, where `Q = -ln erfc`.
#[inline(always)]
pub(crate) fn erf<S: Arithmetic>(s: S, x: S::F32) -> S::F32 {
    let a = s.abs(x);
    let t = s.mul(x, x);
    let small = polynomial(
        s,
        t,
        [
            0.128_379_17,
            -0.376_126_26,
            0.112_835_85,
            -0.026_853_812,
            0.005_188_327_7,
            -8.010_193e-4,
            7.853_861e-5,
        ],
    );
    // From 4 on, erf is 1 in f32.
    let b = s.min(s.splat(4.0), a);
    let q = polynomial(
        s,
        b,
        [
            -1.884_683_5e-4,
            1.129_580_3,
            0.633_216_4,
            0.108_422_1,
            -0.025_210_341,
            0.004_205_285,
            -4.414_727_4e-4,
            2.169_762e-5,
        ],
    );
    let large = s.sub(s.splat(1.0), exp(s, s.sub(s.zero(), q)));
    s.select_lt(a, s.splat(1.0), s.mul_add(x, small, x), s.copy_sign(large, x))
}

/// The hyperbolic tangent: `x + x^3 p(x^2)` below 0.625, `1 - 2 / (e^2|x| + 1)` above.
#[inline(always)]
pub(crate) fn tanh<S: Arithmetic>(s: S, x: S::F32) -> S::F32 {
    let a = s.abs(x);
    let t = s.mul(x, x);
    let small = polynomial(s, t, [-0.333_332_6, 0.133_311_28, -0.053_721_07, 0.020_590_989, -0.005_659_99]);
    let e = exp(s, s.mul(s.min(s.splat(16.0), a), s.splat(2.0)));
    let large = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    s.select_lt(a, s.splat(0.625), s.mul_add(s.mul(x, t), small, x), s.copy_sign(large, x))
}

/// `x/2 (1 + erf(x / sqrt 2))`: GELU as defined (Hendrycks and Gimpel 2016, section 2); transformers' `gelu`.
#[inline(always)]
pub(crate) fn gelu_erf<S: Arithmetic>(s: S, x: S::F32) -> S::F32 {
    let e = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    s.mul(s.mul(x, s.splat(0.5)), s.add(e, s.splat(1.0)))
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: the same paper's approximation; transformers' `gelu_new`.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Arithmetic>(s: S, x: S::F32) -> S::F32 {
    let cubic = s.mul(s.mul(x, x), s.mul(x, s.splat(0.044_715)));
    let t = tanh(s, s.mul(s.add(x, cubic), s.splat(0.797_884_6)));
    s.mul(s.mul(x, s.splat(0.5)), s.add(t, s.splat(1.0)))
}

/// The plain twin of [`erf`], in `f64`: its Taylor series (below 3) and continued fraction, good to 1e-15.
pub(crate) fn erf_reference(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        (sum * std::f64::consts::FRAC_2_SQRT_PI).copysign(x)
    } else {
        let fraction = (1..60).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        (1.0 - (-a * a).exp() / fraction / std::f64::consts::PI.sqrt()).copysign(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Simd, stamp};

    #[inline(always)]
    fn map<S: Simd>(s: S, which: u8, x: &mut [f32; 16]) {
        for lanes in x.chunks_exact_mut(S::LANES) {
            let v = s.load(lanes);
            let y = match which {
                0 => exp(s, v),
                1 => erf(s, v),
                3 => exp2(s, v),
                4 => exp2_for_bf16(s, v),
                _ => tanh(s, v),
            };
            s.store(y, lanes);
        }
    }
    stamp! { fn map_on(which: u8, x: &mut [f32; 16]) = map; }

    fn worst_ulp(isa: Isa, which: u8, bits: impl Iterator<Item = u32>) -> f64 {
        let exact = |x: f64| match which {
            0 => x.exp(),
            1 => erf_reference(x),
            3 | 4 => x.exp2(),
            _ => x.tanh(),
        };
        let mut worst = 0.0_f64;
        let mut batch = [0.0; 16];
        let mut bits = bits.peekable();
        while bits.peek().is_some() {
            batch.iter_mut().for_each(|x| *x = bits.next().map_or(0.5, f32::from_bits));
            let mut y = batch;
            map_on(isa, which, &mut y);
            for (x, y) in batch.iter().zip(y) {
                let want = exact(f64::from(*x));
                let ulp = f64::from((want as f32).abs().next_up()) - f64::from((want as f32).abs());
                worst = worst.max((f64::from(y) - want).abs() / ulp);
            }
        }
        worst
    }

    /// Every `step`-th float of both signs up to `limit`.
    fn floats(limit: f32, step: usize) -> impl Iterator<Item = u32> {
        (0..=limit.to_bits()).step_by(step).flat_map(|b| [b, b | 1 << 31])
    }

    fn check_ulp_bounds(step: usize) {
        for &isa in Isa::available() {
            let bounds = [(0, 87.0, 1.05), (1, 6.0, 1.4), (2, 20.0, 1.4), (3, 126.0, 1.25), (4, 126.0, 49.0)];
            for (which, limit, bound) in bounds {
                let worst = worst_ulp(isa, which, floats(limit, step));
                println!(
                    "{isa} {}: {worst:.3} ulp",
                    ["exp", "erf", "tanh", "exp2", "exp2_for_bf16"][usize::from(which)]
                );
                assert!(worst <= bound, "{isa}, function {which}: {worst} ulp, documented {bound}");
            }
        }
    }

    #[test]
    fn ulp_bounds() {
        check_ulp_bounds(9973);
    }

    #[test]
    #[ignore = "every f32 in range: minutes"]
    fn ulp_bounds_exhaustive() {
        check_ulp_bounds(1);
    }

    /// The processor notes in its status register that a result was subnormal, and then takes a hundred cycles for it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn exp2_of_what_a_mask_hides_computes_nothing_subnormal() {
        use std::arch::asm;
        use std::hint::black_box;
        const FLAGS: u32 = 0x3f;
        const SUBNORMAL: u32 = 0x12;
        for (&isa, which) in Isa::available().iter().flat_map(|isa| [(isa, 3), (isa, 4)]) {
            let mut x = [f32::NEG_INFINITY, -1e9, -200.0, -150.5, -149.0, -127.5, -126.5, 0.0].repeat(2);
            // The power of what is left of these is less than 1, and the least normal number times that is subnormal.
            x[8..13].copy_from_slice(&[-126.1, -126.2, -126.25, -126.3, -126.4]);
            let x: &mut [f32; 16] = black_box(x.as_mut_slice().try_into().unwrap());
            let mut status = 0_u32;
            // SAFETY: only the notes of earlier results are cleared, which nobody reads.
            unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut status) };
            status &= !FLAGS;
            // SAFETY: as above.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const status) };
            map_on(isa, which, x);
            black_box(&x);
            // SAFETY: it reads the register.
            unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut status) };
            assert_eq!(status & SUBNORMAL, 0, "{isa}");
            assert_eq!(x, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0].repeat(2)[..], "{isa}");
        }
    }

    #[test]
    fn extreme_arguments() {
        for &isa in Isa::available() {
            let mut x = [f32::NEG_INFINITY, -200.0, -103.9, -88.0, 89.0, f32::INFINITY, 0.0, -0.0].repeat(2);
            let x: &mut [f32; 16] = x.as_mut_slice().try_into().unwrap();
            let at = *x;
            map_on(isa, 0, x);
            assert_eq!((x[0], x[1], x[5], x[6], x[7]), (0.0, 0.0, f32::INFINITY, 1.0, 1.0), "{isa}");
            assert!(
                x[2] <= f32::MIN_POSITIVE * 1e-6 && (x[3] / (-88_f32).exp() - 1.0).abs() < 1e-4,
                "{isa} {x:?}"
            );
            for which in [3, 4] {
                let mut y = at;
                (y[3], y[4], y[5]) = (f32::NAN, -126.0, (-126_f32).next_down());
                map_on(isa, which, &mut y);
                assert!(y[3].is_nan(), "{isa}");
                assert_eq!((y[0], y[1], y[4], y[5]), (0.0, 0.0, f32::MIN_POSITIVE, 0.0), "{isa}");
                assert_eq!((y[6], y[7]), (1.0, 1.0), "{isa}");
            }
            let mut y = at;
            map_on(isa, 1, &mut y);
            assert_eq!((y[0], y[5], y[6]), (-1.0, 1.0, 0.0), "{isa}");
            let mut y = at;
            map_on(isa, 2, &mut y);
            assert_eq!((y[0], y[5], y[6]), (-1.0, 1.0, 0.0), "{isa}");
        }
    }
}
