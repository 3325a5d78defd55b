//! `quantize`: makes the quantised weights of a model ahead of their first use.

use crate::args::ModelArgs;
use crate::output::Out;
use crate::quantized;
use anyhow::{Context, Result, bail};
use pythia_model::quantized::{Check, Kept};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Quantise a model's weights ahead of time
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli quantize -m 410m --precision int8

Other commands with --precision int8 or int4 do the same on first use. The file lies in ~/.cache/pythia-cli/quantized, or \
in pythia-cli/quantized in XDG_CACHE_HOME, and may be deleted at any time. One that is damaged, or was made from other \
weights, is reported and made again.")]
pub(crate) struct Args {
    /// Check every byte of a file that is there
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    path: &'a Path,
    precision: &'static str,
    bytes: u64,
    /// Whether it was written now; otherwise it was there.
    written: bool,
    seconds: f64,
}

/// `quantize`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let precision = args.model.precision;
    if precision.bits().is_none() {
        bail!("--precision {precision} has no quantised weights: ask for int8 or int4");
    }
    let team = args.model.team()?;
    let place = args.model.locate()?;
    let model = place.model()?;
    let path = quantized::path(&place, &model, precision)?;
    let check = if args.verify { Check::Full } else { Check::Quick };
    let since = Instant::now();
    let (_, Kept { written, not_written, .. }) = quantized::kept(model, precision, (&path, check), &team)?;
    if let Some(e) = not_written {
        return Err(e).context("the quantised weights cannot be kept");
    }
    let seconds = since.elapsed().as_secs_f64();
    let bytes = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if args.model.json {
        return out.json(&Report { path: &path, precision: precision.name(), bytes, written, seconds });
    }
    let how = match (written, check) {
        (true, _) => "written and checked",
        (false, Check::Full) => "there already, every byte checked",
        (false, Check::Quick) => "there already",
    };
    let megabytes = bytes as f64 / 1e6;
    out.text(&format!("{}: {precision}, {megabytes:.1} MB, {how} in {seconds:.1} s\n", path.display()))
}
