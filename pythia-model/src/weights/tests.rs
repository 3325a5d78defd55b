mod archives;
mod folders;
mod gguf;
mod headers;
mod neox;
mod pickles;
mod pytorch_files;
mod torch_save;

use super::*;
use ::safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// A safetensors file as its parts: the header's text, and the data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A file with the tensors given, back to back, whose header is aligned to 8 bytes.
fn file_of(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for (name, shape) in tensors {
        let start = data.len();
        data.extend_from_slice(bytemuck::cast_slice(&crate::synth::tensor(name, shape, 7)));
        header.insert(
            name.clone(),
            json!({"dtype": "F16", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let mut header = Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    file(&header, &data)
}

fn config_of(json: &Value) -> Config {
    Config::from_bytes("config.json", json.to_string().as_bytes()).unwrap()
}

fn config() -> Config {
    config_of(&json!({
        "model_type": "gpt_neox", "vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "rotary_pct": 0.5,
    }))
}

fn open_bytes(bytes: Vec<u8>, config: &Config) -> Result<Weights> {
    Weights::from_static(bytes.leak(), "memory", config)
}

fn error_of(bytes: Vec<u8>) -> String {
    open_bytes(bytes, &config()).unwrap_err().to_string()
}

/// A folder with files of these names and contents.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// A folder with the model of these keys.
fn usual(json: &Value) -> TempDir {
    let (text, tensors) = (json.to_string(), config_of(json).tensors());
    folder(&[("config.json", text.as_bytes()), ("model.safetensors", &file_of(&tensors))])
}

fn folder_error(files: &[(&str, &[u8])]) -> String {
    Weights::open(folder(files).path(), &config()).unwrap_err().to_string()
}

#[test]
fn a_good_file_gives_every_tensor_without_copying_the_matrices() {
    let config = config();
    let bytes: &'static [u8] = file_of(&config.tensors()).leak();
    let dir = folder(&[("model.safetensors", bytes)]);
    for weights in
        [Weights::open(dir.path(), &config).unwrap(), Weights::from_static(bytes, "memory", &config).unwrap()]
    {
        let widened = |name: &str, shape: &[usize]| -> Vec<f32> {
            crate::synth::tensor(name, shape, 7).into_iter().map(f32::from).collect()
        };
        assert_eq!(weights.embed_in.to_f32(), widened(EMBED_IN, &[5, 8]));
        assert_eq!(weights.embed_out.to_f32(), widened(EMBED_OUT, &[5, 8]));
        assert_eq!(weights.final_layer_norm.weight, widened("gpt_neox.final_layer_norm.weight", &[8]));
        let layer = &weights.layers[1];
        let qkv = &layer.query_key_value;
        let name = "gpt_neox.layers.1.attention.query_key_value";
        assert_eq!(qkv.weight.to_f32(), widened(&format!("{name}.weight"), &[24, 8]));
        assert_eq!(qkv.bias.as_ref().unwrap(), &widened(&format!("{name}.bias"), &[24]));
        assert_eq!(layer.dense_4h_to_h.weight.shape(), [8, 12]);
        assert_eq!(
            layer.post_attention_layernorm.bias,
            widened("gpt_neox.layers.1.post_attention_layernorm.bias", &[8])
        );
        assert_eq!((weights.layers.len(), weights.ignored.len()), (2, 0));
        // Back to back in the file, so back to back in memory.
        let behind = weights.embed_in.bytes().as_ptr_range().end.addr();
        assert!(behind < weights.layers[0].query_key_value.weight.bytes().as_ptr().addr());
        let distance = weights.embed_out.bytes().as_ptr().addr() - weights.embed_in.bytes().as_ptr().addr();
        assert_eq!(distance, bytes.len() - SafeTensors::read_metadata(bytes).unwrap().0 - 8 - 80);
    }
}

#[test]
fn misaligned_tensors_are_copied() {
    let config = config();
    let bytes = file_of(&config.tensors());
    let shifted: &'static [u8] = [&[0], &bytes[..]].concat().leak();
    let weights = Weights::from_static(&shifted[1..], "memory", &config).unwrap();
    assert_eq!(weights.embed_in.bytes().as_ptr().addr() % 64, 0);
    assert_eq!(weights.embed_in.to_f32(), open_bytes(bytes, &config).unwrap().embed_in.to_f32());
}

#[test]
fn strays_are_listed_and_buffers_are_not() {
    let mut tensors = config().tensors();
    for (name, shape) in [
        ("gpt_neox.layers.0.attention.bias", vec![1, 1, 4, 4]),
        ("gpt_neox.layers.0.attention.masked_bias", vec![]),
        ("gpt_neox.layers.1.attention.rotary_emb.inv_freq", vec![2]),
        ("lm_head.weight", vec![5, 8]),
        ("gpt_neox.layers.1.attention.extra", vec![3]),
        ("a\nb", vec![0]),
    ] {
        tensors.push((name.to_owned(), shape));
    }
    let weights = open_bytes(file_of(&tensors), &config()).unwrap();
    assert_eq!(weights.ignored, ["a\nb", "gpt_neox.layers.1.attention.extra", "lm_head.weight"]);
}

#[test]
fn the_unembedding_may_be_tied_or_have_its_new_name() {
    let mut config = config();
    let mut tensors = config.tensors();
    tensors.last_mut().unwrap().0 = "lm_head.weight".to_owned();
    let weights = open_bytes(file_of(&tensors), &config).unwrap();
    assert_eq!(
        weights.embed_out.to_f32()[0],
        f32::from(crate::synth::tensor("lm_head.weight", &[5, 8], 7)[0])
    );

    config.tie_word_embeddings = true;
    let message = open_bytes(file_of(&tensors), &config).unwrap_err().to_string();
    assert!(
        message.ends_with("`tie_word_embeddings` is true, but this is not equal to gpt_neox.embed_in.weight"),
        "{message}"
    );
    tensors.pop();
    let weights = open_bytes(file_of(&tensors), &config).unwrap();
    assert_eq!(weights.embed_out.bytes().as_ptr(), weights.embed_in.bytes().as_ptr());
    // The same bytes under both names.
    let mut bytes = file_of(&[tensors, vec![(EMBED_OUT.to_owned(), vec![5, 8])]].concat());
    let data = bytes.len() - 80;
    let embedding = crate::synth::tensor(EMBED_IN, &[5, 8], 7);
    bytes[data..].copy_from_slice(bytemuck::cast_slice(&embedding));
    assert!(open_bytes(bytes, &config).unwrap().ignored.is_empty());

    config.tie_word_embeddings = false;
    let message = open_bytes(file_of(&config.tensors()[..27]), &config).unwrap_err().to_string();
    assert!(
        message.contains("`embed_out.weight`: missing: the config expects it, of shape [5, 8], by `tie_word_embeddings` false and"),
        "{message}"
    );
}

#[test]
fn a_config_that_contradicts_the_weights_is_an_error() {
    type Change = fn(&mut Config);
    let cases: [(Change, &str); 6] = [
        (
            |c| c.vocab_size = 7,
            "`gpt_neox.embed_in.weight`: config contradicts weights: expected [7, 8] by `vocab_size` and \
             `hidden_size`, found [5, 8]",
        ),
        (
            |c| c.intermediate_size = 11,
            "`gpt_neox.layers.0.mlp.dense_h_to_4h.weight`: config contradicts weights: expected [11, 8] by \
             `intermediate_size` and `hidden_size`, found [12, 8]",
        ),
        (
            |c| c.num_hidden_layers = 3,
            "`gpt_neox.layers.2.input_layernorm.weight`: missing: the config expects it, of shape [8], by \
             `num_hidden_layers` 3, `hidden_size`",
        ),
        (
            |c| c.num_hidden_layers = 1,
            "`gpt_neox.layers.1.attention.dense.bias`: config contradicts weights: `num_hidden_layers` is 1, but the \
             file has this tensor",
        ),
        (
            |c| c.attention_bias = false,
            "`gpt_neox.layers.0.attention.dense.bias`: config contradicts weights: `attention_bias` is false, but the \
             file has this tensor",
        ),
        (|c| c.hidden_size = 16, "expected [5, 16] by `vocab_size` and `hidden_size`, found [5, 8]"),
    ];
    let bytes = file_of(&config().tensors());
    for (change, expected) in cases {
        let mut config = config();
        change(&mut config);
        let message = open_bytes(bytes.clone(), &config).unwrap_err().to_string();
        assert!(message.starts_with("memory: tensor `") && message.contains(expected), "{message}");
    }
}

#[test]
fn biases_that_only_the_config_has_are_missing() {
    let mut without = config();
    without.attention_bias = false;
    let bytes = file_of(&without.tensors());
    let weights = open_bytes(bytes.clone(), &without).unwrap();
    let layer = &weights.layers[0];
    assert!(layer.query_key_value.bias.is_none() && layer.attention_dense.bias.is_none());
    assert!(layer.dense_h_to_4h.bias.is_some() && layer.dense_4h_to_h.bias.is_some());
    let message = error_of(bytes);
    let expected = "tensor `gpt_neox.layers.0.attention.query_key_value.bias`: missing: the config expects it, of \
                    shape [24], by `num_hidden_layers` 2, `attention_bias` and `hidden_size`";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn every_missing_tensor_is_named() {
    let all = config().tensors();
    for missing in 0..all.len() {
        let mut tensors = all.clone();
        let (name, _) = tensors.remove(missing);
        let message = error_of(file_of(&tensors));
        assert!(
            message
                .starts_with(&format!("memory: tensor `{name}`: missing: the config expects it, of shape [")),
            "{message}"
        );
    }
}
