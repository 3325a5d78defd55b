//! Taking checkpoints out of the cache again, so that a walk over many of them fits on a small disk.

use super::cache::Repo;
use super::pull::Plan;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Checkpoints to be taken out of the cache.
#[derive(Debug, Default)]
pub struct Eviction {
    /// Their branches, the oldest first.
    pub revisions: Vec<String>,
    /// The bytes that this frees.
    pub bytes: u64,
    /// In this order, so that a killed eviction is found, and finished, by the next one: the branch goes last.
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    branches: Vec<PathBuf>,
}

impl Plan<'_> {
    /// Which of the model's checkpoints in the cache must go so that `keep` stay, the `asked` ones among them, which are not
    /// touched: the branches `stepN` that were downloaded longest ago. A blob that anything else links to, or that this plan
    /// wants, stays.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn eviction(&self, asked: &[String], keep: usize) -> Result<Eviction> {
        let repo = self.repo();
        let branches = branches(repo)?;
        let is_step = |name: &str| name.strip_prefix("step").is_some_and(|n| n.parse::<u64>().is_ok());
        let mut others: Vec<_> =
            branches.iter().filter(|(name, _)| is_step(name) && !asked.contains(name)).collect();
        others.sort_by_key(|(name, branch)| (branch.since, *name));
        let asked = asked.iter().filter(|name| is_step(name)).count();
        let surplus = (asked + others.len()).saturating_sub(keep).min(others.len());
        others.truncate(surplus);

        let revisions: Vec<String> = others.iter().map(|(name, _)| (*name).clone()).collect();
        let stays =
            |commit: &String| branches.iter().any(|(n, b)| b.commit == *commit && !revisions.contains(n));
        let commits: HashSet<&String> =
            others.iter().map(|(_, branch)| &branch.commit).filter(|commit| !stays(commit)).collect();
        let (mut gone, mut linked) = (HashSet::new(), HashSet::new());
        for snapshot in entries(&repo.folder().join("snapshots"))? {
            let goes = commits.iter().any(|commit| snapshot.ends_with(commit));
            blobs_of(&snapshot, if goes { &mut gone } else { &mut linked })?;
        }
        let goes = |etag: &OsString| !linked.contains(etag) && !self.wants(&etag.to_string_lossy());
        let mut files: Vec<PathBuf> = gone
            .iter()
            .filter(|etag| goes(etag))
            .map(|etag| repo.folder().join("blobs").join(etag))
            .collect();
        let bytes = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|m| m.len()).sum();
        let beside = |folder: &str| repo.folder().join(folder);
        // What Python remembers of the Hub's listing of a commit, since huggingface_hub 2.
        files.extend(commits.iter().map(|commit| beside("trees").join(format!("{commit}.json"))));
        let folders = ["snapshots", ".no_exist"]
            .iter()
            .flat_map(|folder| commits.iter().map(|c| beside(folder).join(c)));
        let folders = folders.collect();
        let branches = revisions.iter().map(|name| beside("refs").join(name)).collect();
        Ok(Eviction { revisions, bytes, files, folders, branches })
    }
}

impl Eviction {
    /// Does it.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn run(&self) -> Result<()> {
        let gone = |path: &Path, removed: std::io::Result<()>| match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot evict {}: remove it by hand", path.display()))
            }
            _ => Ok(()),
        };
        self.files.iter().try_for_each(|file| gone(file, fs::remove_file(file)))?;
        self.folders.iter().try_for_each(|folder| gone(folder, fs::remove_dir_all(folder)))?;
        self.branches.iter().try_for_each(|branch| gone(branch, fs::remove_file(branch)))
    }
}

/// A branch in the cache.
pub(super) struct Branch {
    pub(super) commit: String,
    /// When it was downloaded.
    since: SystemTime,
}

/// All branches and tags, by name.
pub(super) fn branches(repo: &Repo) -> Result<BTreeMap<String, Branch>> {
    let refs = repo.folder().join("refs");
    let mut found = BTreeMap::new();
    let mut paths = entries(&refs)?;
    while let Some(path) = paths.pop() {
        if path.is_dir() && !path.is_symlink() {
            paths.extend(entries(&path)?);
            continue;
        }
        let Some(name) = path.strip_prefix(&refs).ok().and_then(Path::to_str) else { continue };
        let name = name.replace(std::path::MAIN_SEPARATOR, "/");
        let Some(commit) = repo.commit(&name) else { continue };
        let since = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        found.insert(name, Branch { commit, since });
    }
    Ok(found)
}

/// Adds the names of the blobs that the links in a snapshot lead to.
fn blobs_of(snapshot: &Path, blobs: &mut HashSet<OsString>) -> Result<()> {
    let mut paths = vec![snapshot.to_owned()];
    while let Some(path) = paths.pop() {
        match fs::read_link(&path) {
            Ok(target) => blobs.extend(target.file_name().map(ToOwned::to_owned)),
            Err(_) if path.is_dir() => paths.extend(entries(&path)?),
            Err(_) => {}
        }
    }
    Ok(())
}

/// What is in a folder; nothing if it is not there.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", folder.display())),
    };
    listed
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("cannot read {}", folder.display()))
}
