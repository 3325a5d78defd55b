//! [`TensorFile`]: one safetensors file, mapped, its header checked before anything is believed.
//!
//! The file is a `u64` (little-endian), a JSON header of that many bytes, and the tensors' bytes back to back. The
//! `safetensors` crate reads it too, but accepts a name that occurs twice and cannot say which tensor is wrong.

use super::unique::Entries;
use crate::{Error, Result, disk};
use pythia_tensor::{DType, SharedBytes, Tensor};
use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The longest header that the format allows.
const MAX_HEADER: usize = 100_000_000;

/// A safetensors file, mapped into memory.
///
/// The file must not be changed in place while it is in use: the process would see the new bytes, and reading what
/// has been cut off ends it (`SIGBUS`). Files that this crate writes are replaced by renaming, which is harmless.
pub struct TensorFile {
    path: PathBuf,
    stamp: Option<FileStamp>,
    bytes: SharedBytes,
    entries: HashMap<String, Entry>,
}

/// A file on disk, as it was when it was opened.
#[derive(Clone)]
pub struct FileStamp {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written, if the file system knows.
    pub modified: Option<SystemTime>,
    /// Its mapping.
    bytes: SharedBytes,
}

impl FileStamp {
    /// Where `bytes` lie in the file, if they are part of its mapping.
    pub(crate) fn offset(&self, bytes: &[u8]) -> Option<u64> {
        let (file, part) = ((*self.bytes).as_ref().as_ptr_range(), bytes.as_ptr_range());
        (file.start <= part.start && part.end <= file.end)
            .then(|| (part.start.addr() - file.start.addr()) as u64)
    }
}

impl fmt::Debug for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStamp({}, {} bytes)", self.path.display(), self.length)
    }
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    range: Range<usize>,
}

impl TensorFile {
    /// Maps a file and reads its header; the tensors' own bytes are not touched.
    ///
    /// # Errors
    /// If the file cannot be read, or its header contradicts the format, the file's length or itself.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, length) = disk::open(path)?;
        if length == 0 {
            return Err(Error::file(path, "the file is empty: download or write it again"));
        }
        let bytes: SharedBytes = Arc::new(disk::map(&file).map_err(|e| Error::io(path, e))?);
        let modified = file.metadata().and_then(|m| m.modified()).ok();
        let stamp = FileStamp { path: path.to_owned(), length, modified, bytes: bytes.clone() };
        Ok(Self { stamp: Some(stamp), ..Self::from_shared(path, bytes)? })
    }

    /// Reads the header of a file that is in memory; `name` is what errors call it. Tensors that are not aligned to
    /// their element size are copied when they are asked for.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn from_static(name: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Self> {
        Self::from_shared(name.as_ref(), Arc::new(bytes))
    }

    fn from_shared(path: &Path, bytes: SharedBytes) -> Result<Self> {
        let entries = parse(path, (*bytes).as_ref())?;
        Ok(Self { path: path.to_owned(), stamp: None, bytes, entries })
    }

    /// The file's path, or the name of the bytes in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as it was when it was opened; `None` for bytes in memory.
    pub fn stamp(&self) -> Option<&FileStamp> {
        self.stamp.as_ref()
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The names of the tensors, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The tensor `name`, or `None` if the file has none of this name. It shares the mapped memory, unless its bytes
    /// are not aligned to its elements (headers of old files were not padded): then it is a copy.
    ///
    /// # Errors
    /// If its type is none that a [`Tensor`] has.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let fail = |message: String| Error::tensor(&self.path, shown(name), message);
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(fail(format!("unsupported dtype {other}; supported: F32, F16, BF16"))),
        };
        let (range, shape) = (entry.range.clone(), &entry.shape[..]);
        let tensor = match Tensor::from_shared(self.bytes.clone(), range.clone(), dtype, shape) {
            Err(pythia_tensor::Error::Misaligned { .. }) => {
                let bytes = (*self.bytes).as_ref().get(range).unwrap_or_default();
                Tensor::from_bytes(bytes, dtype, shape)
            }
            shared => shared,
        };
        tensor.map(Some).map_err(|e| fail(e.to_string()))
    }
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorFile({}, {} tensors)", self.path.display(), self.entries.len())
    }
}

