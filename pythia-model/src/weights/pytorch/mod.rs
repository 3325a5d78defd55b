//! PyTorch's `.bin` files: what `torch.save` made of a model's state dict, read without executing anything.
//!
//! Since PyTorch 1.6 that is a [zip archive](zip), before it was a [stream of pickles](stream). In both, a
//! [`pickle`] describes a [state dict](state_dict) whose tensors look into storages, and the storages' bytes lie
//! in the file as they lie in memory, so that tensors are mapped as those of safetensors are.
//!
//! The crate `pytorch-reader` reads both too, but gives every tensor as a copy, and needs the crates `zip` and `tar`.

mod pickle;
mod state_dict;
mod stream;
mod zip;

use super::file::{Entry, shown};
use crate::{Error, Result};
use state_dict::View;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// A state dict, and where in the file each storage lies, by its key.
struct Contents<'a> {
    views: Vec<View<'a>>,
    storages: HashMap<u64, Range<usize>>,
}

/// The tensors of the state dict in `bytes`, all of them within the bytes.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Entry>> {
    let contents = if bytes.starts_with(zip::LOCAL) {
        zip::read(bytes)
    } else if bytes.starts_with(stream::MAGIC) {
        stream::read(bytes)
    } else {
        Err("this is not a PyTorch checkpoint: it starts neither as a zip archive nor as the older format does"
            .to_owned())
    };
    let Contents { views, storages } = contents.map_err(|message| Error::file(path, message))?;
    let mut entries = HashMap::with_capacity(views.len());
    for view in views {
        let fail = |message: String| Error::tensor(path, shown(view.name), message);
        let entry = view.place(&storages).map_err(fail)?;
        if entries.insert(view.name.to_owned(), entry).is_some() {
            return Err(fail("the state dict names it twice".to_owned()));
        }
    }
    Ok(entries)
}
