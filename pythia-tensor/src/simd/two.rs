//! Two vectors side by side.

use super::{Arithmetic, Simd};

/// The arithmetic of two vectors side by side: a function of one, such as GELU, is a chain of operations of which each waits for the
/// one before, and two such chains take turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Two<S>(pub(crate) S);

impl<S: Simd> Arithmetic for Two<S> {
    type F32 = [S::F32; 2];
    const LANES: usize = 2 * S::LANES;

    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::F32 {
        [self.0.load(x), self.0.load(&x[S::LANES..])]
    }
    #[inline(always)]
    fn store(self, v: Self::F32, out: &mut [f32]) {
        self.0.store(v[0], out);
        self.0.store(v[1], &mut out[S::LANES..]);
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        [self.0.splat(x); 2]
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        [self.0.add(a[0], b[0]), self.0.add(a[1], b[1])]
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        [self.0.sub(a[0], b[0]), self.0.sub(a[1], b[1])]
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        [self.0.mul(a[0], b[0]), self.0.mul(a[1], b[1])]
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        [self.0.div(a[0], b[0]), self.0.div(a[1], b[1])]
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        [self.0.mul_add(a[0], b[0], c[0]), self.0.mul_add(a[1], b[1], c[1])]
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        [self.0.max(a[0], b[0]), self.0.max(a[1], b[1])]
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        [self.0.min(a[0], b[0]), self.0.min(a[1], b[1])]
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        [self.0.abs(a[0]), self.0.abs(a[1])]
    }
    #[inline(always)]
    fn copy_sign(self, magnitude: Self::F32, sign: Self::F32) -> Self::F32 {
        [self.0.copy_sign(magnitude[0], sign[0]), self.0.copy_sign(magnitude[1], sign[1])]
    }
    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::F32 {
        [self.0.round(a[0]), self.0.round(a[1])]
    }
    #[inline(always)]
    fn select_lt(self, a: Self::F32, b: Self::F32, then: Self::F32, otherwise: Self::F32) -> Self::F32 {
        [
            self.0.select_lt(a[0], b[0], then[0], otherwise[0]),
            self.0.select_lt(a[1], b[1], then[1], otherwise[1]),
        ]
    }
    #[inline(always)]
    fn scale_pow2(self, a: Self::F32, n: Self::F32) -> Self::F32 {
        [self.0.scale_pow2(a[0], n[0]), self.0.scale_pow2(a[1], n[1])]
    }
}
