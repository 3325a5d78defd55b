//! Plain arrays for four rows.

use super::Int8;
use crate::quantized::expand;
use crate::simd::Portable;

impl Int8 for Portable {
    type F32s = Self;
    type Bytes = [u8; 16];
    type Weights = [u8; 16];
    type Quad = [i8; 4];
    type Sums = [i32; 4];
    type Group = [u8; 4];

    #[inline(always)]
    fn f32s(self) -> Self {
        self
    }
    #[inline(always)]
    fn load(self, x: &[u8]) -> [u8; 16] {
        std::array::from_fn(|i| x[i])
    }
    #[inline(always)]
    fn store(self, x: [u8; 16], out: &mut [u8]) {
        out[..16].copy_from_slice(&x);
    }
    #[inline(always)]
    fn weights(self, x: [u8; 16]) -> [u8; 16] {
        x
    }
    #[inline(always)]
    fn quad(self, x: i32) -> [i8; 4] {
        x.to_le_bytes().map(|byte| byte as i8)
    }
    #[inline(always)]
    fn splat(self, x: i32) -> [i32; 4] {
        [x; 4]
    }
    #[inline(always)]
    fn dot(self, sums: [i32; 4], w: [u8; 16], a: [i8; 4]) -> [i32; 4] {
        std::array::from_fn(|r| {
            (0..4).fold(sums[r], |sum, i| sum + i32::from(w[4 * r + i]) * i32::from(a[i]))
        })
    }
    #[inline(always)]
    fn add(self, a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|r| a[r] + b[r])
    }
    #[inline(always)]
    fn to_f32(self, sums: [i32; 4]) -> [f32; 4] {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    fn group(self, x: &[u8]) -> [u8; 4] {
        [x[0], x[1], x[2], x[3]]
    }
    #[inline(always)]
    fn expand(self, x: [u8; 16], group: [u8; 4]) -> [[u8; 16]; 2] {
        [
            std::array::from_fn(|i| expand(x[i] & 15, group[i / 4])),
            std::array::from_fn(|i| expand(x[i] >> 4, group[i / 4])),
        ]
    }
    #[inline(always)]
    fn store_codes(self, x: [f32; 4], out: &mut [i8]) {
        out[..4].copy_from_slice(&x.map(|x| x as i8));
    }
}
