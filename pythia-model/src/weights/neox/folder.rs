//! [`NeoxFolder`]: the layer files of a checkpoint.

use super::names::{FINAL_LINEAR, Layer, NORM};
use super::parts::Parts;
use crate::weights::file::{TensorFile, shown};
use crate::weights::folder::{has_usual_weights, is_plain};
use crate::weights::layout::{in_layer, is_buffer};
use crate::{Config, Error, Result, disk};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Far beyond any training.
const MAX_NUMBER: usize = 1 << 16;

/// A folder of layer files, as the training code writes it at a step.
pub(crate) struct NeoxFolder {
    /// `.../global_stepN`.
    dir: PathBuf,
    /// The number of each layer file, and its rank.
    files: BTreeSet<(usize, usize)>,
}

/// How many layer files a checkpoint ought to have.
pub(super) struct Extent {
    /// Transformer layers.
    pub(super) layers: usize,
    /// Ranks of model parallelism.
    pub(super) ranks: usize,
}

/// The files of a checkpoint, and where in them each tensor of the model is.
type Contents = (Vec<TensorFile>, HashMap<String, Parts>);

impl NeoxFolder {
    /// The layer files in a folder that has no weights in another format; or in that of the step which the file `latest`
    /// names. `None` where there are none.
    ///
    /// # Errors
    /// If `latest` is there, but no layer files where it says; if there are only the files of a training whose weights
    /// are not in layer files.
    pub(crate) fn find(place: &Path) -> Result<Option<Self>> {
        if !place.is_dir() || has_usual_weights(place) {
            return Ok(None);
        }
        let here = Self::of(place.to_owned())?;
        if !here.files.is_empty() {
            return Ok(Some(here));
        }
        let latest = place.join("latest");
        if !latest.is_file() {
            return Ok(None);
        }
        let tag = String::from_utf8_lossy(&disk::read(&latest, 1 << 10)?).trim().to_owned();
        let dir = place.join(&tag);
        if !is_plain(&tag) || !dir.is_dir() {
            let message = format!(
                "it names the checkpoint `{}`, which is no folder beside it: name a global_step folder instead of this one",
                shown(&tag)
            );
            return Err(Error::file(latest, message));
        }
        let there = Self::of(dir)?;
        if there.files.is_empty() {
            let message =
                "no layer files in this folder: expected layer_00-model_00-model_states.pt and so on";
            return Err(Error::file(there.dir, message));
        }
        Ok(Some(there))
    }

    fn of(dir: PathBuf) -> Result<Self> {
        let entries = fs::read_dir(&dir).map_err(|e| Error::io(&dir, e))?;
        let names: Vec<_> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        let files: BTreeSet<_> = names.iter().filter_map(|name| numbers(name)).collect();
        if files.is_empty() && names.iter().any(|name| name == "mp_rank_00_model_states.pt") {
            let message = "there are no layer files: without pipeline parallelism (`pipe-parallel-size` 0) the weights \
                           lie among other objects in mp_rank_00_model_states.pt, which is not read: convert them with \
                           gpt-neox's tools/ckpts/convert_neox_to_hf.py";
            return Err(Error::file(dir, message));
        }
        Ok(Self { dir, files })
    }

