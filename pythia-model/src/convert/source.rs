//! [`Source`]: a model as it is stored.

use crate::config::torch_name;
use crate::weights::gguf::GgufFile;
use crate::weights::layout::{EMBED_OUT, LM_HEAD, layer_of};
use crate::weights::{Checkpoint, shown};
use crate::{Config, Error, Result, TensorFile, Weights, disk};
use pythia_tensor::{DType, Tensor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

/// The files beside config and weights that belong to a model in a folder.
const BESIDE: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];
/// As for a `tokenizer.json`.
const MAX_BESIDE: u64 = 64 << 20;

/// A model as it is stored: what a conversion reads.
pub struct Source {
    config: Config,
    /// The content of the `config.json`, with the keys that this crate has no use for.
    json: Map<String, Value>,
    checkpoint: Checkpoint,
    beside: Vec<(String, Vec<u8>)>,
    ignored: Vec<String>,
}

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
}

impl Planned {
    /// Its bytes in a file.
    pub(super) fn bytes(&self) -> u64 {
        (self.dtype.size() * self.shape.iter().product::<usize>()) as u64
    }
}

impl Source {
    /// Opens the model in a folder: its `config.json`, its weights in any format, the files of its tokenizer. Or a GGUF
    /// file, or a folder that holds one.
    ///
    /// # Errors
    /// As [`Config::from_file`] and [`Weights::open`]; if a file of the tokenizer cannot be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if let Some(gguf) = GgufFile::find(dir)? {
            return Self::of_gguf(&gguf);
        }
        let path = dir.join("config.json");
        let config = Config::from_file(&path)?;
        let json = disk::read(&path, MAX_BESIDE)?;
        let ignored = Weights::open(dir, &config)?.ignored;
        let there = |name: &&str| dir.join(name).exists();
        let read = |name: &str| Ok((name.to_owned(), disk::read(&dir.join(name), MAX_BESIDE)?));
        let beside = BESIDE.into_iter().filter(there).map(read).collect::<Result<_>>()?;
        Ok(Self { config, json: object(&path, &json)?, checkpoint: Checkpoint::open(dir)?, beside, ignored })
    }

    /// Weights are not unpacked to be looked at: a plan checks their names and shapes.
    fn of_gguf(gguf: &GgufFile) -> Result<Self> {
        let (path, config) = (gguf.path(), gguf.config()?);
        let json = object(path, config.to_json().as_bytes())?;
        let checkpoint = Checkpoint::of(TensorFile::open_gguf(path)?);
        let known: HashSet<_> = config.tensors().into_iter().map(|(name, _)| name).collect();
        let mut ignored: Vec<_> = checkpoint.names().filter(|name| !known.contains(*name)).collect();
        ignored.sort_unstable();
        let beyond = |name: &&str| layer_of(name).is_some_and(|layer| layer >= config.num_hidden_layers);
        if let Some(name) = ignored.iter().copied().find(beyond) {
            let n = config.num_hidden_layers;
            let message = format!("the file has this tensor, but says that it has {n} layers");
            return Err(Error::tensor(path, shown(name), message));
        }
        let ignored = ignored.into_iter().map(str::to_owned).collect();
        let tokenizer = gguf.tokenizer_json()?.map(|json| ("tokenizer.json".to_owned(), json));
        Ok(Self { config, json, checkpoint, beside: tokenizer.into_iter().collect(), ignored })
    }

    /// A model that is in memory: its `config.json`, its safetensors file, and the files that belong to it. Errors call
    /// them `NAME config.json` and so on.
    ///
    /// # Errors
    /// As [`Config::from_bytes`] and [`Weights::from_static`].
    pub fn from_static(
        name: &str,
        json: &[u8],
        weights: &'static [u8],
        beside: Vec<(String, Vec<u8>)>,
    ) -> Result<Self> {
        let (path, weights_name) = (format!("{name} config.json"), format!("{name} model.safetensors"));
        let config = Config::from_bytes(&path, json)?;
        let ignored = Weights::from_static(weights, &weights_name, &config)?.ignored;
        let checkpoint = Checkpoint::of(TensorFile::from_static(&weights_name, weights)?);
        Ok(Self { config, json: object(Path::new(&path), json)?, checkpoint, beside, ignored })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tensors that are no weights of the model, and will not be written. Buffers of old checkpoints are not listed.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// The files that are copied, by name.
    pub(super) fn beside(&self) -> &[(String, Vec<u8>)] {
        &self.beside
    }

    /// The model's tensors in the order of the forward pass, as they will be written: in `dtype`, or in their own.
    pub(super) fn plan(&self, dtype: Option<DType>) -> Result<Vec<Planned>> {
        let planned = |(name, shape): (String, Vec<usize>)| {
            let (file, stored) = self.stored(&name)?;
            let (own, found) = file.info(stored)?.ok_or_else(|| self.missing(&name))?;
            if found != shape {
                let message = format!("config contradicts weights: expected {shape:?}, found {found:?}");
                return Err(Error::tensor(file.path(), stored, message));
            }
            Ok(Planned { name, dtype: dtype.unwrap_or(own), shape })
        };
        self.config.tensors().into_iter().map(planned).collect()
    }

    /// A tensor of the model.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        let (file, stored) = self.stored(name)?;
        file.tensor(stored)?.ok_or_else(|| self.missing(name))
    }

    /// The file that has a tensor.
    pub(super) fn path_of(&self, name: &str) -> &Path {
        self.checkpoint.file_of(name).map_or(self.checkpoint.path(), TensorFile::path)
    }

    /// The file that has a tensor, and what it calls it.
    fn stored<'a>(&'a self, name: &'a str) -> Result<(&'a TensorFile, &'a str)> {
        let names = if name == EMBED_OUT { [name, LM_HEAD] } else { [name; 2] };
        let mut found = names.into_iter().filter_map(|name| Some((self.checkpoint.file_of(name)?, name)));
        found.next().ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        Error::tensor(self.checkpoint.path(), shown(name), "missing: the config expects it")
    }

    /// The `config.json` of the same model with weights of type `dtype`, in the spelling that it has.
    pub(super) fn config_json(&self, dtype: DType) -> String {
        let mut json = self.json.clone();
        let name = torch_name(dtype).map_or(Value::Null, Value::from);
        let spellings = ["torch_dtype", "dtype"].into_iter().filter(|key| json.contains_key(*key));
        let mut spellings: Vec<_> = spellings.collect();
        if spellings.is_empty() {
            spellings.push("torch_dtype");
        }
        for key in spellings {
            json.insert(key.to_owned(), name.clone());
        }
        format!("{:#}\n", Value::Object(json))
    }
}

/// The type that holds the numbers of all `tensors`.
pub(super) fn common(tensors: &[Planned]) -> DType {
    let first = tensors.first().map_or(DType::F32, |tensor| tensor.dtype);
    if tensors.iter().all(|tensor| tensor.dtype == first) { first } else { DType::F32 }
}

fn object(path: &Path, json: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(json).map_err(|e| Error::file(path, format!("expected a JSON object: {e}")))
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.checkpoint.path().display())
    }
}
