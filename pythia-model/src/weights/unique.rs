//! JSON objects whose keys must differ: serde's maps would silently keep the last of several.

use super::file::shown;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// An object of strings in which no key occurs twice.
#[derive(Debug)]
pub(super) struct Entries(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            let name = shown(&key);
            if entries.insert(key, value).is_some() {
                return Err(de::Error::custom(format!("`{name}` occurs twice")));
            }
        }
        Ok(Entries(entries))
    }
}
