//! GGUF, the files of llama.cpp: a header, checked before anything of it is believed, and tensors behind it.
//!
//! Plain tensors are mapped. Blocks of 8 or 4 bits become `f32`, which holds their numbers exactly, and the fused query,
//! key and value a copy in a checkpoint's order of rows, when they are asked for.

mod header;
mod model;
mod names;
mod packing;

pub(crate) use model::GgufFile;
pub(crate) use names::to_gguf;
pub(super) use packing::Packing;

use super::file::{Entry, shown};
use crate::{Error, Result};
use header::{Header, Info};
use names::{from_gguf, is_fused};
use packing::Block;
use pythia_tensor::DType;
use std::collections::HashMap;
use std::path::Path;

const HEADS: &str = "gptneox.attention.head_count";

/// The tensors of the file `bytes`, all of them within the bytes, by their names in a checkpoint.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Entry>> {
    let header = Header::parse(bytes).map_err(|message| Error::file(path, message))?;
    let heads = header.size(HEADS);
    let mut entries = HashMap::with_capacity(header.infos.len());
    // Where the next tensor starts at the earliest, and whether exactly there.
    let (mut next, mut exactly) = (0, true);
    for info in &header.infos {
        let fail = |message: String| Error::tensor(path, shown(info.name), message);
        let entry = entry(info, &header, bytes.len(), heads).map_err(fail)?;
        let name = from_gguf(info.name).unwrap_or_else(|| info.name.to_owned());
        let aligned = info.offset.is_multiple_of(header.alignment);
        if info.offset < next || !aligned || (exactly && info.offset > next) {
            let found = info.offset;
            return Err(fail(format!(
                "it starts at byte {found} of the data, expected {next}, where the one before ends"
            )));
        }
        // How long one of an unsupported type is, is unknown.
        exactly = entry.dtype.is_ok();
        let end = info.offset.checked_add(entry.range.len());
        next = end.and_then(|end| end.checked_next_multiple_of(header.alignment)).unwrap_or(usize::MAX);
        if entries.insert(name, entry).is_some() {
            return Err(fail("the header names it twice".to_owned()));
        }
    }
    let end = header.data.saturating_add(next);
    if exactly && end < bytes.len() {
        let message = format!("{} bytes follow the last tensor, expected none", bytes.len() - end);
        return Err(Error::file(path, message));
    }
    Ok(entries)
}

/// Where a tensor lies, and what has to be done with it.
fn entry(info: &Info<'_>, header: &Header<'_>, length: usize, heads: Option<usize>) -> Result<Entry, String> {
    let shape = info.shape.clone();
    // Bytes of so many numbers, and what they are.
    let (size, per, dtype, block) = match info.ggml_type {
        0 => (4, 1, Ok(DType::F32), None),
        1 => (2, 1, Ok(DType::F16), None),
        30 => (2, 1, Ok(DType::BF16), None),
        2 => (Block::Q4_0.bytes(), Block::NUMBERS, Ok(DType::F32), Some(Block::Q4_0)),
        8 => (Block::Q8_0.bytes(), Block::NUMBERS, Ok(DType::F32), Some(Block::Q8_0)),
        other => {
            let message = format!("unsupported GGUF type {other}; supported: F32, F16, BF16, Q8_0, Q4_0");
            return Ok(Entry { dtype: Err(message), shape, range: 0..0, packing: None });
        }
    };
    let columns = shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(per) {
        return Err(format!("its rows of {columns} numbers are no whole blocks of {per}"));
    }
    let elements = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    let bytes = elements.and_then(|n| (n / per).checked_mul(size));
    let start = header.data.checked_add(info.offset);
    let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
    let (Some(start), Some(end)) = (start, end.filter(|&end| end <= length)) else {
        return Err(format!(
            "{shape:?} at byte {} of the data lies outside the file of {length} bytes: it is cut short, download it again",
            info.offset
        ));
    };
    let heads = match heads {
        _ if !is_fused(info.name) => 1,
        Some(heads) => heads,
        None => return Err(format!("the order of its rows follows from the key `{HEADS}`: expected a size")),
    };
    if heads > 1 && !shape.first().is_some_and(|rows| rows.is_multiple_of(3 * heads)) {
        return Err(format!("its shape {shape:?} is none of query, key and value of {heads} heads"));
    }
    let packing = (heads > 1 || block.is_some()).then_some(Packing { block, heads });
    Ok(Entry { dtype, shape, range: start..end, packing })
}
