//! The way of new keys and values into a head's pages: a strip of 16 positions at a time where all of it is new, as in a prompt, and else one position after another.
//!
//! On two Zen 5 cores, 512 tokens of 16 heads of 64 and of 128, from the caches, in turns with one position after another: 1.2 and 1.3 times as
//! fast in `f32`, 2.5 times in `bf16`. Transposing keys that are pairs already was 1.04 times as fast as before in `bf16`: the compiler pairs neighbours one by one.

use super::key_values::{HeadMut, STRIP, padded};
use crate::kernels::rotary::Rotary;
use crate::kernels::rows::ask;
use crate::simd::{Simd, pair, second, stamp};
use crate::{Isa, Mat};

/// How many rows ahead of the one that is written memory is asked for: they lie pages apart.
const ROWS_AHEAD: usize = 8;

/// Writes keys, which are rotated on their way, and values, both `[T, D]`, at the positions from `start` on. `room` is to work in.
pub(super) fn write(
    isa: Isa,
    head: &mut HeadMut<'_>,
    kv: [Mat<'_>; 2],
    start: usize,
    rotary: &Rotary,
    room: &mut Vec<f32>,
) {
    let [tokens, dim] = [kv[0].rows(), kv[0].cols()];
    room.resize(2 * STRIP * padded(dim), 0.0);
    let mut t = 0;
    while t < tokens {
        let position = start + t;
        let kv = kv.map(|rows| rows.slice_rows(t..tokens));
        if position.is_multiple_of(STRIP) && t + STRIP <= tokens {
            write_strip(isa, head, kv, position, rotary, room);
            t += STRIP;
        } else {
            write_one(isa, head, kv, position, rotary, room);
            t += 1;
        }
    }
}

stamp! {
    /// Writes the first 16 rows at the positions from `position` on, which are a strip.
    fn write_strip(head: &mut HeadMut<'_>, kv: [Mat<'_>; 2], position: usize, rotary: &Rotary, room: &mut [f32]) = strip_body;
    /// Writes the first row at `position`.
    fn write_one(head: &mut HeadMut<'_>, kv: [Mat<'_>; 2], position: usize, rotary: &Rotary, room: &mut [f32]) = one_body;
}

