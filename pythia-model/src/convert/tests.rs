//! What is written is read again as the same model.

use super::*;
use crate::weights::layout::EMBED_IN;
use crate::{Config, Size, Weights, synth};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const KEYS: &str = r#""architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 5,
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "rotary_pct": 0.5"#;

/// A model in a folder: its config, with some more keys, and one tensor of another type.
fn model(more: &str, wide: Option<f32>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let json = format!("{{{KEYS}{more}}}");
    fs::write(dir.path().join("config.json"), &json).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "any").unwrap();
    let mut tensors = Config::from_bytes("config.json", json.as_bytes()).unwrap().tensors();
    tensors.sort();
    let is_wide = |name: &str| wide.is_some() && name == EMBED_IN;
    tensors.sort_by_key(|(name, _)| !is_wide(name));
    let infos = tensors
        .iter()
        .map(|(name, shape)| (&name[..], if is_wide(name) { DType::F32 } else { DType::F16 }, &shape[..]));
    let mut bytes = crate::weights::safetensors::header(infos).unwrap();
    for (name, shape) in &tensors {
        let numbers = synth::tensor(name, shape, 7);
        if is_wide(name) {
            let mut numbers: Vec<_> = numbers.iter().map(|x| x.to_f32()).collect();
            numbers[3] = wide.unwrap();
            bytes.extend_from_slice(bytemuck::cast_slice(&numbers));
        } else {
            bytes.extend_from_slice(bytemuck::cast_slice(&numbers));
        }
    }
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    dir
}

fn convert(from: &Path, to: &Path, options: &Options) -> crate::Result<Written> {
    let mut last = None;
    let written = to_safetensors(&Source::open(from)?, to, options, &mut |p| last = Some(p))?;
    assert_eq!(last, Some(Progress { done: written.bytes, total: written.bytes }));
    Ok(written)
}

fn config_of(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_model_of_one_type_gives_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    synth::write(Size::named("14m").unwrap(), &from, 1).unwrap();
    let written = convert(&from, &to, &Options::default()).unwrap();
    assert_eq!(
        written,
        Written { files: vec!["model.safetensors".into(), "config.json".into()], bytes: 28_135_424 }
    );
    let file = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(file(&from) == file(&to), "the files differ");
    assert_eq!(config_of(&from), config_of(&to));
}

#[test]
fn shards_are_as_large_as_allowed_and_read_as_one_model() {
    let (from, dir) = (model("", None), tempfile::tempdir().unwrap());
    let to = dir.path().join("to");
    let options = Options { max_shard_size: 500, ..Options::default() };
    let written = convert(from.path(), &to, &options).unwrap();
    let (weights, rest): (Vec<_>, Vec<_>) = written
        .files
        .iter()
        .partition(|name| Path::new(name).extension().is_some_and(|e| e == "safetensors"));
    assert_eq!(rest, ["model.safetensors.index.json", "tokenizer.json", "config.json"]);
    assert!(weights.len() > 3, "{weights:?}");
    assert_eq!(weights[1], &format!("model-00002-of-{:05}.safetensors", weights.len()));
    for name in &weights {
        assert!(fs::metadata(to.join(name)).unwrap().len() < 500 + 8 + 2000, "{name}");
    }
    let index: Value =
        serde_json::from_slice(&fs::read(to.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], written.bytes);
    let config = Config::from_file(to.join("config.json")).unwrap();
    let [there, here] = [from.path(), &to].map(|dir| Weights::open(dir, &config).unwrap());
    for ((name, a), (_, b)) in there.matrices().zip(here.matrices()) {
        assert_eq!((a.dtype(), a.bytes()), (b.dtype(), b.bytes()), "{name}");
    }
    assert_eq!(there.layers[1].dense_4h_to_h.bias, here.layers[1].dense_4h_to_h.bias);
    assert_eq!(fs::read(to.join("tokenizer.json")).unwrap(), b"any");
}

#[test]
fn the_config_keeps_its_keys_and_says_the_type() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (more, wide, dtype, key, expected)) in [
        (r#", "dtype": "float16", "x": [1]"#, None, None, "dtype", "float16"),
        (r#", "dtype": "float16", "x": [1]"#, None, Some(DType::BF16), "dtype", "bfloat16"),
        (r#", "torch_dtype": "float32", "x": [1]"#, None, None, "torch_dtype", "float16"),
        // Two types: the one that holds both.
        (r#", "x": [1]"#, Some(1.0), None, "torch_dtype", "float32"),
        (r#", "x": [1]"#, Some(1.0), Some(DType::F16), "torch_dtype", "float16"),
    ]
    .into_iter()
    .enumerate()
    {
        let (from, to) = (model(more, wide), dir.path().join(i.to_string()));
        convert(from.path(), &to, &Options { dtype, ..Options::default() }).unwrap();
        let json = config_of(&to);
        assert_eq!((&json[key], &json["x"]), (&Value::from(expected), &serde_json::json!([1])), "{json}");
        let keys = ["dtype", "torch_dtype"].into_iter().filter(|key| json.get(key).is_some());
        assert_eq!(keys.count(), 1);
        Weights::open(&to, &Config::from_file(to.join("config.json")).unwrap()).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_left() {
    let (from, dir) = (model("", Some(70_000.0)), tempfile::tempdir().unwrap());
    let to = dir.path().join("to");
    let options = Options { dtype: Some(DType::F16), ..Options::default() };
    let message = convert(from.path(), &to, &options).unwrap_err().to_string();
    let start = from.path().join("model.safetensors").display().to_string();
    let expected =
        "tensor `gpt_neox.embed_in.weight`: the number 70000 is too large for this type (f16): choose";
    assert!(message.starts_with(&start) && message.contains(expected), "{message}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);

    let full = model("", None);
    let message = convert(from.path(), full.path(), &Options::default()).unwrap_err().to_string();
    assert!(message.ends_with("this folder is not empty: choose the name of a new one"), "{message}");
}
