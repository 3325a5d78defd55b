//! The command line: the commands and the options that they share.

use crate::commands::{
    bench, checkpoints, convert, diff, models, next, pull, quantize, run, score, synth, tokenize, verify,
};
use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Parser, Subcommand};
use pythia_model::Precision;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Green.on_default())
    .valid(AnsiColor::Green.on_default())
    .invalid(AnsiColor::Red.on_default());

const EXAMPLES: &str = "\
Examples:
  pythia-cli run \"Once upon a time\"                  the small model inside this program
  pythia-cli run -m 410m-deduped \"The capital of\"    any Pythia model, downloaded once
  pythia-cli next -m 160m --revision step512 \"One\"   any of its 154 checkpoints
  pythia-cli score -m ./my-model --json < text.txt   a folder; JSON for scripts

Models are kept in the Hugging Face cache (HF_HOME) and shared with Python. A model, a prompt and a seed give the \
same text each time, for any number of threads.";

/// Runs, scores and takes apart EleutherAI's Pythia language models on a CPU.
#[derive(Debug, Parser)]
#[command(version, styles = STYLES, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, subcommand_required = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
#[command(subcommand_help_heading = "Commands")]
pub(crate) enum Command {
    Run(Box<run::Args>),
    Next(next::Args),
    Score(score::Args),
    Tokenize(tokenize::TokenizeArgs),
    Detokenize(tokenize::DetokenizeArgs),
    Diff(Box<diff::Args>),
    Bench(bench::Args),
    Models(models::Args),
    Checkpoints(checkpoints::Args),
    Pull(pull::Args),
    Verify(verify::Args),
    Quantize(quantize::Args),
    Convert(convert::Args),
    Synth(synth::Args),
}

/// Which model, and how it runs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A Hub id (EleutherAI/pythia-410m), a name of the suite (410m-deduped), a folder, a .gguf file, or synth:SIZE
    /// for synthetic weights [default: the small model inside this program]
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// A checkpoint of a Hub model: step0 to step143000, a branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// The arithmetic: exact (f32 throughout), bf16, int8 or int4; the last two are quantised on first use, into
    /// ~/.cache/pythia-cli
    #[arg(long, value_name = "PRECISION", default_value_t)]
    pub(crate) precision: Precision,
    /// Threads; 0 is one per core, and no more than that work at once
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1024))]
    pub(crate) threads: u16,
    /// Use only what is in the cache
    #[arg(long)]
    pub(crate) offline: bool,
    /// One JSON object on stdout, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
}

impl ModelArgs {
    /// The same for another model.
    pub(crate) fn other(&self, model: &str, revision: Option<&str>) -> Self {
        Self { model: Some(model.to_owned()), revision: revision.map(str::to_owned), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("pythia-cli {}", command.get_name());
            assert!(help.starts_with("Example") && help.contains(&example), "{help}");
        }
    }
}