#[inline(always)]
fn strip_body<S: Simd>(
    s: S,
    head: &mut HeadMut<'_>,
    kv: [Mat<'_>; 2],
    position: usize,
    rotary: &Rotary,
    room: &mut [f32],
) {
    let [keys, values] = kv;
    let (dim, numbers) = (keys.cols(), head.numbers);
    let (strip, columns) = room.split_at_mut(STRIP * padded(dim));
    for (t, key) in strip.chunks_exact_mut(padded(dim)).enumerate() {
        ask_ahead(s, kv, t);
        rotate(keys.row(t), position + t, rotary, key);
    }
    let lanes = head.keys_mut(position / STRIP);
    if numbers == 1 {
        transpose(s, strip, lanes);
    } else {
        transpose(s, strip, columns.as_chunks_mut().0);
        for (lanes, [first, second]) in lanes.iter_mut().zip(columns.as_chunks::<STRIP>().0.as_chunks().0) {
            put_pairs(first, second, lanes);
        }
    }
    let (page, at) = (position / (STRIP * numbers), position % (STRIP * numbers) / numbers);
    for (i, strip) in head.values_mut(page).as_chunks_mut::<STRIP>().0.iter_mut().enumerate() {
        let columns = i * STRIP..dim.min((i + 1) * STRIP);
        for (t, lanes) in (0..STRIP).step_by(numbers).zip(&mut strip[at..]) {
            let value = &values.row(t)[columns.clone()];
            if numbers == 1 {
                lanes[..value.len()].copy_from_slice(value);
            } else {
                put_pairs(value, &values.row(t + 1)[columns.clone()], lanes);
            }
        }
    }
}

#[inline(always)]
fn one_body<S: Simd>(
    s: S,
    head: &mut HeadMut<'_>,
    kv: [Mat<'_>; 2],
    position: usize,
    rotary: &Rotary,
    room: &mut [f32],
) {
    ask_ahead(s, kv, 0);
    let [key, value] = kv.map(|rows| rows.row(0));
    let (dim, numbers, at) = (key.len(), head.numbers, position % STRIP);
    let room = &mut room[..padded(dim)];
    rotate(key, position, rotary, room);
    let lanes = head.keys_mut(position / STRIP);
    if numbers == 1 {
        lanes.iter_mut().zip(&*room).for_each(|(lanes, &k)| lanes[at] = k);
    } else {
        lanes.iter_mut().zip(room.as_chunks().0).for_each(|(lanes, &[a, b])| lanes[at] = pair(a, b));
    }
    let (page, at) = (position / (STRIP * numbers), position % (STRIP * numbers));
    let strips = head.values_mut(page).as_chunks_mut::<STRIP>().0.iter_mut();
    for (strip, value) in strips.zip(value.chunks(STRIP)) {
        let lanes = strip[at / numbers].iter_mut().zip(value);
        // A branch for each number would keep the compiler from using vectors.
        match (numbers, at % numbers) {
            (1, _) => lanes.for_each(|(lane, &v)| *lane = v),
            (_, 0) => lanes.for_each(|(lane, &v)| *lane = pair(v, 0.0)),
            _ => lanes.for_each(|(lane, &v)| *lane = second(*lane, v)),
        }
    }
}

/// Asks for the rows that follow row `t` at some distance.
#[inline(always)]
fn ask_ahead<S: Simd>(s: S, kv: [Mat<'_>; 2], t: usize) {
    if t + ROWS_AHEAD < kv[0].rows() {
        kv.iter().for_each(|rows| ask(s, rows.row(t + ROWS_AHEAD)));
    }
}

/// A key, rotated, and zeros up to whole strips.
#[inline(always)]
fn rotate(key: &[f32], position: usize, rotary: &Rotary, out: &mut [f32]) {
    let (out, rest) = out.split_at_mut(key.len());
    out.copy_from_slice(key);
    rotary.rotate(out, position);
    rest.fill(0.0);
}

/// Row `d` of `columns` becomes the numbers `d` of a strip's rows.
#[inline(always)]
fn transpose<S: Simd>(s: S, strip: &[f32], columns: &mut [[f32; STRIP]]) {
    let width = strip.len() / STRIP;
    for (i, columns) in columns.chunks_mut(S::LANES).enumerate() {
        for row in (0..STRIP).step_by(S::LANES) {
            let mut v = [s.zero(); 16];
            for r in 0..S::LANES {
                v[r] = s.load(&strip[(row + r) * width + i * S::LANES..]);
            }
            let v = s.transpose(v);
            for d in 0..columns.len() {
                s.store(v[d], &mut columns[d][row..]);
            }
        }
    }
}

/// Each of the first numbers and its second, in a lane.
#[inline(always)]
fn put_pairs(first: &[f32], second: &[f32], lanes: &mut [f32]) {
    lanes.iter_mut().zip(first.iter().zip(second)).for_each(|(lane, (&a, &b))| *lane = pair(a, b));
}

#[cfg(test)]
mod tests {
    use super::super::KeyValues;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// What one position after another writes, attention's tests compare with the reference.
        #[test]
        fn strips_are_written_as_one_position_after_another(
            start in 0..40_usize,
            tokens in 16..80_usize,
            dim in prop::sample::select(vec![7, 16, 24, 35, 64, 80, 128]),
            some in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 997),
        ) {
            let data: Vec<f32> = some.into_iter().cycle().take(tokens * 3 * dim).collect();
            let (qkv, rotary) = (Mat::new(&data, 3 * dim), Rotary::new(dim / 4 / 2 * 2, 10000.0, start + tokens));
            for &isa in Isa::available() {
                for empty in [KeyValues::new(1, dim, start + tokens), KeyValues::new_bf16(1, dim, start + tokens)] {
                    let written = |together: usize| {
                        // What another head left in the room must not matter.
                        let (cache, mut room) = (empty.clone(), vec![f32::NAN; 100_000]);
                        for t in (0..tokens).step_by(together) {
                            let rows = qkv.slice_rows(t..tokens.min(t + together));
                            cache.with_head_mut(0, |mut head| head.write(isa, rows, 0, start + t, &rotary, &mut room));
                        }
                        cache.with_head(0, |head| {
                            let page = head.values_at(1) - head.values_at(0);
                            let pages = cache.capacity() / (STRIP * head.numbers);
                            let lanes = head.lanes(0, pages * page / STRIP).as_flattened();
                            lanes.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                        })
                    };
                    prop_assert!(written(1) == written(tokens), "{} {} {} {}", isa, start, tokens, dim);
                }
            }
        }
    }
}