/// A name from a file, fit for a line of text.
pub(crate) fn shown(name: &str) -> String {
    let name = name.escape_debug();
    if name.clone().count() > 120 { name.take(120).chain("...".chars()).collect() } else { name.collect() }
}

/// The tensors that the header of `bytes` describes, all of them within the bytes.
fn parse(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Entry>> {
    let (header, data) = split(path, bytes)?;
    let Header(mut infos) = serde_json::from_slice(header)
        .map_err(|e| Error::file(path, format!("the safetensors header is not valid: {e}")))?;
    infos.sort_by_key(|(_, info)| info.data_offsets);

    let length = bytes.len() - data;
    // Where the tensors so far end, and the last one's name.
    let (mut end, mut last) = (0, String::new());
    let mut entries = HashMap::with_capacity(infos.len());
    for (name, info) in infos {
        let (start, stop) = info.data_offsets;
        let fail = |message: String| Err(Error::tensor(path, shown(&name), message));
        if entries.contains_key(&name) {
            return fail("the header names it twice".to_owned());
        }
        if let Err(message) = check_size(&info) {
            return fail(message);
        }
        if start < end {
            return fail(format!(
                "its bytes {start}..{stop} overlap those of `{}`, which end at {end}",
                shown(&last)
            ));
        }
        if start > end {
            return fail(format!(
                "its bytes {start}..{stop} leave a gap after {end}, where the one before ends"
            ));
        }
        if stop > length {
            return fail(format!(
                "its bytes {start}..{stop} lie outside the file, which has {length} bytes of data: \
                 the file is cut short, download it again"
            ));
        }
        end = stop;
        last.clone_from(&name);
        let entry = Entry { dtype: info.dtype, shape: info.shape, range: data + start..data + stop };
        entries.insert(name, entry);
    }
    if end != length {
        return Err(Error::file(
            path,
            format!("{} bytes follow the last tensor, expected none", length - end),
        ));
    }
    Ok(entries)
}

/// The header, and where the data starts.
fn split<'a>(path: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], usize)> {
    if bytes.starts_with(b"version https://git-lfs") {
        let message = "this is a Git LFS pointer, not the weights: fetch them with `git lfs pull`";
        return Err(Error::file(path, message));
    }
    let Some((length, rest)) = bytes.split_first_chunk() else {
        let message =
            format!("a safetensors file has at least 8 bytes, found {}: download it again", bytes.len());
        return Err(Error::file(path, message));
    };
    let length = u64::from_le_bytes(*length);
    let found = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER).map(|n| (n, rest.get(..n)));
    let Some((n, header)) = found else {
        let message =
            format!("a header of {length} bytes is longer than {MAX_HEADER}: this is not a safetensors file");
        return Err(Error::file(path, message));
    };
    let Some(header) = header else {
        let message = format!(
            "a header of {n} bytes does not fit into the file of {} bytes: it is cut short, download it again",
            bytes.len()
        );
        return Err(Error::file(path, message));
    };
    if header.first() != Some(&b'{') {
        return Err(Error::file(path, "the header does not start with `{`: this is not a safetensors file"));
    }
    Ok((header, 8 + n))
}

/// Whether shape and dtype need exactly the bytes that the offsets give.
fn check_size(info: &TensorInfo) -> Result<(), String> {
    let (start, stop) = info.data_offsets;
    let Some(found) = stop.checked_sub(start) else {
        return Err(format!("it ends at byte {stop}, before it starts at {start}"));
    };
    let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &d| n.checked_mul(d));
    let (dtype, shape) = (info.dtype, &info.shape);
    match bits {
        None => Err(format!("{dtype} {shape:?} is too large to address")),
        Some(bits) if !bits.is_multiple_of(8) || bits / 8 != found => {
            Err(format!("{dtype} {shape:?} needs {} bytes, found {found}", bits.div_ceil(8)))
        }
        Some(_) => Ok(()),
    }
}

/// The tensors of a header in the order of the file, names that occur twice included.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut infos, mut metadata) = (Vec::new(), None);
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata.replace(map.next_value::<Entries>()?).is_some() {
                    return Err(de::Error::duplicate_field("__metadata__"));
                }
            } else {
                let info = map.next_value();
                let info = info.map_err(|e| de::Error::custom(format!("tensor `{}`: {e}", shown(&name))))?;
                infos.push((name, info));
            }
        }
        Ok(Header(infos))
    }
}
