//! The Hugging Face cache on disk, as `huggingface_hub` lays it out and reads it:
//!
//! ```text
//! models--ORG--NAME/blobs/<etag>              the bytes
//! models--ORG--NAME/refs/<revision>           the commit a branch or tag stood at, without a newline
//! models--ORG--NAME/snapshots/<commit>/<file> a relative link to ../../blobs/<etag>
//! models--ORG--NAME/.no_exist/<commit>/<file> an empty file: this commit has no such file
//! models--ORG--NAME/trees/<commit>.json       the Hub's list of files, of Python alone
//! .locks/models--ORG--NAME/<etag>.lock        locked while a process writes the blob
//! ```

use super::name::{expand_home, is_commit};
use super::progress::Progress;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The weights in one file, and the list of shards where there are several.
pub(super) const SAFETENSORS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];
/// The same as pickles.
pub(super) const PYTORCH: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
/// The most bytes an index of shards may have.
const INDEX_LIMIT: u64 = 64 << 20;

/// `HF_HOME`: where the token lies and, by default, the cache.
pub(super) fn hf_home(var: &dyn Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Option<PathBuf> {
    let path = |name: &str| var(name).map(|v| expand_home(Path::new(&v), home));
    path("HF_HOME")
        .or_else(|| path("XDG_CACHE_HOME").map(|p| p.join("huggingface")))
        .or_else(|| home.map(|h| h.join(".cache").join("huggingface")))
}

/// The cache's root: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in [`hf_home`].
pub(super) fn root(var: &dyn Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Option<PathBuf> {
    let path = |name: &str| var(name).map(|v| expand_home(Path::new(&v), home));
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| hf_home(var, home).map(|p| p.join("hub")))
}

/// One repository's folder in the cache.
#[derive(Debug)]
pub(super) struct Repo {
    folder: PathBuf,
    locks: PathBuf,
}

/// What the cache holds of a revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cached {
    /// All there is upstream, as far as it matters.
    Complete(PathBuf),
    /// Config and weights, but the Hub may have a tokenizer or better weights too.
    Usable { folder: PathBuf, commit: String },
    /// Not enough: what is lacking.
    Lacking(String),
}

impl Repo {
    /// The folder of `id`, which is a [checked](super::name::check_id) Hub id.
    pub(super) fn new(root: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { folder: root.join(&name), locks: root.join(".locks").join(name) }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// What is here of `revision`.
    pub(super) fn lookup(&self, revision: &str) -> Cached {
        let Some(commit) = self.commit(revision) else {
            return Cached::Lacking(format!("revision {revision}"));
        };
        let folder = self.snapshot(&commit);
        let missing = |file: &str| !folder.join(file).is_file();
        if missing("config.json") {
            return Cached::Lacking("config.json".to_owned());
        }
        let known = |file: &str| !missing(file) || self.no_exist(&commit, file).is_file();
        match (weights(&folder, SAFETENSORS), weights(&folder, PYTORCH)) {
            (Ok(()), _) if known("tokenizer.json") => Cached::Complete(folder),
            (Err(_), Ok(())) if SAFETENSORS.into_iter().chain(["tokenizer.json"]).all(known) => {
                Cached::Complete(folder)
            }
            (Ok(()), _) | (Err(_), Ok(())) => Cached::Usable { folder, commit },
            (Err(lacking), Err(_)) => Cached::Lacking(lacking),
        }
    }

    /// The commit of `revision`, as far as the cache knows.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        File::open(self.folder.join("refs").join(revision)).ok()?.take(64).read_to_string(&mut text).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    fn no_exist(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// Notes that `commit` has no `file`, so that the Hub need not be asked again.
    pub(super) fn write_no_exist(&self, commit: &str, file: &str) -> Result<()> {
        write_whole(&self.no_exist(commit, file), b"")
    }

    /// Notes that `revision` stands at `commit`. A commit needs no note.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        let unchanged = self.commit(revision).is_some_and(|known| known == commit);
        if unchanged {
            Ok(())
        } else {
            write_whole(&self.folder.join("refs").join(revision), commit.as_bytes())
        }
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// A blob that is being written.
    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.incomplete"))
    }

