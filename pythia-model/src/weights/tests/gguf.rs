//! GGUF files: those that are written, and those that lie, are cut off or have random changes.

use super::*;
use crate::convert::{Encoding, Source, to_gguf};
use crate::weights::gguf::GgufFile;
use crate::{Model, Tokenizer};
use half::f16;
use proptest::prelude::*;
use pythia_tensor::DType;
use std::path::Path;

/// A folder with a model, `a.gguf` made of it in another.
fn files(json: &Value) -> (TempDir, TempDir) {
    let (from, to) = (usual(json), tempfile::tempdir().unwrap());
    write(from.path(), &to.path().join("a.gguf"), None);
    (from, to)
}

fn write(from: &Path, to: &Path, encoding: Option<Encoding>) {
    to_gguf(&Source::open(from).unwrap(), to, encoding, &mut |_| {}).unwrap();
}

fn keys() -> Value {
    json!({
        "model_type": "gpt_neox", "vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "rotary_pct": 0.5, "bos_token_id": 0, "eos_token_id": 1,
    })
}

#[test]
fn what_is_written_is_read_as_the_same_model() {
    for (key, value) in [
        ("use_parallel_residual", json!(false)),
        ("hidden_act", json!("gelu_new")),
        ("rotary_emb_base", json!(500_000)),
        ("attention_bias", json!(false)),
        ("tie_word_embeddings", json!(true)),
        ("layer_norm_eps", json!(1e-6)),
    ] {
        let mut json = keys();
        json[key] = value;
        let (from, to) = files(&json);
        let there = Model::open(from.path()).unwrap();
        let here = Model::open(to.path().join("a.gguf")).unwrap();
        let mut expected = there.config().clone();
        // llama.cpp wants both; they are zeros, and the embedding again.
        (expected.attention_bias, expected.tie_word_embeddings) = (true, false);
        expected.torch_dtype = None;
        assert_eq!(here.config(), &expected, "{key}");
        let matrices = |model: &Model| {
            let matrices = model.weights().matrices().map(|(name, m)| (name, m.dtype(), m.bytes().to_vec()));
            matrices.collect::<Vec<_>>()
        };
        assert_eq!(matrices(&here), matrices(&there), "{key}");
        let bias = |model: &Model| model.weights().layers[1].query_key_value.bias.clone();
        assert_eq!(bias(&here), bias(&there).or(Some(vec![0.0; 24])), "{key}");
        assert!(here.weights().ignored.is_empty());
    }
}

#[test]
fn plain_matrices_are_mapped_and_folders_may_hold_the_file() {
    let (_from, to) = files(&keys());
    let weights = Model::open(to.path()).unwrap().weights().clone();
    assert!(weights.files[0].offset(weights.embed_in.bytes()).is_some());
    assert!(weights.files[0].offset(weights.layers[0].dense_4h_to_h.weight.bytes()).is_some());
    fs::copy(to.path().join("a.gguf"), to.path().join("b.gguf")).unwrap();
    let message = Model::open(to.path()).unwrap_err().to_string();
    assert!(message.contains("there are 2 GGUF files: name one, such as"), "{message}");
    assert!(Tokenizer::of_model(to.path().join("a.gguf")).unwrap().is_none());
}

#[test]
fn eight_bits_are_near_and_rows_of_other_lengths_are_f16() {
    let mut json = keys();
    (json["hidden_size"], json["intermediate_size"]) = (64.into(), 40.into());
    let (from, to) = files(&json);
    let path = to.path().join("q8.gguf");
    write(from.path(), &path, Some(Encoding::Q8_0));
    let [there, here] = [from.path(), &path].map(|place| Model::open(place).unwrap().weights().clone());
    for ((name, a), (_, b)) in there.matrices().zip(here.matrices()) {
        if name.contains("4h_to_h") {
            assert_eq!((b.dtype(), a.bytes()), (DType::F16, b.bytes()), "{name}");
            continue;
        }
        assert_eq!(b.dtype(), DType::F32);
        for (a, b) in a.to_f32().chunks(32).zip(b.to_f32().chunks(32)) {
            let largest = a.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            // Half a step, and what the scale loses in f16 (and, if it is tiny, below).
            let most =
                largest * (0.5 / 127.0 + 2.0_f32.powi(-11)) + f16::MIN_POSITIVE_SUBNORMAL.to_f32() * 64.0;
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= most), "{name}");
        }
    }
}

