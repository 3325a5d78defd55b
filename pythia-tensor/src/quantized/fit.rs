//! Weights to codes: the scale, and for int4 the steps and zeros, that bring them nearest.

use super::{BLOCK, Bits, GROUP, PANEL, ZERO, expand};

/// Quantises up to sixteen rows of `k` weights into a panel, whose bytes must be zeros.
pub(super) fn panel(bits: Bits, rows: &[f32], k: usize, out: &mut [u8]) {
    let mut rest = out;
    for start in (0..k).step_by(BLOCK) {
        let len = BLOCK.min(k - start);
        let (block, tail) = rest.split_at_mut(bits.header() + bits.codes(len.next_multiple_of(GROUP)));
        rest = tail;
        let (header, codes) = block.split_at_mut(bits.header());
        for (r, row) in rows.chunks_exact(k).enumerate() {
            let weights = &row[start..start + len];
            let scale = match bits {
                Bits::Int8 => int8(weights, |at, code| codes[(at / 4 * PANEL + r) * 4 + at % 4] = code),
                Bits::Int4 => {
                    let (scale, groups, nibbles) = int4(weights);
                    for (g, group) in groups.into_iter().enumerate() {
                        header[4 * PANEL + g * PANEL + r] = group;
                    }
                    for (at, nibble) in nibbles.into_iter().enumerate().take(len) {
                        codes[(at / 8 * PANEL + r) * 4 + at % 4] |=
                            if at % 8 < 4 { nibble } else { nibble << 4 };
                    }
                    scale
                }
            };
            header[4 * r..4 * r + 4].copy_from_slice(&scale.to_le_bytes());
        }
    }
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |top, w| w.abs().max(top))
}

/// Symmetric: the largest weight becomes 127 steps. Gives the scale, and the codes to `put`.
fn int8(weights: &[f32], mut put: impl FnMut(usize, u8)) -> f32 {
    let top = largest(weights);
    let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
    for (at, &w) in weights.iter().enumerate() {
        let code = (w * inverse).round_ties_even().clamp(-127.0, 127.0);
        put(at, (f32::from(ZERO) + code) as u8);
    }
    top / 127.0
}

/// Gives the scale, the step and zero of each group, and the nibbles.
fn int4(weights: &[f32]) -> (f32, [u8; BLOCK / GROUP], [u8; BLOCK]) {
    let (mut groups, mut nibbles) = ([0; BLOCK / GROUP], [0; BLOCK]);
    let scale = largest(weights) / (15.0 * 7.5);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (g, weights) in weights.chunks(GROUP).enumerate() {
        let step = (largest(weights) * inverse / 7.5).round_ties_even().clamp(0.0, 15.0) as u8;
        groups[g] = step | 8 << 4;
        for (at, &w) in weights.iter().enumerate() {
            let steps = if step == 0 { 0.0 } else { w * inverse / f32::from(step) };
            nibbles[g * GROUP + at] = (steps.round_ties_even() + 8.0).clamp(0.0, 15.0) as u8;
        }
    }
    let _ = expand;
    (scale, groups, nibbles)
}