    /// Makes `file` of `commit`'s snapshot a link to the blob `etag`; a copy where links cannot be made.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let link = self.snapshot(commit).join(file);
        create_parent(&link)?;
        let up = "../".repeat(1 + Path::new(file).components().count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        let mut made = symlink(&target, &link);
        if matches!(&made, Err(e) if e.kind() == ErrorKind::AlreadyExists) {
            if link.is_file() {
                return Ok(());
            }
            // A link to a blob that is gone.
            fs::remove_file(&link)
                .with_context(|| format!("cannot replace the dead link {}", link.display()))?;
            made = symlink(&target, &link);
        }
        match made {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists && link.is_file() => Ok(()),
            Err(_) => copy_whole(&self.blob(etag), &link),
        }
    }

    /// Checks that the files of a snapshot lie in the cache at `root`, wherever their links lead. The cache, the repository
    /// and its blobs may themselves be links to another disk.
    pub(super) fn check_links(&self, root: &Path, snapshot: &Path) -> Result<()> {
        let within = [root, &self.folder, &self.folder.join("blobs")].map(fs::canonicalize);
        let entries =
            fs::read_dir(snapshot).with_context(|| format!("cannot read {}", snapshot.display()))?;
        for link in entries.flatten().map(|entry| entry.path()) {
            // A dead link is no file, and leads nowhere.
            let Ok(file) = fs::canonicalize(&link) else { continue };
            ensure!(
                within.iter().flatten().any(|folder| file.starts_with(folder)),
                "{} leads out of the cache, to {}: remove it and run the command again",
                link.display(),
                file.display()
            );
        }
        Ok(())
    }

    /// Waits until no other process writes the blob `etag`. The lock goes with the returned file, or with this
    /// process. On a file system without locks there is none, and each process writes a partial file of its own.
    pub(super) fn lock(&self, etag: &str, file: &str, progress: &dyn Progress) -> Result<Partial> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = lock.with_context(|| format!("cannot create the lock file {}", path.display()))?;
        let mut locked = lock.try_lock();
        if matches!(locked, Err(TryLockError::WouldBlock)) {
            progress.note(&format!("waiting: another process is downloading {file}"));
            locked = lock.lock().map_err(TryLockError::Error);
        }
        let path = match locked {
            Ok(()) => self.partial(etag),
            Err(TryLockError::Error(e)) if e.kind() != ErrorKind::Unsupported => {
                return Err(e).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(_) => self.partial(&format!("{etag}.{}", std::process::id())),
        };
        create_parent(&path)?;
        Ok(Partial { path, _lock: lock })
    }
}

/// A blob being written: the partial file, and the right to write it.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) path: PathBuf,
    _lock: File,
}

/// Whether `folder` has all the weights of one format, or what it lacks.
fn weights(folder: &Path, [single, index]: [&str; 2]) -> Result<(), String> {
    if folder.join(single).is_file() {
        return Ok(());
    }
    if !folder.join(index).is_file() {
        return Err(single.to_owned());
    }
    let shards = shards(&folder.join(index)).map_err(|e| format!("a readable {index} ({e:#})"))?;
    shards.into_iter().find(|shard| !folder.join(shard).is_file()).map_or(Ok(()), Err)
}

/// The files that an index of shards names, each once.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let mut bytes = Vec::new();
    let file = File::open(index).with_context(|| format!("cannot open {}", index.display()))?;
    file.take(INDEX_LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", index.display()))?;
    ensure!(bytes.len() as u64 <= INDEX_LIMIT, "{}: more than {INDEX_LIMIT} bytes", index.display());
    let index_json: Index = serde_json::from_slice(&bytes).with_context(|| {
        format!("{}: expected an object with a `weight_map` of tensor to file", index.display())
    })?;
    let mut shards: Vec<String> = index_json.weight_map.into_values().collect();
    shards.sort_unstable();
    shards.dedup();
    ensure!(!shards.is_empty(), "{}: `weight_map` is empty", index.display());
    for shard in &shards {
        check_file(shard).with_context(|| index.display().to_string())?;
    }
    Ok(shards)
}

/// Checks that a file name from outside stays below the folder it is joined to, on every system.
pub(super) fn check_file(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && name.len() <= 1000
        && !name.contains(['\\', ':'])
        && !name.contains(char::is_control)
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    ensure!(plain, "refused the file name `{}`: it could leave the cache", super::name::printable(name));
    Ok(())
}

