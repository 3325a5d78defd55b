//! `pull`: downloads checkpoints ahead of their use, and takes older ones out of the cache.

use crate::hub::name::renamed;
use crate::hub::progress::{Notes, Total, gigabytes};
use crate::hub::{Eviction, Hub, Source};
use crate::model::warn;
use crate::output::{Out, note};
use crate::steps::CheckpointsArgs;
use anyhow::{Context, Result, bail, ensure};
use pythia_model::suite;
use serde::Serialize;
use std::path::PathBuf;

/// Download checkpoints of a model ahead of their use
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli pull 410m --steps 0,1,512,1000..143000:10000

Steps are single ones, ranges FROM..TO with both ends (all checkpoints in between, or with :BY every so many steps from FROM \
on), or all. Without --steps and --revision, main is pulled. What is in the Hugging Face cache already is not downloaded again, \
nor are identical files of two steps. A download that was cut goes on where it stopped. A disk without the room for it is an \
error before anything is downloaded.

With --keep, a walk over many checkpoints fits on a small disk: pull a step with --keep 2, use it, pull the next one. Only \
branches stepN of this model are evicted, those that were downloaded longest ago; never one that was just asked for.")]
pub(crate) struct Args {
    /// A Hub id (EleutherAI/pythia-410m) or a name of the suite (410m-deduped)
    #[arg(value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    checkpoints: CheckpointsArgs,
    /// Keep at most N checkpoints of this model in the cache
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// One JSON object on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    id: &'a str,
    snapshots: Vec<Snapshot<'a>>,
    downloaded_bytes: u64,
    evicted: &'a [String],
    evicted_bytes: u64,
}

#[derive(Serialize)]
struct Snapshot<'a> {
    revision: &'a str,
    path: PathBuf,
}

/// `pull`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let Source::Hub(id) = Source::parse(Some(&args.model))? else {
        bail!("{} is a folder: pull takes a Hub id or a name of the suite", args.model);
    };
    if let Some(notice) = renamed(&args.model) {
        note(&notice);
    }
    let model = suite::find(&id);
    let revisions = args.checkpoints.revisions(model)?.unwrap_or_else(|| vec!["main".to_owned()]);
    let hub = Hub::from_env(false)?;
    let plan = hub.plan(&id, &revisions, &Notes)?;
    let eviction = match args.keep {
        Some(keep) => {
            ensure!(
                revisions.len() <= keep,
                "--keep {keep} is fewer than the {} checkpoints asked for: keep more, or pull fewer at a time",
                revisions.len()
            );
            plan.eviction(&revisions, keep)?
        }
        None => Eviction::default(),
    };
    plan.check_room(eviction.bytes)?;
    model.iter().for_each(|model| warn(model, &revisions));
    eviction.run()?;
    if !eviction.revisions.is_empty() {
        note(&format!("evicted {}: {} freed", eviction.revisions.join(", "), gigabytes(eviction.bytes)));
    }
    if plan.lacking() > 0 {
        let free = plan.free().map_or_else(|| "an unknown amount".to_owned(), gigabytes);
        let (need, count) = (gigabytes(plan.bytes()), plan.lacking());
        note(&format!("{id}: {count} of {} to download, {need}; {free} free on the disk", revisions.len()));
        let total = Total::new(plan.bytes(), plan.lacking());
        plan.fetch(&total)?;
        total.finish();
    }
    let snapshot = |revision| {
        let path = hub.on_disk(&id, revision)?;
        let path =
            path.with_context(|| format!("{id} at {revision} was removed meanwhile: pull it again"))?;
        Ok(Snapshot { revision, path })
    };
    let snapshots = revisions.iter().map(|revision| snapshot(revision)).collect::<Result<Vec<_>>>()?;
    if args.json {
        let (evicted, evicted_bytes) = (&eviction.revisions[..], eviction.bytes);
        return out.json(&Report {
            id: &id,
            snapshots,
            downloaded_bytes: plan.bytes(),
            evicted,
            evicted_bytes,
        });
    }
    snapshots.iter().try_for_each(|s| out.text(&format!("{:<10}  {}\n", s.revision, s.path.display())))
}
