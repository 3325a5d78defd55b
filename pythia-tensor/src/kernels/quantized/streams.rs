//! Products with so few rows of activations that reading the weights takes the time.

use super::{Codes, FEW_NEAR, Panels, Rounded};
use crate::quantized::{BLOCK, GROUP, PANEL};
use crate::simd::int8::Int8;
use crate::simd::{AHEAD, Arithmetic, Simd};

/// At most [`FEW_NEAR`] rows, with vectors of a line. How many streams: see `quantized.rs`.
#[inline(always)]
pub(super) fn few_rows<D: Int8, B: Codes<D>>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) {
    const { assert!(FEW_NEAR == 12, "an arm for every number of rows") };
    match a.rows() {
        1 => streams::<D, B, 1, 1, 2>(d, a, w, out),
        2 => streams::<D, B, 2, 1, 2>(d, a, w, out),
        3 => streams::<D, B, 3, 1, 2>(d, a, w, out),
        4 => streams::<D, B, 4, 1, 1>(d, a, w, out),
        5 => streams::<D, B, 5, 1, 1>(d, a, w, out),
        6 => streams::<D, B, 6, 1, 1>(d, a, w, out),
        7 => streams::<D, B, 7, 1, 1>(d, a, w, out),
        8 => streams::<D, B, 8, 1, 1>(d, a, w, out),
        9 => streams::<D, B, 9, 1, 1>(d, a, w, out),
        10 => streams::<D, B, 10, 1, 1>(d, a, w, out),
        11 => streams::<D, B, 11, 1, 1>(d, a, w, out),
        12 => streams::<D, B, 12, 1, 1>(d, a, w, out),
        rows => unreachable!("{rows} are not few"),
    }
}

/// `M` rows: each panel is read once, `P` far apart at a time, so that each is part of a long stream through memory. `V` vectors make a
/// line.
#[inline(always)]
pub(super) fn streams<D: Int8, B: Codes<D>, const M: usize, const V: usize, const P: usize>(
    d: D,
    a: Rounded<'_>,
    w: Panels<'_>,
    out: &mut [f32],
) {
    let panels = w.bytes.len() / w.len;
    let apart = panels / P;
    for first in 0..apart {
        of_panels::<D, B, M, V, P>(d, a, w, (first, apart), out);
    }
    for first in apart * P..panels {
        of_panels::<D, B, M, V, 1>(d, a, w, (first, 0), out);
    }
}

/// The panels `first`, `first + apart`, ...
#[inline(always)]
fn of_panels<D: Int8, B: Codes<D>, const M: usize, const V: usize, const P: usize>(
    d: D,
    a: Rounded<'_>,
    w: Panels<'_>,
    (first, apart): (usize, usize),
    out: &mut [f32],
) {
    assert_eq!(V * D::LANES, PANEL, "rows of a panel");
    let (s, k, stride) = (d.f32s(), a.k, out.len() / M);
    let mut totals = [[[s.zero(); V]; P]; M];
    let mut start = 0;
    for at in (0..k).step_by(BLOCK) {
        let len = BLOCK.min((k - at).next_multiple_of(GROUP));
        let size = B::BITS.header() + B::BITS.codes(len);
        let (mut scales, mut blocks): ([&[f32]; P], [&[u8]; P]) = ([&[]; P], [&[]; P]);
        for p in 0..P {
            let (of_rows, block) = w.bytes[(first + p * apart) * w.len + start..][..size].split_at(4 * PANEL);
            // The codes ask for themselves.
            for line in 0..B::BITS.header() / 64 {
                s.prefetch(of_rows.as_ptr().wrapping_add(64 * line + AHEAD));
            }
            (scales[p], blocks[p]) = (bytemuck::cast_slice(of_rows), block);
        }
        start += size;
        let mut rows: [&[f32]; M] = [&[]; M];
        let mut sums = [[[d.splat(0); V]; P]; M];
        for m in 0..M {
            rows[m] = &a.block(m, at)[..B::FORM.used(len)];
            sums[m] = [[B::start(d, rows[m]); V]; P];
        }
        B::dot(d, &mut sums, &blocks, &rows);
        for m in 0..M {
            let of_row = s.splat(rows[m][0]);
            for p in 0..P {
                for v in 0..V {
                    let scale = s.mul(s.load(&scales[p][v * D::LANES..]), of_row);
                    totals[m][p][v] = s.add(totals[m][p][v], s.mul(d.to_f32(sums[m][p][v]), scale));
                }
            }
        }
    }
    for m in 0..M {
        for p in 0..P {
            for v in 0..V {
                let column = (first + p * apart) * PANEL + v * D::LANES;
                s.store(totals[m][p][v], &mut out[m * stride + column..]);
            }
        }
    }
}