/// Checks that an etag from outside can be the name of a blob.
pub(super) fn check_etag(etag: &str) -> Result<()> {
    let plain =
        (1..=128).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    ensure!(plain, "refused the etag `{}`: expected letters, digits and `-`", super::name::printable(etag));
    Ok(())
}

fn create_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).with_context(|| {
        format!("cannot create {}: set HF_HUB_CACHE to a folder that can be written", parent.display())
    })
}

/// Writes a small file whole: temporary file, fsync, rename.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    through_temporary(path, |file| file.write_all(bytes))
}

fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    through_temporary(to, |file| std::io::copy(&mut File::open(from)?, file).map(drop))
}

fn through_temporary(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    create_parent(path)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.{count}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = File::create(&temporary).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| rename(&temporary, path));
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    renamed.with_context(|| format!("cannot write {}", path.display()))
}

/// Renames a file that is already on the disk, and waits until the new name is too.
pub(super) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)?;
    #[cfg(unix)]
    if let Some(parent) = to.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target.to_string_lossy().replace('/', "\\"), link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<(String, OsString)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.into())).collect();
        move |name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone())
    }

    #[test]
    fn the_root_follows_the_environment() {
        let home = Some(Path::new("/home/ada"));
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HOME", "~/c"),
            ("XDG_CACHE_HOME", "/d"),
        ];
        let roots = ["/a", "/b", "/home/ada/c/hub", "/d/huggingface/hub", "/home/ada/.cache/huggingface/hub"];
        for (i, expected) in roots.into_iter().enumerate() {
            assert_eq!(root(&vars(&all[i..]), home).as_deref(), Some(Path::new(expected)));
        }
        assert_eq!(root(&vars(&[]), None), None);
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in
            ["", "..", "../x", "a/../../x", "/etc/passwd", "a\\..\\x", "C:x", "a//b", "./a", "a\nb", "a/"]
        {
            assert!(check_file(name).is_err(), "{name}");
        }
        for name in ["model-00001-of-00002.safetensors", "onnx/model.bin", ".gitattributes"] {
            check_file(name).unwrap();
        }
        for etag in ["", "..", "a/b", "a.b", "W/\"x\"", &"a".repeat(129)] {
            assert!(check_etag(etag).is_err(), "{etag}");
        }
        check_etag("d41d8cd98f00b204e9800998ecf8427e-2").unwrap();
    }

    #[test]
    fn an_index_names_its_shards_once_and_nothing_outside() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        fs::write(&index, r#"{"metadata":{},"weight_map":{"a":"m-2","b":"m-1","c":"m-2"}}"#).unwrap();
        assert_eq!(shards(&index).unwrap(), ["m-1", "m-2"]);
        for (text, says) in [
            (r#"{"weight_map":{"a":"../../x"}}"#, "could leave the cache"),
            (r#"{"weight_map":{}}"#, "is empty"),
            ("[]", "weight_map"),
            ("{", "weight_map"),
        ] {
            fs::write(&index, text).unwrap();
            let error = format!("{:#}", shards(&index).unwrap_err());
            assert!(error.contains(says) && error.contains("index.json"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_and_dead_ones_replaced() {
        let root = tempfile::tempdir().unwrap();
        let repo = Repo::new(root.path(), "a/b");
        let blob = repo.blob("e1");
        create_parent(&blob).unwrap();
        fs::write(&blob, "x").unwrap();
        let commit = "0123456789012345678901234567890123456789";
        repo.link(commit, "f", "gone").unwrap();
        repo.link(commit, "f", "e1").unwrap();
        repo.link(commit, "sub/f", "e1").unwrap();
        let snapshot = root.path().join("models--a--b/snapshots").join(commit);
        assert_eq!(fs::read_link(snapshot.join("f")).unwrap(), Path::new("../../blobs/e1"));
        assert_eq!(fs::read_link(snapshot.join("sub/f")).unwrap(), Path::new("../../../blobs/e1"));
        assert_eq!(fs::read(snapshot.join("sub/f")).unwrap(), b"x");
        // Where links cannot be made, the snapshot holds a copy.
        copy_whole(&blob, &snapshot.join("copy")).unwrap();
        assert_eq!(fs::read(snapshot.join("copy")).unwrap(), b"x");
    }
}
