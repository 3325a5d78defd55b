mod damage;

use super::*;
use crate::test_models::{SMALL, synthetic};
use crate::{Model, Sequence, Size, Workspace};
use pythia_tensor::{KeyValues, Team};
use std::path::PathBuf;
use std::thread;
use tempfile::TempDir;

/// The stored and the quantised weights are large, for a test.
const LARGE: Size =
    Size { name: "large", num_hidden_layers: 1, hidden_size: 256, num_attention_heads: 4, vocab_size: 300 };

/// A synthetic model in a folder, and the path for its quantised weights, in a folder that does not exist yet.
struct World {
    dir: TempDir,
    path: PathBuf,
}

impl World {
    fn new(size: &Size) -> Self {
        let dir = synthetic(size, 1);
        Self { path: dir.path().join("kept/model.quantized"), dir }
    }

    fn model(&self) -> Model {
        Model::open(&self.dir).unwrap()
    }

    fn open(&self, precision: Precision, check: Check) -> (Model, Kept) {
        let team = Team::new(2).unwrap();
        team.enter(|crew| {
            self.model().with_precision_kept(crew, precision, (&self.path, check), &mut |_| {}).unwrap()
        })
    }

    /// The files in the folder of the quantised weights.
    fn files(&self) -> usize {
        self.path.parent().unwrap().read_dir().unwrap().count()
    }
}

fn logits(model: &Model) -> Vec<f32> {
    Team::new(2).unwrap().enter(|crew| {
        let mut cache = model.cache(5).unwrap();
        let batch = &mut [Sequence::all(&[1, 2, 3, 4, 5], &mut cache)];
        let mut workspace = Workspace::new();
        let logits = model.forward(crew, batch, &mut workspace).unwrap();
        (0..logits.rows()).flat_map(|r| logits.row(r).to_vec()).collect()
    })
}

fn in_memory(model: Model, precision: Precision) -> Model {
    Team::new(1).unwrap().enter(|crew| model.with_precision(crew, precision)).unwrap()
}

#[test]
fn caches_are_in_bf16_but_for_exact() {
    let in_bf16 = |model: &Model| model.cache(1).unwrap().layers.iter().all(KeyValues::is_bf16);
    let world = World::new(&SMALL);
    let exact = world.model();
    let bytes = exact.cache_bytes_per_token();
    assert!(!in_bf16(&exact));
    for precision in [Precision::Int8, Precision::Int4] {
        let model = in_memory(world.model(), precision);
        assert!(in_bf16(&model) && 2 * model.cache_bytes_per_token() == bytes, "{precision}");
    }
}

#[test]
fn kept_weights_are_those_of_memory() {
    for size in [&SMALL, &LARGE] {
        for precision in [Precision::Int8, Precision::Int4] {
            let world = World::new(size);
            let want = logits(&in_memory(world.model(), precision));
            assert_ne!(want, logits(&world.model()));
            let (model, kept) = world.open(precision, Check::Quick);
            assert!(kept.written && kept.unusable.is_none() && kept.not_written.is_none(), "{kept:?}");
            assert_eq!((model.precision(), logits(&model)), (precision, want.clone()));
            for check in [Check::Quick, Check::Full] {
                let (model, kept) = world.open(precision, check);
                assert!(!kept.written && kept.unusable.is_none(), "{kept:?}");
                assert_eq!(logits(&model), want);
            }
            assert_eq!(world.files(), 1);
        }
    }
}

#[test]
fn every_matrix_is_quantised_and_mapped_in_order() {
    let world = World::new(&LARGE);
    world.open(Precision::Int8, Check::Quick);
    let (model, _) = world.open(Precision::Int8, Check::Quick);
    let weights = model.weights();
    let layer = &weights.layers[0];
    let linears =
        [&layer.query_key_value, &layer.attention_dense, &layer.dense_h_to_4h, &layer.dense_4h_to_h];
    let quantized = linears.map(|linear| linear.quantized.as_ref().unwrap());
    let mut end = None;
    for (q, (name, matrix)) in
        quantized.into_iter().chain(&weights.embed_out_quantized).zip(weights.matrices().collect::<Vec<_>>())
    {
        assert_eq!((q.shape(), q.bits()), (matrix.shape(), Bits::Int8), "{name}");
        let at = q.bytes().as_ptr_range();
        assert!(at.start.addr().is_multiple_of(if end.is_none() { 4096 } else { 64 }), "{name}");
        // End to end in one mapping.
        assert!(end.is_none_or(|end| at.start.addr() == end), "{name}");
        end = Some(at.end.addr());
    }
    assert_eq!(weights.matrices().count(), 5);
}