    /// The folder of the step.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file that belongs to the model, in the folder of the step or in the one that holds those of all steps.
    pub(crate) fn beside(&self, name: &str) -> Option<PathBuf> {
        // `.` and `..` say nothing of what is above.
        let above = self.dir.file_name().and_then(|_| self.dir.parent().map(Path::to_owned));
        let dirs = [self.dir.clone(), above.unwrap_or_else(|| self.dir.join(".."))];
        dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.exists())
    }

    /// Opens every layer file of a model of this config.
    ///
    /// # Errors
    /// If a file is missing, damaged, or one too many; if it has a tensor that no GPT-NeoX of transformers' has.
    pub(in crate::weights) fn open(&self, config: &Config) -> Result<Contents> {
        let Extent { layers, ranks } = self.extent()?;
        let (mut files, mut places) = (Vec::new(), HashMap::new());
        for (number, layer) in Layer::all(layers, config.tie_word_embeddings) {
            let range = files.len()..files.len() + ranks;
            for rank in 0..ranks {
                let file = self.layer(number, rank)?;
                place(&file, layer, &range, config.use_parallel_residual, &mut places)?;
                files.push(file);
            }
        }
        let heads = config.num_attention_heads;
        if !heads.is_multiple_of(ranks) {
            let message =
                format!("the layer files are of {ranks} ranks, which cannot share {heads} heads evenly");
            return Err(Error::file(&self.dir, message));
        }
        self.refuse_others(layers, config.tie_word_embeddings)?;
        Ok((files, places))
    }

    /// Refuses files of layers that the model does not have.
    fn refuse_others(&self, layers: usize, tied: bool) -> Result<()> {
        let known: BTreeSet<_> = Layer::all(layers, tied).map(|(number, _)| number).collect();
        let Some(&(number, rank)) = self.files.iter().find(|(number, _)| !known.contains(number)) else {
            return Ok(());
        };
        let message = if number == layers + 4 {
            "config contradicts weights: `tie_word_embeddings` is true, but this is an unembedding".to_owned()
        } else {
            format!("unexpected: with {layers} layers, there are no weights in the one of this number")
        };
        Err(Error::file(self.path(number, rank), message))
    }

    /// What the names of the files, and what is in the last of them, say of the model.
    pub(super) fn extent(&self) -> Result<Extent> {
        let (last, ranks) = (self.last(), self.ranks());
        let file = self.layer(last, 0)?;
        let unembedding = file.contains(FINAL_LINEAR);
        let before = if unembedding { 4 } else { 3 };
        let layers = last.checked_sub(before).filter(|&n| n > 0 && (unembedding || file.contains(NORM)));
        let layers = layers.ok_or_else(|| {
            let message = format!(
                "the last layer file has neither `{FINAL_LINEAR}` nor `{NORM}`: those after it are missing, copy them too"
            );
            Error::file(file.path(), message)
        })?;
        Ok(Extent { layers, ranks })
    }

    /// Opens a layer file.
    pub(super) fn layer(&self, number: usize, rank: usize) -> Result<TensorFile> {
        let path = self.path(number, rank);
        if self.files.contains(&(number, rank)) {
            return TensorFile::open_pytorch(path);
        }
        let (last, ranks) = (self.last(), self.ranks());
        let message =
            format!("missing: there are files of layers up to {last} and of {ranks} ranks: copy it too");
        Err(Error::file(path, message))
    }

    fn last(&self) -> usize {
        self.files.last().map_or(0, |&(number, _)| number)
    }

    fn ranks(&self) -> usize {
        self.files.iter().map(|&(_, rank)| rank + 1).max().unwrap_or(0)
    }

    fn path(&self, number: usize, rank: usize) -> PathBuf {
        self.dir.join(name(number, rank))
    }
}

/// Notes where the tensors of one rank's file of a layer are; `files` are those of all ranks.
fn place(
    file: &TensorFile,
    layer: Layer,
    files: &Range<usize>,
    parallel_residual: bool,
    places: &mut HashMap<String, Parts>,
) -> Result<()> {
    let mut names: Vec<_> = file.names().collect();
    names.sort_unstable();
    for stored in names {
        match layer.tensor(stored, parallel_residual) {
            Some((name, split)) => {
                places.insert(name, Parts { stored: stored.to_owned(), files: files.clone(), split });
            }
            None if is_buffer(&in_layer(0, stored)) => (),
            None => {
                let message =
                    "unexpected: transformers' GPT-NeoX has no such tensor, and a model with it is another";
                return Err(Error::tensor(file.path(), shown(stored), message));
            }
        }
    }
    Ok(())
}

/// What the file of a layer and a rank is called.
fn name(number: usize, rank: usize) -> String {
    format!("layer_{number:02}-model_{rank:02}-model_states.pt")
}

/// The layer and the rank in a file's name.
fn numbers(file: &str) -> Option<(usize, usize)> {
    let (number, rank) =
        file.strip_prefix("layer_")?.strip_suffix("-model_states.pt")?.split_once("-model_")?;
    let (number, rank) = (number.parse().ok()?, rank.parse().ok()?);
    // Only one spelling of each.
    (name(number, rank) == file && number.max(rank) < MAX_NUMBER).then_some((number, rank))
}
