//! A file from its start to its end: [`read`] from memory or from the disk itself, or brought [`into_memory`] for who maps it.

use crate::bar::Bar;
use crate::memory;
use memmap2::MmapMut;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::Path;

/// Where a file's bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// The disk, past the page cache, where system and file system can: what is stored, whatever is in memory.
    Disk,
    /// The page cache if it has the file, else the disk.
    Nearest,
}

/// Bytes that a disk is asked for at once. With less, it waits between two requests; with more, cores wait for their first.
const PIECE: usize = 1 << 20;
/// Bytes that are copied from the page cache at once: they are in a core's own cache when they are looked at.
const COPIED: usize = 128 << 10;
/// One huge page, which a disk fills in one request: of pages of 4 KB a request takes some hundred, at a fifth of the speed.
const BUFFER: usize = 2 << 20;

/// Reads a file and tells of each piece.
///
/// Past the page cache (`O_DIRECT`), what others have there stays, and nothing is copied: of 1.3 GB with their SHA-256, 0.5 of 1.4
/// seconds of processor time.
///
/// # Errors
/// What the system reports.
pub(crate) fn read(path: &Path, from: ReadFrom, mut piece: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = MmapMut::map_anon(BUFFER)?;
    #[cfg(target_os = "linux")]
    // Advice: who does not take it reads as well, only more slowly.
    let _ = buffer.advise(memmap2::Advice::HugePage);
    let (mut file, mut way) = open(path, from)?;
    let mut position = 0;
    loop {
        let length = if way == Way::Memory { COPIED } else { PIECE };
        match file.read(buffer.get_mut(..length).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                piece(buffer.get(..n).unwrap_or_default());
                position += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // A file system that opened it so, but does not read so; or not from a position like this.
            Err(e) if way == Way::Direct && e.kind() == ErrorKind::InvalidInput => {
                (file, way) = (File::open(path)?, Way::Plain);
                file.seek(SeekFrom::Start(position))?;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Reads those of some files into memory that are not there yet, if there is room for all. Where the system does not tell, nothing is read: who uses
/// them gets them from where they are.
pub(crate) fn into_memory<'p>(paths: impl IntoIterator<Item = &'p Path>) {
    let (mut absent, mut needed) = (Vec::new(), 0);
    for path in paths {
        // Opening a pipe would wait for who writes into it.
        let Some(metadata) = std::fs::metadata(path).ok().filter(Metadata::is_file) else { continue };
        needed += metadata.len();
        if File::open(path).is_ok_and(|file| in_memory(&file) == Some(false)) {
            absent.push(path);
        }
    }
    if absent.is_empty() || memory::available().is_none_or(|available| needed > available) {
        return;
    }
    for path in absent {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bar = Bar::without_line(&format!("reading {name}"));
        // If it cannot be mapped, who uses it will say so.
        let _ = pythia_model::read_ahead(path, &mut |p| bar.show(p));
        bar.finish();
    }
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the page cache, which has it.
    Memory,
    /// Past the page cache.
    Direct,
    /// As the system does it.
    Plain,
}

fn open(path: &Path, from: ReadFrom) -> Result<(File, Way)> {
    let plain = File::open(path)?;
    if from == ReadFrom::Nearest && in_memory(&plain) == Some(true) {
        return Ok((plain, Way::Memory));
    }
    Ok(open_direct(path).map_or((plain, Way::Plain), |file| (file, Way::Direct)))
}

/// None if the system has no such thing, or does not open this file so.
fn open_direct(path: &Path) -> Option<File> {
    #[cfg(target_os = "linux")]
    {
        use std::fs::OpenOptions;
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::DIRECT.bits();
        OpenOptions::new().read(true).custom_flags(flags as i32).open(path).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

/// Whether the page cache seems to have all of a file: a byte is asked for here and there, without waiting. A byte that is
/// not there is read in the end, with its page; so the places are others each time, or the next answer would be wrong. None where the
/// system or the file system does not tell.
#[cfg(target_os = "linux")]
fn in_memory(file: &File) -> Option<bool> {
    use std::hash::{BuildHasher, RandomState};
    const PLACES: u64 = 16;
    let (random, length) = (RandomState::new(), file.metadata().map_or(0, |m| m.len()));
    let has = |place: u64| {
        let (start, end) = (length * place / PLACES, length * (place + 1) / PLACES);
        byte_in_memory(file, start + random.hash_one(place) % (end - start).max(1)).ok()
    };
    for place in 0..PLACES {
        if !has(place)? {
            return Some(false);
        }
    }
    Some(true)
}

/// An error where the system does not tell.
#[cfg(target_os = "linux")]
fn byte_in_memory(file: &File, offset: u64) -> rustix::io::Result<bool> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    use std::io::IoSliceMut;
    match preadv2(file, &mut [IoSliceMut::new(&mut [0])], offset, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => Ok(false),
        read => read.map(|n| n == 1),
    }
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_file: &File) -> Option<bool> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_once_and_in_order() {
        // A file system on a disk, and one in memory, where the system has it: not all of them read directly.
        let memory = Path::new("/dev/shm");
        let folders = [Some(std::env::temp_dir()), memory.is_dir().then(|| memory.to_owned())];
        for folder in folders.into_iter().flatten() {
            let folder = tempfile::tempdir_in(folder).unwrap();
            let path = folder.path().join("file");
            for length in [0, 1, 511, 4096, 4097, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 4095] {
                let bytes: Vec<u8> = (0..length).map(|i| ((i * i) >> 7) as u8).collect();
                std::fs::write(&path, &bytes).unwrap();
                for from in [ReadFrom::Disk, ReadFrom::Nearest] {
                    let mut found = Vec::new();
                    read(&path, from, |piece| found.extend_from_slice(piece)).unwrap();
                    assert!(found == bytes, "{length} bytes in {}, {from:?}", path.display());
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("file");
        for from in [ReadFrom::Disk, ReadFrom::Nearest] {
            assert_eq!(read(&absent, from, |_| ()).unwrap_err().kind(), ErrorKind::NotFound);
            assert!(read(folder.path(), from, |_| ()).is_err());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_in_memory_is_read_there_and_what_is_not_can_be_brought() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![7; 64 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        if byte_in_memory(&file, 1 << 20).is_err() || open_direct(&path).is_none() {
            println!("notice: skipped, the file system of {} cannot", folder.path().display());
            return;
        }
        let way = |from| open(&path, from).unwrap().1;
        assert_eq!((way(ReadFrom::Nearest), way(ReadFrom::Disk)), (Way::Memory, Way::Direct));
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        if byte_in_memory(&file, 32 << 20) == Ok(true) {
            println!("notice: half skipped, {} keeps what is not needed", folder.path().display());
            return;
        }
        for _ in 0..20 {
            assert_eq!(way(ReadFrom::Nearest), Way::Direct);
        }
        into_memory([&*path, Path::new("absent")]);
        for page in 0..(64 << 20) / 4096 {
            assert_eq!(byte_in_memory(&file, page * 4096), Ok(true), "page {page}");
        }
    }

    /// A bug of the past: it was opened, and waited for for ever.
    #[cfg(unix)]
    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        into_memory([&*path]);
    }
}