#[test]
fn a_tied_unembedding_is_quantised_and_the_embedding_is_not() {
    let world = World::new(&SMALL);
    let mut config = world.model().config().clone();
    config.tie_word_embeddings = true;
    let mut weights = world.model().weights().clone();
    weights.embed_out = weights.embed_in.clone();
    let model = in_memory(Model::new(config, weights), Precision::Int8);
    let quantized = model.weights().embed_out_quantized.as_ref().unwrap();
    let (got, want) = (quantized.dequantize(), model.weights().embed_in.to_f32());
    assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 0.01) && got != want);
}

#[test]
fn progress_goes_from_nothing_to_all() {
    let world = World::new(&SMALL);
    let mut seen = Vec::new();
    Team::new(1).unwrap().enter(|crew| {
        let place = (world.path.as_path(), Check::Quick);
        let progress = &mut |progress| seen.push(progress);
        world.model().with_precision_kept(crew, Precision::Int4, place, progress).unwrap();
    });
    assert_eq!((seen.len(), seen[0].done), (1 + 2 * 4 + 1, 0));
    assert!(seen.windows(2).all(|pair| pair[0].done < pair[1].done && pair[0].total == pair[1].total));
    assert_eq!(seen.last().unwrap().done, seen[0].total);
}

#[test]
fn other_precisions_have_no_file() {
    let world = World::new(&SMALL);
    Team::new(1).unwrap().enter(|crew| {
        for precision in [Precision::Exact, Precision::Bf16] {
            let place = (world.path.as_path(), Check::Quick);
            let result = world.model().with_precision_kept(crew, precision, place, &mut |_| {});
            let message = result.unwrap_err().to_string();
            assert_eq!(
                message,
                format!("precision `{precision}` has no quantised weights: ask for int8 or int4")
            );
        }
        // Back to what is stored.
        let model = world.model().with_precision(crew, Precision::Int8).unwrap();
        assert!(model.weights().embed_out_quantized.is_some());
        let model = model.with_precision(crew, Precision::Exact).unwrap();
        assert!(model.weights().embed_out_quantized.is_none());
    });
}

#[test]
fn any_number_of_writers_at_once_leave_one_good_file() {
    let world = World::new(&LARGE);
    let want = logits(&in_memory(world.model(), Precision::Int4));
    thread::scope(|scope| {
        let both: Vec<_> =
            (0..4).map(|_| scope.spawn(|| world.open(Precision::Int4, Check::Quick))).collect();
        for writer in both {
            let (model, kept) = writer.join().unwrap();
            assert!(kept.unusable.is_none() && kept.not_written.is_none(), "{kept:?}");
            assert_eq!(logits(&model), want);
        }
    });
    assert_eq!(world.files(), 1);
    assert!(!world.open(Precision::Int4, Check::Full).1.written);
}

/// A mapped file that is replaced stays as it was for who has it.
#[test]
fn a_model_in_use_survives_a_new_file() {
    let world = World::new(&SMALL);
    let (model, _) = world.open(Precision::Int8, Check::Quick);
    let want = logits(&model);
    fs::remove_file(&world.path).unwrap();
    world.open(Precision::Int4, Check::Quick);
    assert_eq!(logits(&model), want);
}

#[test]
fn what_cannot_be_written_is_made_in_memory() {
    let mut world = World::new(&SMALL);
    let want = logits(&in_memory(world.model(), Precision::Int8));
    // Under a file; in place of a folder.
    fs::write(world.dir.path().join("file"), b"x").unwrap();
    fs::create_dir(world.dir.path().join("folder")).unwrap();
    for (path, unusable, message) in [("file/model.quantized", true, "file: "), ("folder", true, "folder: ")]
    {
        world.path = world.dir.path().join(path);
        let (model, kept) = world.open(Precision::Int8, Check::Quick);
        let why = kept.not_written.unwrap().to_string();
        assert!(why.contains(message) && !kept.written, "{why}");
        assert_eq!((kept.unusable.is_some(), logits(&model)), (unusable, want.clone()), "{why}");
    }
}
