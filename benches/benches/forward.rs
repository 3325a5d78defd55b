//! Whole forward passes of synthetic models: a prompt of 512 tokens, a token after 64 others, eight such at a time.

use criterion::Criterion;
use pythia_benches::{Group, bytes, flops, measuring};
use pythia_model::{Cache, Config, Model, Sequence, Size, Workspace, synth};
use pythia_tensor::{Crew, Team};
use std::cell::OnceCell;
use std::error::Error;
use std::path::Path;

/// Tokens of the prompt.
const PROMPT: usize = 512;

/// Tokens before those that are decoded.
const BEFORE: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    let sizes: &[&str] = if measuring() { &["70m", "410m"] } else { &["14m"] };
    for name in sizes {
        let (size, opened) = (Size::named(name)?, OnceCell::new());
        let model = || opened.get_or_init(|| open(size).unwrap_or_else(|e| panic!("{e}")));
        Team::new(0)?.enter(|crew| forward(&mut criterion, crew, size, model));
    }
    criterion.final_summary();
    Ok(())
}

/// The synthetic model of this size, written once into the target folder.
fn open(size: &Size) -> pythia_model::Result<Model> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("synth-{}", size.name));
    // The config is written last.
    if !folder.join("config.json").is_file() {
        synth::write(size, &folder, 1234)?;
    }
    Model::open(folder)
}

fn forward<'m>(c: &mut Criterion, crew: &Crew<'_>, size: &Size, model: impl Fn() -> &'m Model) {
    let (config, name) = (size.config(), size.name);
    let mut group = Group::new(c, crew, "forward");
    group.bench(&format!("{name}/prefill {PROMPT}"), flops(prefill_flops(&config, PROMPT)), || {
        let (model, ids) = (model(), ids(&config, PROMPT));
        let (mut cache, mut workspace) = (cache(model, PROMPT), Workspace::new());
        move || {
            cache.truncate(0);
            model.forward(crew, &mut [Sequence::last(&ids, &mut cache)], &mut workspace).expect("a pass");
        }
    });
    for sequences in [1, 8] {
        let read = decode_bytes(&config, sequences);
        group.bench(&format!("{name}/decode {sequences} after {BEFORE}"), bytes(read), || {
            let (model, ids) = (model(), ids(&config, BEFORE));
            let mut workspace = Workspace::new();
            let mut caches: Vec<Cache> = (0..sequences).map(|_| cache(model, BEFORE + 1)).collect();
            for cache in &mut caches {
                model.forward(crew, &mut [Sequence::none(&ids, cache)], &mut workspace).expect("a pass");
            }
            move || {
                let mut batch = Vec::with_capacity(sequences);
                for cache in &mut caches {
                    cache.truncate(BEFORE);
                    batch.push(Sequence::last(&ids[..1], cache));
                }
                model.forward(crew, &mut batch, &mut workspace).expect("a pass");
            }
        });
    }
    group.finish();
}

fn cache(model: &Model, positions: usize) -> Cache {
    model.cache(positions).expect("shorter than the context")
}

/// Some token ids: speed does not depend on which.
fn ids(config: &Config, n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % config.vocab_size) as u32).collect()
}

/// Elements of a layer's matrices.
fn layer_weights(config: &Config) -> usize {
    4 * config.hidden_size * config.hidden_size + 2 * config.hidden_size * config.intermediate_size
}

/// Two operations for each weight of the layers and each token, two products of `T (T + 1) / 2 x C` in each layer's
/// attention, and one row of logits.
fn prefill_flops(config: &Config, tokens: usize) -> usize {
    let layers = config.num_hidden_layers * layer_weights(config);
    let attention = config.num_hidden_layers * 2 * config.hidden_size * tokens * (tokens + 1) / 2;
    2 * (layers * tokens + attention + config.vocab_size * config.hidden_size)
}

/// Every matrix once, in f16, and the keys and values of each sequence, in f32.
fn decode_bytes(config: &Config, sequences: usize) -> usize {
    let weights = config.num_hidden_layers * layer_weights(config) + config.vocab_size * config.hidden_size;
    let keys_and_values = 2 * (BEFORE + 1) * config.hidden_size * config.num_hidden_layers;
    2 * weights + 4 * keys_and_values * sequences
}
