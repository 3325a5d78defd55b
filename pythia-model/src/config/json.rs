//! [`Known`]: the keys of a `config.json` that are read. The rest is skipped, not kept, so that a file cannot fill the
//! memory with what nobody asks for.

use crate::json::{OfAny, of_any};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The keys that `read` asks for: it must not ask for others.
pub(super) const KEYS: [&str; 23] = [
    "architectures",
    "attention_bias",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "partial_rotary_factor",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "tie_word_embeddings",
    "torch_dtype",
    "use_parallel_residual",
    "vocab_size",
];
/// The most elements of a list, or keys of an object: there are never more than some end tokens.
const MAX_ELEMENTS: usize = 100;

/// The values of the keys that are read.
pub(super) struct Known(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Known;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Known, A::Error> {
                let mut known = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    if KEYS.contains(&key.as_str()) {
                        known.insert(key, map.next_value::<Small<false>>()?.0);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Known(known))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// A value whose lists and objects are short, and have no others in them: those are left empty.
struct Small<const INNER: bool>(Value);

impl<'de, const INNER: bool> Deserialize<'de> for Small<INNER> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        of_any(deserializer)
    }
}

impl<'de, const INNER: bool> OfAny<'de> for Small<INNER> {
    fn scalar(value: Value) -> Self {
        Self(value)
    }

    fn list<A: SeqAccess<'de>>(mut elements: A) -> Result<Self, A::Error> {
        let mut list = Vec::new();
        if INNER {
            while elements.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Self(list.into()));
        }
        while let Some(Small::<true>(value)) = elements.next_element()? {
            list.push(value);
            check_len(list.len())?;
        }
        Ok(Self(list.into()))
    }

    fn object<A: MapAccess<'de>>(mut entries: A) -> Result<Self, A::Error> {
        let mut object = Map::new();
        if INNER {
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Self(object.into()));
        }
        while let Some((key, Small::<true>(value))) = entries.next_entry()? {
            object.insert(key, value);
            check_len(object.len())?;
        }
        Ok(Self(object.into()))
    }
}

fn check_len<E: de::Error>(len: usize) -> Result<(), E> {
    if len <= MAX_ELEMENTS {
        return Ok(());
    }
    Err(E::custom(format_args!("invalid length {len}, expected at most {MAX_ELEMENTS} elements")))
}
