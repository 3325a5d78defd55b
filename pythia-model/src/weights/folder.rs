//! [`Checkpoint`]: the files of a model's folder, taken as one set of named tensors.

use super::file::{FileStamp, TensorFile, said, shown};
use super::gguf::GgufFile;
use super::neox::{NeoxFolder, Parts};
use super::unique::Entries;
use crate::{Config, Error, Result, disk};
use pythia_tensor::{DType, Tensor};
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
pub(super) fn has_usual_weights(dir: &Path) -> bool {
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
    places: HashMap<String, Place>,
}

/// Where a tensor is.
enum Place {
    /// In the file of this number, under its own name.
    Whole(usize),
    /// In several files, or under another name.
    Parts(Parts),
}

impl Checkpoint {
    /// Opens what a model's folder has: one file, or else an index and its shards, or the files of layers. How the latter
    /// are merged depends on the config.
    pub(crate) fn open(dir: &Path, config: &Config) -> Result<Self> {
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
        if let Some(neox) = NeoxFolder::find(dir)? {
            return Self::of_layers(&neox, config);
        }
        std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let [first, second] = FORMATS.map(|format| format.single);
        Err(Error::file(
            dir,
            format!(
                "no weights in this folder: expected {first} or {second}, the .index.json of one and its shards, a .gguf \
                 file, or the layer files of GPT-NeoX"
            ),
        ))
    }

    pub(crate) fn of(file: TensorFile) -> Self {
        let places = file.names().map(|name| (name.to_owned(), Place::Whole(0))).collect();
        Self { path: file.path().to_owned(), files: vec![file], places }
    }

    /// The layer files that the training code writes.
    pub(crate) fn of_layers(neox: &NeoxFolder, config: &Config) -> Result<Self> {
        let (files, parts) = neox.open(config)?;
        let places = parts.into_iter().map(|(name, parts)| (name, Place::Parts(parts))).collect();
        Ok(Self { path: neox.dir().to_owned(), files, places })
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
                places.insert(name.to_owned(), Place::Whole(place));
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
            places.insert(tensor, Place::Whole(place));
        }
        Ok(Self { path, files, places })
    }

    /// The file, or the folder, that says which tensors there are.
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

    /// Whether there is a tensor `name`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The file that has a tensor, or the first that has a part of it; where there is none, [`Checkpoint::path`].
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        self.places.get(name).map_or(&self.path, |place| self.path_at(place))
    }

    fn path_at(&self, place: &Place) -> &Path {
        let file = match place {
            Place::Whole(file) => self.files.get(*file),
            Place::Parts(parts) => parts.first(&self.files),
        };
        file.map_or(&self.path, TensorFile::path)
    }

    /// The type and the shape of the tensor `name`, or `None` if there is none.
    pub(crate) fn info(&self, name: &str) -> Result<Option<(DType, Vec<usize>)>> {
        match self.places.get(name) {
            Some(Place::Whole(file)) => {
                let info = self.files.get(*file).map(|file| file.info(name)).transpose()?.flatten();
                Ok(info.map(|(dtype, shape)| (dtype, shape.to_vec())))
            }
            Some(Place::Parts(parts)) => parts.info(&self.files),
            None => Ok(None),
        }
    }

    /// The tensor `name`, or `None` if there is none.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        self.places.get(name).map(|place| self.at(name, place)).transpose().map(Option::flatten)
    }

    fn at(&self, name: &str, place: &Place) -> Result<Option<Tensor>> {
        match place {
            Place::Whole(file) => self.files.get(*file).map_or(Ok(None), |file| file.tensor(name)),
            Place::Parts(parts) => parts.tensor(&self.files),
        }
    }

    /// Takes a tensor out, with the path of its file.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<(&Path, Tensor)>> {
        let Some(place) = self.places.remove(name) else { return Ok(None) };
        Ok(self.at(name, &place)?.map(|tensor| (self.path_at(&place), tensor)))
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
    if !is_plain(name) {
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

/// Whether a name is one of something that lies in the same folder.
pub(super) fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    // A backslash separates folders only on Windows; no file of a model has one anywhere.
    plain && !name.contains(['\\', '\0'])
}