fn error_of_file(dir: &Path, bytes: &[u8]) -> Option<String> {
    let path = dir.join("x.gguf");
    fs::write(&path, bytes).unwrap();
    // The tokenizer, too, must be read or refused.
    let _ = GgufFile::find(&path).map(|gguf| gguf.map(|gguf| gguf.tokenizer_json()));
    Model::open(&path).err().map(|e| e.to_string())
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let (_from, to) = files(&keys());
    let bytes = fs::read(to.path().join("a.gguf")).unwrap();
    assert_eq!(error_of_file(to.path(), &bytes), None);
    // The last tensor's padding is not missed.
    for end in (0..bytes.len() - 32).step_by(7) {
        let message = error_of_file(to.path(), &bytes[..end]).unwrap();
        assert!(message.contains("x.gguf: ") && !message.contains('\n'), "{end}: {message}");
    }
}

/// A header with these keys and tensors, and no data.
fn header(version: u32, tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
    [b"GGUF", &version.to_le_bytes()[..], &counts, &rest.concat()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn headers_that_lie_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let kind = |n: u32| n.to_le_bytes();
    let (name, max) = (text("a"), u64::MAX.to_le_bytes());
    let architecture = [text("general.architecture"), kind(8).to_vec()].concat();
    let texts = [&kind(9)[..], &kind(8)].concat();
    for (bytes, expected) in [
        (b"GGML".to_vec(), "this is not a GGUF file: it does not start as one"),
        (header(1, 0, 0, &[]), "GGUF version 1 is not supported"),
        (header(3_u32.swap_bytes(), 0, 0, &[]), "is not supported: expected 2 or 3, little-endian"),
        (header(3, u64::MAX, 0, &[]), "18446744073709551615 tensors or keys, expected at most 1024 in a"),
        (header(3, 0, 1025, &[]), "1025 tensors or keys, expected at most 1024 in a file of this length"),
        (header(3, 0, 1, &[&max]), "the header does not end within the file"),
        (header(3, 0, 1, &[&name, &kind(13)]), "the key `a`: the type 13 of a value is unknown"),
        (header(3, 0, 1, &[&name, &kind(9), &kind(9), &max]), "arrays of the type 9 are not supported"),
        (header(3, 0, 1, &[&name, &kind(9), &kind(12), &max]), "the key `a`: an array is too long"),
        (header(3, 0, 1, &[&name, &texts, &max]), "the key `a`: the header does not end within"),
        (header(3, 0, 1, &[&name, &kind(8), &text("\u{e9}")[..9]]), "the header does not end"),
        (header(3, 0, 2, &[&name, &kind(7), &[1], &name, &kind(7), &[1]]), "the key `a` occurs twice"),
        (header(3, 1, 0, &[&name, &kind(5)]), "tensor `a` has 5 dimensions, expected at most 4"),
        (header(3, 0, 0, &[]), "the key `general.architecture` is missing"),
        (
            header(3, 0, 1, &[&architecture, &text("llama")]),
            "unknown architecture `llama`; supported: gptneox",
        ),
        (header(3, 0, 1, &[&architecture, &text("gptneox")]), "the key `gptneox.embedding_length`: expected"),
    ] {
        let message = error_of_file(dir.path(), &bytes).unwrap();
        assert!(message.contains("x.gguf: ") && message.contains(expected), "{expected}: {message}");
    }
    let tensor = |kind: u32, dims: &[u64], offset: u64| {
        let dims: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
        let n = (dims.len() as u32 / 8).to_le_bytes();
        let bytes = header(3, 1, 0, &[&name, &n, &dims, &kind.to_le_bytes(), &offset.to_le_bytes()]);
        let path = dir.path().join("t.gguf");
        fs::write(&path, bytes).unwrap();
        let file = TensorFile::open_gguf(&path);
        file.and_then(|file| file.tensor("a")).unwrap_err().to_string()
    };
    for (message, expected) in [
        (tensor(12, &[256], 0), "unsupported GGUF type 12; supported: F32, F16, BF16, Q8_0, Q4_0"),
        (tensor(8, &[33], 0), "its rows of 33 numbers are no whole blocks of 32"),
        (tensor(0, &[1 << 40, 1 << 40], 0), "lies outside the file of"),
        (tensor(2, &[1 << 40, 1 << 20], 0), "lies outside the file of"),
        (tensor(0, &[1], u64::MAX), "lies outside the file of"),
    ] {
        assert!(message.contains("t.gguf: tensor `a`: ") && message.contains(expected), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_headers_are_errors_or_models(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        static FILES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let bytes = FILES.get_or_init(|| {
            let (_from, to) = files(&keys());
            fs::read(to.path().join("a.gguf")).unwrap()
        });
        let mut bytes = bytes.clone();
        for (at, byte) in changes {
            // The header has about 2600 bytes.
            bytes[at.index(2600)] = byte;
        }
        let dir = tempfile::tempdir().unwrap();
        let message = error_of_file(dir.path(), &bytes);
        prop_assert!(message.is_none_or(|m| m.contains("x.gguf: ") && !m.contains('\n')));
    }
}
