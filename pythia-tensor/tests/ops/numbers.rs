//! What the tests of the public operations have in common: their inputs, their teams, their unit of rounding.

use half::{bf16, f16};
use pythia_tensor::{DType, Isa, Team, Tensor};
use std::sync::LazyLock;

/// The unit roundoff of `f32`: half the distance from 1 to the next number.
pub(crate) const U: f64 = f32::EPSILON as f64 / 2.0;

/// Every type that weights can have.
pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// `len` numbers in `[-amp, amp)` that a seed chooses.
pub(crate) fn numbers(seed: u64, len: usize, amp: f32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        amp * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

/// A tensor of the numbers nearest to `x` in this type.
pub(crate) fn tensor(x: &[f32], dtype: DType, shape: &[usize]) -> Tensor {
    match dtype {
        DType::F32 => Tensor::from_slice(x, shape),
        DType::F16 => Tensor::from_slice(&x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>(), shape),
        DType::BF16 => Tensor::from_slice(&x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>(), shape),
        _ => unreachable!("{dtype}"),
    }
}

/// For every instruction set of this machine, teams of one thread, of two and of more than the machine may have.
static TEAMS: LazyLock<Vec<Vec<Team>>> = LazyLock::new(|| {
    let teams = |&isa| [1, 2, 5].map(|threads| Team::with_isa(threads, isa).unwrap()).into();
    Isa::available().iter().map(teams).collect()
});

/// Runs `f` on every team. Gives the result of every instruction set once, for it must be the same bits for any
/// number of threads.
///
/// # Panics
/// If it is not.
pub(crate) fn on_every_team(f: impl Fn(&pythia_tensor::Crew<'_>) -> Vec<f32>) -> Vec<(Isa, Vec<f32>)> {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let one_isa = |teams: &Vec<Team>| {
        let want = teams[0].enter(&f);
        for team in &teams[1..] {
            let got = team.enter(&f);
            assert!(bits(&got) == bits(&want), "other bits with {} threads, {}", team.threads(), team.isa());
        }
        (teams[0].isa(), want)
    };
    TEAMS.iter().map(one_isa).collect()
}

/// Whether every number is as near to the reference as `bound` says.
///
/// # Panics
/// If one is not, or there are fewer or more.
pub(crate) fn assert_near(
    got: &[f32],
    want: &[f64],
    bound: impl Fn(usize) -> f64,
    what: impl std::fmt::Display,
) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let (error, bound) = ((f64::from(got) - want).abs(), bound(i));
        assert!(error <= bound, "{what}, element {i}: {got} for {want}, off by {error:e}, at most {bound:e}");
    }
}
