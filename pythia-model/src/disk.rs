//! Files on disk: small ones read whole and within a bound, results written whole or not at all.

use crate::quantized::Progress;
use crate::{Error, Result};
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

/// Opens a regular file and tells its length in bytes. Whatever could block or has no length (a folder, a pipe, a
/// device) is refused before it is opened.
///
/// # Errors
/// If there is no such file, it is not a regular file, or the system refuses.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let kind = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !kind.is_file() {
        let found = if kind.is_dir() { "a folder" } else { "a device or a pipe" };
        return Err(Error::file(path, format!("expected a regular file, found {found}")));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    Ok((file, length))
}

/// Maps a file into memory.
///
/// What [`Pieces`] wrote or [`read_ahead`] read may be in huge pages, as long as the system keeps it in memory. Asking for them here as well
/// (`MADV_HUGEPAGE`) would make a start from the disk slower, 3.0 instead of 1.7 s for 1.4b on a virtual one: a product reads a few
/// rows here and there, and waits for 2 MB around each.
///
/// # Errors
/// If the system refuses, for instance because the file is empty.
#[allow(unsafe_code)]
pub(crate) fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is read-only. What remains is that somebody else changes the file in place while it is
    // mapped. Weights are plain numbers for which every bit pattern is valid, and headers are parsed once, every later
    // access being checked against the mapping's own fixed length, so changed bytes give wrong numbers; cutting the
    // file off gives SIGBUS, which ends the process. Both are documented on `TensorFile` and in `quantized`; the
    // alternative, reading gigabytes into memory of our own on every start, is the greater harm.
    unsafe { memmap2::Mmap::map(file) }
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`]; and if the file is longer than `limit`.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, length) = open(path)?;
    let mut bytes = Vec::new();
    if length <= limit {
        // The file may still be growing: the bound holds for what is read, too.
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    }
    let found = length.max(bytes.len() as u64);
    if found > limit {
        return Err(Error::file(path, format!("expected at most {limit} bytes, found {found}")));
    }
    Ok(bytes)
}

/// Bytes of a huge page.
const PIECE: usize = 2 << 20;

/// Bytes of an ordinary page, or of a part of one.
const PAGE: usize = 4096;

/// Reads a file into memory from its start to its end, where it stays for who maps it later as long as the system has room; in huge pages where
/// Linux has them for this file system. `progress` is told how far it is.
///
/// Whoever reads weights for the first time by using them reads rows that lie apart, which neither the disk nor the system can foresee, and
/// leaves them in small pages: later the first token of 1.4b comes after 157 instead of 136 ms, in int8 after 111 instead of 90, and 410m
/// decodes 0.95 times as fast (two cores with AMX). The first start takes as long as the disk needs for the whole file, 2.7 s of a virtual one, where
/// it took 2.0 to 3.0 by using.
///
/// # Errors
/// If the file cannot be mapped. It must not be cut off meanwhile, as for any use of weights ([`TensorFile`](crate::TensorFile)).
pub fn read_ahead(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let (file, length) = open(path)?;
    if length == 0 {
        return Ok(());
    }
    let mapping = map(&file).map_err(|e| Error::io(path, e))?;
    #[cfg(target_os = "linux")]
    // Advice: who does not take it reads as well, into small pages.
    let _ = mapping.advise(memmap2::Advice::HugePage);
    let next = AtomicUsize::new(0);
    let read_piece = || {
        let start = next.fetch_add(PIECE, Ordering::Relaxed);
        let rest = mapping.get(start..).filter(|rest| !rest.is_empty())?;
        let piece = &rest[..rest.len().min(PIECE)];
        piece.iter().step_by(PAGE).for_each(|byte| _ = black_box(*byte));
        Some((start + piece.len()) as u64)
    };
    thread::scope(|scope| {
        // While one thread takes what has come, the disk works for the other, if there is one.
        let _ = thread::Builder::new().spawn_scoped(scope, || while read_piece().is_some() {});
        progress(Progress { done: 0, total: length });
        while let Some(done) = read_piece() {
            progress(Progress { done, total: length });
        }
    });
    Ok(())
}

/// Writes a file in whole pieces of 2 MB, which Linux can keep in a huge page each (ext4 since 6.16, XFS before). Who maps the file while it is in
/// memory starts faster for it: the first token of 410m comes after 80 instead of 120 ms, on two Zen 3 cores. (A download is not written so:
/// what is killed goes on from the last byte that came.) Flushing in the middle of a piece moves those after it.
#[derive(Debug)]
pub struct Pieces<W = File> {
    inner: W,
    /// What has been written since the last piece ended.
    begun: Vec<u8>,
}

impl<W: Write> Pieces<W> {
    /// For an empty file.
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, begun: Vec::new() }
    }

    /// What is written to, which has all of it now.
    ///
    /// # Errors
    /// If it does not take the end of it.
    pub fn finish(&mut self) -> io::Result<&mut W> {
        self.flush()?;
        Ok(&mut self.inner)
    }
}

impl<W: Write> Write for Pieces<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.begun.len();
        let part = bytes.get(..room).unwrap_or(bytes);
        if self.begun.is_empty() && part.len() == PIECE {
            self.inner.write_all(part)?;
        } else {
            self.begun.extend_from_slice(part);
            if part.len() == room {
                self.flush()?;
            }
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.write_all(&self.begun)?;
        self.begun.clear();
        self.inner.flush()
    }
}

/// Writes a file so that at every moment `path` is absent, the old file or the whole new one: a temporary file in the
/// same folder, flushed to the disk, renamed, and the folder flushed. Readers that have the old file mapped keep it.
///
/// # Errors
/// Whatever `content` or the system reports; the temporary file is removed then.
pub fn write_whole(path: &Path, content: impl FnOnce(&mut Pieces) -> io::Result<()>) -> Result<()> {
    let write = || {
        let temporary = Temporary::beside(path)?;
        let mut file = Pieces::new(File::create_new(&temporary.0)?);
        content(&mut file)?;
        file.finish()?.sync_all()?;
        drop(file);
        fs::rename(&temporary.0, path)?;
        sync_folder(path)
    };
    write().map_err(|e| {
        if e.kind() == ErrorKind::StorageFull {
            return Error::file(path, format!("{e}; free some space and try again, nothing was left behind"));
        }
        // What `content` could not do for a reason of its own is told as it stands.
        e.downcast().unwrap_or_else(|e| Error::io(path, e))
    })
}

/// Writes a folder so that at every moment `path` is absent (or as empty as it was) or the whole new one: `content`
/// fills a temporary folder beside it with [`write_whole`], which is then renamed.
///
/// # Errors
/// If there is something at `path` already; whatever `content` or the system reports. Nothing is left then.
pub(crate) fn write_folder_whole(path: &Path, content: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let wrong = |e| Error::io(path, e);
    match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => (),
        Ok(false) => return Err(Error::file(path, "this folder is not empty: choose the name of a new one")),
        Err(e) if e.kind() == ErrorKind::NotFound => (),
        Err(e) => return Err(wrong(e)),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    let temporary = Temporary::beside(path).map_err(wrong)?;
    fs::create_dir(&temporary.0).map_err(wrong)?;
    content(&temporary.0).map_err(|e| e.moved(&temporary.0, path))?;
    // An empty folder is in the way of a rename on Windows.
    let _ = fs::remove_dir(path);
    fs::rename(&temporary.0, path).and_then(|()| sync_folder(path)).map_err(wrong)
}

/// A file or a folder that is removed again, unless it has been renamed by then.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?.to_string_lossy();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()));
        match remove(&temporary) {
            // A killed process of the same id may have left one.
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(Self(temporary)),
        }
    }
}

/// Removes a file, or a folder with all that is in it.
fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; otherwise an error is already on its way to the caller.
        let _ = remove(&self.0);
    }
}

/// Makes the rename of `path` itself durable. Only Unix can open folders.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_whole(&path, |f| f.write_all(b"old")).unwrap();
        let failing = |f: &mut Pieces| {
            f.write_all(b"ne")?;
            Err(ErrorKind::StorageFull.into())
        };
        let message = write_whole(&path, failing).unwrap_err().to_string();
        assert!(message.contains("/a: no storage space; free some space"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a"]);
        write_whole(&path, |f| f.write_all(b"new")).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"new".to_vec(), vec!["a".into()]));
    }

    /// Remembers each write, and has room for so many bytes.
    struct Writes {
        written: Vec<Vec<u8>>,
        room: usize,
    }

    impl Writes {
        fn with_room(room: usize) -> Self {
            Self { written: Vec::new(), room }
        }
    }

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.room = self.room.checked_sub(bytes.len()).ok_or(ErrorKind::StorageFull)?;
            self.written.push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_end_where_huge_pages_do() {
        let bytes: Vec<u8> = (0..3 * PIECE + 7).map(|i| ((i * i) >> 9) as u8).collect();
        for step in [1 << 16, 1_000_003, PIECE, bytes.len()] {
            let mut file = Pieces::new(Writes::with_room(usize::MAX));
            bytes.chunks(step).for_each(|part| file.write_all(part).unwrap());
            let written = &file.finish().unwrap().written;
            assert!(written.concat() == bytes, "{step}");
            let lengths: Vec<_> = written.iter().map(Vec::len).collect();
            assert_eq!(lengths, [PIECE, PIECE, PIECE, 7], "{step}");
        }
    }

    #[test]
    fn pieces_that_do_not_fit_are_an_error_at_once_or_at_the_end() {
        let mut file = Pieces::new(Writes::with_room(PIECE));
        file.write_all(&vec![1; PIECE + 1]).unwrap();
        for _ in 0..2 {
            assert_eq!(file.finish().map(|_| ()).unwrap_err().kind(), ErrorKind::StorageFull);
        }
        let mut file = Pieces::new(Writes::with_room(PIECE));
        assert_eq!(file.write_all(&vec![1; 2 * PIECE]).unwrap_err().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn reading_ahead_tells_how_far_it_is_or_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut told = Vec::new();
        fs::write(&path, vec![1; 5 * PIECE + 1]).unwrap();
        read_ahead(&path, &mut |Progress { done, total }| told.push((done, total))).unwrap();
        let total = 5 * PIECE as u64 + 1;
        assert!(
            told.first() == Some(&(0, total)) && told.iter().all(|p| p.0 <= p.1 && p.1 == total),
            "{told:?}"
        );
        assert!(told.is_sorted(), "{told:?}");
        fs::write(&path, b"").unwrap();
        read_ahead(&path, &mut |_| panic!("of nothing")).unwrap();
        let error = read_ahead(&dir.path().join("b"), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("b: No such file"), "{error}");
    }

    #[test]
    fn a_panic_while_writing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let panicking = || write_whole(&path, |_| panic!("in the middle"));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let fill = |folder: &Path| write_whole(&folder.join("c"), |f| f.write_all(b"new"));
        let failing = |folder: &Path| {
            fill(folder)?;
            write_whole(&folder.join("d"), |_| Err(ErrorKind::StorageFull.into()))
        };
        let message = write_folder_whole(&path, failing).unwrap_err().to_string();
        assert!(message.contains("/a/b/d: no storage space; free some space"), "{message}");
        assert!(names(&dir.path().join("a")).is_empty());
        fs::create_dir(&path).unwrap();
        write_folder_whole(&path, fill).unwrap();
        assert_eq!((names(&dir.path().join("a")), names(&path)), (vec!["b".into()], vec!["c".into()]));
        let message = write_folder_whole(&path, fill).unwrap_err().to_string();
        assert!(
            message.ends_with("/a/b: this folder is not empty: choose the name of a new one"),
            "{message}"
        );
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let message = |path: &Path, limit| read(path, limit).unwrap_err().to_string();
        assert!(message(&path, 4).ends_with("a: expected at most 4 bytes, found 5"));
        assert!(message(dir.path(), 4).ends_with("expected a regular file, found a folder"));
        assert!(message(&dir.path().join("b"), 4).contains("b: No such file"));
        if cfg!(unix) {
            assert!(
                message(Path::new("/dev/zero"), 4)
                    .ends_with("expected a regular file, found a device or a pipe")
            );
        }
    }
}
