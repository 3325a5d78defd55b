//! The published sizes against transformers in float32, on synthetic weights: `reference/sizes`.
//!
//! 70m runs always. The others need disk and minutes, for instance
//! `cargo test -p pythia-tests --test sizes -- --ignored --nocapture size_410m`; `PYTHIA_TEST_DIR` says where the
//! weights are written meanwhile.

use pythia_model::taps::{At, Point, TapAt};
use pythia_model::{Model, Sequence, Size, Workspace, log_sum_exp};
use pythia_tensor::{Crew, Mat, Team};
use pythia_tests::{Reference, argmax, fixtures, shared, synthetic, worst};
use std::path::Path;
use std::time::Instant;

/// Of logits and log-probabilities: ten times what was seen on any size.
const TOLERANCE: f32 = 5e-5;

/// Of the hidden states, relative to the root mean square of their row. They are sums of rounded products, and two
/// orders of summation differ by tens of units in the last place (6e-8) after tens of layers.
const HIDDEN_TOLERANCE: f32 = 2e-5;

/// Of the norms of hidden states, relative: in a norm, the rounding errors of the elements cancel.
const NORM_TOLERANCE: f32 = 3e-6;

/// Where the best two logits are nearer than this, rounding may choose between them.
const MARGIN: f32 = 1e-3;

/// Rows of logits that exist at a time.
const ROWS: usize = 16;

/// What transformers computed for a prompt.
struct Expected {
    file: Reference,
    ids: Vec<u32>,
}

impl Expected {
    fn open(path: &Path) -> Self {
        let file = Reference::open(path);
        let ids = file.ids("ids");
        Self { file, ids }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.file.floats(name).1
    }

    /// The best two ids after each token of the first half. The files' `argmax` was written from a strided column of
    /// `topk`'s `[T, 2]` ids as if it were contiguous, so it holds the first `T / 2` rows of both columns.
    fn best_two(&self) -> Vec<[u32; 2]> {
        self.file.ids("argmax").chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect()
    }
}

fn check(name: &str, reference: &Path) {
    let (size, expected) =
        (Size::named(name).unwrap(), Expected::open(&reference.join(format!("{name}.safetensors"))));
    let start = Instant::now();
    let dir = synthetic(size);
    println!("{name}: written in {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let model = Model::open(&dir).unwrap();
    println!("{name}: opened in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    Team::new(0).unwrap().enter(|crew| {
        let last = check_logits(crew, &model, &expected, name);
        check_hidden(crew, &model, &expected, &last, name);
        if expected.file.has("greedy_from_16") {
            check_greedy(crew, &model, &expected, name);
        }
    });
    println!("{name}: compared in {:.1} s", start.elapsed().as_secs_f64());
}

/// Compares everything about the logits, some rows at a time; gives the last row.
fn check_logits(crew: &Crew<'_>, model: &Model, expected: &Expected, name: &str) -> Vec<f32> {
    let (ids, config) = (&expected.ids, model.config());
    let (c, v) = (config.hidden_size, config.vocab_size);
    let (mut cache, mut workspace) = (model.cache(ids.len()).unwrap(), Workspace::new());
    let batch = &mut [Sequence::none(ids, &mut cache)];
    let hidden = model.forward_hidden(crew, batch, &mut workspace).unwrap();
    let (mut log_probs, mut log_sums, mut margins) = (Vec::new(), Vec::new(), Vec::new());
    let (best_two, mut logits) = (expected.best_two(), Vec::new());
    for start in (0..ids.len()).step_by(ROWS) {
        let rows = start..ids.len().min(start + ROWS);
        logits.resize(rows.len() * v, 0.0);
        let hidden: Vec<f32> = rows.clone().flat_map(|t| hidden.row(t)).copied().collect();
        model.unembed(crew, Mat::new(&hidden, c), &mut logits);
        for (t, row) in rows.zip(logits.chunks_exact(v)) {
            let log_sum = log_sum_exp(row);
            log_sums.push(log_sum as f32);
            if let Some(&next) = ids.get(t + 1) {
                log_probs.push((f64::from(row[next as usize]) - log_sum) as f32);
            }
            let best = argmax(row);
            margins.push(row[best as usize] - without(row, best));
            if let Some(&[first, second]) = best_two.get(t) {
                assert!(
                    best == first || margins[t] <= MARGIN,
                    "{name}: argmax after {t} is {best}, not {first}"
                );
                let gap = without(row, best) - row[second as usize];
                assert!(
                    gap.abs() <= MARGIN,
                    "{name}: second after {t} is not {second}, which is {gap} lower"
                );
            }
        }
    }
    let last = logits.split_off(logits.len() - v);
    for (what, got) in [
        ("next_logprob", &log_probs),
        ("logsumexp", &log_sums),
        ("argmax_margin", &margins),
        ("last_logits", &last),
    ] {
        let worst = worst(got, &expected.floats(what));
        println!("{name}: {what} differs by at most {worst:.1e}");
        assert!(worst <= TOLERANCE, "{name}: {what} differs by {worst}");
    }
    last
}

