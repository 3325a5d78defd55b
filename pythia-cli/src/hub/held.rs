//! What the cache holds of a model, file by file, and what the Hub says that it should be.

use super::cache::{Cached, Repo};
use super::client::{Metadata, NoRevision};
use super::evict::{branches, entries};
use super::progress::Progress;
use super::pull::AT_ONCE;
use super::{Hub, name};
use crate::parallel::in_parallel;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A revision in the cache, or a folder of the user's.
#[derive(Debug)]
pub struct Held {
    /// A branch, a tag or a commit; or the folder.
    pub revision: String,
    /// The commit that is here of it. None for a folder of the user's.
    pub commit: Option<String>,
    /// The folder with its files.
    pub folder: PathBuf,
    /// Its files, by name.
    pub files: Vec<HeldFile>,
    /// What it lacks to be a model.
    pub lacking: Option<String>,
}

/// A file of a revision.
#[derive(Debug)]
pub struct HeldFile {
    /// Its name in the revision.
    pub name: String,
    /// Where its bytes are: a blob, if it is a link to one.
    pub path: PathBuf,
    /// The name of the blob: a checksum.
    pub etag: Option<String>,
    /// Its length in bytes; None if there is nothing at `path`.
    pub bytes: Option<u64>,
}

/// What the Hub says of a revision.
#[derive(Debug)]
pub struct Upstream {
    /// The commit that it stands at now, if that is not the one in the cache.
    pub moved_to: Option<String>,
    /// The etag and the size in bytes of each file of the commit in the cache. None if the Hub has that no more.
    pub files: Option<BTreeMap<String, (String, u64)>>,
}

impl Hub {
    /// The revisions of a model that the cache has something of: branches and tags, and commits that none of them stands at.
    ///
    /// # Errors
    /// If the id is malformed or the cache cannot be read.
    pub fn revisions(&self, id: &str) -> Result<Vec<String>> {
        name::check_id(id)?;
        let repo = Repo::new(&self.cache, id);
        let branches = branches(&repo)?;
        let named = |commit: &String| branches.values().any(|branch| branch.commit == *commit);
        let snapshots = entries(&repo.folder().join("snapshots"))?;
        let commits = snapshots.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let commits = commits.filter(|commit| name::is_commit(commit) && !named(commit));
        Ok(branches.keys().cloned().chain(commits).collect())
    }

    /// What the cache holds of a revision; None if nothing.
    ///
    /// # Errors
    /// If a name is malformed or the cache cannot be read.
    pub fn held(&self, id: &str, revision: &str) -> Result<Option<Held>> {
        name::check_id(id)?;
        name::check_revision(revision)?;
        let repo = Repo::new(&self.cache, id);
        let Some(commit) = repo.commit(revision) else { return Ok(None) };
        let folder = repo.snapshot(&commit);
        let files = files(&folder)?;
        let lacking = match repo.lookup(revision) {
            Cached::Lacking(what) => Some(what),
            Cached::Complete(_) | Cached::Usable { .. } => None,
        };
        Ok(Some(Held { revision: revision.to_owned(), commit: Some(commit), folder, files, lacking }))
    }

    /// What the Hub says of revisions that the cache holds.
    ///
    /// # Errors
    /// If it cannot be reached, has no such model or refuses it.
    pub fn upstream(&self, id: &str, held: &[Held], progress: &dyn Progress) -> Result<Vec<Upstream>> {
        in_parallel(AT_ONCE, held, |held| {
            let commit = held.commit.as_deref().unwrap_or_default();
            let ask = |revision: &str| match self.client.revision_with_metadata(id, revision, progress) {
                Err(e) if e.is::<NoRevision>() => Ok(None),
                found => found.map(Some),
            };
            let now = ask(&held.revision)?;
            let moved_to = now.as_ref().map(|now| now.commit.clone()).filter(|now| now != commit);
            let found = if moved_to.is_some() { ask(commit)? } else { now };
            let described = |Metadata { etag, size }| (etag, size);
            let files = found.map(|found| {
                let files = found.files.into_iter();
                files.filter_map(|file| Some((file.name, described(file.metadata?)))).collect()
            });
            Ok(Upstream { moved_to, files })
        })
    }
}

impl Held {
    /// A folder of the user's, or a GGUF file. A file in it that links to a blob of the cache has the blob's checksum.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let revision = folder.display().to_string();
        let files = match folder.file_name().filter(|_| folder.is_file()) {
            Some(name) => vec![held_file(name.display().to_string(), folder.to_owned())?],
            None => files(folder)?,
        };
        Ok(Self { revision, commit: None, folder: folder.to_owned(), files, lacking: None })
    }
}

/// The files in a folder and its folders. Where files are links, folders are not.
fn files(folder: &Path) -> Result<Vec<HeldFile>> {
    let (mut found, mut paths) = (Vec::new(), entries(folder)?);
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            if !path.is_symlink() {
                paths.extend(entries(&path)?);
            }
            continue;
        }
        let Ok(name) = path.strip_prefix(folder) else { continue };
        let name = name.display().to_string().replace(std::path::MAIN_SEPARATOR, "/");
        found.push(held_file(name, path)?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn held_file(name: String, path: PathBuf) -> Result<HeldFile> {
    let bytes = fs::metadata(&path).ok().map(|m| m.len());
    if !path.is_symlink() {
        return Ok(HeldFile { name, path, etag: None, bytes });
    }
    let target = fs::read_link(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let in_blobs = target.parent().and_then(Path::file_name).is_some_and(|parent| parent == "blobs");
    let etag = target.file_name().filter(|_| in_blobs).map(|name| name.to_string_lossy().into_owned());
    // Without the way through the snapshot, so that blobs that are shared are known again.
    let there = path.parent().unwrap_or(Path::new("")).join(&target);
    let folder = there.parent().and_then(|folder| fs::canonicalize(folder).ok());
    let there = folder.zip(there.file_name()).map(|(folder, name)| folder.join(name)).unwrap_or(there);
    Ok(HeldFile { name, path: there, etag, bytes })
}
