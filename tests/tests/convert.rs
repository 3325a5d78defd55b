//! Every variant converted and read again: the same model, here and in transformers.

use pythia_model::convert::{Encoding, Options, Source, to_gguf, to_safetensors};
use pythia_model::{Model, Sequence, Tokenizer, Workspace};
use pythia_tensor::{DType, Team};
use pythia_tests::{fixtures, folders, python, shared, temporary, worst};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The variants with a language-model head.
fn variants() -> Vec<PathBuf> {
    let all = shared("reference/variants").unwrap_or_else(|| fixtures().join("variants"));
    let mut variants = folders(&all);
    variants.retain(|dir| std::fs::read_to_string(dir.join("config.json")).unwrap().contains("ForCausalLM"));
    variants
}

/// The logits after each token of a few.
fn logits(dir: &Path) -> Vec<f32> {
    let model = Model::open(dir).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| i * 31 % model.config().vocab_size as u32).collect();
    let mut cache = model.cache(ids.len()).unwrap();
    let mut workspace = Workspace::new();
    Team::new(2).unwrap().enter(|crew| {
        let logits = model.forward(crew, &mut [Sequence::all(&ids, &mut cache)], &mut workspace).unwrap();
        (0..ids.len()).flat_map(|row| logits.row(row).to_vec()).collect()
    })
}

/// The largest difference, as a part of the largest number.
fn relative(got: &[f32], want: &[f32]) -> f32 {
    worst(got, want) / want.iter().fold(0.0, |largest, x| x.abs().max(largest))
}

fn convert(from: &Path, to: &Path, dtype: Option<DType>, max_shard_size: u64) {
    let options = Options { dtype, max_shard_size };
    to_safetensors(&Source::open(from).unwrap(), to, &options, &mut |_| {}).unwrap();
}

#[test]
fn variants_converted_have_the_same_logits() {
    for dir in variants() {
        let (to, before) = (temporary(), logits(&dir));
        let name = dir.file_name().unwrap().display();
        for (form, dtype, max_shard_size) in
            [("one", None, u64::MAX), ("shards", None, 100_000), ("f32", Some(DType::F32), u64::MAX)]
        {
            let to = to.path().join(form);
            convert(&dir, &to, dtype, max_shard_size);
            assert!(logits(&to) == before, "{name}: {form}: other logits");
        }
        // Parts of the largest logit, ten times what was seen.
        for (form, dtype, tolerance) in [("f16", DType::F16, 0.007), ("bf16", DType::BF16, 0.07)] {
            let to = to.path().join(form);
            convert(&dir, &to, Some(dtype), u64::MAX);
            let difference = relative(&logits(&to), &before);
            println!("{name}: {form}: logits differ by at most {difference:.1e} of the largest");
            assert!(difference <= tolerance, "{name}: {form}: {difference}");
        }
    }
}

