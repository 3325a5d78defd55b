//! Opens whatever `-m` means.

use crate::args::ModelArgs;
use crate::hub::name::{self, renamed};
use crate::hub::{Hub, Source, progress};
use crate::output::{list, note};
use crate::quiet::quietly;
use crate::whole_file::into_memory;
use crate::{quantized, synthetic};
use anyhow::{Result, bail, ensure};
use pythia_model::suite::Published;
use pythia_model::{Config, Model, Size, Tokenizer, Weights, convert, suite};
use pythia_tensor::Team;
use std::path::{Path, PathBuf};

/// Bytes in the program at an address from which weights are read without copying.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../assets/mini/model.safetensors"));
const CONFIG: &[u8] = include_bytes!("../assets/mini/config.json");
const TOKENIZER: &[u8] = include_bytes!("../assets/mini/tokenizer.json");

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this program.
    Embedded,
    /// In a folder, or in a GGUF file, which errors call by this path.
    Folder(PathBuf),
}

/// A model that is ready, with its tokenizer if it has one.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) tokenizer: Option<Tokenizer>,
}

impl ModelArgs {
    /// Finds the model, and downloads or writes it if need be.
    pub(crate) fn locate(&self) -> Result<Place> {
        if let Some(size) = self.model.as_deref().and_then(|name| name.strip_prefix("synth:")) {
            self.refuse_revision("a synthetic model")?;
            return Ok(Place::Folder(synthetic::cached(Size::named(size)?)?));
        }
        match Source::parse(self.model.as_deref())? {
            Source::Embedded => {
                self.refuse_revision("the model inside this program (choose another with -m)")?;
                Ok(Place::Embedded)
            }
            Source::Folder(folder) => {
                self.refuse_revision(&format!("the folder {}", folder.display()))?;
                let there = folder.is_dir() || name::is_gguf(&folder) && folder.is_file();
                ensure!(there, "{}: there is no such folder or .gguf file", folder.display());
                Ok(Place::Folder(folder))
            }
            Source::Hub(id) => {
                if let Some(notice) = self.model.as_deref().and_then(renamed) {
                    note(&notice);
                }
                let revision = self.revision.as_deref().unwrap_or("main");
                if let Some(model) = suite::find(&id) {
                    model.check_revision(revision)?;
                    warn(model, &[revision]);
                }
                let hub = Hub::from_env(self.offline)?;
                Ok(Place::Folder(hub.snapshot(&id, revision, &progress::Stderr::default())?))
            }
        }
    }

    fn refuse_revision(&self, what: &str) -> Result<()> {
        if let Some(revision) = &self.revision {
            bail!("--revision {revision} needs a model of the Hub, but -m is {what}: leave --revision out");
        }
        Ok(())
    }

    /// The threads to compute with, which have the arithmetic asked for.
    pub(crate) fn team(&self) -> Result<Team> {
        let team = Team::new(usize::from(self.threads))?;
        self.precision.check(team.isa())?;
        Ok(team)
    }

    /// The model in the precision asked for.
    pub(crate) fn model(&self, place: &Place, team: &Team) -> Result<Model> {
        self.read_ahead(place)?;
        quantized::in_precision(place.model()?, place, self.precision, team)
    }

    /// The same with its tokenizer, if it has one.
    pub(crate) fn open(&self, place: &Place, team: &Team) -> Result<Opened> {
        self.read_ahead(place)?;
        let Opened { model, tokenizer } = place.open()?;
        Ok(Opened { model: quantized::in_precision(model, place, self.precision, team)?, tokenizer })
    }

    /// Reads the files of the weights into memory if the matrices in them will be used: before the model is opened, which reads the vectors
    /// that lie scattered among these.
    fn read_ahead(&self, place: &Place) -> Result<()> {
        if let (Place::Folder(folder), None) = (place, self.precision.bits()) {
            let files = Weights::files(folder, &Config::of_model(folder)?)?;
            into_memory(files.iter().map(|file| &*file.path));
        }
        Ok(())
    }
}

/// Tells what is known to be wrong with some revisions of a model that are about to be used.
pub(crate) fn warn<S: AsRef<str>>(model: &Published, revisions: &[S]) {
    let id = model.hub_id();
    for defect in model.all_defects() {
        let has = |revision: &&str| model.defects(revision).any(|known| known == defect);
        let revisions: Vec<&str> = revisions.iter().map(AsRef::as_ref).filter(has).collect();
        match &revisions[..] {
            [] => {}
            [one] => note(&format!("warning: {id} at {one} {defect}")),
            many => note(&format!("warning: {id} at {}, each: {defect}", list(many))),
        }
    }
}

impl Place {
    /// The model.
    pub(crate) fn model(&self) -> Result<Model> {
        match self {
            Self::Embedded => {
                let config = Config::from_bytes("the embedded config.json", CONFIG)?;
                let weights = Weights::from_static(&WEIGHTS.0, "the embedded model.safetensors", &config)?;
                Ok(Model::new(config, weights))
            }
            Self::Folder(folder) => Ok(Model::open(folder)?),
        }
    }

    /// The model as it is stored.
    pub(crate) fn source(&self) -> Result<convert::Source> {
        match self {
            Self::Embedded => {
                let tokenizer = ("tokenizer.json".to_owned(), TOKENIZER.to_vec());
                Ok(convert::Source::from_static("the embedded", CONFIG, &WEIGHTS.0, vec![tokenizer])?)
            }
            Self::Folder(folder) => Ok(convert::Source::open(folder)?),
        }
    }

    /// The tokenizer, if there is one.
    pub(crate) fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let read = || match self {
            Self::Embedded => Tokenizer::from_bytes("the embedded tokenizer.json", TOKENIZER).map(Some),
            Self::Folder(folder) => Tokenizer::of_model(folder),
        };
        Ok(quietly(read)?)
    }

    /// The model, and its tokenizer if it has one.
    pub(crate) fn open(&self) -> Result<Opened> {
        let model = self.model()?;
        let tokenizer = self.tokenizer()?;
        if let Some(tokenizer) = &tokenizer {
            let (tokens, rows) = (tokenizer.vocab_size(), model.config().vocab_size);
            ensure!(
                tokens <= rows,
                "{}: the tokenizer has {tokens} ids, but the model's config.json has `vocab_size` {rows}: they do \
                 not belong together",
                self.path().join("tokenizer.json").display()
            );
        }
        Ok(Opened { model, tokenizer })
    }

    /// What errors call the model.
    pub(crate) fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn path(&self) -> &Path {
        match self {
            Self::Embedded => Path::new("the embedded model"),
            Self::Folder(folder) => folder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_is_not_copied() {
        let model = Place::Embedded.model().unwrap();
        let bytes = model.weights().embed_in.bytes().as_ptr_range();
        let file = WEIGHTS.0.as_ptr_range();
        assert!(file.start <= bytes.start && bytes.end <= file.end);
        assert_eq!(file.start as usize % 64, 0);
    }

    #[test]
    fn the_embedded_tokenizer_belongs_to_the_embedded_model() {
        let Opened { model, tokenizer } = Place::Embedded.open().unwrap();
        assert!(tokenizer.unwrap().vocab_size() <= model.config().vocab_size);
    }
}
