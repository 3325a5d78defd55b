//! `verify`: whether the checkpoints in the cache are whole, and whether they are what they are called.

mod check;
mod findings;
mod report;

use crate::hub::known_sums::KnownSums;
use crate::hub::name::{is_gguf, renamed};
use crate::hub::progress::Notes;
use crate::hub::{Held, Hub, Source, Upstream};
use crate::output::{Out, note};
use crate::steps::CheckpointsArgs;
use anyhow::{Result, bail, ensure};
use check::How;
use findings::Finding;
use pythia_model::suite;
use report::Report;
use std::path::Path;

/// Check downloaded checkpoints: every byte, and whether steps are what they are called
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli verify 410m --steps 0..3000

Without --steps and --revision, every revision in the Hugging Face cache is checked. Each file is read and compared with its \
checksum, which is the name of its blob in the cache; with the network, sizes and checksums are compared with those of the \
Hub too. A blob that revisions share is read once.

Each download, and each check, notes the XXH3 of what has the right SHA-256, in ~/.cache/pythia-cli/checksums, which may be deleted. \
The next check reads every byte again, but computes only XXH3, and takes a file that the system has in memory from there. That finds \
accidents, not malice: for files from elsewhere there is --full, which computes SHA-256, of what is on the disk where the system can \
read past its memory.

A checkpoint's fingerprint is the norm and a hash of its embedding, its middle layer and its unembedding. From the hashes of all \
matrices follow the findings: steps with the same weights, a step that equals the final model, shards from different steps. They \
are warnings, with the reports of known defects beside them. Damaged files, and steps that were asked for but are not there, \
make the exit code 1. With --json, there is an object for each checkpoint, then one for each finding.")]
pub(crate) struct Args {
    /// A Hub id (EleutherAI/pythia-410m), a name of the suite (410m-deduped), a folder or a .gguf file
    #[arg(value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    checkpoints: CheckpointsArgs,
    /// Do not ask the Hub
    #[arg(long)]
    offline: bool,
    /// Compute SHA-256 also of what was downloaded or checked before, from the disk itself
    #[arg(long)]
    full: bool,
    /// One JSON object a line on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

impl Args {
    fn how(&self) -> How {
        How { full: self.full, known: KnownSums::of_user() }
    }
}

/// `verify`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let report = match Source::parse(Some(&args.model))? {
        Source::Hub(id) => of_hub(args, &id)?,
        Source::Folder(folder) => of_folder(args, &folder)?,
        Source::Embedded => bail!("there is no model to verify: name one"),
    };
    if args.json {
        report.json(out)?;
    } else {
        report.table(out)?;
    }
    let damaged: Vec<_> = report.findings.iter().filter(|finding| finding.damage).collect();
    match damaged[..] {
        [] => Ok(()),
        [finding] => bail!("{}: {}", report.name, finding.text),
        [finding, ..] => {
            bail!("{}: {} findings of damage, the first: {}", report.name, damaged.len(), finding.text)
        }
    }
}

/// Checks what the cache has of a model of the Hub.
fn of_hub(args: &Args, id: &str) -> Result<Report> {
    if let Some(notice) = renamed(&args.model) {
        note(&notice);
    }
    let model = suite::find(id);
    let hub = Hub::from_env(args.offline)?;
    let asked = args.checkpoints.revisions(model)?;
    let mut names = match &asked {
        Some(asked) => asked.clone(),
        None => hub.revisions(id)?,
    };
    ensure!(
        !names.is_empty(),
        "{} has nothing of {id}: download it first with `pythia-cli pull`",
        hub.cache().display()
    );
    names.sort_by_key(|name| (findings::step(name).unwrap_or(u64::MAX), name.clone()));
    let (mut held, mut absent): (Vec<Held>, Vec<String>) = (Vec::new(), Vec::new());
    for name in names {
        match hub.held(id, &name)? {
            Some(found) => held.push(found),
            None => absent.push(name),
        }
    }
    let upstream = upstream(&hub, id, &held);
    let checked = check::check(&held, upstream.as_deref(), &args.how());
    let mut found: Vec<Finding> = Vec::new();
    found.extend(findings::absent(&args.model, &absent));
    found.extend(findings::files(&held, upstream.as_deref(), &checked, asked.is_some()));
    found.extend(findings::weights(&held, &checked, model));
    for finding in &mut found {
        finding.add_known(model);
    }
    Ok(Report { name: id.to_owned(), model, held, upstream, checked, findings: found })
}

/// What the Hub says, if it can be asked.
fn upstream(hub: &Hub, id: &str, held: &[Held]) -> Option<Vec<Upstream>> {
    if hub.is_offline() || held.is_empty() {
        return None;
    }
    let asked = hub.upstream(id, held, &Notes);
    asked.inspect_err(|e| note(&format!("warning: not compared with the Hub: {e:#}"))).ok()
}

/// Checks a folder, or a GGUF file, of the user's.
fn of_folder(args: &Args, folder: &Path) -> Result<Report> {
    let name = folder.display().to_string();
    if args.checkpoints.given() {
        bail!("--steps and --revision need a model of the Hub, but {name} is a folder: leave them out");
    }
    let there = folder.is_dir() || is_gguf(folder) && folder.is_file();
    ensure!(there, "{name}: there is no such folder or .gguf file");
    let held = vec![Held::of_folder(folder)?];
    let checked = check::check(&held, None, &args.how());
    let findings = findings::files(&held, None, &checked, true);
    Ok(Report { name, model: None, held, upstream: None, checked, findings })
}
