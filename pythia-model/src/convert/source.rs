//! [`Source`]: a model as it is stored.

use crate::config::torch_name;
use crate::weights::gguf::GgufFile;
use crate::weights::layout::{EMBED_OUT, LM_HEAD};
use crate::weights::neox::NeoxFolder;
use crate::weights::{Checkpoint, check_ignored, shown};
use crate::{Config, Error, Result, TensorFile, Weights, disk};
use pythia_tensor::{DType, Tensor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

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
    /// file, or a folder that holds one; or the layer files of GPT-NeoX, whose config its training's settings may give.
    ///
    /// # Errors
    /// As [`Config::of_model`] and [`Weights::open`]; if a file of the tokenizer cannot be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if let Some(gguf) = GgufFile::find(dir)? {
            let config = gguf.config()?;
            let checkpoint = Checkpoint::of(TensorFile::open_gguf(gguf.path())?);
            let tokenizer = gguf.tokenizer_json()?.map(|json| ("tokenizer.json".to_owned(), json));
            let json = object(gguf.path(), config.to_json().as_bytes())?;
            return Self::of_parts(config, json, checkpoint, tokenizer.into_iter().collect());
        }
        if let Some(neox) = NeoxFolder::find(dir)? {
            let config = neox.config()?;
            let checkpoint = Checkpoint::of_layers(&neox, &config)?;
            let json = match neox.beside("config.json") {
                Some(path) => object(&path, &disk::read(&path, MAX_BESIDE)?)?,
                None => object(neox.dir(), config.to_json().as_bytes())?,
            };
            return Self::of_parts(config, json, checkpoint, beside(|name| neox.beside(name))?);
        }
        let path = dir.join("config.json");
        let config = Config::from_file(&path)?;
        let json = object(&path, &disk::read(&path, MAX_BESIDE)?)?;
        let ignored = Weights::open(dir, &config)?.ignored;
        let beside = beside(|name| Some(dir.join(name)).filter(|path| path.exists()))?;
        Ok(Self { checkpoint: Checkpoint::open(dir, &config)?, config, json, beside, ignored })
    }

    /// Weights that have to be unpacked or merged are not looked at beforehand: a plan checks their names and shapes.
    fn of_parts(
        config: Config,
        json: Map<String, Value>,
        checkpoint: Checkpoint,
        beside: Vec<(String, Vec<u8>)>,
    ) -> Result<Self> {
        let known: HashSet<_> = config.tensors().into_iter().map(|(name, _)| name).collect();
        let mut ignored: Vec<_> = checkpoint.names().filter(|name| !known.contains(*name)).collect();
        ignored.sort_unstable();
        for name in &ignored {
            check_ignored(checkpoint.path(), name, &config)?;
        }
        let ignored = ignored.into_iter().map(str::to_owned).collect();
        Ok(Self { config, json, checkpoint, beside, ignored })
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
            let stored = self.stored(&name);
            let (own, found) = self.checkpoint.info(stored)?.ok_or_else(|| self.missing(&name))?;
            if found != shape {
                let message = format!("config contradicts weights: expected {shape:?}, found {found:?}");
                return Err(Error::tensor(self.path_of(stored), stored, message));
            }
            Ok(Planned { name, dtype: dtype.unwrap_or(own), shape })
        };
        self.config.tensors().into_iter().map(planned).collect()
    }

    /// A tensor of the model.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        self.checkpoint.tensor(self.stored(name))?.ok_or_else(|| self.missing(name))
    }

    /// The file that has a tensor.
    pub(super) fn path_of(&self, name: &str) -> &Path {
        self.checkpoint.path_of(self.stored(name))
    }

    /// What the files call a tensor.
    fn stored<'a>(&self, name: &'a str) -> &'a str {
        let renamed = name == EMBED_OUT && !self.checkpoint.contains(name);
        if renamed { LM_HEAD } else { name }
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

/// The content of the files that belong to a model, where `find` finds them.
fn beside(find: impl Fn(&str) -> Option<PathBuf>) -> Result<Vec<(String, Vec<u8>)>> {
    let there = BESIDE.into_iter().filter_map(|name| Some((name, find(name)?)));
    there.map(|(name, path)| Ok((name.to_owned(), disk::read(&path, MAX_BESIDE)?))).collect()
}

fn object(path: &Path, json: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(json).map_err(|e| Error::file(path, format!("expected a JSON object: {e}")))
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.checkpoint.path().display())
    }
}
