//! Weights to codes: the scale, and for int4 the steps and zeros, that bring them nearest.
//!
//! The code is plain and only compiled for each instruction set: Rust neither fuses nor reorders its arithmetic, so the
//! bytes are the same on all of them.

use super::{BLOCK, Bits, GROUP, PANEL, ZERO};
use crate::simd::{Simd, stamp};

/// The largest nibble.
const MOST: f32 = 15.0;

stamp! {
    /// Quantises up to sixteen rows of `k` weights into a panel, whose bytes must be zeros.
    pub(super) fn panel(bits: Bits, rows: &[f32], k: usize, out: &mut [u8]) = panel_body;
}

#[inline(always)]
fn panel_body<S: Simd>(_: S, bits: Bits, rows: &[f32], k: usize, out: &mut [u8]) {
    let mut rest = out;
    for start in (0..k).step_by(BLOCK) {
        let len = BLOCK.min(k - start);
        let (block, tail) = rest.split_at_mut(bits.header() + bits.codes(len.next_multiple_of(GROUP)));
        rest = tail;
        let (header, codes) = block.split_at_mut(bits.header());
        for (r, row) in rows.chunks_exact(k).enumerate() {
            let mut weights = [0.0; BLOCK];
            weights[..len].copy_from_slice(&row[start..start + len]);
            let scale = match bits {
                Bits::Int8 => {
                    let (scale, block) = int8(&weights);
                    for at in 0..len.next_multiple_of(GROUP) {
                        codes[(at / 4 * PANEL + r) * 4 + at % 4] = block[at];
                    }
                    scale
                }
                Bits::Int4 => {
                    let weights: &[[f32; GROUP]; BLOCK / GROUP] = bytemuck::cast_ref(&weights);
                    let (scale, groups) = int4(weights);
                    for (g, group) in groups.iter().enumerate().take(len.div_ceil(GROUP)) {
                        header[4 * PANEL + g * PANEL + r] = group.step as u8 | (group.zero as u8) << 4;
                        let nibbles = nearest(&weights[g], scale * group.step, group.zero);
                        for (i, nibble) in nibbles.into_iter().enumerate() {
                            let at = g * GROUP + i;
                            codes[(at / 8 * PANEL + r) * 4 + at % 4] |= (nibble as u8) << (at % 8 / 4 * 4);
                        }
                    }
                    scale
                }
            };
            header[4 * r..4 * r + 4].copy_from_slice(&scale.to_le_bytes());
        }
    }
}

/// The nearest integer, ties to even, of a number below 2^22: an instruction or two on every machine.
#[inline(always)]
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    x + SHIFT - SHIFT
}

/// `1 / x`, and 0 for 0.
#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x > 0.0 { 1.0 / x } else { 0.0 }
}

#[inline(always)]
fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |top, w| if w.abs() > top { w.abs() } else { top })
}

/// The scale and the codes: symmetric, the largest weight is 127 steps from zero.
#[inline(always)]
fn int8(weights: &[f32; BLOCK]) -> (f32, [u8; BLOCK]) {
    let scale = largest(weights) / 127.0;
    let inverse = inverse(scale);
    (scale, weights.map(|w| (round(w * inverse).clamp(-127.0, 127.0) + f32::from(ZERO)) as u8))
}

/// A step and a zero, both integers.
#[derive(Clone, Copy)]
struct Group {
    step: f32,
    zero: f32,
}

/// The scale and the groups of the least squared error among a few candidates.
#[inline(always)]
fn int4(weights: &[[f32; GROUP]; BLOCK / GROUP]) -> (f32, [Group; BLOCK / GROUP]) {
    let mut ranges = [(0.0, 0.0); BLOCK / GROUP];
    for (range, group) in ranges.iter_mut().zip(weights) {
        for &w in group {
            *range = (if w < range.0 { w } else { range.0 }, if w > range.1 { w } else { range.1 });
        }
    }
    // The least scale with which every weight of every group can be told: in codes from -128 to 127, at steps of 15 at most.
    let mut whole = 0.0_f32;
    for (low, high) in ranges {
        whole = whole.max((high - low) / (MOST * MOST)).max((-low).max(high) / 127.0);
    }
    let mut best = (f32::INFINITY, 0.0, [Group { step: 0.0, zero: 0.0 }; BLOCK / GROUP]);
    let shrinks: Vec<f32> = std::env::var("SHRINK")
        .map_or(vec![1.0, 0.9, 0.8], |s| s.split(',').map(|s| s.parse().unwrap()).collect());
    for shrink in shrinks {
        let scale = whole * shrink;
        let mut error = 0.0;
        let mut groups = best.2;
        for g in 0..BLOCK / GROUP {
            let (e, group) = best_group(&weights[g], scale, ranges[g]);
            error += e;
            groups[g] = group;
        }
        if error < best.0 {
            best = (error, scale, groups);
        }
    }
    (best.1, best.2)
}

/// The squared error of the best group among steps that tell the whole range or a little less, and zeros around its own.
#[inline(always)]
fn best_group(weights: &[f32; GROUP], scale: f32, (low, high): (f32, f32)) -> (f32, Group) {
    let mut best = (error(weights, 0.0, 0.0), Group { step: 0.0, zero: 0.0 });
    let whole = ((high - low) / MOST * inverse(scale)).ceil();
    for less in [-1.0, 0.0, 1.0, 2.0, 3.0] {
        let step = whole - less;
        if !(1.0..=MOST).contains(&step) {
            continue;
        }
        // Codes stay between -128 and 127.
        let (least, most) = ((MOST - 127.0 / step).ceil().max(0.0), (128.0 / step).floor().min(MOST));
        let middle = round(-low / (step * scale) + 0.5 * (MOST - (high - low) / (step * scale)));
        for shift in [-1.0, 0.0, 1.0] {
            let zero = (middle + shift).clamp(least, most);
            let e = error(weights, step * scale, zero);
            if e < best.0 {
                best = (e, Group { step, zero });
            }
        }
    }
    best
}

/// The nibbles of a group.
#[inline(always)]
fn nearest(weights: &[f32; GROUP], step: f32, zero: f32) -> [f32; GROUP] {
    let inverse = inverse(step);
    let mut nibbles = [0.0; GROUP];
    for i in 0..GROUP {
        nibbles[i] = (round(weights[i] * inverse) + zero).clamp(0.0, MOST);
    }
    nibbles
}

/// The squared error of a group, in sixteen partial sums.
#[inline(always)]
fn error(weights: &[f32; GROUP], step: f32, zero: f32) -> f32 {
    let nibbles = nearest(weights, step, zero);
    let mut sums = [0.0; 16];
    for i in 0..GROUP {
        let e = weights[i] - step * (nibbles[i] - zero);
        sums[i % 16] += e * e;
    }
    sums.iter().sum()
}
