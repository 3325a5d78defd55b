//! [`Checkpoint`]: the files of a model's folder, taken as one set of named tensors.

use super::file::{FileStamp, TensorFile, said, shown};
use super::gguf::GgufFile;
use super::unique::Entries;
use crate::{Error, Result, disk};
use pythia_tensor::Tensor;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// A format of weights.
struct Format {
    /// The weights in one file.
    single: &'static str,
    /// Which tensor lies in which file, where there are several.
    index: &'static str,
    open: fn(PathBuf) -> Result<TensorFile>,
}

/// The formats, the first of which that a folder has is read.
const FORMATS: [Format; 2] = [
    Format { single: "model.safetensors", index: "model.safetensors.index.json", open: TensorFile::open },
    Format {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        open: TensorFile::open_pytorch,
    },
];
/// Whether a folder has weights in one of the [`FORMATS`].
pub(super) fn is_there(dir: &Path) -> bool {
    let names = FORMATS.iter().flat_map(|format| [format.single, format.index]);
    names.into_iter().any(|name| dir.join(name).symlink_metadata().is_ok())
}

/// As for a safetensors header.
const MAX_INDEX: u64 = 100_000_000;
/// The largest models have some hundred files. All are open at the same time.
const MAX_SHARDS: usize = 1000;

/// Every tensor of a model, by name. Taking one out leaves the rest.
pub(crate) struct Checkpoint {
    /// The file that says which tensors there are: the only one, or the index.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Which of the files has a tensor.
    places: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens what a model's folder has: one file, or else an index and its shards.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let exists = |name: &str| dir.join(name).symlink_metadata().is_ok();
        for format in &FORMATS {
            if exists(format.single) {
                return Ok(Self::of((format.open)(dir.join(format.single))?));
            }
            if exists(format.index) {
                return Self::sharded(dir, format);
            }
        }
        if let Some(gguf) = GgufFile::find(dir)? {
            return Ok(Self::of(TensorFile::open_gguf(gguf.path())?));
        }
        std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let [first, second] = FORMATS.map(|format| format.single);
        Err(Error::file(
            dir,
            format!(
                "no weights in this folder: expected {first} or {second}, the .index.json of one and its shards, or a .gguf file"
            ),
        ))
    }

    pub(crate) fn of(file: TensorFile) -> Self {
        let places = file.names().map(|name| (name.to_owned(), 0)).collect();
        Self { path: file.path().to_owned(), files: vec![file], places }
    }

    fn sharded(dir: &Path, format: &Format) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: Entries,
        }
        let path = dir.join(format.index);
        let Index { weight_map: Entries(map) } = serde_json::from_slice(&disk::read(&path, MAX_INDEX)?)
            .map_err(|e| Error::file(&path, format!("expected an index of tensors: {}", said(&e))))?;

        let mut names: Vec<String> = Vec::new();
        for name in map.values() {
            // Few names, in long runs mostly.
            if let Err(place) = names.binary_search(name) {
                if names.len() >= MAX_SHARDS {
                    let message = format!("more than {MAX_SHARDS} shards: no model has so many files");
                    return Err(Error::file(path, message));
                }
                names.insert(place, name.clone());
            }
        }
        let files: Vec<_> =
            names.iter().map(|name| (format.open)(shard(dir, &path, name)?)).collect::<Result<_>>()?;

        let mut places = HashMap::with_capacity(map.len());
        for (place, file) in files.iter().enumerate() {
            // What the index does not know is a stray unless another shard is said to have it.
            for name in file.names().filter(|&name| !map.contains_key(name)) {
                places.insert(name.to_owned(), place);
            }
        }
        for (tensor, shard) in map {
            // Every shard of the map is among the sorted names.
            let place = names.binary_search(&shard).unwrap_or_default();
            let there = files.get(place).is_some_and(|file| file.contains(&tensor));
            if !there {
                let message = format!("the index says it is in {}, which does not have it", shown(&shard));
                return Err(Error::tensor(path, shown(&tensor), message));
            }
            places.insert(tensor, place);
        }
        Ok(Self { path, files, places })
    }

    /// The file that says which tensors there are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files on disk.
    pub(super) fn stamps(&self) -> Vec<FileStamp> {
        self.files.iter().filter_map(TensorFile::stamp).cloned().collect()
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The file that has a tensor.
    pub(crate) fn file_of(&self, name: &str) -> Option<&TensorFile> {
        self.places.get(name).and_then(|&place| self.files.get(place))
    }

    /// Takes a tensor out, with the path of its file.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<(&Path, Tensor)>> {
        let Some(file) = self.places.remove(name).and_then(|place| self.files.get(place)) else {
            return Ok(None);
        };
        Ok(file.tensor(name)?.map(|tensor| (file.path(), tensor)))
    }

    /// The names of the tensors that have not been taken, sorted.
    pub(super) fn rest(self) -> Vec<String> {
        let mut names: Vec<_> = self.places.into_keys().collect();
        names.sort();
        names
    }
}

/// The path of a shard that an index names, which must lie in the same folder.
fn shard(dir: &Path, index: &Path, name: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    // A backslash separates folders only on Windows; no shard has one anywhere.
    if !plain || name.contains(['\\', '\0']) {
        let message =
            format!("the shard `{}` is not a plain file name: folders are not allowed", shown(name));
        return Err(Error::file(index, message));
    }
    let path = dir.join(name);
    if path.symlink_metadata().is_err() {
        let message = format!("the shard {} is missing from the folder: download it", shown(name));
        return Err(Error::file(index, message));
    }
    Ok(path)
}
