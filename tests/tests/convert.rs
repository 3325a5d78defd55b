//! Every variant converted and read again: the same model, here and in transformers.

use pythia_model::convert::{Options, Source, to_safetensors};
use pythia_model::{Model, Sequence, Workspace};
use pythia_tensor::{DType, Team};
use pythia_tests::{fixtures, folders, python, shared, temporary, worst};
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
