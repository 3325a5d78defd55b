use super::*;
use crate::Config;
use crate::weights::safetensors;
use half::bf16;
use pythia_tensor::{DType, Team};
use serde_json::json;
use std::fs;
use tempfile::TempDir;

fn config() -> Config {
    let json = json!({
        "model_type": "gpt_neox", "rotary_pct": 0.5, "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    });
    Config::from_bytes("config.json", json.to_string().as_bytes()).unwrap()
}

/// The bytes of a tensor, of random numbers that follow from the seed.
fn tensor(name: &str, shape: &[usize], dtype: DType, seed: u64) -> Vec<u8> {
    let numbers = crate::synth::tensor(name, shape, seed);
    match dtype {
        DType::F16 => bytemuck::cast_slice(&numbers).to_vec(),
        DType::F32 => numbers.iter().flat_map(|x| x.to_f32().to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|x| bf16::from_f32(x.to_f32()).to_le_bytes()).collect(),
    }
}

/// A checkpoint in so many shards, each tensor with the seed that it is given.
struct Written {
    folder: TempDir,
    dtype: DType,
    shards: usize,
}

impl Written {
    fn new(dtype: DType, shards: usize) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), dtype, shards }
    }

    fn with(self, seed: impl Fn(&str, usize) -> u64) -> Self {
        let mut tensors = config().tensors();
        tensors.sort();
        let mut map = serde_json::Map::new();
        for (s, shard) in tensors.chunks(tensors.len().div_ceil(self.shards)).enumerate() {
            let infos = shard.iter().map(|(name, shape)| (&name[..], self.dtype, &shape[..]));
            let mut bytes = safetensors::header(infos).unwrap();
            let file = if self.shards == 1 { "model.safetensors".into() } else { format!("shard-{s}") };
            for (name, shape) in shard {
                bytes.extend(tensor(name, shape, self.dtype, seed(name, s)));
                map.insert(name.clone(), json!(file));
            }
            fs::write(self.folder.path().join(file), bytes).unwrap();
        }
        if self.shards > 1 {
            let index = json!({ "weight_map": map }).to_string();
            fs::write(self.folder.path().join("model.safetensors.index.json"), index).unwrap();
        }
        self
    }

    fn weights(&self) -> Weights {
        Weights::open(self.folder.path(), &config()).unwrap()
    }

    fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.weights(), &mut |_| {})
    }
}

fn fingerprint(weights: &Weights, read: &mut dyn FnMut(u64)) -> Fingerprint {
    Team::new(2).unwrap().enter(|crew| Fingerprint::of(crew, weights, &|_| None, read))
}

fn one(seed: u64) -> Fingerprint {
    Written::new(DType::F16, 1).with(|_, _| seed).fingerprint()
}

#[test]
fn norms_are_those_of_all_numbers_of_a_part() {
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let written = Written::new(dtype, 2).with(|_, _| 1);
        let weights = written.weights();
        let mut read = 0;
        let found = fingerprint(&weights, &mut |n| read += n);
        assert_eq!(
            read,
            weights.matrices().map(|(_, m)| m.bytes().len() as u64).sum::<u64>()
                + 50 * 24 * dtype.size() as u64
        );
        let norm = |start: &str| {
            let tensors = config().tensors().into_iter().filter(|(name, _)| name.starts_with(start));
            let squares = tensors.flat_map(|(name, shape)| {
                let bytes = tensor(&name, &shape, dtype, 1);
                Tensor::from_bytes(&bytes, dtype, &shape).unwrap().to_f32()
            });
            squares.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
        };
        assert_eq!(found.layer_index, 1);
        for (part, start) in
            [(found.embedding, EMBED_IN), (found.layer, "gpt_neox.layers.1."), (found.unembedding, EMBED_OUT)]
        {
            let want = norm(start);
            // Pieces of 512 numbers are summed in f32, in two vectors of 4 lanes at least: at most 512 / 8 + 8 roundings of half
            // a unit, and half of that in the root.
            let bound = 36.0 * f64::from(f32::EPSILON / 2.0);
            assert!(
                (part.norm - want).abs() <= bound * want && want > 0.1,
                "{dtype} {start}: {} {want}",
                part.norm
            );
        }
    }
}

