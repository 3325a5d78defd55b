//! [`read`]: a file from its start to its end, from the disk itself.

use memmap2::MmapMut;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::Path;

/// Bytes that are asked for at once. With less, the disk waits between two requests; with more, cores wait for their first.
const PIECE: usize = 1 << 20;
/// One huge page, which a disk fills in one request: of pages of 4 KB a request takes some hundred, at a fifth of the speed.
const BUFFER: usize = 2 << 20;

/// Reads a file past the system's page cache, where system and file system can (`O_DIRECT`), and tells of each piece.
///
/// What is read is what is stored, even where the page cache has something else; what others have in the cache stays there; and
/// nothing is copied: of 1.3 GB with their SHA-256, 0.5 of 1.4 seconds of processor time.
///
/// # Errors
/// What the system reports.
pub(crate) fn read(path: &Path, mut piece: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = MmapMut::map_anon(BUFFER)?;
    #[cfg(target_os = "linux")]
    // Advice: who does not take it reads as well, only more slowly.
    let _ = buffer.advise(memmap2::Advice::HugePage);
    let (mut file, mut direct) = match open_direct(path) {
        Some(file) => (file, true),
        None => (File::open(path)?, false),
    };
    let mut position = 0;
    loop {
        match file.read(buffer.get_mut(..PIECE).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                piece(buffer.get(..n).unwrap_or_default());
                position += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // A file system that opened it so, but does not read so; or not from a position like this.
            Err(e) if direct && e.kind() == ErrorKind::InvalidInput => {
                (file, direct) = (File::open(path)?, false);
                file.seek(SeekFrom::Start(position))?;
            }
            Err(e) => return Err(e),
        }
    }
}

/// None if the system has no such thing, or does not open this file so.
fn open_direct(path: &Path) -> Option<File> {
    #[cfg(target_os = "linux")]
    {
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
                let mut found = Vec::new();
                read(&path, |piece| found.extend_from_slice(piece)).unwrap();
                assert!(found == bytes, "{length} bytes in {}", path.display());
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("file"), |_| ()).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(read(folder.path(), |_| ()).is_err());
    }
}
