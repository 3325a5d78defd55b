//! `diff`: two models side by side, the checkpoints of one along its training, or those of two.

mod report;
mod training;

use crate::args::ModelArgs;
use crate::bar::Bar;
use crate::hub::Source;
use crate::input::{Input, InputArgs};
use crate::model::{Opened, Place};
use crate::output::{Out, note};
use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use pythia_model::diff::{self, Hidden, Predictions, Progress, WeightsDifference};
use pythia_model::{Model, Precision, Tokenizer};
use pythia_tensor::Team;
use std::path::PathBuf;

/// Compare two models, or the checkpoints of one or two
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "pythia-cli diff [OPTIONS] A B\n       pythia-cli diff [OPTIONS] A [B] --steps <STEPS> [--plot <FILE>]",
    after_help = "Examples:
  pythia-cli diff 70m@step1000 70m@step143000
  pythia-cli diff 70m 70m-deduped --revision step512 --file essay.txt
  pythia-cli diff 70m --steps 0,1,512,1000..143000:10000 --plot 70m.svg
  pythia-cli diff 70m 70m-deduped --steps 0,1,512,1000..143000:10000 --plot both.svg

A is what the other is measured by. A relative distance is ‖B - A‖ / ‖A‖ of the weights as they are stored, the largest change \
that of one number. KL(A‖B) is the divergence of B's distribution of the next token from A's, in nats, after each token of a \
text; there is a short one inside this program, which --text, --file or --ids replace.

With --steps and one model, each checkpoint is compared with the one before it in the list (how fast it moves), with the first \
(how far it has come) and with the last (how far it has to go); each time the other is A. With two, each checkpoint of B is \
compared with that of A at the same step; of a range or `all`, at the steps that both have. The steps of a folder are its \
folders stepN. In the plot, hollow points are zeros, which a logarithmic axis lacks."
)]
pub(crate) struct Args {
    /// A model as for -m elsewhere: a Hub id, a name of the suite, a folder, a .gguf file or synth:SIZE; of the Hub
    /// with its revision if need be: 70m@step1000
    #[arg(value_name = "A")]
    a: String,
    /// Another one
    #[arg(value_name = "B", required_unless_present = "steps")]
    b: Option<String>,
    /// Checkpoints of A, or of both, to compare, such as 0,512,1000..143000:10000 or all, as for `pull`
    #[arg(long, value_name = "STEPS", conflicts_with = "revision")]
    steps: Option<String>,
    /// Draw distances and divergences over the steps into this SVG file
    #[arg(long, value_name = "FILE", requires = "steps")]
    plot: Option<PathBuf>,
    /// Compare one of the two only
    #[arg(long, value_name = "WHAT")]
    only: Option<Only>,
    /// How many of the tensors and of the tokens that changed most to show
    #[arg(long, value_name = "N", default_value_t = 8)]
    top: usize,
    /// The text to predict
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    #[command(flatten)]
    input: InputArgs,
    /// The checkpoint of Hub models that are given without one [default: main]
    #[arg(long, value_name = "REVISION", help_heading = "Model")]
    revision: Option<String>,
    /// The arithmetic of the predictions: exact, bf16, int8 or int4
    #[arg(long, value_name = "PRECISION", default_value_t, help_heading = "Model")]
    precision: Precision,
    /// Threads; 0 is one per core, and no more than that work at once
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    #[arg(value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
    /// Use only what is in the cache
    #[arg(long, help_heading = "Model")]
    offline: bool,
    /// One JSON object on stdout, with --steps one a line for each, and nothing else there
    #[arg(long, help_heading = "Model")]
    json: bool,
}

/// What `--only` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Weights,
    Predictions,
}

/// What is predicted where no text is given: about a hundred tokens of several kinds.
const TEXT: &str = "The lighthouse stood at the end of a long stone pier, and every evening the keeper climbed its \
one hundred and twelve steps to light the lamp. \"It is not the storms that I mind,\" he told the children who came to \
visit him on Sundays, \"it is the fog.\" In 1863 the old lamp was replaced by a larger one, which could be seen from a \
distance of eighteen miles. Water boils at 100 degrees Celsius at sea level. The capital of France is Paris.\n\n\
def add(a, b):\n    return a + b\n";

/// A model on the command line.
#[derive(Debug)]
struct Side {
    /// What the user calls it.
    name: String,
    args: ModelArgs,
    place: Place,
}

/// A model and what it has read.
struct Checkpoint {
    model: Model,
    /// If predictions are compared.
    hidden: Option<Hidden>,
}

/// Two models beside each other, as far as was asked for.
struct Comparison {
    weights: Option<WeightsDifference>,
    predictions: Option<Predictions>,
}

/// `diff`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let team = args.side_args(&args.a, None).team()?;
    match (&args.steps, &args.b) {
        (Some(steps), _) => training::run(args, steps, &team, out),
        (None, b) => {
            pair(args, b.as_deref().context("B is missing: give two models, or --steps")?, &team, out)
        }
    }
}

