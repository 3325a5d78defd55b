//! Indices of shards, configs and tokenizers.

use super::Case;
use pythia_tests::tiny;
use serde_json::{Value, json};

const INDEX: &str = "model.safetensors.index.json";

/// An index that says of one tensor that it is in this shard.
fn shard(shard: &str, says: &str) -> Case {
    Case::new(INDEX, json!({"weight_map": {"embed_out.weight": shard}}).to_string(), says)
}

pub(crate) fn indices() -> Vec<Case> {
    let raw = |text: &str, says: &str| Case::new(INDEX, text, says);
    let names = |name: &dyn Fn(usize) -> (String, String), n| {
        let map: serde_json::Map<_, _> = (0..n).map(name).map(|(k, v)| (k, v.into())).collect();
        json!({"weight_map": map}).to_string()
    };
    vec![
        shard(
            "../../etc/passwd",
            "the shard `../../etc/passwd` is not a plain file name: folders are not allowed",
        ),
        shard("/etc/passwd", "the shard `/etc/passwd` is not a plain file name"),
        shard("..", "the shard `..` is not a plain file name"),
        shard("a/../../b", "the shard `a/../../b` is not a plain file name"),
        shard("..\\..\\b", "the shard `..\\\\..\\\\b` is not a plain file name"),
        shard("a\0b", "the shard `a\\0b` is not a plain file name"),
        shard("", "the shard `` is not a plain file name"),
        shard("absent", "the shard absent is missing from the folder: download it"),
        shard("a", "tensor `embed_out.weight`: the index says it is in a, which does not have it")
            .with("a", tiny::safetensors_of("{}", &[])),
        shard("b", "the file is empty").with("b", "").naming("b"),
        raw("", "expected an index of tensors: EOF while parsing"),
        raw("{}", "expected an index of tensors: missing field `weight_map`"),
        raw("{\"weight_map\":[]}", "invalid type: sequence, expected an object of strings"),
        raw("{\"weight_map\":{\"a\":1}}", "invalid type: integer `1`, expected a string"),
        raw("{\"weight_map\":{\"a\":\"a\",\"a\":\"b\"}}", "`a` occurs twice"),
        raw(
            &("{\"x\":".to_owned() + &"[".repeat(100_000)),
            "expected an index of tensors: EOF while parsing a list",
        ),
        raw("{\"weight_map\":{},\"weight_map\":{}}", "duplicate field `weight_map`"),
        raw(&names(&|i| (i.to_string(), "a".into()), 5000), "bytes are too many"),
        raw(&names(&|i| (format!("{i:040}"), i.to_string()), 1001), "more than 1000 shards"),
    ]
}

/// The good config with these keys changed.
fn config(changes: &Value, says: &str) -> Case {
    let mut json = tiny::config_json();
    for (key, value) in changes.as_object().expect("an object") {
        json[key] = value.clone();
    }
    Case::new("config.json", json.to_string(), says)
}

