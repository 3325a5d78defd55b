//! The options of speculative decoding.

use crate::args::ModelArgs;
use crate::model::Opened;
use anyhow::{Context, Result};
use pythia_model::Speculation;
use pythia_tensor::Team;

/// Where proposed tokens come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Speculative decoding: faster, the same text (sampled: the same distribution)")]
pub(crate) struct SpeculationArgs {
    /// Propose tokens that followed before in the text, for texts that repeat themselves or their prompt
    #[arg(long, group = "speculation", conflicts_with_all = ["num_beams", "num_return_sequences"])]
    lookup: bool,
    /// Propose tokens that this model writes: a small one of the same family; any spelling of --model
    #[arg(long, value_name = "MODEL", group = "speculation")]
    #[arg(conflicts_with_all = ["num_beams", "num_return_sequences"])]
    draft: Option<String>,
    /// The draft's checkpoint
    #[arg(long, value_name = "REVISION", requires = "draft")]
    draft_revision: Option<String>,
    /// The most tokens to propose at once; fewer while they are wrong
    #[arg(long, value_name = "N", default_value_t = Speculation::MAX_TOKENS as u16, requires = "speculation")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    num_assistant_tokens: u16,
}

impl SpeculationArgs {
    /// Opens the draft model, if there is to be one, as `model` is opened.
    pub(crate) fn open_draft(&self, model: &ModelArgs, team: &Team) -> Result<Option<Opened>> {
        let Some(draft) = &self.draft else { return Ok(None) };
        let model = model.other(draft, self.draft_revision.as_deref());
        model
            .locate()
            .and_then(|place| model.open(&place, team))
            .map(Some)
            .with_context(|| format!("--draft {draft}"))
    }

    /// What `model` is to be helped by; `draft` comes from [`SpeculationArgs::open_draft`].
    pub(crate) fn speculation<'d>(
        &self,
        draft: Option<&'d Opened>,
        model: &Opened,
    ) -> Result<Option<Speculation<'d>>> {
        let most = usize::from(self.num_assistant_tokens);
        let parts = |opened: &'d Opened| (&opened.model, opened.tokenizer.as_ref());
        Ok(match draft {
            Some(draft) => {
                let model = (&model.model, model.tokenizer.as_ref());
                Some(Speculation::draft(parts(draft), model, most)?)
            }
            None => self.lookup.then(|| Speculation::lookup(most)),
        })
    }
}
