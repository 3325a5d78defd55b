//! `synth`: writes a model with synthetic weights.

use crate::output::Out;
use crate::synthetic::{self, SEED};
use anyhow::{Result, ensure};
use pythia_model::Size;
use std::path::PathBuf;
use std::time::Instant;

/// Write a model of a published size with synthetic weights
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli synth 160m ./synth-160m

The weights follow from names, shapes and the seed, byte for byte the same everywhere: for measuring speed and \
agreement, not for text. The folder gets no tokenizer, so run it with --ids.")]
pub(crate) struct Args {
    /// A size of the suite: 14m, 31m, 70m, 160m, 410m, 1b, 1.4b, 2.8b, 6.9b or 12b
    size: String,
    /// The folder to write to; it is created
    dir: PathBuf,
    /// What the weights depend on
    #[arg(long, value_name = "N", default_value_t = SEED)]
    seed: u64,
    /// Replace a model that is there
    #[arg(long)]
    force: bool,
}

/// `synth`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let size = Size::named(&args.size)?;
    let dir = args.dir.display();
    // Every file that makes a folder a model's.
    let files = ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
    let there = files.iter().find(|file| args.dir.join(file).symlink_metadata().is_ok());
    if let Some(file) = there {
        ensure!(args.force, "{dir} already has a {file}: choose another folder, or replace it with --force");
    }
    let since = Instant::now();
    synthetic::write(size, &args.dir, args.seed)?;
    let (name, seed, seconds) = (size.name, args.seed, since.elapsed().as_secs_f64());
    let parameters = size.config().parameters().total as f64 / 1e6;
    out.text(&format!("{dir}: {name} with seed {seed}, {parameters:.1} M parameters, {seconds:.1} s\n"))
}
