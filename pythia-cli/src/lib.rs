//! The commands of `pythia-cli`, and what they share.
#![forbid(unsafe_code)]

mod args;
mod bar;
mod cache_folder;
mod commands;
mod generation;
pub mod hub;
mod input;
mod interrupt;
mod memory;
mod model;
mod output;
mod parallel;
mod plot;
mod quantized;
mod quiet;
mod speculation;
mod steps;
mod style;
mod synthetic;
mod whole_file;

use clap::Parser as _;
use output::{Closed, Out};
use std::process::ExitCode;

/// The program: reads the command line and does what it says.
///
/// Exits with 0; with 1 after an error, told in one line on stderr; with 2 if the command line is wrong; and with
/// 130 when it was interrupted. If nobody reads the output any more, that is the end, not an error.
pub fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let result = interrupt::install().and_then(|()| commands::run(cli.command, &mut Out::default()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is::<Closed>() => ExitCode::SUCCESS,
        Err(e) if e.is::<interrupt::Interrupted>() => ExitCode::from(interrupt::EXIT),
        Err(e) => {
            output::note(&format!("error: {}", output::one_line(&format!("{e:#}"))));
            ExitCode::FAILURE
        }
    }
}
