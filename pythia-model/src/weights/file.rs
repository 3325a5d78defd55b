//! [`TensorFile`]: one file of tensors, mapped, and the [`FileStamp`] by which it is known again.

use super::gguf::{self, Packing};
use super::{pytorch, safetensors};
use crate::{Error, Result, disk};
use ::safetensors::tensor::Dtype;
use memmap2::Mmap;
use pythia_tensor::{DType, SharedBytes, Tensor};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A file of tensors, mapped into memory: safetensors, PyTorch's `.bin` or GGUF.
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
    mapping: Arc<Mmap>,
}

impl FileStamp {
    /// Where `bytes` lie in the file, if they are part of its mapping.
    pub(crate) fn offset(&self, bytes: &[u8]) -> Option<u64> {
        let (file, part) = (self.mapping.as_ptr_range(), bytes.as_ptr_range());
        (file.start <= part.start && part.end <= file.end)
            .then(|| (part.start.addr() - file.start.addr()) as u64)
    }
}

impl fmt::Debug for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStamp({}, {} bytes)", self.path.display(), self.length)
    }
}

/// A tensor of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// Its type; or why there can be no [`Tensor`] of it, which matters only to who asks for it.
    pub(super) dtype: Result<DType, String>,
    pub(super) shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub(super) range: Range<usize>,
    /// What has to be done with them, if they are not as a tensor has them.
    pub(super) packing: Option<Packing>,
}

impl Entry {
    /// The same type as [`Tensor`]s have it.
    pub(super) fn dtype_of(dtype: Dtype) -> Result<DType, String> {
        match dtype {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            other => Err(format!("unsupported dtype {other}; supported: F32, F16, BF16")),
        }
    }
}

/// Reads where the tensors of a file lie, by name, all of them within its bytes.
pub(super) type Parse = fn(&Path, &[u8]) -> Result<HashMap<String, Entry>>;

impl TensorFile {
    /// Maps a safetensors file and reads its header; the tensors' own bytes are not touched.
    ///
    /// # Errors
    /// If the file cannot be read, or its header contradicts the format, the file's length or itself.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::map(path.as_ref(), safetensors::parse)
    }

    /// Maps what `torch.save` made of a state dict, a `.bin` file in PyTorch's zip or older format, and reads where its
    /// tensors lie. Nothing in it is executed: it is data here, and whatever else it holds is an error.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn open_pytorch(path: impl AsRef<Path>) -> Result<Self> {
        Self::map(path.as_ref(), pytorch::parse)
    }

    /// Maps a GGUF file, and gives its tensors the names and the order of rows of a checkpoint. Those of 8 or 4 bits are
    /// `f32` when they are asked for.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn open_gguf(path: impl AsRef<Path>) -> Result<Self> {
        Self::map(path.as_ref(), gguf::parse)
    }

    /// Reads the header of a safetensors file that is in memory; `name` is what errors call it. Tensors that are not
    /// aligned to their element size are copied when they are asked for.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn from_static(name: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Self> {
        Self::from_shared(name.as_ref(), Arc::new(bytes), safetensors::parse)
    }

    fn map(path: &Path, parse: Parse) -> Result<Self> {
        let (file, length) = disk::open(path)?;
        if length == 0 {
            return Err(Error::file(path, "the file is empty: download or write it again"));
        }
        let mapping = Arc::new(disk::map(&file).map_err(|e| Error::io(path, e))?);
        let modified = file.metadata().and_then(|m| m.modified()).ok();
        let stamp = FileStamp { path: path.to_owned(), length, modified, mapping: mapping.clone() };
        Ok(Self { stamp: Some(stamp), ..Self::from_shared(path, mapping, parse)? })
    }

    pub(super) fn from_shared(path: &Path, bytes: SharedBytes, parse: Parse) -> Result<Self> {
        if (*bytes).as_ref().starts_with(b"version https://git-lfs") {
            let message = "this is a Git LFS pointer, not the weights: fetch them with `git lfs pull`";
            return Err(Error::file(path, message));
        }
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

    /// Asks the system for the pages of all vectors, for who reads nothing else of the mapping: they lie scattered among the
    /// matrices, and each would wait for the disk, which would give what lies around it as well.
    pub(crate) fn ask_for_vectors(&self) {
        #[cfg(unix)]
        if let Some(stamp) = &self.stamp {
            for entry in self.entries.values().filter(|entry| entry.shape.len() == 1) {
                // Advice: who does not take it only waits longer.
                let (start, length) = (entry.range.start, entry.range.len());
                let _ = stamp.mapping.advise_range(memmap2::Advice::WillNeed, start, length);
            }
        }
    }

    /// The matrices that lie in the file as a [`Tensor`] has them: name, type and place.
    pub(crate) fn plain_matrices(&self) -> impl Iterator<Item = (&str, DType, Range<usize>)> {
        let plain =
            self.entries.iter().filter(|(_, entry)| entry.packing.is_none() && entry.shape.len() == 2);
        plain.filter_map(|(name, entry)| Some((&**name, *entry.dtype.as_ref().ok()?, entry.range.clone())))
    }

    /// The type and the shape of the tensor `name`, or `None` if the file has none of this name.
    ///
    /// # Errors
    /// As [`TensorFile::tensor`].
    pub(crate) fn info(&self, name: &str) -> Result<Option<(DType, &[usize])>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let dtype = entry.dtype.clone().map_err(|e| Error::tensor(&self.path, shown(name), e))?;
        Ok(Some((dtype, &entry.shape)))
    }

    /// The tensor `name`, or `None` if the file has none of this name. It shares the mapped memory, unless its bytes
    /// are not aligned to its elements (old safetensors and PyTorch's format before 1.6 had no padding): then it is a
    /// copy.
    ///
    /// # Errors
    /// If its type is none that a [`Tensor`] has, or its elements do not lie row by row.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let fail = |message: String| Error::tensor(&self.path, shown(name), message);
        let dtype = entry.dtype.clone().map_err(fail)?;
        let (range, shape) = (entry.range.clone(), &entry.shape[..]);
        if let Some(packing) = entry.packing {
            let bytes = (*self.bytes).as_ref().get(range).unwrap_or_default();
            return packing.unpack(bytes, dtype, shape).map(Some).map_err(|e| fail(e.to_string()));
        }
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

/// What a parser says, which may quote the file at any length, fit for a line of text.
pub(crate) fn said(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let line = |part: &str| part.replace(char::is_control, " ");
    match (text.char_indices().nth(400), text.char_indices().nth_back(60)) {
        (Some((start, _)), Some((end, _))) if start < end => {
            format!("{}...{}", line(&text[..start]), line(&text[end..]))
        }
        _ => line(&text),
    }
}
