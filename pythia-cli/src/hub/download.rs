//! One blob's way to the disk: resumed where it stopped, checked against its etag.

use super::checksum::{Checksum, Digest};
use super::client::{Client, Failure, Metadata, number, text};
use super::progress::{Progress, megabytes};
use anyhow::{Context, Result, anyhow};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use ureq::Body;
use ureq::http::Response;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// A try that brought this many bytes starts the count of tries anew.
const PROGRESS: u64 = 1 << 20;

/// A file on its way.
struct Download<'a> {
    client: &'a Client,
    url: &'a str,
    metadata: &'a Metadata,
    path: &'a Path,
    file: File,
    checksum: Checksum,
    /// Bytes in the partial file, all of them in `checksum`.
    done: u64,
    progress: &'a dyn Progress,
}

/// Brings the bytes of `url` into the partial file `path`, continuing what is there, until they are complete, have
/// the right checksum, which is returned, and are on the disk.
///
/// # Errors
/// On a full disk and on a network that stays broken, where the partial file stays; on a wrong length or checksum,
/// where it goes.
pub(super) fn download(
    client: &Client,
    url: &str,
    metadata: &Metadata,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Option<Digest>> {
    let name = url.rsplit('/').next().unwrap_or(url);
    let file = OpenOptions::new().read(true).append(true).create(true).open(path);
    let file = file.with_context(|| format!("cannot create {}", path.display()))?;
    let checksum = Checksum::new(&metadata.etag, metadata.size);
    let mut download = Download { client, url, metadata, path, file, checksum, done: 0, progress };
    download.read_partial()?;
    progress.start(name, metadata.size, download.done);
    client.retry(progress, || download.attempt())?;
    let sum = download.complete()?;
    progress.finish();
    Ok(sum)
}

impl Download<'_> {
    /// Takes in what an earlier run left.
    fn read_partial(&mut self) -> Result<()> {
        let here = self.file.metadata().with_context(|| self.path.display().to_string())?.len();
        if here > self.metadata.size {
            return self.restart();
        }
        let mut buffer = vec![0; CHUNK];
        let mut partial = (&self.file).take(here);
        while self.done < here {
            let n =
                partial.read(&mut buffer).with_context(|| format!("cannot read {}", self.path.display()))?;
            if n == 0 {
                break;
            }
            self.checksum.update(buffer.get(..n).unwrap_or_default());
            self.done += n as u64;
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).with_context(|| format!("cannot empty {}", self.path.display()))?;
        self.checksum = Checksum::new(&self.metadata.etag, self.metadata.size);
        self.done = 0;
        self.progress.advance(0);
        Ok(())
    }

    fn attempt(&mut self) -> Result<(), Failure> {
        let size = self.metadata.size;
        if self.done == size {
            return Ok(());
        }
        let response = self.client.get(self.url, self.done)?;
        match response.status().as_u16() {
            206 => self.check_range(&response)?,
            416 => {
                self.restart()?;
                let error = anyhow!("{}: the server cannot resume, so the file starts over", self.url);
                return Err(Failure::passing(error));
            }
            _ => {
                if self.done > 0 {
                    self.restart()?;
                }
                if let Some(length) = number(&response, "content-length").filter(|n| *n != size) {
                    return Err(self.wrong_length(length).into());
                }
            }
        }
        let before = self.done;
        self.receive(response.into_body()).map_err(|failure| match failure {
            Failure::Passing { error, wait, .. } => {
                Failure::Passing { error, wait, progressed: self.done - before >= PROGRESS }
            }
            other => other,
        })
    }

    /// A part must begin where the partial file ends, or the two do not fit.
    fn check_range(&self, response: &Response<Body>) -> Result<()> {
        let range = text(response, "content-range").unwrap_or_default();
        let (start, total) = range
            .strip_prefix("bytes ")
            .and_then(|r| r.split_once('/'))
            .and_then(|(range, total)| Some((range.split_once('-')?.0, total)))
            .with_context(|| format!("{}: a part without a Content-Range", self.url))?;
        let fits =
            start.parse() == Ok(self.done) && (total == "*" || total.parse() == Ok(self.metadata.size));
        if !fits {
            return Err(self.discard(&format!(
                "asked for bytes {}-/{}, got {}",
                self.done,
                self.metadata.size,
                super::name::printable(range)
            )));
        }
        Ok(())
    }

    fn receive(&mut self, body: Body) -> Result<(), Failure> {
        let mut body = body.into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let chunk = match body.read(&mut buffer) {
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::cut(self.url, &e)),
            };
            if chunk.is_empty() {
                break;
            }
            let done = self.done + chunk.len() as u64;
            if done > self.metadata.size {
                return Err(self.wrong_length(done).into());
            }
            self.file.write_all(chunk).map_err(|e| self.unwritable(&e))?;
            self.checksum.update(chunk);
            self.done = done;
            self.progress.advance(done);
        }
        if self.done < self.metadata.size {
            let error = std::io::Error::new(ErrorKind::UnexpectedEof, "the answer ended early");
            return Err(Failure::cut(self.url, &error));
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<Option<Digest>> {
        let found = std::mem::replace(&mut self.checksum, Checksum::None).finish();
        let expected = &self.metadata.etag;
        if let Some(Digest { hex, .. }) = &found
            && !hex.eq_ignore_ascii_case(expected)
        {
            return Err(self.discard(&format!("the checksum is {hex}, expected {expected}")));
        }
        self.file.sync_all().map_err(|e| self.unwritable(&e))?;
        Ok(found)
    }

    fn wrong_length(&self, found: u64) -> anyhow::Error {
        self.discard(&format!("the server sends {found} bytes or more, expected {}", self.metadata.size))
    }

    /// Bytes that are wrong are of no use to the next run.
    fn discard(&self, why: &str) -> anyhow::Error {
        let gone = match std::fs::remove_file(self.path) {
            Ok(()) => "the partial file was deleted, so run the command again".to_owned(),
            Err(e) => format!("delete {} ({e}) and run the command again", self.path.display()),
        };
        anyhow!("{}: {why}: {gone}", self.url)
    }

    fn unwritable(&self, error: &std::io::Error) -> anyhow::Error {
        let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let more = self.metadata.size.saturating_sub(self.done);
        anyhow!(
            "cannot write {}: {error}: {more} more bytes ({}) are needed there; {} and run the command again, it \
             resumes where it stopped",
            self.path.display(),
            megabytes(more),
            if full { "make room, or set HF_HUB_CACHE to a larger disk," } else { "see to the disk" }
        )
    }
}
