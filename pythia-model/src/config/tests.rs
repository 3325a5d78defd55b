use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 131, "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256, "eos_token_id": 0,
    })
}

/// The base config with some keys replaced.
fn with(changes: &Value) -> Result<Config> {
    let mut json = base();
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    parse(&json)
}

fn parse(json: &Value) -> Result<Config> {
    Config::from_bytes("config.json", json.to_string().as_bytes())
}

fn without(key: &str) -> Result<Config> {
    let mut json = base();
    json.as_object_mut().unwrap().remove(key);
    parse(&json)
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let expected = Config {
        vocab_size: 131,
        hidden_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 256,
        hidden_act: Gelu::Erf,
        rotary_pct: 0.25,
        rotary_base: 10_000.0,
        max_position_embeddings: 2048,
        layer_norm_eps: 1e-5,
        use_parallel_residual: true,
        attention_bias: true,
        tie_word_embeddings: false,
        bos_token_id: Some(0),
        eos_token_ids: vec![2],
        torch_dtype: None,
    };
    assert_eq!(without("eos_token_id").unwrap(), expected);
    assert_eq!((expected.head_dim(), expected.rotary_dims()), (32, 8));
    // A vocabulary without the default token has no such token.
    assert!(with(&json!({"vocab_size": 2, "bos_token_id": null})).is_ok());
}

#[test]
fn old_and_new_spellings_are_the_same() {
    let old = json!({"rotary_pct": 0.5, "rotary_emb_base": 500, "torch_dtype": "bfloat16"});
    let flat =
        json!({"partial_rotary_factor": 0.5, "rope_theta": 500.0, "dtype": "bfloat16", "rope_scaling": null});
    let nested = json!({"rope_theta": 500, "partial_rotary_factor": 0.5, "rope_type": "default"});
    let new = json!({"rope_parameters": nested, "dtype": "bfloat16", "rope_scaling": {"type": "default"}});
    let mut both = old.clone();
    both.as_object_mut().unwrap().extend(new.as_object().unwrap().clone());
    let expected = with(&old).unwrap();
    assert_eq!((expected.rotary_pct, expected.rotary_base), (0.5, 500.0));
    assert_eq!(expected.torch_dtype, Some(DType::BF16));
    for json in [flat, new, both] {
        assert_eq!(with(&json).unwrap(), expected, "{json}");
    }
}