#[test]
fn transformers_loads_what_was_converted() {
    const SCRIPT: &str = r#"
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
for variant, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (folder, info)
    stored = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    reference = load_file(variant + "/reference.safetensors")
    mask = reference["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(reference["input_ids"], attention_mask=mask, position_ids=positions).logits
    worst = ((logits - reference["logits"]).abs() * mask[..., None]).max().item()
    print(f"{folder}: {stored.dtype}, logits differ by at most {worst:.1e}")
    assert worst <= 2e-4, worst
"#;
    let (to, mut arguments) = (temporary(), Vec::new());
    for (i, dir) in variants().into_iter().enumerate() {
        for (form, max_shard_size) in [("one", u64::MAX), ("shards", 100_000)] {
            let folder = to.path().join(format!("{i}-{form}"));
            convert(&dir, &folder, None, max_shard_size);
            arguments.extend([dir.clone(), folder]);
        }
    }
    if let Some(mut python) = python(&["torch", "transformers", "safetensors"]) {
        let output = python.arg("-c").arg(SCRIPT).args(&arguments).output().unwrap();
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The `a.gguf` of a variant, in `to`.
fn gguf(dir: &Path, to: &Path, encoding: Option<Encoding>) -> PathBuf {
    let path = to.join("a.gguf");
    to_gguf(&Source::open(dir).unwrap(), &path, encoding, &mut |_| {}).unwrap();
    path
}

#[test]
fn variants_as_gguf_have_the_same_logits() {
    for dir in variants() {
        let before = logits(&dir);
        let name = dir.file_name().unwrap().display();
        let to = temporary();
        let path = gguf(&dir, to.path(), None);
        assert!(logits(&path) == before, "{name}: other logits");
        // And back.
        let back = to.path().join("back");
        convert(&path, &back, None, u64::MAX);
        assert!(logits(&back) == before, "{name}: other logits on the way back");
        let q8 = temporary();
        let difference = relative(&logits(&gguf(&dir, q8.path(), Some(Encoding::Q8_0))), &before);
        println!("{name}: q8_0: logits differ by at most {difference:.1e} of the largest");
        // Ten times what was seen.
        assert!(difference <= 0.2, "{name}: q8_0: {difference}");
    }
}

/// Python that prints, for each file, llama.cpp's logits after the last of some ids; and for a file with a vocabulary the
/// ids of a text.
const LLAMA: &str = r#"
import json, sys
from llama_cpp import Llama
text = sys.argv[1]
for file in sys.argv[2:]:
    model = Llama(file, n_ctx=64, n_batch=64, n_threads=2, logits_all=True, verbose=False)
    vocabulary = model.n_vocab()
    model.eval([i * 31 % vocabulary for i in range(40)])
    ids = model.tokenize(text.encode(), add_bos=False, special=True) if text else []
    print(json.dumps({"logits": model.scores[:40].reshape(-1).tolist(), "ids": ids}))
"#;

/// What llama.cpp makes of files; `None` with a printed notice where there is no llama.cpp.
fn llama(text: &str, files: &[PathBuf]) -> Option<Vec<Value>> {
    let output = python(&["llama_cpp"])?.args(["-c", LLAMA, text]).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn llama_cpp_computes_the_same_from_gguf() {
    let variants = variants();
    let to: Vec<_> = variants.iter().map(|_| temporary()).collect();
    let files: Vec<_> = variants.iter().zip(&to).map(|(dir, to)| gguf(dir, to.path(), None)).collect();
    let Some(found) = llama("", &files) else { return };
    assert_eq!(found.len(), files.len());
    for (dir, found) in variants.iter().zip(&found) {
        let name = dir.file_name().unwrap().display();
        let numbers = found["logits"].as_array().unwrap().iter();
        let found: Vec<f32> = numbers.map(|x| x.as_f64().unwrap() as f32).collect();
        let difference = relative(&found, &logits(dir));
        println!("{name}: llama.cpp's logits differ by at most {difference:.1e} of the largest");
        // llama.cpp rounds activations to the type of the weights, and has the tanh form of GELU; ten times what was seen
        // in f16 and in bf16.
        let is_bf16 = dir.ends_with("head-dim-256-bf16");
        assert!(difference <= if is_bf16 { 0.04 } else { 0.008 }, "{name}: {difference}");
    }
}

#[test]
fn the_tokenizer_goes_into_gguf_and_comes_back() {
    const TEXT: &str = "Once upon a time,  there was\n\n    a king's café.<|endoftext|> Τέλος 12345\t!";
    let mini = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pythia-cli/assets/mini");
    let to = temporary();
    let file = gguf(&mini, to.path(), None);
    let ids = Tokenizer::of_model(&mini).unwrap().unwrap().encode(TEXT).unwrap();
    let read = Tokenizer::of_model(&file).unwrap().unwrap();
    assert_eq!((read.encode(TEXT).unwrap(), read.decode(&ids)), (ids.clone(), TEXT.to_owned()));
    if let Some(found) = llama(TEXT, &[file]) {
        assert_eq!(found[0]["ids"], serde_json::json!(ids));
    }
}
