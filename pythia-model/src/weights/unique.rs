//! JSON objects whose keys must differ (serde's maps would silently keep the last of several), and how many entries are
//! kept of a file.

use super::file::shown;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// The most tensors, or other entries, that are kept of so many bytes, where each takes at least `each` in any file that
/// somebody writes. What is kept of a file is a few times larger than what says it: without a bound, a file made for the
/// purpose would take fifty times its length.
pub(super) fn most(bytes: usize, each: usize) -> usize {
    1024 + bytes / each
}

/// The shortest names of a tensor and its shard have about 50 bytes.
const NAMES: usize = 40;

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
        let (mut entries, mut bytes) = (BTreeMap::new(), 0);
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            bytes += key.len() + value.len();
            if entries.len() >= most(bytes, NAMES) {
                return Err(de::Error::custom(format!(
                    "{} entries in {bytes} bytes are too many",
                    entries.len()
                )));
            }
            let name = shown(&key);
            if entries.insert(key, value).is_some() {
                return Err(de::Error::custom(format!("`{name}` occurs twice")));
            }
        }
        Ok(Entries(entries))
    }
}
