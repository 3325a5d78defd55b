//! Several revisions of a model at once: what they lack, whether it fits on the disk, and bringing it.

use super::cache::{Cached, Repo};
use super::client::Metadata;
use super::progress::{Progress, Total, gigabytes};
use super::{Hub, Listing, name};
use crate::parallel::in_parallel;
use anyhow::{Result, bail, ensure};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests and downloads under way at once.
pub(super) const AT_ONCE: usize = 4;

/// What some revisions of a model lack in the cache, as the Hub describes it.
#[derive(Debug)]
pub struct Plan<'h> {
    hub: &'h Hub,
    id: String,
    repo: Repo,
    snapshots: Vec<Snapshot>,
    /// Each blob once, in the order of the snapshots that want it.
    blobs: Vec<Blob>,
}

/// A revision that is not whole in the cache.
#[derive(Debug)]
struct Snapshot {
    revision: String,
    commit: String,
    /// What it lacks.
    files: Vec<(String, Metadata)>,
}

/// A blob, and a file of a commit that has its bytes.
#[derive(Debug)]
struct Blob {
    commit: String,
    file: String,
    metadata: Metadata,
    /// Bytes that are not here yet.
    lacking: u64,
}

impl Hub {
    /// The folder with `revision` of the model `id`, if the cache has config and weights.
    ///
    /// # Errors
    /// If a name is malformed.
    pub fn on_disk(&self, id: &str, revision: &str) -> Result<Option<PathBuf>> {
        name::check_id(id)?;
        name::check_revision(revision)?;
        Ok(match Repo::new(&self.cache, id).lookup(revision) {
            Cached::Complete(folder) | Cached::Usable { folder, .. } => Some(folder),
            Cached::Lacking(_) => None,
        })
    }

    /// Finds out what `revisions` of the model `id` lack in the cache.
    ///
    /// # Errors
    /// As [`Hub::snapshot`].
    pub fn plan(&self, id: &str, revisions: &[String], progress: &dyn Progress) -> Result<Plan<'_>> {
        name::check_id(id)?;
        revisions.iter().try_for_each(|revision| name::check_revision(revision))?;
        let repo = Repo::new(&self.cache, id);
        let found = in_parallel(AT_ONCE, revisions, |revision| self.lacking(&repo, id, revision, progress))?;
        let snapshots: Vec<Snapshot> = found.into_iter().flatten().collect();
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        for snapshot in &snapshots {
            for (file, metadata) in &snapshot.files {
                if seen.insert(metadata.etag.clone()) {
                    let (commit, file, lacking) =
                        (snapshot.commit.clone(), file.clone(), repo.lacks(metadata));
                    blobs.push(Blob { commit, file, metadata: metadata.clone(), lacking });
                }
            }
        }
        Ok(Plan { hub: self, id: id.to_owned(), repo, snapshots, blobs })
    }

    /// What a revision lacks; nothing if it is whole.
    fn lacking(
        &self,
        repo: &Repo,
        id: &str,
        revision: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Snapshot>> {
        let at = match repo.lookup(revision) {
            Cached::Complete(_) => return Ok(None),
            Cached::Usable { .. } if self.offline => return Ok(None),
            // What is here stands at this commit, wherever the branch has moved to since.
            Cached::Usable { commit, .. } => commit,
            Cached::Lacking(what) if self.offline => bail!(
                "offline, and the cache folder {} lacks {what} for {id} at {revision}: pull without HF_HUB_OFFLINE",
                repo.folder().display()
            ),
            Cached::Lacking(_) => revision.to_owned(),
        };
        let Listing { commit, mut files } = self.listing(repo, id, &at, progress)?;
        files.retain(|file| !repo.snapshot(&commit).join(file).is_file());
        let describe = |file: String| {
            let metadata = self.client.metadata(id, &commit, &file, progress)?;
            Ok((file, metadata))
        };
        let files = files.into_iter().map(describe).collect::<Result<_>>()?;
        Ok(Some(Snapshot { revision: revision.to_owned(), commit, files }))
    }
}

impl Plan<'_> {
    /// The revisions that are not whole yet.
    pub fn lacking(&self) -> usize {
        self.snapshots.len()
    }

    /// The bytes to download.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.lacking).fold(0, u64::saturating_add)
    }

    /// Bytes that are free on the cache's disk. None where the system does not say.
    pub fn free(&self) -> Option<u64> {
        free(self.repo.folder())
    }

    /// Nothing, if the disk has room for the download once `freed` bytes more are free, or does not say.
    ///
    /// # Errors
    /// If not; the text says how much is needed and how much is free.
    pub fn check_room(&self, freed: u64) -> Result<()> {
        let need = self.bytes();
        let room = self.free().map(|free| free.saturating_add(freed));
        ensure!(
            room.is_none_or(|room| need <= room),
            "{}: the download needs {}, and the disk of {} has {} free: ask for fewer steps, make room (--keep evicts \
             older ones), or set HF_HUB_CACHE to a larger disk",
            self.id,
            gigabytes(need),
            self.hub.cache.display(),
            gigabytes(room.unwrap_or_default())
        );
        Ok(())
    }

    /// Whether a blob is one of those that are needed.
    pub(super) fn wants(&self, etag: &str) -> bool {
        self.blobs.iter().any(|blob| blob.metadata.etag == etag)
    }

    pub(super) fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Brings everything, several files at once. A revision is whole, and stays so, as soon as the last of its files is
    /// here; what is here of a file when the download stops is where the next one goes on.
    ///
    /// # Errors
    /// As [`Hub::snapshot`]: the first error, once the files under way are done.
    pub fn fetch(&self, total: &Total) -> Result<()> {
        let left: Vec<_> = self.snapshots.iter().map(|s| AtomicUsize::new(s.files.len())).collect();
        let whole = |snapshot: &Snapshot| self.whole(snapshot, total);
        self.snapshots.iter().filter(|snapshot| snapshot.files.is_empty()).try_for_each(whole)?;
        in_parallel(AT_ONCE, &self.blobs, |Blob { commit, file, metadata, .. }| {
            self.hub.bring(&self.repo, &self.id, (commit, file), metadata, &total.part())?;
            for (snapshot, left) in self.snapshots.iter().zip(&left) {
                for (file, _) in snapshot.files.iter().filter(|(_, m)| m.etag == metadata.etag) {
                    self.repo.link(&snapshot.commit, file, &metadata.etag)?;
                    if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                        whole(snapshot)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Last: a reference stands for a snapshot that is whole.
    fn whole(&self, Snapshot { revision, commit, .. }: &Snapshot, total: &Total) -> Result<()> {
        self.repo.write_ref(revision, commit)?;
        total.snapshot(revision);
        Ok(())
    }
}

impl Repo {
    /// The bytes of a blob that are not here, not even in a partial file.
    fn lacks(&self, Metadata { etag, size }: &Metadata) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |m| m.len());
        if length(self.blob(etag)) == *size {
            return 0;
        }
        size - length(self.partial(etag)).min(*size)
    }
}

/// The free bytes of the disk that a folder, which need not exist yet, is on or will be.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet_is_known() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free(&folder.path().join("a/b/c")).unwrap() > 0);
    }
}
