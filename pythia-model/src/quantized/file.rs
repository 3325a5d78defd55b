//! The file of quantised weights: written whole, mapped, and not believed before it is checked.
//!
//! ```text
//! 0      8 bytes   "pythia q"
//! 8      u32, u32  FORMAT and Quantized::LAYOUT, little-endian as all numbers
//! 16     u64       n, the length of the header
//! 24     u64       XXH3-64 of the header
//! 32     n bytes   the header: JSON, see `Header`, with spaces up to a multiple of 4096
//! then   the matrices, end to end, each as `Quantized` has it in memory: a multiple of 64 bytes
//! ```
//!
//! The file's time is set to the second that the header names, so that a file that was changed in place afterwards is
//! known by its time.

use super::checksum::Checksum;
use super::source::Source;
use super::{Check, Progress, SMALL};
use crate::weights::shown;
use crate::{Error, Result, Weights, disk};
use pythia_tensor::{Bits, Crew, Quantized, SharedBytes};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twox_hash::XxHash3_64;

const MAGIC: &[u8; 8] = b"pythia q";

/// The version of this format, to be raised when it changes. The matrices' bytes have their own: [`Quantized::LAYOUT`].
const FORMAT: u32 = 1;

/// Bytes before the header.
const PREFIX: usize = 32;

/// The longest header that is read.
const MAX_HEADER: usize = 16 << 20;

/// The first matrix starts at a page.
const PAGE: usize = 4096;

/// Every matrix starts at a cache line.
const LINE: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// `int8` or `int4`.
    precision: String,
    /// When it was written, in seconds since 1970.
    written: u64,
    source: Source,
    matrices: Vec<Part>,
}

/// A matrix in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    name: String,
    shape: [usize; 2],
    /// Where it starts, counted from the end of the header.
    offset: usize,
    length: usize,
    checksum: Checksum,
    /// The checksum of some of its pages.
    sample: Checksum,
}

impl Part {
    /// The same without checksums.
    fn place(&self) -> Self {
        Self { checksum: Checksum::blank(), sample: Checksum::blank(), ..self.clone() }
    }

    fn shown(&self) -> String {
        let Self { name, shape, offset, length, .. } = self;
        format!("`{}` of {shape:?}, in {length} bytes at {offset}", shown(name))
    }

    fn range(&self, data: usize) -> Range<usize> {
        data + self.offset..data + self.offset + self.length
    }
}

/// Where the matrices of `weights` lie in their file, without checksums.
fn plan(weights: &Weights, bits: Bits) -> Result<Vec<Part>> {
    let mut end = 0_usize;
    let place = |(name, matrix): (String, &pythia_tensor::Tensor)| {
        let too_large = || Error::Argument(format!("tensor `{name}`: too large to quantise"));
        let shape = <[usize; 2]>::try_from(matrix.shape()).map_err(|_| too_large())?;
        let length = Quantized::byte_len(bits, shape).map_err(|_| too_large())?;
        let offset = end.checked_next_multiple_of(LINE).ok_or_else(too_large)?;
        // So that every sum with a header fits, too.
        end = offset
            .checked_add(length)
            .filter(|e| e.checked_add(2 * MAX_HEADER).is_some())
            .ok_or_else(too_large)?;
        Ok(Part { name, shape, offset, length, checksum: Checksum::blank(), sample: Checksum::blank() })
    };
    weights.matrices().map(place).collect()
}

/// The bytes of all matrices together.
pub(super) fn total(weights: &Weights, bits: Bits) -> Result<u64> {
    Ok(plan(weights, bits)?.iter().map(|part| part.length as u64).sum())
}

/// Quantises all matrices into a file, one after another, each by all threads. In memory there is one of them at a time.
///
/// # Errors
/// If the file cannot be written; nothing is left then.
pub(super) fn write(
    path: &Path,
    weights: &Weights,
    bits: Bits,
    crew: &Crew<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut header = Header {
        precision: bits.to_string(),
        written: since.as_secs(),
        source: Source::of(weights),
        matrices: plan(weights, bits)?,
    };
    let (mut done, total) = (0, total(weights, bits)?);
    progress(Progress { done, total });
    disk::write_whole(path, |file| {
        // Checksums are equally long, so the header has its length before they are known.
        file.write_all(&front(&header)?)?;
        for (part, (_, matrix)) in header.matrices.iter_mut().zip(weights.matrices()) {
            let quantized = Quantized::quantize(crew, matrix, bits);
            let bytes = quantized.bytes();
            (part.checksum, part.sample) = (Checksum::of(bytes), Checksum::of_sample(bytes));
            file.write_all(bytes)?;
            done += bytes.len() as u64;
            progress(Progress { done, total });
        }
        let file = file.finish()?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&front(&header)?)?;
        // Where the time cannot be set, each opening checks the whole file.
        let _ = file.set_modified(UNIX_EPOCH + Duration::from_secs(header.written));
        Ok(())
    })
}