#[test]
fn activations_and_end_tokens_have_several_forms() {
    for (name, activation) in [
        ("gelu", Gelu::Erf),
        ("gelu_new", Gelu::Tanh),
        ("gelu_pytorch_tanh", Gelu::Tanh),
        ("gelu_fast", Gelu::Tanh),
    ] {
        assert_eq!(with(&json!({"hidden_act": name})).unwrap().hidden_act, activation);
    }
    for (json, ids) in [(json!(5), &[5][..]), (json!([5, 7]), &[5, 7]), (json!(null), &[]), (json!([]), &[])]
    {
        assert_eq!(with(&json!({"eos_token_id": json})).unwrap().eos_token_ids, ids);
    }
    assert_eq!(with(&json!({"bos_token_id": null})).unwrap().bos_token_id, None);
    assert!(without("architectures").is_ok());
    assert!(without("model_type").is_ok());
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_wrong_is_named() {
    let rope = |kind: &str| json!({"rope_parameters": {"rope_type": kind}});
    for (changes, expected) in [
        (
            json!({"hidden_size": 64.0}),
            "`hidden_size`: expected a whole number from 1 to 1048576, found 64.0",
        ),
        (
            json!({"hidden_size": "64"}),
            "`hidden_size`: expected a whole number from 1 to 1048576, found \"64\"",
        ),
        (
            json!({"num_hidden_layers": -1}),
            "`num_hidden_layers`: expected a whole number from 1 to 1024, found -1",
        ),
        (
            json!({"num_hidden_layers": 1025}),
            "`num_hidden_layers`: expected a whole number from 1 to 1024, found 1025",
        ),
        (json!({"num_attention_heads": 0}), "`num_attention_heads`: expected a whole number from 1 to"),
        (
            json!({"intermediate_size": u64::MAX}),
            "`intermediate_size`: expected a whole number from 1 to 8388608",
        ),
        (
            json!({"vocab_size": 1e300}),
            "`vocab_size`: expected a whole number from 1 to 16777216, found 1e+300",
        ),
        (json!({"vocab_size": null}), "key `vocab_size` is missing"),
        (
            json!({"max_position_embeddings": 1 << 25}),
            "`max_position_embeddings`: expected a whole number from 1",
        ),
        (json!({"num_attention_heads": 3}), "`hidden_size` 64 is not a multiple of `num_attention_heads` 3"),
        (
            json!({"rotary_pct": 0.1}),
            "`rotary_pct` 0.1 of 32 head dimensions is 3: expected an even number from 2",
        ),
        (
            json!({"max_position_embeddings": (1 << 21) + 1}),
            "`max_position_embeddings` 2097153 times 8 rotary dimensions (`rotary_pct` of `hidden_size` / \
             `num_attention_heads`): expected at most 16777216",
        ),
        (json!({"rotary_pct": 1.1}), "is 35: expected an even number from 2 to 32"),
        (json!({"rotary_pct": -1}), "is 0: expected an even number"),
        (json!({"rotary_emb_base": 0}), "`rotary_emb_base`: expected a finite number above 0, found 0"),
        (json!({"layer_norm_eps": 1e-60}), "`layer_norm_eps`: expected a finite number above 0, found 0"),
        (json!({"layer_norm_eps": 1e60}), "`layer_norm_eps`: expected a finite number above 0, found inf"),
        (json!({"layer_norm_eps": "1e-5"}), "`layer_norm_eps`: expected a number, found \"1e-5\""),
        (json!({"use_parallel_residual": 1}), "`use_parallel_residual`: expected true or false, found 1"),
        (
            json!({"eos_token_id": 131}),
            "`eos_token_id`: expected token ids below `vocab_size` 131, found 131",
        ),
        (
            json!({"eos_token_id": [0, -1]}),
            "`eos_token_id`: expected token ids below `vocab_size` 131, found -1",
        ),
        (
            json!({"bos_token_id": 1000}),
            "`bos_token_id`: expected token ids below `vocab_size` 131, found 1000",
        ),
        (
            json!({"hidden_act": "relu"}),
            "unknown activation \"relu\"; known: gelu, gelu_new, gelu_pytorch_tanh, gelu_f",
        ),
        (json!({"hidden_act": 3}), "`hidden_act`: expected a string, found 3"),
        (rope("yarn"), "`rope_parameters.rope_type`: unsupported rope type \"yarn\"; supported: \"default\""),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "`rope_scaling.type`: unsupported rope type",
        ),
        (json!({"rope_parameters": 7}), "`rope_parameters`: expected an object, found 7"),
        (
            json!({"rope_parameters": {"rope_theta": true}}),
            "`rope_parameters.rope_theta`: expected a number, found true",
        ),
        (
            json!({"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}}),
            "`rotary_pct` and `rope_parameters.partial_rotary_factor` contradict each other",
        ),
        (
            json!({"rope_theta": 1, "rotary_emb_base": 2}),
            "`rotary_emb_base` and `rope_theta` contradict each other",
        ),
        (
            json!({"torch_dtype": "float16", "dtype": "float32"}),
            "`torch_dtype` and `dtype` contradict each other",
        ),
        (json!({"model_type": "llama"}), "unknown architecture \"llama\"; supported: GPTNeoXForCausalLM"),
        (
            json!({"architectures": ["BertModel"]}),
            "unknown architecture \"BertModel\"; supported: GPTNeoXForCausalLM",
        ),
        (
            json!({"architectures": ["GPTNeoXForSequenceClassification"]}),
            "architecture \"GPTNeoXForSequenceClassification\" shares only its backbone with the supported",
        ),
        (json!({"model_type": null, "architectures": []}), "unknown architecture: neither `model_type` nor"),
    ] {
        let message = with(&changes).unwrap_err().to_string();
        assert!(message.starts_with("config.json: ") && message.contains(expected), "{changes}: {message}");
    }
}

#[test]
fn long_values_are_cut_in_messages() {
    let message = with(&json!({"hidden_act": "ü".repeat(1000)})).unwrap_err().to_string();
    assert!(message.len() < 300 && message.contains("üü..."), "{message}");
}

#[test]
fn what_is_not_a_json_object_is_an_error() {
    for (text, expected) in [
        ("", "expected a JSON object: EOF"),
        ("[1]", "expected a JSON object: invalid type: sequence, expected an object"),
        ("{\"vocab_size\": NaN}", "expected a JSON object: expected"),
        (&"[".repeat(100_000), "expected a JSON object: invalid type: sequence"),
    ] {
        let message = Config::from_bytes("c", text.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let message = Config::from_file("no/such/config.json").unwrap_err().to_string();
    assert!(message.starts_with("no/such/config.json: No such file"), "{message}");
}

#[test]
fn the_largest_sizes_do_not_overflow() {
    let config = with(&json!({
        "vocab_size": 1 << 24, "hidden_size": 1 << 20, "num_hidden_layers": 1024, "intermediate_size": 1 << 23,
        "num_attention_heads": 1 << 14,
    }));
    if usize::BITS == 64 {
        assert_eq!(config.unwrap().parameters().total >> 54, 1);
    } else {
        assert!(config.unwrap_err().to_string().contains("more than this machine can address"));
    }
}

#[test]
fn rotary_tables_are_bounded() {
    assert!(with(&json!({"max_position_embeddings": 1 << 21})).is_ok(), "2^21 positions of 8 dimensions");
    let message =
        with(&json!({"max_position_embeddings": 1 << 21, "rotary_pct": 0.5})).unwrap_err().to_string();
    assert!(message.contains("`max_position_embeddings` 2097152 times 16 rotary dimensions"), "{message}");
}

#[test]
fn what_is_written_reads_the_same() {
    for changes in [
        json!({"torch_dtype": "float32"}),
        json!({"hidden_act": "gelu_new", "attention_bias": false, "eos_token_id": [3, 4], "bos_token_id": null}),
        json!({"eos_token_id": null, "rotary_pct": 1, "rope_theta": 12345.75, "layer_norm_eps": 3e-7}),
        json!({"tie_word_embeddings": true, "use_parallel_residual": false}),
    ] {
        let config = with(&changes).unwrap();
        let written = Config::from_bytes("written", config.to_json().as_bytes()).unwrap();
        assert_eq!(written, config, "{}", config.to_json());
    }
}

#[test]
fn a_file_from_python_is_written_byte_for_byte() {
    let python = "{\n \"architectures\": [\n  \"GPTNeoXForCausalLM\"\n ],\n \"model_type\": \"gpt_neox\",\n \
        \"vocab_size\": 4096,\n \"hidden_size\": 128,\n \"num_hidden_layers\": 4,\n \"num_attention_heads\": 4,\n \
        \"intermediate_size\": 512,\n \"hidden_act\": \"gelu\",\n \"rotary_pct\": 0.25,\n \
        \"rotary_emb_base\": 10000,\n \"max_position_embeddings\": 512,\n \"initializer_range\": 0.02,\n \
        \"layer_norm_eps\": 1e-05,\n \"use_cache\": true,\n \"bos_token_id\": 0,\n \"eos_token_id\": 0,\n \
        \"tie_word_embeddings\": false,\n \"use_parallel_residual\": true,\n \"torch_dtype\": \"float16\"\n}";
    assert_eq!(Config::from_bytes("python", python.as_bytes()).unwrap().to_json(), python);
}

proptest! {
    #[test]
    fn any_value_under_any_key_is_an_error_or_keeps_the_promises(
        key in prop::sample::select(json::KEYS.to_vec()),
        value in prop_oneof![
            any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), (0..300_i64).prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from), Just(Value::Null), Just(json!([])), Just(json!({})),
            any::<bool>().prop_map(Value::from), prop::collection::vec(0..200_u32, 3).prop_map(Value::from),
        ],
    ) {
        match with(&json!({key: value})) {
            Err(e) => prop_assert!(e.to_string().contains("architecture") || e.to_string().contains('`'), "{e}"),
            Ok(c) => {
                prop_assert!(c.hidden_size == c.head_dim() * c.num_attention_heads && c.num_hidden_layers > 0);
                prop_assert!(c.rotary_dims() >= 2 && c.rotary_dims() <= c.head_dim() && c.rotary_dims() % 2 == 0);
                prop_assert!(c.layer_norm_eps > 0.0 && c.layer_norm_eps.is_finite() && c.rotary_base > 0.0);
                prop_assert!(c.eos_token_ids.iter().chain(&c.bos_token_id).all(|&id| (id as usize) < c.vocab_size));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0..400_usize) {
        let mut json = base().to_string().into_bytes();
        let at = at.min(json.len());
        json.splice(at..(at + bytes.len()).min(json.len()), bytes);
        let message = Config::from_bytes("c", &json).map_or_else(|e| e.to_string(), |_| "c: ".to_owned());
        prop_assert!(message.starts_with("c: "));
    }
}