fn pair(args: &Args, b: &str, team: &Team, out: &mut Out) -> Result<()> {
    let sides = [args.side(&args.a)?, args.side(b)?];
    let [a, b] = &sides;
    let (x, y) = (args.open(a, team)?, args.open(b, team)?);
    let ids = args.ids([(a, x.tokenizer.as_ref()), (b, y.tokenizer.as_ref())])?;
    let ids = ids.as_deref();
    let tokenizer = x.tokenizer.as_ref().or(y.tokenizer.as_ref());
    let (a, b) = (Checkpoint::read(x.model, ids, team)?, Checkpoint::read(y.model, ids, team)?);
    let bar = Bar::new("comparing weights", "read once from both models");
    let compared = args.compare(&a, &b, team, &mut |p| bar.show(p));
    bar.finish();
    let report = report::Pair { sides: &sides, compared: &compared?, ids, tokenizer };
    if args.json { out.json(&report.json(args.top)) } else { report.table(args.top, out) }
}

impl Args {
    /// What other commands would take for this model.
    fn side_args(&self, model: &str, revision: Option<&str>) -> ModelArgs {
        ModelArgs {
            model: Some(model.to_owned()),
            revision: revision.map(str::to_owned),
            precision: self.precision,
            threads: self.threads,
            offline: self.offline,
            json: self.json,
        }
    }

    /// `MODEL` or `MODEL@REVISION`. In the name of a folder or a file, @ is nothing special.
    fn side(&self, name: &str) -> Result<Side> {
        let of_files = matches!(Source::parse(Some(name)), Ok(Source::Folder(_)));
        let (model, revision) = match name.rsplit_once('@') {
            Some((model, revision)) if !of_files => (model, Some(revision)),
            _ => (name, self.revision.as_deref()),
        };
        let args = self.side_args(model, revision);
        let place = args.locate()?;
        let name = revision.map_or_else(|| model.to_owned(), |revision| format!("{model}@{revision}"));
        Ok(Side { name, args, place })
    }

    /// The model, in the precision asked for if it is to predict something.
    fn open(&self, side: &Side, team: &Team) -> Result<Opened> {
        if self.only == Some(Only::Weights) { side.place.open() } else { side.args.open(&side.place, team) }
    }

    /// The same without its tokenizer.
    fn model(&self, side: &Side, team: &Team) -> Result<Model> {
        if self.only == Some(Only::Weights) { side.place.model() } else { side.args.model(&side.place, team) }
    }

    /// The text to predict, if that was asked for and there is one. All that have a tokenizer must read the same in it.
    fn ids(&self, sides: [(&Side, Option<&Tokenizer>); 2]) -> Result<Option<Vec<u32>>> {
        if self.only == Some(Only::Weights) {
            return Ok(None);
        }
        let [(a, of_a), (b, of_b)] = sides;
        let given = self.input.chosen(self.text.as_deref())?;
        if given.is_none() && of_a.or(of_b).is_none() && self.only.is_none() {
            note(
                "no predictions are compared: neither model has a tokenizer.json; give token ids with --ids 12,7,9",
            );
            return Ok(None);
        }
        let input = given.unwrap_or_else(|| Input::Text(TEXT.to_owned()));
        let ids = input.ids(of_a.or(of_b), &a.name)?;
        ensure!(!ids.is_empty(), "the text is empty: there is nothing to predict");
        if of_a.is_some() && of_b.is_some() {
            ensure!(
                input.ids(of_b, &b.name)? == ids,
                "the tokenizers of {} and {} read the text as different tokens, so the predictions cannot be compared: \
                 leave them out with --only weights, or give --ids that mean the same to both",
                a.name,
                b.name
            );
        }
        Ok(Some(ids))
    }

    fn compare(
        &self,
        a: &Checkpoint,
        b: &Checkpoint,
        team: &Team,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Comparison> {
        team.enter(|crew| {
            let weights = (self.only != Some(Only::Predictions))
                .then(|| diff::weights(crew, &a.model, &b.model, progress))
                .transpose()
                .map_err(|e| anyhow!("{e}, with --only predictions"))?;
            let hidden = a.hidden.as_ref().zip(b.hidden.as_ref());
            let predictions =
                hidden.map(|(x, y)| diff::predictions(crew, (&a.model, x), (&b.model, y))).transpose()?;
            Ok(Comparison { weights, predictions })
        })
    }
}

impl Checkpoint {
    /// A model that has read `ids`, if there are any.
    fn read(model: Model, ids: Option<&[u32]>, team: &Team) -> Result<Self> {
        let hidden = ids.map(|ids| team.enter(|crew| Hidden::of(crew, &model, ids))).transpose()?;
        Ok(Self { model, hidden })
    }
}
