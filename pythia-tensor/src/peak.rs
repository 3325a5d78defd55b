//! What this machine can do at best, measured: the limits that speeds are quoted against.

use crate::kernels::quantized::parts;
#[cfg(target_arch = "x86_64")]
use crate::simd::amx;
#[cfg(target_arch = "x86_64")]
use crate::simd::int8::Nibbles;
use crate::simd::int8::{Int8, stamp_int8};
use crate::simd::{Simd, stamp};
use crate::{Crew, Isa, MatMut, Tile, Tiles};
use std::time::Instant;

/// Chains of multiply-adds that run side by side: more than latency times ports on any core, fewer than registers.
const CHAINS: usize = 12;

/// The floating-point peak of the crew's threads together, in GFLOP/s: `f32` fused multiply-adds in registers, each two
/// operations. The best of several runs of a few milliseconds.
pub fn fma_gflops(crew: &Crew<'_>) -> f64 {
    const STEPS: usize = 1 << 21;
    let isa = crew.isa();
    giga(crew, 2 * CHAINS * isa.lanes() * STEPS, || multiply_add(isa, STEPS))
}

/// The peak of products of bf16 numbers of the crew's threads together, in GFLOP/s (`vdpbf16ps`, or tiles with AMX); `None` where the
/// instruction set has none. The best of several runs of a few milliseconds.
pub fn bf16_gflops(crew: &Crew<'_>) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if crew.isa().has_bf16() {
        const STEPS: usize = 1 << 21;
        let isa = crew.isa();
        return Some(match isa.amx() {
            Some(amx) => tile_gops(crew, |steps| amx.multiply_bf16(steps), amx::BF16_STEP),
            None => giga(crew, 4 * CHAINS * isa.lanes() * STEPS, || {
                crate::simd::multiply_pairs::<CHAINS>(isa, STEPS)
            }),
        });
    }
    let _ = crew;
    None
}

/// The peak of products with int8 weights of the crew's threads together, in 10^9 operations a second: 8-bit multiplications and
/// the additions to 32-bit sums in registers, as the instruction set has them (`vpdpbusd` with VNNI, tiles with AMX). The best of
/// several runs of a few milliseconds.
pub fn int8_gops(crew: &Crew<'_>) -> f64 {
    integer_gops(crew, dot, 4 / parts(crew.isa()))
}

/// The same with int4 weights. With AVX2, products of nibbles, added in 16 bits, are faster.
pub fn int4_gops(crew: &Crew<'_>) -> f64 {
    integer_gops(crew, dot_int4, 4)
}

/// The peak of `dot`, which multiplies so many numbers a lane, or of tiles.
fn integer_gops(crew: &Crew<'_>, dot: fn(Isa, usize) -> f32, of_lane: usize) -> f64 {
    const STEPS: usize = 1 << 21;
    let isa = crew.isa();
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx() {
        return tile_gops(crew, |steps| amx.multiply_bytes(steps), amx::BYTES_STEP);
    }
    giga(crew, 2 * of_lane * CHAINS * isa.lanes() * STEPS, || dot(isa, STEPS))
}

/// The peak of `multiply`, a step of which multiplies so many numbers.
#[cfg(target_arch = "x86_64")]
fn tile_gops(crew: &Crew<'_>, multiply: impl Fn(usize) + Sync, of_step: usize) -> f64 {
    const STEPS: usize = 1 << 17;
    let work = || {
        multiply(STEPS);
        0.0
    };
    giga(crew, 2 * of_step * STEPS, work)
}

/// The most operations a second, in 10^9, of all threads of a crew, each of which does so many in `work`.
fn giga(crew: &Crew<'_>, operations: usize, work: impl Fn() -> f32 + Sync) -> f64 {
    let threads = crew.workers();
    let mut out = vec![0.0; threads];
    let work = |mut tile: Tile<'_>| {
        let row = tile.rows().start;
        tile.row_mut(row)[0] = work();
    };
    best(
        5,
        || crew.run(&mut [Tiles::new(MatMut::new(&mut out, 1), 1, 1, &work)]),
        (operations * threads) as f64,
    )
}

/// The read bandwidth of the crew's threads together, in GB/s (10^9 bytes): sums over half a gigabyte, which no
/// cache of a core holds, as four streams a thread. The best of several passes.
pub fn read_gb_s(crew: &Crew<'_>) -> f64 {
    const PIECE: usize = 1 << 17;
    let isa = crew.isa();
    let data = vec![1.0_f32; 512 << 18];
    let mut out = vec![0.0; data.len() / PIECE];
    let work = |mut tile: Tile<'_>| {
        let piece = tile.rows().start;
        tile.row_mut(piece)[0] = sum(isa, &data[piece * PIECE..][..PIECE]);
    };
    best(4, || crew.run(&mut [Tiles::new(MatMut::new(&mut out, 1), 1, 1, &work)]), (data.len() * 4) as f64)
}

