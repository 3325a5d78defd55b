//! Plain arrays for four rows, in `f32`: what every baseline multiplies fast. It holds all integers below 2^24 exactly, and
//! a block's sums of 512 products of at most 255 x 128, counted from a start of half that, stay below.

use super::{Expand, Int8};
use crate::quantized::{BLOCK, expand};
use crate::simd::{Arithmetic, Portable};

const _: () = assert!(128 * 128 * BLOCK < 1 << 24);

impl Int8 for Portable {
    type F32s = Self;
    type Bytes = [u8; 16];
    type Sums = [f32; 4];

    #[inline(always)]
    fn f32s(self) -> Self {
        self
    }
    #[inline(always)]
    fn load(self, x: &[u8]) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&x[..16]);
        bytes
    }
    #[inline(always)]
    fn store(self, x: [u8; 16], out: &mut [u8]) {
        out[..16].copy_from_slice(&x);
    }
    #[inline(always)]
    fn splat(self, x: i32) -> [f32; 4] {
        [x as f32; 4]
    }
    #[inline(always)]
    fn dot(self, mut sums: [f32; 4], w: [u8; 16], a: i32) -> [f32; 4] {
        let a = a.to_le_bytes();
        for i in 0..4 {
            for r in 0..4 {
                sums[r] += f32::from(w[4 * r + i]) * f32::from(a[i] as i8);
            }
        }
        sums
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        Arithmetic::add(self, a, b)
    }
    #[inline(always)]
    fn to_f32(self, sums: [f32; 4]) -> [f32; 4] {
        sums
    }
    #[inline(always)]
    fn store_codes(self, x: [f32; 4], out: &mut [i8]) {
        out[..4].copy_from_slice(&x.map(|x| x as i8));
    }
}

impl Expand for Portable {
    type Group = [u8; 4];

    #[inline(always)]
    fn group(self, x: &[u8]) -> [u8; 4] {
        [x[0], x[1], x[2], x[3]]
    }
    #[inline(always)]
    fn expand(self, x: [u8; 16], group: [u8; 4]) -> [[u8; 16]; 2] {
        let mut halves = [[0; 16]; 2];
        for i in 0..16 {
            halves[0][i] = expand(x[i] & 15, group[i / 4]);
            halves[1][i] = expand(x[i] >> 4, group[i / 4]);
        }
        halves
    }
}
