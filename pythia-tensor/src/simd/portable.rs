//! Plain arrays of four lanes, which the compiler turns into the baseline vectors of the target (SSE2, NEON).

use super::{Arithmetic, Part, Simd, bf16_bits};
use half::{bf16, f16};

/// Four lanes without any instruction set beyond the target's baseline. `mul_add` rounds twice here, since a
/// correctly rounded one without hardware costs a function call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

type V = [f32; 4];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Arithmetic for Portable {
    type F32 = V;
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 4]
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn copy_sign(self, magnitude: V, sign: V) -> V {
        zip(magnitude, sign, f32::copysign)
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, then: V, otherwise: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { then[i] } else { otherwise[i] })
    }
    #[inline(always)]
    fn scale_pow2(self, a: V, n: V) -> V {
        zip(a, n, |a, n| {
            let n = n as i32;
            let half = n >> 1;
            let pow2 = |e: i32| f32::from_bits(((e + 127) << 23) as u32);
            a * pow2(half) * pow2(n - half)
        })
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> V {
        [x[0], x[1], x[2], x[3]]
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32]) {
        out[..4].copy_from_slice(&v);
    }
}

impl Simd for Portable {
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> V {
        [x[0], x[1], x[2], x[3]].map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> V {
        [x[0], x[1], x[2], x[3]].map(bf16::to_f32)
    }
    #[inline(always)]
    fn widen_pairs(self, v: V) -> [V; 2] {
        [v.map(|x| f32::from_bits(x.to_bits() << 16)), v.map(|x| f32::from_bits(x.to_bits() & 0xFFFF_0000))]
    }
    #[inline(always)]
    fn round_to_bf16(self, v: V) -> V {
        v.map(|x| f32::from_bits(bf16_bits(x) << 16))
    }
    #[inline(always)]
    fn lower_half(self, v: V) -> V {
        v.map(|x| f32::from_bits(x.to_bits() & 0xFFFF))
    }
    #[cfg_attr(debug_assertions, inline(never))]
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn outline(self, part: impl Part<Self>) {
        part.run(self);
    }
    #[inline(always)]
    fn transpose(self, v: [V; 16]) -> [V; 16] {
        let mut out = v;
        for i in 0..4 {
            out[i] = [v[0][i], v[1][i], v[2][i], v[3][i]];
        }
        out
    }
    #[inline(always)]
    fn store_halves(self, v: V, low: &mut [f32], high: &mut [f32]) {
        low[..2].copy_from_slice(&v[..2]);
        high[..2].copy_from_slice(&v[2..]);
    }
    #[inline(always)]
    fn sum4(self, v: [V; 4]) -> [f32; 4] {
        v.map(|v| (v[0] + v[2]) + (v[1] + v[3]))
    }
    #[inline(always)]
    fn fours(self, v: [V; 4]) -> V {
        v.map(|v| ((v[0] + v[1]) + v[2]) + v[3])
    }
    #[inline(always)]
    fn add_fours(self, fours: V, totals: [f32; 4]) -> [f32; 4] {
        self.add(totals, fours)
    }
    #[inline(always)]
    fn add_all_fours(self, [fours, ..]: [V; 4], totals: V) -> V {
        self.add(totals, fours)
    }
    #[inline(always)]
    fn max4(self, v: [V; 4]) -> [f32; 4] {
        v.map(|v| self.reduce_max(v))
    }
    #[inline(always)]
    fn reduce_max(self, v: V) -> f32 {
        v[0].max(v[1]).max(v[2].max(v[3]))
    }
}
