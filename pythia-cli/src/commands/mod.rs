//! One file per command: its arguments and what it does.

pub(crate) mod bench;
pub(crate) mod checkpoints;
pub(crate) mod convert;
pub(crate) mod diff;
pub(crate) mod models;
pub(crate) mod next;
pub(crate) mod pull;
pub(crate) mod quantize;
pub(crate) mod run;
pub(crate) mod score;
pub(crate) mod synth;
pub(crate) mod tokenize;
pub(crate) mod verify;

use crate::args::Command;
use crate::output::Out;
use anyhow::Result;

/// Does what the command says.
pub(crate) fn run(command: Command, out: &mut Out) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args, out),
        Command::Next(args) => next::run(&args, out),
        Command::Score(args) => score::run(&args, out),
        Command::Tokenize(args) => tokenize::tokenize(&args, out),
        Command::Detokenize(args) => tokenize::detokenize(&args, out),
        Command::Bench(args) => bench::run(&args, out),
        Command::Models(args) => models::run(&args, out),
        Command::Checkpoints(args) => checkpoints::run(&args, out),
        Command::Pull(args) => pull::run(&args, out),
        Command::Verify(args) => verify::run(&args, out),
        Command::Quantize(args) => quantize::run(&args, out),
        Command::Convert(args) => convert::run(&args, out),
        Command::Diff(args) => diff::run(&args, out),
        Command::Synth(args) => synth::run(&args, out),
    }
}
