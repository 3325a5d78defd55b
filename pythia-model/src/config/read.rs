//! Reading a `config.json`, checking every value.

use super::json::KEYS;
use super::{Config, Gelu};
use crate::{Error, Result};
use pythia_tensor::DType;
use serde_json::{Map, Value};
use std::path::Path;

// The largest sizes accepted: far beyond any model, small enough that no product of them overflows 64 bits.
const MAX_LAYERS: usize = 1 << 10;
const MAX_CHANNELS: usize = 1 << 20;
const MAX_INTERMEDIATE: usize = 1 << 23;
const MAX_ROWS: usize = 1 << 24;
/// Numbers of the rotary tables, which a model makes when it is opened: 64 MB.
const MAX_ROTARY: usize = 1 << 24;

const ACTIVATIONS: [(&str, Gelu); 4] = [
    ("gelu", Gelu::Erf),
    ("gelu_new", Gelu::Tanh),
    ("gelu_pytorch_tanh", Gelu::Tanh),
    ("gelu_fast", Gelu::Tanh),
];

/// The config in the keys of a `config.json`. Defaults are those of transformers' `GPTNeoXConfig`.
pub(super) fn config(path: &Path, map: &Map<String, Value>) -> Result<Config> {
    let keys = Keys { path, prefix: "", map };
    keys.check_architecture()?;
    let rope = keys.rope()?;
    let vocab_size = keys.required_size("vocab_size", MAX_ROWS)?;
    let config = Config {
        vocab_size,
        hidden_size: keys.required_size("hidden_size", MAX_CHANNELS)?,
        num_hidden_layers: keys.required_size("num_hidden_layers", MAX_LAYERS)?,
        num_attention_heads: keys.required_size("num_attention_heads", MAX_CHANNELS)?,
        intermediate_size: keys.required_size("intermediate_size", MAX_INTERMEDIATE)?,
        hidden_act: keys.activation()?,
        rotary_pct: rope.pct,
        rotary_base: rope.base,
        max_position_embeddings: keys.size("max_position_embeddings", MAX_ROWS)?.unwrap_or(2048),
        layer_norm_eps: keys.number("layer_norm_eps")?.unwrap_or(1e-5) as f32,
        use_parallel_residual: keys.flag("use_parallel_residual")?.unwrap_or(true),
        attention_bias: keys.flag("attention_bias")?.unwrap_or(true),
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: keys.token_ids("bos_token_id", vocab_size, 0)?.first().copied(),
        eos_token_ids: keys.token_ids("eos_token_id", vocab_size, 2)?,
        torch_dtype: keys.dtype()?,
    };
    check(path, &config)?;
    Ok(config)
}

/// What several keys promise together.
fn check(path: &Path, c: &Config) -> Result<()> {
    let fail = |message: String| Err(Error::file(path, message));
    let (hidden, heads) = (c.hidden_size, c.num_attention_heads);
    if !hidden.is_multiple_of(heads) {
        return fail(format!("`hidden_size` {hidden} is not a multiple of `num_attention_heads` {heads}"));
    }
    let (rotary, head) = (c.rotary_dims(), c.head_dim());
    if rotary < 2 || !rotary.is_multiple_of(2) || rotary > head {
        return fail(format!(
            "`rotary_pct` {} of {head} head dimensions is {rotary}: expected an even number from 2 to {head}",
            c.rotary_pct
        ));
    }
    let positions = c.max_position_embeddings;
    if positions.checked_mul(rotary).is_none_or(|n| n > MAX_ROTARY) {
        return fail(format!(
            "`max_position_embeddings` {positions} times {rotary} rotary dimensions (`rotary_pct` of \
             `hidden_size` / `num_attention_heads`): expected at most {MAX_ROTARY}"
        ));
    }
    for (key, x) in [("layer_norm_eps", c.layer_norm_eps as f64), ("rotary_emb_base", c.rotary_base)] {
        if !(x.is_finite() && x > 0.0) {
            return fail(format!("`{key}`: expected a finite number above 0, found {x}"));
        }
    }
    let bytes = c.parameters().total.checked_mul(4);
    if bytes.and_then(|n| isize::try_from(n).ok()).is_none() {
        return fail(format!("{} weights are more than this machine can address", c.parameters().total));
    }
    Ok(())
}

/// A JSON object of the config.
#[derive(Clone, Copy)]
struct Keys<'a> {
    path: &'a Path,
    /// What stands before the keys of this object in messages.
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

struct Rope {
    pct: f64,
    base: f64,
}