/// The file up to the matrices.
fn front(header: &Header) -> io::Result<Vec<u8>> {
    let mut json = serde_json::to_vec(header)?;
    json.resize((PREFIX + json.len()).next_multiple_of(PAGE) - PREFIX, b' ');
    let versions = [FORMAT, Quantized::LAYOUT].map(u32::to_le_bytes);
    let numbers = [json.len() as u64, XxHash3_64::oneshot(&json)].map(u64::to_le_bytes);
    Ok([&MAGIC[..], versions.as_flattened(), numbers.as_flattened(), &json].concat())
}

/// Maps a file of quantised weights and checks it, as [`Check`] says.
///
/// # Errors
/// If it cannot be read, is damaged, or was made from other weights, in another precision or by another version.
pub(super) fn open(path: &Path, weights: &Weights, bits: Bits, check: Check) -> Result<Vec<Quantized>> {
    let (file, length) = disk::open(path)?;
    let fail = |message: String| Error::file(path, message);
    if length < PREFIX as u64 {
        return Err(fail(format!("the file is cut short: {length} bytes are no quantised weights")));
    }
    let bytes: SharedBytes = Arc::new(disk::map(&file).map_err(|e| Error::io(path, e))?);
    let (header, data) = header((*bytes).as_ref()).map_err(fail)?;
    if header.precision != bits.to_string() {
        return Err(fail(format!("expected weights in {bits}, found {}", header.precision.escape_debug())));
    }
    if let Some(difference) = header.source.difference(&Source::of(weights)) {
        return Err(fail(format!("it was made from other weights: {difference}")));
    }
    check_places(&header.matrices, &plan(weights, bits)?).map_err(fail)?;
    let last = header.matrices.last().map_or(data, |part| part.range(data).end);
    if length != last as u64 {
        return Err(fail(format!("expected {last} bytes, found {length}: it is cut short or was added to")));
    }
    let touched = modified(&file) != Some(UNIX_EPOCH + Duration::from_secs(header.written));
    let full = check == Check::Full || touched || length <= SMALL as u64;
    for part in &header.matrices {
        check_part((*bytes).as_ref(), part, data, full).map_err(|m| Error::tensor(path, &part.name, m))?;
    }
    if touched {
        // All is well: the next opening need not look at every byte again.
        let _ = file.set_modified(UNIX_EPOCH + Duration::from_secs(header.written));
    }
    let matrix = |part: &Part| {
        Quantized::from_shared(bits, part.shape, bytes.clone(), part.range(data))
            .map_err(|e| Error::tensor(path, &part.name, e.to_string()))
    };
    header.matrices.iter().map(matrix).collect()
}

fn modified(file: &File) -> Option<SystemTime> {
    file.metadata().and_then(|m| m.modified()).ok()
}

/// The header, and where the matrices start.
fn header(bytes: &[u8]) -> Result<(Header, usize), String> {
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    if !bytes.starts_with(MAGIC) {
        return Err("this is not a file of quantised weights: it does not start as one".to_owned());
    }
    let (versions, n, expected) = (number(8), number(16), number(24));
    let (format, layout) = (versions as u32, (versions >> 32) as u32);
    if (format, layout) != (FORMAT, Quantized::LAYOUT) {
        return Err(format!(
            "it was written by another version: its layout is {format}.{layout}, expected {FORMAT}.{}",
            Quantized::LAYOUT
        ));
    }
    let json =
        usize::try_from(n).ok().filter(|&n| n <= MAX_HEADER).and_then(|n| bytes.get(PREFIX..PREFIX + n));
    let Some(json) = json else {
        return Err(format!("a header of {n} bytes does not fit: the file is damaged or cut short"));
    };
    let found = XxHash3_64::oneshot(json);
    if found != expected {
        return Err(format!("the header is damaged: its checksum is {found:016x}, expected {expected:016x}"));
    }
    let header = serde_json::from_slice(json).map_err(|e| format!("the header is not valid: {e}"))?;
    Ok((header, PREFIX + json.len()))
}

/// Whether the matrices are those of the model, where they belong.
fn check_places(found: &[Part], expected: &[Part]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("the header has {} matrices, expected {}", found.len(), expected.len()));
    }
    for (found, expected) in found.iter().zip(expected) {
        if found.place() != *expected {
            let (found, expected) = (found.shown(), expected.shown());
            return Err(format!("the header has {found}, expected {expected}"));
        }
    }
    Ok(())
}

fn check_part(bytes: &[u8], part: &Part, data: usize, full: bool) -> Result<(), String> {
    let bytes = bytes.get(part.range(data)).unwrap_or_default();
    let (found, expected) =
        if full { (Checksum::of(bytes), &part.checksum) } else { (Checksum::of_sample(bytes), &part.sample) };
    if found == *expected {
        return Ok(());
    }
    Err(format!("the quantised weights are damaged: their checksum is {found}, expected {expected}"))
}
