//! Other models of the architecture: their published configs are read right, and run.

use pythia_model::{Config, Model, Sequence, Workspace};
use pythia_tensor::{DType, Gelu, Team};
use pythia_tests::{temporary, tiny};
use serde_json::{Value, json};
use std::fs;

/// A model's `config.json`, and what is special in it.
struct Published {
    name: &'static str,
    json: Value,
    parallel: bool,
    /// The dimensions of a head that are rotated, and all of them.
    rotated: (usize, usize),
    eos: u32,
    dtype: DType,
    /// In thousands of millions, as published.
    parameters: f64,
}

/// The keys that all of them have.
fn config(changes: Value) -> Value {
    let mut json = json!({
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0,
        "hidden_act": "gelu", "initializer_range": 0.02, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
        "rotary_emb_base": 10000, "tie_word_embeddings": false, "torch_dtype": "float16", "use_cache": true,
    });
    let Value::Object(changes) = changes else { unreachable!("an object") };
    json.as_object_mut().expect("an object").extend(changes);
    json
}

/// Layers, hidden size, heads and vocabulary; the MLP has four times the hidden size.
fn shape([layers, hidden, heads, vocab]: [usize; 4], more: Value) -> Value {
    let mut json = json!({
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "vocab_size": vocab,
        "intermediate_size": 4 * hidden,
    });
    let Value::Object(more) = more else { unreachable!("an object") };
    json.as_object_mut().expect("an object").extend(more);
    config(json)
}

fn published() -> Vec<Published> {
    let f16 = DType::F16;
    let dolly = json!({"rotary_pct": 0.25, "use_parallel_residual": true, "torch_dtype": "bfloat16",
        "custom_pipelines": {"text-generation": {"impl": "instruct_pipeline.InstructionTextGenerationPipeline"}}});
    let sequential = json!({"rotary_pct": 1.0, "use_parallel_residual": false});
    let rinna =
        json!({"rotary_pct": 1.0, "use_parallel_residual": false, "bos_token_id": 2, "eos_token_id": 3});
    let stablelm =
        json!({"rotary_pct": 0.25, "use_parallel_residual": true, "max_position_embeddings": 4096});
    let neox = json!({"rotary_pct": 0.25, "hidden_act": "gelu_fast", "attention_probs_dropout_prob": 0});
    // The last six: parallel or not, dimensions rotated of each head, end of text, type, parameters.
    [
        ("EleutherAI/gpt-neox-20b", shape([44, 6144, 64, 50432], neox), true, (24, 96), 0, f16, 20.55),
        (
            "databricks/dolly-v2-3b",
            shape([32, 2560, 32, 50280], dolly.clone()),
            true,
            (20, 80),
            0,
            DType::BF16,
            2.775,
        ),
        (
            "databricks/dolly-v2-12b",
            shape([36, 5120, 40, 50280], dolly),
            true,
            (32, 128),
            0,
            DType::BF16,
            11.84,
        ),
        (
            "togethercomputer/RedPajama-INCITE-Base-3B-v1",
            shape([32, 2560, 32, 50432], sequential.clone()),
            false,
            (80, 80),
            0,
            f16,
            2.776,
        ),
        (
            "stabilityai/stablelm-base-alpha-3b",
            shape([16, 4096, 32, 50688], stablelm),
            true,
            (32, 128),
            0,
            f16,
            3.637,
        ),
        (
            "EleutherAI/polyglot-ko-1.3b",
            shape([24, 2048, 16, 30080], json!({"rotary_pct": 0.5})),
            true,
            (64, 128),
            0,
            f16,
            1.332,
        ),
        (
            "cyberagent/open-calm-1b",
            shape([24, 2048, 16, 52096], sequential),
            false,
            (128, 128),
            0,
            f16,
            1.422,
        ),
        (
            "rinna/japanese-gpt-neox-3.6b",
            shape([36, 2816, 22, 32000], rinna),
            false,
            (128, 128),
            3,
            f16,
            3.608,
        ),
    ]
    .into_iter()
    .map(|(name, json, parallel, rotated, eos, dtype, parameters)| Published {
        name,
        json,
        parallel,
        rotated,
        eos,
        dtype,
        parameters,
    })
    .collect()
}

fn read(json: &Value) -> Config {
    Config::from_bytes("config.json", json.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn published_configs_are_read_right() {
    for model in published() {
        let (config, name) = (read(&model.json), model.name);
        assert_eq!(config.use_parallel_residual, model.parallel, "{name}");
        assert_eq!((config.rotary_dims(), config.head_dim()), model.rotated, "{name}");
        assert_eq!(config.eos_token_ids, [model.eos], "{name}");
        assert_eq!(config.torch_dtype, Some(model.dtype), "{name}");
        assert_eq!((config.tie_word_embeddings, config.attention_bias), (false, true), "{name}");
        let tanh = name.ends_with("gpt-neox-20b");
        assert_eq!(config.hidden_act, if tanh { Gelu::Tanh } else { Gelu::Erf }, "{name}");
        let found = config.parameters().total as f64 / 1e9;
        assert!((found / model.parameters - 1.0).abs() < 5e-3, "{name}: {found}");
    }
}

/// The logits of some tokens, all at once and one by one.
fn logits(json: &Value) -> [Vec<f32>; 2] {
    let (dir, config) = (temporary(), read(json));
    fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
    fs::write(dir.path().join("model.safetensors"), tiny::safetensors(&tiny::tensors(&config))).unwrap();
    let model = Model::open(dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let ids: Vec<u32> = (1..40).map(|i| i * 7 % 90).collect();
    Team::new(2).unwrap().enter(|crew| {
        [ids.len(), 1].map(|part| {
            let (mut cache, mut workspace) = (model.cache(ids.len()).unwrap(), Workspace::new());
            let mut last = vec![];
            for ids in ids.chunks(part) {
                let batch = &mut [Sequence::last(ids, &mut cache)];
                last = model.forward(crew, batch, &mut workspace).unwrap().row(0).to_vec();
            }
            last
        })
    })
}

#[test]
fn shrunk_they_run() {
    for model in published() {
        let (mut json, name) = (model.json, model.name);
        // The same heads, of which there are two, and the same parts of them.
        let head = model.rotated.1;
        for (key, value) in [
            ("num_hidden_layers", 2),
            ("num_attention_heads", 2),
            ("hidden_size", 2 * head),
            ("intermediate_size", 3 * head),
            ("vocab_size", 97),
        ] {
            json[key] = value.into();
        }
        let [at_once, one_by_one] = logits(&json);
        assert!(at_once.len() == 97 && at_once.iter().all(|x| x.is_finite()), "{name}");
        assert_eq!(at_once, one_by_one, "{name}");
        // What is special in a config is not without effect.
        for (key, other) in [("use_parallel_residual", json!(!model.parallel)), ("rotary_pct", json!(0.125))]
        {
            let mut changed = json.clone();
            changed[key] = other;
            assert_ne!(logits(&changed)[0], at_once, "{name}: {key}");
        }
    }
}