impl<'a> Keys<'a> {
    /// The value of `key`, unless it is absent.
    fn value(self, key: &str) -> Option<&'a Value> {
        debug_assert!(!self.prefix.is_empty() || KEYS.contains(&key), "`{key}` is not kept: name it in KEYS");
        self.map.get(key)
    }

    /// The value of `key`, unless it is absent or null.
    fn get(self, key: &str) -> Option<&'a Value> {
        self.value(key).filter(|v| !v.is_null())
    }

    /// An error about `key`.
    fn wrong(self, key: &str, expected: &str, found: &Value) -> Error {
        let (prefix, found) = (self.prefix, shown(found));
        Error::file(self.path, format!("`{prefix}{key}`: expected {expected}, found {found}"))
    }

    /// The value of `key` as `convert` sees it, an error if it does not.
    fn typed<T>(
        self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key).map(|v| convert(v).ok_or_else(|| self.wrong(key, expected, v))).transpose()
    }

    fn size(self, key: &str, max: usize) -> Result<Option<usize>> {
        let convert = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|n| (1..=max).contains(n));
        self.typed(key, &format!("a whole number from 1 to {max}"), convert)
    }

    fn required_size(self, key: &str, max: usize) -> Result<usize> {
        self.size(key, max)?.ok_or_else(|| Error::file(self.path, format!("key `{key}` is missing")))
    }

    fn number(self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn flag(self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn text(self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    fn object(self, key: &'static str, prefix: &'static str) -> Result<Option<Keys<'a>>> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Keys { prefix, map, ..self }))
    }

    /// One id, a list of ids or null; `default` if the key is absent and the vocabulary has it.
    fn token_ids(self, key: &str, vocab_size: usize, default: u32) -> Result<Vec<u32>> {
        let id = |v: &Value| {
            let id = v.as_u64().filter(|&id| id < vocab_size as u64);
            let id = id.and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.wrong(key, &format!("token ids below `vocab_size` {vocab_size}"), v))
        };
        match self.value(key) {
            None => Ok(Some(default).filter(|&id| (id as usize) < vocab_size).into_iter().collect()),
            Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(one) => Ok(vec![id(one)?]),
        }
    }

    fn activation(self) -> Result<Gelu> {
        let name = self.text("hidden_act")?.unwrap_or("gelu");
        let known = ACTIVATIONS.iter().find(|(n, _)| *n == name);
        known.map(|&(_, activation)| activation).ok_or_else(|| {
            let names = ACTIVATIONS.map(|(n, _)| n).join(", ");
            let name = shown(&name.into());
            Error::file(self.path, format!("`hidden_act`: unknown activation {name}; known: {names}"))
        })
    }

    /// `torch_dtype` or `dtype`. Types that weights cannot have here are left to the check of the tensors.
    fn dtype(self) -> Result<Option<DType>> {
        let spellings = [("torch_dtype", self.text("torch_dtype")?), ("dtype", self.text("dtype")?)];
        Ok(match self.agreed(spellings)? {
            Some("float32") => Some(DType::F32),
            Some("float16") => Some(DType::F16),
            Some("bfloat16") => Some(DType::BF16),
            _ => None,
        })
    }

    /// The value that all spellings of one setting have which are present.
    fn agreed<T: PartialEq + Into<Value>, const N: usize>(
        self,
        spellings: [(&str, Option<T>); N],
    ) -> Result<Option<T>> {
        let mut agreed: Option<(&str, T)> = None;
        for (key, value) in spellings {
            match (&agreed, value) {
                (Some((first, x)), Some(y)) if *x != y => {
                    let message =
                        format!("`{first}` and `{key}` contradict each other: remove the wrong one");
                    return Err(Error::file(self.path, message));
                }
                (None, Some(y)) => agreed = Some((key, y)),
                _ => (),
            }
        }
        Ok(agreed.map(|(_, x)| x))
    }

    /// The rotary settings, in any of their spellings.
    fn rope(self) -> Result<Rope> {
        let mut nested = [None, None];
        for key in ["rope_parameters", "rope_scaling"] {
            let prefix = if key == "rope_parameters" { "rope_parameters." } else { "rope_scaling." };
            let Some(rope) = self.object(key, prefix)? else { continue };
            for key in ["rope_type", "type"] {
                if let Some(kind) = rope.text(key)?.filter(|&kind| kind != "default") {
                    let kind = shown(&kind.into());
                    let message =
                        format!("`{prefix}{key}`: unsupported rope type {kind}; supported: \"default\"");
                    return Err(Error::file(self.path, message));
                }
            }
            if key == "rope_parameters" {
                nested = [rope.number("partial_rotary_factor")?, rope.number("rope_theta")?];
            }
        }
        let [nested_pct, nested_base] = nested;
        let pct = self.agreed([
            ("rotary_pct", self.number("rotary_pct")?),
            ("partial_rotary_factor", self.number("partial_rotary_factor")?),
            ("rope_parameters.partial_rotary_factor", nested_pct),
        ])?;
        let base = self.agreed([
            ("rotary_emb_base", self.number("rotary_emb_base")?),
            ("rope_theta", self.number("rope_theta")?),
            ("rope_parameters.rope_theta", nested_base),
        ])?;
        Ok(Rope { pct: pct.unwrap_or(0.25), base: base.unwrap_or(10_000.0) })
    }

    /// Refuses what is not a GPT-NeoX with a language-model head.
    fn check_architecture(self) -> Result<()> {
        let unknown = |found: &Value| {
            let message = format!("unknown architecture {}; supported: GPTNeoXForCausalLM", shown(found));
            Err(Error::file(self.path, message))
        };
        let names = self.typed("architectures", "a list", Value::as_array)?;
        let model_type = self.text("model_type")?;
        if let Some(other) = model_type.filter(|&name| name != "gpt_neox") {
            return unknown(&other.into());
        }
        match names.and_then(|names| names.first()) {
            None if model_type.is_some() => Ok(()),
            None => Err(Error::file(
                self.path,
                "unknown architecture: neither `model_type` nor `architectures` says",
            )),
            Some(Value::String(name)) if name == "GPTNeoXForCausalLM" => Ok(()),
            Some(Value::String(name)) if name.starts_with("GPTNeoX") => {
                let message = format!(
                    "architecture {} shares only its backbone with the supported GPTNeoXForCausalLM: \
                     it has no language-model head",
                    shown(&name.as_str().into())
                );
                Err(Error::file(self.path, message))
            }
            Some(other) => unknown(other),
        }
    }
}

/// A value as JSON, cut where it would fill the screen.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
