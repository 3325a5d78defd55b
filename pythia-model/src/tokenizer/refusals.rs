//! What the crate `tokenizers` would stumble over in a `tokenizer.json`, looked at before it is.
//!
//! A regular expression of twenty characters can ask for gigabytes, or for seconds per word. Byte-level tokenizers have one
//! or two, of some hundred characters. And the crate cuts a prefix off tokens without looking where characters end.

use crate::json::{OfAny, of_any};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess};
use serde_json::Value;

/// The most characters of all patterns together, the largest published ones having 500.
const MAX_LENGTH: usize = 2000;
/// The most repetitions that a pattern may count out (`{1,3}`), the product of all of them.
const MAX_REPETITIONS: u64 = 1000;

/// Why a tokenizer is refused, if it is. What is no JSON is left to the tokenizer's own reader.
pub(super) fn refusal(json: &[u8]) -> Option<String> {
    let Outline { normalizer, pre_tokenizer, model } = serde_json::from_slice(json).ok()?;
    if model.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
        return Some(
            "`continuing_subword_prefix`: byte-level tokenizers have none, expected null".to_owned(),
        );
    }
    for (key, Patterns(patterns)) in [("normalizer", normalizer), ("pre_tokenizer", pre_tokenizer)] {
        let length = patterns.iter().map(String::len).sum::<usize>();
        if length > MAX_LENGTH {
            return Some(format!(
                "the patterns of the `{key}` have {length} characters, expected at most {MAX_LENGTH}"
            ));
        }
        if let Some(n) = patterns.iter().map(|p| repetitions(p)).find(|&n| n > MAX_REPETITIONS) {
            return Some(format!(
                "a pattern of the `{key}` repeats {n} times, expected at most {MAX_REPETITIONS}"
            ));
        }
    }
    None
}

/// The product of the numbers in braces.
fn repetitions(pattern: &str) -> u64 {
    let braces = pattern.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let largest = |(inside, _): (&str, &str)| inside.split(',').filter_map(|n| n.trim().parse().ok()).max();
    braces.filter_map(largest).fold(1, |product, n: u64| product.saturating_mul(n.max(1)))
}

/// The parts of a `tokenizer.json` that are looked at.
#[derive(serde::Deserialize)]
struct Outline {
    #[serde(default)]
    model: Model,
    #[serde(default)]
    normalizer: Patterns,
    #[serde(default)]
    pre_tokenizer: Patterns,
}

#[derive(Default, serde::Deserialize)]
struct Model {
    continuing_subword_prefix: Option<String>,
}

/// The values of all keys `Regex` in a value, however deep.
#[derive(Default)]
struct Patterns(Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        of_any(deserializer)
    }
}

impl<'de> OfAny<'de> for Patterns {
    fn scalar(_: Value) -> Self {
        Self::default()
    }

    fn list<A: SeqAccess<'de>>(mut elements: A) -> Result<Self, A::Error> {
        let mut found = Vec::new();
        while let Some(Self(more)) = elements.next_element()? {
            found.extend(more);
        }
        Ok(Self(found))
    }

    fn object<A: MapAccess<'de>>(mut entries: A) -> Result<Self, A::Error> {
        let mut found = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            // Where it is no text, it is no pattern, and no tokenizer.
            match key.as_str() {
                "Regex" => found.push(entries.next_value::<String>()?),
                _ => found.extend(entries.next_value::<Self>()?.0),
            }
        }
        Ok(Self(found))
    }
}