#[test]
fn matrices_summed_while_their_files_are_read_are_not_read_again() {
    for (dtype, shards, piece) in [(DType::F16, 1, 7), (DType::BF16, 2, 1000), (DType::F32, 2, 1 << 20)] {
        let written = Written::new(dtype, shards).with(|_, _| 1);
        let weights = written.weights();
        let whole = fingerprint(&weights, &mut |_| ());
        let team = Team::new(1).unwrap();
        // Of a file that is read only in part, what was read to its end.
        for (cut, again) in [(usize::MAX, false), (1500, true)] {
            let sums = |stamp: &FileStamp| {
                let name = if shards == 1 { "model.safetensors" } else { "shard.safetensors" };
                let mut sums = FileSums::new(&stamp.path, name, &config());
                team.enter(|crew| {
                    let bytes = fs::read(&stamp.path).unwrap();
                    bytes[..cut.min(bytes.len())].chunks(piece).for_each(|bytes| sums.update(crew, bytes));
                    sums.finish(crew)
                })
            };
            let summed: Vec<Summed> = weights.files.iter().map(sums).collect();
            let of = |stamp: &FileStamp| summed.get(weights.files.iter().position(|f| f.path == stamp.path)?);
            let mut read = 0;
            let found = team.enter(|crew| Fingerprint::of(crew, &weights, &of, &mut |n| read += n));
            let parts = |f: &Fingerprint| (f.hash, f.embedding, f.layer, f.unembedding, f.layer_index);
            assert_eq!(parts(&found), parts(&whole));
            assert_eq!(compare(&[&found, &whole])[0].extent, Extent::All);
            assert_eq!(read > 0, again, "{dtype} {cut}");
        }
    }
    assert!(FileSums::new(std::path::Path::new("absent"), "model.safetensors", &config()).is_empty());
}

#[test]
fn every_tensor_counts_and_only_for_its_part() {
    let whole = one(1);
    let again = Written::new(DType::F16, 3).with(|_, _| 1).fingerprint();
    let parts = |f: &Fingerprint| [f.embedding, f.layer, f.unembedding];
    assert_eq!((again.hash, parts(&again)), (whole.hash, parts(&whole)), "shards do not matter");
    for (changed, _) in config().tensors() {
        let other =
            Written::new(DType::F16, 1).with(|name, _| if name == changed { 2 } else { 1 }).fingerprint();
        assert_ne!(other.hash, whole.hash, "{changed}");
        let differ = [0, 1, 2].map(|i| parts(&other)[i].hash != parts(&whole)[i].hash);
        let want = [EMBED_IN, "gpt_neox.layers.1.", EMBED_OUT].map(|part| changed.starts_with(part));
        assert_eq!(differ, want, "{changed}");
    }
}

#[test]
fn different_steps_have_nothing_in_common_and_equal_ones_all() {
    let [a, b, c] = [1, 2, 3].map(one);
    assert_eq!(compare(&[&a, &b, &c]), []);
    assert_eq!(compare(&[]), []);
    let all = |checkpoints: &[usize]| Common { checkpoints: checkpoints.to_vec(), extent: Extent::All };
    assert_eq!(compare(&[&a, &b, &a, &c, &b, &a]), [all(&[0, 2, 5]), all(&[1, 4])]);
    // In other shards, the same weights.
    assert_eq!(compare(&[&a, &Written::new(DType::F16, 2).with(|_, _| 1).fingerprint()]), [all(&[0, 1])]);
}

#[test]
fn a_shard_of_another_step_is_found_by_its_file() {
    let last = Written::new(DType::F16, 3).with(|_, _| 9).fingerprint();
    let mixed = |step| Written::new(DType::F16, 3).with(|_, s| if s == 0 { 9 } else { step }).fingerprint();
    let [good, first, second] =
        [Written::new(DType::F16, 3).with(|_, _| 7).fingerprint(), mixed(5), mixed(6)];
    let files = |checkpoints: &[usize], of| {
        vec![Common {
            checkpoints: checkpoints.to_vec(),
            extent: Extent::Files { of, files: vec!["shard-0".to_owned()] },
        }]
    };
    assert_eq!(compare(&[&good, &first, &second, &last]), files(&[1, 2, 3], 1));
    // The final model in a single file, as its safetensors are beside the shards of steps.
    assert_eq!(compare(&[&one(9), &first]), files(&[0, 1], 1));
    // Two that are equal, and one that has a part of them.
    let found = compare(&[&last, &last, &first]);
    assert_eq!((found[0].extent.clone(), found.len()), (Extent::All, 2));
    assert_eq!(found[1..], files(&[0, 1, 2], 0));
}

#[test]
fn other_matrices_in_common_are_counted() {
    let some = |name: &str| name == EMBED_IN || name.starts_with("gpt_neox.layers.0.attention.dense.");
    for shards in [1, 2] {
        let other =
            Written::new(DType::F16, shards).with(|name, _| if some(name) { 1 } else { 2 }).fingerprint();
        // Two of the tables and the four matrices of three layers.
        let extent = Extent::Matrices { common: 2, of: 14 };
        assert_eq!(compare(&[&one(1), &other]), [Common { checkpoints: vec![0, 1], extent }], "{shards}");
    }
}