/// The largest of `amount / time`, in units of 10^9 a second.
fn best(runs: usize, mut run: impl FnMut(), amount: f64) -> f64 {
    let rate = |_| {
        let start = Instant::now();
        run();
        amount / start.elapsed().as_secs_f64() / 1e9
    };
    (0..runs).map(rate).fold(0.0, f64::max)
}

stamp! {
    fn multiply_add(steps: usize) -> f32 = multiply_add_body;
    fn sum(x: &[f32]) -> f32 = sum_body;
}

#[inline(always)]
fn multiply_add_body<S: Simd>(s: S, steps: usize) -> f32 {
    let (factor, term) = (s.splat(std::hint::black_box(0.5)), s.splat(std::hint::black_box(1.0)));
    let mut chains = [s.zero(); CHAINS];
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = s.mul_add(*chain, factor, term);
        }
    }
    s.sum(chains.into_iter().fold(s.zero(), |a, b| s.add(a, b)))
}

stamp_int8! {
    fn dot(steps: usize) -> f32 = dot_body;
    fn dot_int4(steps: usize) -> f32 = dot_body, avx2 = dot_nibbles_body;
}

#[inline(always)]
fn dot_body<D: Int8>(d: D, steps: usize) -> f32 {
    // As many sums as the registers hold beside what is multiplied.
    if D::LANES == 16 {
        dots::<D, { CHAINS / 4 }>(d, steps)
    } else {
        dots::<D, { CHAINS / 6 }>(d, steps / 2 * 3)
    }
}

/// `4 * WEIGHTS * steps` products.
#[inline(always)]
fn dots<D: Int8, const WEIGHTS: usize>(d: D, steps: usize) -> f32 {
    let mut weights = [d.load(&[0; 64]); WEIGHTS];
    for j in 0..WEIGHTS {
        weights[j] = d.load(&std::hint::black_box([j as u8; 64]));
    }
    let mut chains = [[d.splat(0); WEIGHTS]; 4];
    for _ in 0..steps {
        // As far as the compiler knows, others every time: what it has multiplied before it would not multiply again.
        let activations = std::hint::black_box(&[1, 2, 3, 4]);
        for i in 0..4 {
            for j in 0..WEIGHTS {
                chains[i][j] = d.dot(chains[i][j], weights[j], activations[i]);
            }
        }
    }
    let mut total = d.splat(0);
    for i in 0..4 {
        for j in 0..WEIGHTS {
            total = d.add(total, chains[i][j]);
        }
    }
    let s = d.f32s();
    s.sum(d.to_f32(total))
}

/// As [`dots`], of nibbles: sums of 16 bits, which wrap around.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn dot_nibbles_body<D: Nibbles>(d: D, steps: usize) -> f32 {
    let mut weights = [d.load(&[0; 64]); 2];
    for j in 0..2 {
        weights[j] = d.load(&std::hint::black_box([j as u8; 64]));
    }
    let mut chains = [weights; 4];
    for _ in 0..steps / 2 * 3 {
        let activations = std::hint::black_box(&[1, 2, 3, 4]);
        for i in 0..4 {
            for j in 0..2 {
                chains[i][j] = d.add_shorts(chains[i][j], d.multiply(weights[j], activations[i]));
            }
        }
    }
    let mut total = d.splat(0);
    for i in 0..4 {
        for j in 0..2 {
            total = d.dot(total, chains[i][j], 1);
        }
    }
    let s = d.f32s();
    s.sum(d.to_f32(total))
}

#[inline(always)]
fn sum_body<S: Simd>(s: S, x: &[f32]) -> f32 {
    const STREAMS: usize = 4;
    let mut sums = [s.zero(); 2 * STREAMS];
    let stream = x.len() / STREAMS;
    for at in (0..stream).step_by(2 * S::LANES) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = s.add(*sum, s.load(&x[i / 2 * stream + at + i % 2 * S::LANES..]));
        }
    }
    s.sum(sums.into_iter().fold(s.zero(), |a, b| s.add(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Team;

    #[test]
    fn peaks_are_plausible_and_wider_vectors_are_faster() {
        let gflops = |isa| Team::with_isa(1, isa).unwrap().enter(fma_gflops);
        let portable = gflops(Isa::named("portable").unwrap());
        assert!(portable > 0.1 && gflops(Isa::best()) > portable * 0.9);
        for peak in [int8_gops, int4_gops] {
            let gops = |isa| Team::with_isa(1, isa).unwrap().enter(peak);
            assert!(gops(Isa::named("portable").unwrap()) > 0.1 && gops(Isa::best()) > 1.0);
        }
        if let Ok(isa) = Isa::named("avx2") {
            // Half the instructions, of which more run at a time. A core that others use too may be slower for one of the two.
            let ratio = |_| Team::with_isa(1, isa).unwrap().enter(|crew| int4_gops(crew) / int8_gops(crew));
            let ratios: Vec<f64> = (0..5).map(ratio).collect();
            assert!(ratios.iter().any(|ratio| (1.2..6.0).contains(ratio)), "int4 {ratios:?} times int8");
        }
        assert!(Team::with_isa(1, Isa::best()).unwrap().enter(read_gb_s) > 0.1);
    }
}