/// The largest logit of another token.
fn without(row: &[f32], id: u32) -> f32 {
    let (before, after) = row.split_at(id as usize);
    before.iter().chain(&after[1..]).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Compares the residual stream after every layer, and the logits of a pass with taps with one without.
fn check_hidden(crew: &Crew<'_>, model: &Model, expected: &Expected, last: &[f32], name: &str) {
    let (ids, layers, c) = (&expected.ids, model.config().num_hidden_layers, model.config().hidden_size);
    let (norms, first64) = (expected.floats("hidden_norm"), "hidden_last_first64");
    let first64 = expected.file.has(first64).then(|| expected.floats(first64));
    let (mut worst_norm, mut worst_hidden, mut seen) = (0.0_f32, 0.0_f32, 0);
    let points = (0..layers).map(|l| Point::Block(l, At::ResidPre)).chain([Point::LnFinal]);
    let mut taps = TapAt::new(points, |tap| {
        let norms = &norms[seen * ids.len()..][..ids.len()];
        for (row, &want) in tap.data.chunks_exact(c).zip(norms) {
            let got = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            worst_norm = worst_norm.max((got as f32 - want).abs() / want);
        }
        if let Some(first64) = &first64 {
            let root_mean_square = norms[ids.len() - 1] / (c as f32).sqrt();
            let got = &tap.data[(ids.len() - 1) * c..][..64];
            worst_hidden = worst_hidden.max(worst(got, &first64[seen * 64..][..64]) / root_mean_square);
        }
        seen += 1;
    });
    let (mut cache, mut workspace) = (model.cache(ids.len()).unwrap(), Workspace::new());
    let batch = &mut [Sequence::last(ids, &mut cache)];
    let logits = model.forward_with_taps(crew, batch, &mut workspace, &mut taps).unwrap();
    assert!(logits.row(0) == last, "{name}: other logits with taps");
    assert_eq!((seen, norms.len()), (layers + 1, (layers + 1) * ids.len()));
    println!("{name}: hidden_norm differs by at most {worst_norm:.1e} of it");
    assert!(worst_norm <= NORM_TOLERANCE, "{name}: norms differ by {worst_norm}");
    if let Some(first64) = first64 {
        assert_eq!(first64.len(), (layers + 1) * 64);
        println!(
            "{name}: hidden_last_first64 differs by at most {worst_hidden:.1e} of their root mean square"
        );
        assert!(worst_hidden <= HIDDEN_TOLERANCE, "{name}: hidden states differ by {worst_hidden}");
    }
}

/// Continues the first 16 tokens greedily, one at a time, until rounding may choose the token.
fn check_greedy(crew: &Crew<'_>, model: &Model, expected: &Expected, name: &str) {
    let (want, margins) = (expected.file.ids("greedy_from_16"), expected.floats("greedy_margin"));
    let sure = margins.iter().position(|&m| m < MARGIN).unwrap_or(want.len());
    let (mut cache, mut workspace) = (model.cache(16 + want.len()).unwrap(), Workspace::new());
    let mut new = &expected.ids[..16];
    let mut got = Vec::new();
    for next in 0..sure {
        let logits = model.forward(crew, &mut [Sequence::last(new, &mut cache)], &mut workspace).unwrap();
        got.push(argmax(logits.row(0)));
        new = &want[next..=next];
    }
    println!("{name}: {sure} of {} greedy tokens compared", want.len());
    assert!(sure > 0, "{name}: nothing to compare");
    assert_eq!(got, want[..sure], "{name}: greedy continuation");
}

fn check_shared(name: &str) {
    if let Some(dir) = shared("reference/sizes") {
        check(name, &dir);
    }
}

#[test]
fn size_70m() {
    check("70m", &fixtures().join("sizes"));
}

#[test]
#[ignore = "writes 0.3 GB"]
fn size_160m() {
    check_shared("160m");
}

#[test]
#[ignore = "writes 0.8 GB"]
fn size_410m() {
    check_shared("410m");
}

#[test]
#[ignore = "writes 2 GB"]
fn size_1b() {
    check_shared("1b");
}

#[test]
#[ignore = "writes 2.8 GB"]
fn size_1_4b() {
    check_shared("1.4b");
}

#[test]
#[ignore = "writes 5.6 GB"]
fn size_2_8b() {
    check_shared("2.8b");
}

#[test]
#[ignore = "writes 14 GB"]
fn size_6_9b() {
    check_shared("6.9b");
}

#[test]
#[ignore = "writes 24 GB"]
fn size_12b() {
    check_shared("12b");
}
