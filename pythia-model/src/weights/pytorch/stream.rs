//! What `torch.save` wrote before PyTorch 1.6: a stream of pickles, and after them the storages.
//!
//! The pickles are a magic number, the version of the format, facts about the machine, the state dict, and the keys of
//! the storages in the order of the file. A storage is its number of elements, 8 bytes, and the elements.

use super::pickle::{Pickle, Value};
use super::state_dict::{self, Storage, View};
use super::{Contents, shown};
use std::collections::HashMap;
use std::ops::Range;

/// The first pickle: 0x1950a86a20f9469cfc6c.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
const VERSION: i64 = 1001;

/// The state dict and the storages of a file that starts with [`MAGIC`].
pub(super) fn read(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let mut at = MAGIC.len();
    let mut next = || {
        let pickle = Pickle::parse(bytes.get(at..).unwrap_or_default(), bytes.len())?;
        at += pickle.length;
        Ok::<_, String>(pickle)
    };
    let [version, machine, state, keys] = [next()?, next()?, next()?, next()?];
    if version.root != Value::Int(VERSION) {
        return Err(format!(
            "expected the version {VERSION} of PyTorch's old format, found {}",
            version.root.kind()
        ));
    }
    let order = machine.dict(machine.root).find(|(key, _)| *key == Value::Str("little_endian"));
    if order.is_none_or(|(_, little)| little != Value::Bool(true)) {
        return Err(
            "expected numbers in little-endian order: save it again on a machine that has it".to_owned()
        );
    }
    let views = state_dict::views(&state, bytes.len())?;
    let storages = storages(bytes, at, &views, &keys)?;
    Ok(Contents { views, storages })
}

/// Where each storage lies. The number of elements is in the file; their type only the state dict knows.
fn storages(
    bytes: &[u8],
    mut at: usize,
    views: &[View<'_>],
    keys: &Pickle<'_>,
) -> Result<HashMap<u64, Range<usize>>, String> {
    let known: HashMap<u64, Storage> = views.iter().map(|view| (view.storage.key, view.storage)).collect();
    let mut storages = HashMap::new();
    for key in keys.list(keys.root) {
        let Value::Str(text) = key else {
            return Err(format!("expected the keys of the storages, found {}", key.kind()));
        };
        let storage = state_dict::storage_key(text).and_then(|key| known.get(&key));
        let storage =
            storage.ok_or_else(|| format!("there is a storage `{}` that no tensor uses", shown(text)))?;
        let Some((count, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk) else {
            return Err(format!(
                "the storage {text} lies outside the file: it is cut short, download it again"
            ));
        };
        let count = u64::from_le_bytes(*count);
        if count != storage.elements as u64 {
            return Err(format!("the storage {text} has {count} elements, expected {}", storage.elements));
        }
        let size = storage.size().filter(|&size| size <= rest.len()).ok_or_else(|| {
            format!(
                "the storage {text} of {count} elements lies outside the file, of which {} bytes are left: it is cut \
                 short, download it again",
                rest.len()
            )
        })?;
        let start = at + 8;
        at = start + size;
        if storages.insert(storage.key, start..at).is_some() {
            return Err(format!("the storage {text} occurs twice"));
        }
    }
    match bytes.len() - at {
        0 => Ok(storages),
        left => Err(format!("{left} bytes follow the last storage, expected none")),
    }
}