pub(crate) fn configs() -> Vec<Case> {
    let raw = |text: &str, says: &str| Case::new("config.json", text, says);
    let rope = |kind: &str| json!({"rope_parameters": {"rope_type": kind}});
    let list: Vec<u32> = vec![0; 1000];
    vec![
        raw("", "expected a JSON object: EOF"),
        raw("[]", "expected a JSON object: invalid type: sequence"),
        raw("\u{feff}{}", "expected a JSON object: expected value"),
        raw("{\"hidden_size\": NaN}", "expected a JSON object: expected value at line 1 column 17"),
        raw("{\"layer_norm_eps\": Infinity}", "expected value at line 1 column 20"),
        raw("{\"rotary_pct\": 1e999}", "number out of range"),
        raw(&"[".repeat(100_000), "invalid type: sequence, expected an object"),
        raw(&("{\"x\":".to_owned() + &"[".repeat(100_000)), "EOF while parsing a list"),
        raw("{\"model_type\": \"llama\"}", "unknown architecture \"llama\""),
        raw("{}", "neither `model_type` nor `architectures` says"),
        config(&json!({"architectures": ["GPTNeoXForSequenceClassification"]}), "shares only its backbone"),
        config(
            &json!({"num_attention_heads": 0}),
            "`num_attention_heads`: expected a whole number from 1 to",
        ),
        config(
            &json!({"num_attention_heads": 3}),
            "`hidden_size` 8 is not a multiple of `num_attention_heads` 3",
        ),
        config(
            &json!({"vocab_size": 0}),
            "`vocab_size`: expected a whole number from 1 to 16777216, found 0",
        ),
        config(&json!({"vocab_size": 1_u64 << 63}), "found 9223372036854775808"),
        config(
            &json!({"hidden_size": -8}),
            "`hidden_size`: expected a whole number from 1 to 1048576, found -8",
        ),
        config(&json!({"hidden_size": 8.5}), "found 8.5"),
        config(&json!({"hidden_size": "8".repeat(100_000)}), "found \"88888"),
        config(
            &json!({"num_hidden_layers": 1_000_000}),
            "`num_hidden_layers`: expected a whole number from 1 to 1024",
        ),
        config(
            &json!({"max_position_embeddings": (1 << 24) + 1}),
            "`max_position_embeddings`: expected a whole number",
        ),
        config(&json!({"max_position_embeddings": 1 << 24}), "times 2 rotary dimensions"),
        config(&json!({"rotary_pct": 7.5}), "`rotary_pct` 7.5 of 4 head dimensions is 30"),
        config(&json!({"rotary_pct": 0}), "`rotary_pct` 0 of 4 head dimensions is 0"),
        config(
            &json!({"rotary_emb_base": -1}),
            "`rotary_emb_base`: expected a finite number above 0, found -1",
        ),
        config(&json!({"layer_norm_eps": 0}), "`layer_norm_eps`: expected a finite number above 0, found 0"),
        config(&json!({"hidden_act": "relu"}), "`hidden_act`: unknown activation \"relu\""),
        config(&rope("yarn"), "`rope_parameters.rope_type`: unsupported rope type \"yarn\""),
        config(
            &json!({"rope_theta": 1, "rotary_emb_base": 2}),
            "`rotary_emb_base` and `rope_theta` contradict",
        ),
        config(
            &json!({"eos_token_id": 5}),
            "`eos_token_id`: expected token ids below `vocab_size` 5, found 5",
        ),
        config(&json!({"eos_token_id": list}), "invalid length 101, expected at most 100 elements"),
        config(
            &json!({"bos_token_id": -1}),
            "`bos_token_id`: expected token ids below `vocab_size` 5, found -1",
        ),
        config(&json!({"use_parallel_residual": "yes"}), "`use_parallel_residual`: expected true or false"),
    ]
}

/// The good tokenizer with the value at a path changed, beside good weights.
fn tokenizer(path: &str, value: Value, says: &str) -> Case {
    let mut json = tiny::tokenizer();
    *json.pointer_mut(path).expect("a place in the tokenizer") = value;
    tokenizer_of(json.to_string(), says)
}

fn tokenizer_of(text: impl Into<Vec<u8>>, says: &str) -> Case {
    let weights = tiny::safetensors(&tiny::tensors(&tiny::config()));
    Case::new("tokenizer.json", text, says).with("model.safetensors", weights)
}

pub(crate) fn tokenizers() -> Vec<Case> {
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    vec![
        tokenizer_of("", "not a valid tokenizer.json: EOF"),
        tokenizer_of("[]", "not a valid tokenizer.json: invalid type: sequence"),
        tokenizer(
            "/decoder",
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            "the `decoder` is not `ByteLevel`",
        ),
        tokenizer("/decoder", json!({"type": "Evil"}), "not a valid tokenizer.json: data did not match"),
        tokenizer("/pre_tokenizer", split("("), "Opening parenthesis without closing parenthesis"),
        tokenizer(
            "/pre_tokenizer",
            split("((a{1000}){1000}){1000}"),
            "a pattern of the `pre_tokenizer` repeats 1000000000 times",
        ),
        tokenizer(
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "a{1001}"}, "content": ""}),
            "a pattern of the `normalizer` repeats 1001 times, expected at most 1000",
        ),
        tokenizer(
            "/pre_tokenizer",
            split(&"\\p{L}".repeat(1000)),
            "the patterns of the `pre_tokenizer` have 5000 characters",
        ),
        tokenizer(
            "/model/merges",
            json!([["a", "zzz"]]),
            "not a valid tokenizer.json: Token `zzz` out of vocabulary",
        ),
        tokenizer(
            "/model/merges",
            json!([["a", "b", "ab"]]),
            "data did not match any variant of untagged enum MergeType",
        ),
        tokenizer("/model/merges", json!(["ab"]), "Merges text file invalid"),
        tokenizer("/model/vocab", json!({"a": -1}), "integer `-1`, expected u32"),
        tokenizer("/model/vocab", json!({"a": 1_u64 << 60}), "integer `1152921504606846976`, expected u32"),
        tokenizer(
            "/model/continuing_subword_prefix",
            json!("##"),
            "`continuing_subword_prefix`: byte-level tokenizers have none",
        ),
        tokenizer_of("", "expected at most 67108864 bytes, found 1099511627776").then(|dir| {
            let file = std::fs::File::options().write(true).open(dir.join("tokenizer.json"));
            file.and_then(|file| file.set_len(1 << 40)).expect("a file with a hole");
        }),
    ]
}
