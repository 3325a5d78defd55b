//! Safetensors, one file or shards with an index, in a folder that transformers loads.

use super::source::{Planned, common};
use super::{Options, Progress, Source, Written, numbers};
use crate::weights::safetensors::header;
use crate::{Error, Pieces, Result, disk};
use pythia_tensor::DType;
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::io::{self, Write};
use std::path::Path;

/// Writes a model as safetensors into a new folder, with its config and its tokenizer beside: what transformers'
/// `save_pretrained` makes. The folder appears whole or not at all. `progress` is told how far it is, in bytes.
///
/// # Errors
/// If there is something at `folder` already, other than an empty folder; if a tensor is missing or has another shape
/// than the config says, or a number that the new type cannot hold; if the system cannot write.
pub fn to_safetensors(
    source: &Source,
    folder: impl AsRef<Path>,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written> {
    let tensors = source.plan(options.dtype)?;
    let dtype = common(&tensors);
    let total = tensors.iter().map(Planned::bytes).sum();
    let shards = shards(tensors, options.max_shard_size);
    let mut done = 0;
    progress(Progress { done, total });
    let mut tell = |bytes| {
        done += bytes;
        progress(Progress { done, total });
    };
    let mut files = Vec::new();
    disk::write_folder_whole(folder.as_ref(), |folder| {
        let mut put = |name: String, content: &mut dyn FnMut(&mut Pieces) -> io::Result<()>| {
            disk::write_whole(&folder.join(&name), content)?;
            files.push(name);
            Ok::<_, Error>(())
        };
        for (i, shard) in shards.iter().enumerate() {
            put(file_name(i, shards.len()), &mut |file| write(file, source, shard, &mut tell))?;
        }
        if shards.len() > 1 {
            let index = index(&shards, total);
            put("model.safetensors.index.json".to_owned(), &mut |file| file.write_all(index.as_bytes()))?;
        }
        for (name, content) in source.beside() {
            put(name.clone(), &mut |file| file.write_all(content))?;
        }
        let config = source.config_json(dtype);
        put("config.json".to_owned(), &mut |file| file.write_all(config.as_bytes()))
    })?;
    Ok(Written { files, bytes: total })
}

/// The tensors in groups of at most `limit` bytes, where a single one does not have more. In each, they have the order
/// in which the safetensors library writes: larger elements first, then by name.
fn shards(tensors: Vec<Planned>, limit: u64) -> Vec<Vec<Planned>> {
    let mut shards = vec![Vec::new()];
    let mut room = limit;
    for tensor in tensors {
        let bytes = tensor.bytes();
        if bytes > room && shards.last().is_some_and(|shard| !shard.is_empty()) {
            shards.push(Vec::new());
            room = limit;
        }
        room = room.saturating_sub(bytes);
        shards.last_mut().into_iter().for_each(|shard| shard.push(tensor.clone()));
    }
    for shard in &mut shards {
        shard.sort_by(|a, b| (Reverse(a.dtype.size()), &a.name).cmp(&(Reverse(b.dtype.size()), &b.name)));
    }
    shards
}

fn file_name(shard: usize, of: usize) -> String {
    if of == 1 {
        "model.safetensors".to_owned()
    } else {
        format!("model-{:05}-of-{of:05}.safetensors", shard + 1)
    }
}

/// The index as transformers writes it.
fn index(shards: &[Vec<Planned>], total: u64) -> String {
    let places = shards.iter().enumerate().flat_map(|(i, shard)| {
        let file = file_name(i, shards.len());
        shard.iter().map(move |tensor| (tensor.name.clone(), Value::from(file.clone())))
    });
    let mut places: Vec<_> = places.collect();
    places.sort_by(|(a, _), (b, _)| a.cmp(b));
    let map: Map<_, _> = places.into_iter().collect();
    format!("{:#}\n", json!({"metadata": {"total_size": total}, "weight_map": map}))
}

/// Writes one file.
fn write(
    file: &mut Pieces,
    source: &Source,
    tensors: &[Planned],
    tell: &mut impl FnMut(u64),
) -> io::Result<()> {
    file.write_all(&header(tensors.iter().map(|t| (&t.name[..], t.dtype, &t.shape[..])))?)?;
    for planned in tensors {
        let Planned { name, dtype, .. } = planned;
        let tensor = source.tensor(name).map_err(io::Error::other)?;
        numbers::write_rows(file, &tensor, 0..tensor.shape().first().map_or(0, |&n| n), *dtype)
            .map_err(|e| named(e, source, name, *dtype))?;
        tell(planned.bytes());
    }
    Ok(())
}

/// The error of a tensor whose numbers do not fit; those of the system as they are.
pub(super) fn named(e: io::Error, source: &Source, name: &str, dtype: DType) -> io::Error {
    if e.kind() != io::ErrorKind::Other {
        return e;
    }
    let message = format!("{e} ({dtype}): choose another, bf16 and f32 hold larger numbers");
    io::Error::other(Error::tensor(source.path_of(name), name, message))
}
