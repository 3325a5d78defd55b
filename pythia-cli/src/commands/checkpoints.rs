//! `checkpoints`: the steps at which a model was saved, and which of them are on disk.

use super::models::named;
use crate::hub::Hub;
use crate::output::Out;
use crate::style::{Paint, Style};
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;

/// List the checkpoints of a model of the suite
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli checkpoints 410m-deduped

Each is a --revision. A step is 2,097,152 tokens; where the training took larger steps (some first versions, -v0), the steps \
that it had taken are told too. On disk is what the Hugging Face cache holds. `pythia-cli pull` downloads several at once.")]
pub(crate) struct Args {
    /// The model: 410m-deduped or EleutherAI/pythia-410m-deduped
    #[arg(value_name = "NAME")]
    name: String,
    /// One JSON object a line on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    revision: String,
    step: u64,
    /// Steps that the training had taken.
    steps_taken: u64,
    tokens: u64,
    on_disk: bool,
    path: Option<PathBuf>,
    /// What is known to be wrong with it.
    defects: Vec<String>,
}

/// `checkpoints`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let model = named(&args.name)?;
    let hub = Hub::from_env(true)?;
    let lines = model.checkpoints().map(|checkpoint| {
        let revision = format!("step{}", checkpoint.step);
        let path = hub.on_disk(&model.hub_id(), &revision)?;
        let defects = model.defects(&revision).map(ToString::to_string).collect();
        Ok(Line {
            defects,
            revision,
            step: checkpoint.step,
            steps_taken: checkpoint.steps_taken,
            tokens: checkpoint.tokens,
            on_disk: path.is_some(),
            path,
        })
    });
    let lines = lines.collect::<Result<Vec<Line>>>()?;
    if args.json {
        return lines.iter().try_for_each(|line| out.json(line));
    }
    let style = Style::of(out);
    let renamed = lines.iter().any(|line| line.step != line.steps_taken);
    let taken = if renamed { "  real step" } else { "" };
    let mut text = vec![style.paint(Paint::Faint, &format!("checkpoint           tokens{taken}"))];
    for line in &lines {
        let taken = if renamed { format!("  {:>9}", line.steps_taken) } else { String::new() };
        let here = if line.on_disk { style.paint(Paint::Good, "  on disk") } else { String::new() };
        let defects = line.defects.iter().map(|defect| style.paint(Paint::Bad, &format!("  {defect}")));
        let defects: String = defects.collect();
        text.push(format!("{:<10}  {:>15}{taken}{here}{defects}", line.revision, line.tokens));
    }
    let on_disk = lines.iter().filter(|line| line.on_disk).count();
    let of = format!("{}: {} checkpoints, {on_disk} on disk", model.hub_id(), lines.len());
    text.extend([style.paint(Paint::Faint, &of), String::new()]);
    out.text(&text.join("\n"))
}
