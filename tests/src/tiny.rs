//! A model of some hundred numbers, made on the spot in every format.

use crate::temporary;
use crate::torch_save::{self, Tensor, archive, state_dict};
use half::f16;
use pythia_model::convert::{Source, to_gguf};
use pythia_model::{Config, synth};
use serde_json::{Map, Value, json};
use std::fs;

/// A tensor's name, shape and bytes.
pub type Named = (String, Vec<usize>, Vec<u8>);

/// The model's `config.json`.
pub fn config_json() -> Value {
    json!({
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 5, "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "rotary_pct": 0.5,
        "max_position_embeddings": 32, "eos_token_id": 0,
    })
}

/// The same, read.
///
/// # Panics
/// Never.
pub fn config() -> Config {
    Config::from_bytes("config.json", config_json().to_string().as_bytes()).expect("a good config")
}

/// The tensors of a model of this shape, in `f16`, with the numbers of [`synth::tensor`].
pub fn tensors(config: &Config) -> Vec<Named> {
    let (v, c, i) = (config.vocab_size, config.hidden_size, config.intermediate_size);
    let mut shapes = vec![("gpt_neox.embed_in.weight".to_owned(), vec![v, c])];
    let mut put = |name: &str, shape: &[usize]| shapes.push((name.to_owned(), shape.to_vec()));
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("gpt_neox.layers.{layer}.{part}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            put(&name(&format!("{norm}.weight")), &[c]);
            put(&name(&format!("{norm}.bias")), &[c]);
        }
        for (part, rows, columns) in [
            ("attention.query_key_value", 3 * c, c),
            ("attention.dense", c, c),
            ("mlp.dense_h_to_4h", i, c),
            ("mlp.dense_4h_to_h", c, i),
        ] {
            put(&name(&format!("{part}.weight")), &[rows, columns]);
            if config.attention_bias || part.starts_with("mlp") {
                put(&name(&format!("{part}.bias")), &[rows]);
            }
        }
    }
    put("gpt_neox.final_layer_norm.weight", &[c]);
    put("gpt_neox.final_layer_norm.bias", &[c]);
    if !config.tie_word_embeddings {
        put("embed_out.weight", &[v, c]);
    }
    let bytes = |name: &str, shape: &[usize]| {
        synth::tensor(name, shape, 7).into_iter().flat_map(f16::to_le_bytes).collect()
    };
    shapes.into_iter().map(|(name, shape)| (name.clone(), shape.clone(), bytes(&name, &shape))).collect()
}

/// The tensors as a safetensors file, whose header is padded to a multiple of 8.
pub fn safetensors(tensors: &[Named]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for (name, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let info = json!({"dtype": "F16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), info);
    }
    let mut header = Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    safetensors_of(&header, &data)
}

/// A safetensors file as its parts.
pub fn safetensors_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The tensors as PyTorch describes them, and their storages.
fn torch(tensors: &[Named], view: Option<&[u8]>) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let described = tensors.iter().enumerate().map(|(key, (name, shape, _))| {
        (name.as_str(), Tensor { view: view.map(<[u8]>::to_vec), ..Tensor::new(key, shape) })
    });
    let storages = tensors.iter().enumerate().map(|(key, (.., bytes))| (key.to_string(), bytes.clone()));
    (state_dict(&described.collect::<Vec<_>>()), storages.collect())
}

/// The tensors as a zip archive of `torch.save`.
pub fn zip(tensors: &[Named]) -> torch_save::Archive {
    let (state, storages) = torch(tensors, None);
    let storages: Vec<_> = storages.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    archive(&state, &storages)
}

/// The tensors as `torch.save` wrote them before PyTorch 1.6.
pub fn stream(tensors: &[Named]) -> Vec<u8> {
    let (state, storages) = torch(tensors, Some(b"N"));
    let storages: Vec<_> =
        storages.iter().map(|(key, bytes)| (key.as_str(), bytes.len() as u64 / 2, &bytes[..])).collect();
    torch_save::stream(&state, &storages)
}

/// The model of a config and a `tokenizer.json`, if there is one, as a GGUF file.
///
/// # Panics
/// If it cannot be written.
pub fn gguf(config: &Value, tokenizer: Option<&[u8]>) -> Vec<u8> {
    let (dir, json) = (temporary(), config.to_string());
    let config = Config::from_bytes("config.json", json.as_bytes()).expect("a good config");
    let weights = safetensors(&tensors(&config));
    let files = [("config.json", json.as_bytes()), ("model.safetensors", &weights)];
    for (name, bytes) in files.into_iter().chain(tokenizer.map(|bytes| ("tokenizer.json", bytes))) {
        fs::write(dir.path().join(name), bytes).expect("a temporary file");
    }
    let path = dir.path().join("a.gguf");
    let source = Source::open(dir.path()).unwrap_or_else(|e| panic!("{e}"));
    to_gguf(&source, &path, None, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    fs::read(path).expect("the file just written")
}

/// A byte-level BPE tokenizer of five tokens.
pub fn tokenizer() -> Value {
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<|endoftext|>": 0, "a": 1, "b": 2, "Ġ": 3, "ab": 4}, "merges": [["a", "b"]]},
    })
}
