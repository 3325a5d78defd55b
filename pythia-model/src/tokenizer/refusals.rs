//! What the crate `tokenizers` would stumble over in a `tokenizer.json`, looked at before it is.
//!
//! A regular expression of twenty characters can ask for gigabytes, or for seconds per word. Byte-level tokenizers have one
//! or two, of some hundred characters. And the crate cuts a prefix off tokens without looking where characters end.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

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
        deserializer.deserialize_any(Search)
    }
}

struct Search;

impl<'de> Visitor<'de> for Search {
    type Value = Patterns;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Patterns, E> {
        Ok(Patterns::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Patterns, E> {
        Ok(Patterns::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Patterns, E> {
        Ok(Patterns::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Patterns, E> {
        Ok(Patterns::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Patterns, E> {
        Ok(Patterns::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Patterns, E> {
        Ok(Patterns::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Patterns, A::Error> {
        let mut found = Vec::new();
        while let Some(Patterns(more)) = seq.next_element()? {
            found.extend(more);
        }
        Ok(Patterns(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Patterns, A::Error> {
        let mut found = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // Where it is no text, it is no pattern, and no tokenizer.
            match key.as_str() {
                "Regex" => found.push(map.next_value::<String>()?),
                _ => found.extend(map.next_value::<Patterns>()?.0),
            }
        }
        Ok(Patterns(found))
    }
}
