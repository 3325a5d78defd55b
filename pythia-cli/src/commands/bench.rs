//! `bench`: models' speed beside what the machine can do at best.

mod limit;
mod measure;
mod report;

use crate::args::ModelArgs;
use crate::output::Out;
use crate::style::Style;
use anyhow::{Result, ensure};
use measure::Case;
use pythia_model::{Model, Precision};
use pythia_tensor::Team;
use report::{Format, Report};
use std::path::Path;

/// Measure models' speed beside this machine's own peaks
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: pythia-cli bench -m synth:160m,synth:410m --prompt-tokens 128,512 --batch-sizes 1,8

-m takes several models with commas between; each runs with every prompt length and batch size. The limit of a \
measurement is the time that its operations take at the peak of the precision's arithmetic (fused multiply-adds in f32, \
products of bf16, of integers) or its bytes at the read bandwidth, whichever is longer; both are measured with the same \
threads just before. Speeds are medians, and ± is half of what lies \
between the slowest and the fastest. Decoding starts after the prompt, of which 64 tokens count at most."
)]
pub(crate) struct Args {
    /// Tokens of each prompt; several lengths with commas between
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    prompt_tokens: Vec<usize>,
    /// Precisions to compare, with commas between [default: that of --precision]
    #[arg(long, value_name = "PRECISION,...", value_delimiter = ',', conflicts_with = "precision")]
    precisions: Vec<Precision>,
    /// Sequences that run side by side; several numbers with commas between
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1")]
    batch_sizes: Vec<usize>,
    /// Tokens to decode of each sequence
    #[arg(long, value_name = "N", default_value_t = 32)]
    new_tokens: usize,
    /// Measurements of each
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// A table in Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// `bench`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let (new, repeats) = (&[args.new_tokens][..], &[args.repeats][..]);
    let (prompts, batches) = (&args.prompt_tokens[..], &args.batch_sizes[..]);
    for (option, numbers) in
        [("prompt-tokens", prompts), ("batch-sizes", batches), ("new-tokens", new), ("repeats", repeats)]
    {
        ensure!(!numbers.contains(&0), "--{option} 0 measures nothing: ask for at least 1");
    }
    let team = args.model.team()?;
    let style = Style::of(out);
    let format = match (args.model.json, args.markdown) {
        (true, _) => Format::Json,
        (_, true) => Format::Markdown,
        _ => Format::Table(style),
    };
    // What cannot be measured is told before anything is.
    let models = args.models(&team)?;
    for (_, model) in &models {
        args.cases().try_for_each(|case| case.check(model))?;
    }
    let mut report = Report { format, out };
    report.machine(&team)?;
    for (name, model) in &models {
        report.model(name, model)?;
        for case in args.cases() {
            let measured = team.enter(|crew| measure::measure(case, model, crew))?;
            report.measured((name, model.precision()), case, &measured)?;
        }
    }
    Ok(())
}

impl Args {
    /// The models that `-m` names, in every precision, with what they are called: one if there is a folder of that name,
    /// else all between the commas.
    fn models(&self, team: &Team) -> Result<Vec<(String, Model)>> {
        let precisions =
            if self.precisions.is_empty() { &[self.model.precision][..] } else { &self.precisions };
        precisions.iter().try_for_each(|precision| precision.check(team.isa()))?;
        let named: Vec<_> = match self.model.model.as_deref() {
            Some(names) if !Path::new(names).is_dir() => {
                let revision = self.model.revision.as_deref();
                names.split(',').map(|name| (Some(name), self.model.other(name, revision))).collect()
            }
            _ => vec![(None, self.model.clone())],
        };
        let mut models = Vec::new();
        for (name, args) in named {
            let place = args.locate()?;
            let name = name.map_or_else(|| place.name(), str::to_owned);
            for &precision in precisions {
                let args = ModelArgs { precision, ..args.clone() };
                models.push((name.clone(), args.model(&place, team)?));
            }
        }
        Ok(models)
    }

    /// Every batch size with every prompt length.
    fn cases(&self) -> impl Iterator<Item = Case> {
        self.batch_sizes.iter().flat_map(|&batch_size| {
            let Self { new_tokens, repeats, .. } = *self;
            let case = move |&prompt_tokens| Case { batch_size, prompt_tokens, new_tokens, repeats };
            self.prompt_tokens.iter().map(case)
        })
    }
}
