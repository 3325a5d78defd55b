//! Every architecture and file variant against transformers in float32: `reference/variants`.

use pythia_model::taps::{At, Point, TapAt};
use pythia_model::{Cache, Model, Sequence, Workspace};
use pythia_tensor::{Crew, Team};
use pythia_tests::{Reference, argmax, fixtures, folders, shared, temporary, worst};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Two independent float32 implementations differ in rounding only; ten times what was seen.
const TOLERANCE: f32 = 2e-4;

/// Worst difference of each kind of number.
#[derive(Debug, Default)]
struct Worst {
    logits: f32,
    hidden: f32,
    attention: f32,
}

fn is_causal(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("config.json")).unwrap().contains("ForCausalLM")
}

fn check_variant(dir: &Path) -> Worst {
    let model = Model::open(dir).unwrap();
    let reference = Reference::open(dir.join("reference.safetensors"));
    let team = Team::new(2).unwrap();
    let worst = team.enter(|crew| compare(crew, &model, &reference, true));
    team.enter(|crew| check_greedy(crew, &model, &reference.ids("greedy")));
    worst
}

/// Compares what stands in a reference, without its logits if they are not those of a language model.
fn compare(crew: &Crew<'_>, model: &Model, reference: &Reference, with_logits: bool) -> Worst {
    let (shape, _) = reference.integers("input_ids");
    let (batch, tokens) = (shape[0], shape[1]);
    let ids = reference.ids("input_ids");
    // Padding lies on the left, or on the right.
    let own: Vec<Range<usize>> = reference
        .integers("attention_mask")
        .1
        .chunks(tokens)
        .map(|mask| {
            let start = mask.iter().position(|&m| m != 0).unwrap();
            start..start + mask.iter().filter(|&&m| m != 0).count()
        })
        .collect();
    let mut caches: Vec<Cache> = (0..batch).map(|_| model.cache(tokens).unwrap()).collect();
    let mut sequences: Vec<Sequence<'_>> = caches
        .iter_mut()
        .enumerate()
        .map(|(b, cache)| Sequence::all(&ids[b * tokens..][own[b].clone()], cache))
        .collect();

    let layers = model.config().num_hidden_layers;
    let points = (0..layers).flat_map(|l| [Point::Block(l, At::ResidPre), Point::Block(l, At::Pattern)]);
    let mut seen: HashMap<(Point, Option<usize>), Vec<f32>> = HashMap::new();
    let mut taps = TapAt::new(points.chain([Point::LnFinal]), |t| {
        seen.insert((t.point, t.sequence), t.data.to_vec());
    });
    let mut workspace = Workspace::new();
    let logits = model.forward_with_taps(crew, &mut sequences, &mut workspace, &mut taps).unwrap();

    let mut worst_of = Worst::default();
    let (v, c, heads) =
        (model.config().vocab_size, model.config().hidden_size, model.config().num_attention_heads);
    let (want_logits, want_hidden, want_attention) =
        (reference.floats("logits").1, reference.floats("hidden_states").1, reference.floats("attentions").1);
    let mut row = 0;
    for b in 0..batch {
        for t in own[b].clone() {
            let at = b * tokens + t;
            if with_logits {
                worst_of.logits = worst_of.logits.max(worst(logits.row(row), &want_logits[at * v..][..v]));
            }
            for l in 0..=layers {
                let point = if l < layers { Point::Block(l, At::ResidPre) } else { Point::LnFinal };
                let got = &seen[&(point, None)][row * c..][..c];
                let want = &want_hidden[(l * batch * tokens + at) * c..][..c];
                worst_of.hidden = worst_of.hidden.max(worst(got, want));
            }
            row += 1;
        }
        let (start, own) = (own[b].start, own[b].len());
        for l in 0..layers {
            let got = &seen[&(Point::Block(l, At::Pattern), Some(b))];
            for h in 0..heads {
                for t in 0..own {
                    let want = (((l * batch + b) * heads + h) * tokens + start + t) * tokens + start;
                    let got = &got[(h * own + t) * own..][..own];
                    worst_of.attention = worst_of.attention.max(worst(got, &want_attention[want..][..own]));
                }
            }
        }
    }
    worst_of
}

fn check_greedy(crew: &Crew<'_>, model: &Model, want: &[u32]) {
    let prompt = want.len() - 24;
    let mut cache = model.cache(want.len()).unwrap();
    let mut workspace = Workspace::new();
    let mut ids = want[..prompt].to_vec();
    let mut new = 0;
    while ids.len() < want.len() {
        let mut batch = [Sequence::last(&ids[new..], &mut cache)];
        let next = argmax(model.forward(crew, &mut batch, &mut workspace).unwrap().row(0));
        new = ids.len();
        ids.push(next);
    }
    assert_eq!(ids, want, "greedy continuation");
}

fn check_all(dir: &Path, expected: usize) {
    let variants: Vec<_> = folders(dir).into_iter().filter(|d| is_causal(d)).collect();
    assert_eq!(variants.len(), expected, "{variants:?}");
    for dir in variants {
        let w = check_variant(&dir);
        let name = dir.file_name().unwrap().display();
        println!(
            "{name}: logits {:.1e}, hidden states {:.1e}, attention {:.1e}",
            w.logits, w.hidden, w.attention
        );
        assert!(w.logits.max(w.hidden).max(w.attention) <= TOLERANCE, "{name}: {w:?}");
    }
}

#[test]
fn fixtures_match_transformers() {
    check_all(&fixtures().join("variants"), 3);
}

#[test]
fn all_variants_match_transformers() {
    if let Some(dir) = shared("reference/variants") {
        check_all(&dir, 14);
    }
}

/// A classifier has no unembedding, so that it is refused by name. Under a config that takes the embedding for it, all but the
/// logits are the backbone's.
#[test]
fn the_backbone_of_a_classifier_matches_transformers() {
    let Some(dir) = shared("reference/variants/sequence-classification") else { return };
    let message = Model::open(&dir).unwrap_err().to_string();
    assert!(message.contains("shares only its backbone"), "{message}");
    let backbone = temporary();
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let config = config.replace("ForSequenceClassification", "ForCausalLM");
    let tied = config.replace(r#""tie_word_embeddings": false"#, r#""tie_word_embeddings": true"#);
    assert_ne!(config, tied);
    std::fs::write(backbone.path().join("config.json"), tied).unwrap();
    std::fs::copy(dir.join("model.safetensors"), backbone.path().join("model.safetensors")).unwrap();
    let model = Model::open(backbone.path()).unwrap();
    let reference = Reference::open(dir.join("reference.safetensors"));
    let worst = Team::new(2).unwrap().enter(|crew| compare(crew, &model, &reference, false));
    println!(
        "sequence-classification: hidden states {:.1e}, attention {:.1e}",
        worst.hidden, worst.attention
    );
    assert!(worst.hidden.max(worst.attention) <= TOLERANCE, "{worst:?}");
}
