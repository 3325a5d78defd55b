//! A small Hugging Face Hub for tests: its API over a folder of repositories, on 127.0.0.1, with scripted faults.
//!
//! `ROOT/ORG/NAME/REVISION/` holds the files of a revision; its commit is [`commit`]. Weights are "large" files:
//! their etag is a sha256, and with a content network ([`HubServer::with_cdn`]) they are redirected to it, a second
//! port. Other files have git's blob sha1. A CONNECT request makes it a proxy to itself.

pub(crate) mod world;

use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One misbehaviour.
#[derive(Clone)]
pub(crate) enum Fault {
    /// This status and these headers, and no body.
    Status(u16, Vec<(&'static str, String)>),
    /// This body instead of the right one.
    Body(Vec<u8>),
    /// The same without saying how long it is.
    Unframed(Vec<u8>),
    /// This header instead of the right one; an empty value leaves it out.
    Header(&'static str, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The connection falls silent for so long after so many bytes of the body, and then ends.
    Stall(usize, Duration),
    /// The body comes in pieces of so many bytes, with a pause after each.
    Trickle(usize, Duration),
    /// The last byte of the body is wrong.
    WrongByte,
    /// The whole file where a part was asked for.
    IgnoreRange,
    /// A pause before the answer.
    Slow(Duration),
}

/// A request, and what was sent for it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) cdn: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    /// What follows the `?`.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Bytes of the body.
    pub(crate) sent: usize,
}

#[derive(Default)]
struct State {
    root: PathBuf,
    cdn: Option<String>,
    relative: bool,
    token: Option<String>,
    moved: Option<(String, String)>,
    faults: Mutex<Vec<(String, usize, Fault)>>,
    seen: Mutex<Vec<Seen>>,
}

/// The running server. Its threads end with the test.
pub(crate) struct HubServer {
    pub(crate) url: String,
    state: Arc<State>,
}

/// How a server differs from the plain one.
#[derive(Default)]
pub(crate) struct Options {
    /// Large files come from another port.
    pub(crate) cdn: bool,
    /// Small files are redirected within the Hub.
    pub(crate) relative: bool,
    /// Whoever does not bring this token gets a 401.
    pub(crate) token: Option<String>,
    /// A repository's old and new id.
    pub(crate) moved: Option<(String, String)>,
}

/// The commit of a revision.
pub(crate) fn commit(id: &str, revision: &str) -> String {
    hex(&Sha1::digest(format!("{id}@{revision}")))
}

/// The etag of a file's bytes.
pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) {
        hex(&Sha256::digest(bytes))
    } else {
        hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".bin"].iter().any(|end| name.ends_with(end))
}

impl HubServer {
    /// A plain server over `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self::with(root, Options::default())
    }

    /// A server whose large files come from another port.
    pub(crate) fn with_cdn(root: &Path) -> Self {
        Self::with(root, Options { cdn: true, ..Options::default() })
    }

    pub(crate) fn with(root: &Path, options: Options) -> Self {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            (listener, url)
        };
        let (hub, url) = listen();
        let (cdn, cdn_url) = listen();
        let state = Arc::new(State {
            root: root.to_owned(),
            cdn: options.cdn.then_some(cdn_url),
            relative: options.relative,
            token: options.token,
            moved: options.moved,
            ..State::default()
        });
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away in the middle is not this server's trouble.
                    std::thread::spawn(move || state.serve(stream, is_cdn).unwrap_or_default());
                }
            });
        }
        Self { url, state }
    }

    /// The next `times` requests of the method and with the part of a path that `request` names (`GET config.json`,
    /// `GET /cdn/`) meet this fault.
    pub(crate) fn fault(&self, request: &str, times: usize, fault: Fault) {
        self.state.faults.lock().unwrap().push((request.to_owned(), times, fault));
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The requests so far of this method whose path ends so.
    pub(crate) fn asked(&self, method: &str, end: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.method == method && s.path.ends_with(end)).collect()
    }
}

/// An answer before faults are applied.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn empty(status: u16, headers: Vec<(&'static str, String)>) -> Self {
        Self { status, headers, body: Vec::new() }
    }
}

/// A file as the Hub's API describes it.
struct Described {
    name: String,
    size: usize,
    /// Of the file in git: of a large one that is a pointer.
    oid: String,
    /// Of a large one's bytes.
    sha256: Option<String>,
}

impl Described {
    fn of(path: &Path) -> Self {
        let (name, bytes) = (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap());
        let (size, sha256) = (bytes.len(), is_large(&name).then(|| etag(&name, &bytes)));
        let pointer = |sha256: &String| {
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
                .into_bytes()
        };
        let oid = etag("", &sha256.as_ref().map_or(bytes, pointer));
        Self { name, size, oid, sha256 }
    }
}

impl State {
    fn serve(&self, stream: TcpStream, cdn: bool) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let mut words = line.split_whitespace().map(str::to_owned);
            let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim().split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let (path, query) = (path.to_owned(), query.to_owned());
            let seen = Seen { cdn, method: method.clone(), path, query, headers, sent: 0 };
            if method == "CONNECT" {
                self.seen.lock().unwrap().push(seen);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                continue;
            }
            return self.answer(&mut stream, seen);
        }
    }

    fn take_fault(&self, seen: &Seen) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let matches = |request: &str| {
            let (method, part) = request.split_once(' ').unwrap();
            seen.method == method && seen.path.contains(part)
        };
        let (_, times, fault) =
            faults.iter_mut().find(|(request, times, _)| *times > 0 && matches(request))?;
        *times -= 1;
        Some(fault.clone())
    }

    fn answer(&self, stream: &mut TcpStream, seen: Seen) -> std::io::Result<()> {
        let fault = self.take_fault(&seen);
        if let Some(Fault::Slow(pause)) = &fault {
            std::thread::sleep(*pause);
        }
        let mut answer = self.route(&seen, matches!(fault, Some(Fault::IgnoreRange)));
        match &fault {
            Some(Fault::Status(status, headers)) => answer = Answer::empty(*status, headers.clone()),
            Some(Fault::Body(body) | Fault::Unframed(body)) => body.clone_into(&mut answer.body),
            Some(Fault::WrongByte) => *answer.body.last_mut().unwrap() ^= 1,
            Some(Fault::Header(name, value)) => {
                answer.headers.retain(|(n, _)| n != name);
                if !value.is_empty() {
                    answer.headers.push((name, (*value).to_owned()));
                }
            }
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
        let framed = answer.headers.iter().any(|(n, _)| *n == "Content-Length");
        if !framed && !matches!(fault, Some(Fault::Unframed(_))) {
            write!(head, "Content-Length: {}\r\n", answer.body.len()).unwrap();
        }
        for (name, value) in &answer.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        let whole = answer.body.len();
        let trickle = match fault {
            Some(Fault::Trickle(piece, pause)) => Some((piece, pause)),
            _ => None,
        };
        let (sent, pause) = match fault {
            _ if seen.method == "HEAD" => (0, None),
            Some(Fault::Cut(n)) => (n.min(whole), None),
            Some(Fault::Stall(n, pause)) => (n.min(whole), Some(pause)),
            _ => (whole, None),
        };
        // Before the client can know: a test reads this once the client is done.
        self.seen.lock().unwrap().push(Seen { sent, ..seen });
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        let (piece, rest) = trickle.unwrap_or((sent.max(1), Duration::ZERO));
        for piece in answer.body[..sent].chunks(piece) {
            stream.write_all(piece)?;
            stream.flush()?;
            std::thread::sleep(rest);
        }
        stream.flush()?;
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
        Ok(())
    }

    fn route(&self, seen: &Seen, ignore_range: bool) -> Answer {
        let path = seen.path.trim_start_matches('/');
        let words: Vec<&str> = path.split('/').collect();
        if let (true, ["cdn", org, name, commit, file]) = (seen.cdn, &words[..]) {
            let Some((_, folder)) = self.revision(&format!("{org}/{name}"), commit) else {
                return Answer::empty(404, vec![]);
            };
            return bytes(
                &folder.join(file),
                seen,
                vec![("ETag", "\"of-the-cdn\"".to_owned())],
                ignore_range,
            );
        }
        let token = seen.headers.get("authorization").and_then(|a| a.strip_prefix("Bearer "));
        if self.token.is_some() && self.token.as_deref() != token {
            return Answer::empty(401, vec![("X-Error-Code", "GatedRepo".to_owned())]);
        }
        if let Some((old, new)) = self.moved.as_ref().filter(|(old, _)| path.contains(old.as_str())) {
            return Answer::empty(307, vec![("Location", format!("/{}", path.replace(old, new)))]);
        }
        match &words[..] {
            ["api", "models", org, name, "revision", revision] => {
                let with_metadata = seen.query.contains("blobs=true");
                self.info(&format!("{org}/{name}"), &revision.replace("%2F", "/"), with_metadata)
            }
            ["api", "models", org, name, "tree", revision] => {
                self.tree(&format!("{org}/{name}"), &revision.replace("%2F", "/"))
            }
            [org, name, "resolve", commit, file] if self.relative && !is_large(file) => {
                let to = format!("/api/resolve-cache/models/{org}/{name}/{commit}/{file}?etag=1");
                Answer::empty(307, vec![("Location", to)])
            }
            [org, name, "resolve", commit, file]
            | ["api", "resolve-cache", "models", org, name, commit, file] => {
                self.file(&format!("{org}/{name}"), commit, file, seen, ignore_range)
            }
            _ => Answer::empty(404, vec![]),
        }
    }

    /// The commit and folder of a revision, which may be named by its commit.
    fn revision(&self, id: &str, revision: &str) -> Option<(String, PathBuf)> {
        let names = fs::read_dir(self.root.join(id)).ok()?.flatten();
        let mut names = names.map(|entry| entry.file_name().into_string().unwrap());
        let name = names.find(|name| name == revision || commit(id, name) == revision)?;
        Some((commit(id, &name), self.root.join(id).join(&name)))
    }

    fn info(&self, id: &str, revision: &str, with_metadata: bool) -> Answer {
        self.listed(id, revision, |commit, files| {
            let sibling = |file: &Described| {
                let mut sibling = serde_json::json!({"rfilename": file.name});
                if with_metadata {
                    sibling["size"] = file.size.into();
                    sibling["blobId"] = (*file.oid).into();
                    if let Some(sha256) = &file.sha256 {
                        let lfs =
                            serde_json::json!({"sha256": sha256, "size": file.size, "pointerSize": 134});
                        sibling["lfs"] = lfs;
                    }
                }
                sibling
            };
            let siblings: Vec<_> = files.iter().map(sibling).collect();
            serde_json::json!({"id": id, "sha": commit, "siblings": siblings, "tags": []})
        })
    }

    /// What Python's `huggingface_hub` asks for since its version 2.
    fn tree(&self, id: &str, revision: &str) -> Answer {
        self.listed(id, revision, |_, files| {
            let entry = |file: &Described| {
                let mut entry = serde_json::json!({
                    "type": "file", "path": file.name, "size": file.size, "oid": file.oid,
                });
                if let Some(sha256) = &file.sha256 {
                    entry["lfs"] = serde_json::json!({"oid": sha256, "size": file.size, "pointerSize": 134});
                }
                entry
            };
            files.iter().map(entry).collect()
        })
    }

    /// What is made of the commit and the files of a revision.
    fn listed(
        &self,
        id: &str,
        revision: &str,
        body: impl Fn(&str, &[Described]) -> serde_json::Value,
    ) -> Answer {
        let error = |code: &str| Answer::empty(404, vec![("X-Error-Code", code.to_owned())]);
        if !self.root.join(id).is_dir() {
            return error("RepoNotFound");
        }
        let Some((commit, folder)) = self.revision(id, revision) else { return error("RevisionNotFound") };
        let mut files: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| Described::of(&entry.unwrap().path())).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Answer { status: 200, headers, body: body(&commit, &files).to_string().into_bytes() }
    }

    fn file(&self, id: &str, revision: &str, file: &str, seen: &Seen, ignore_range: bool) -> Answer {
        let Some((commit, folder)) = self.revision(id, revision) else { return Answer::empty(404, vec![]) };
        let path = folder.join(file);
        let Ok(content) = fs::read(&path) else {
            let headers =
                vec![("X-Error-Code", "EntryNotFound".to_owned()), ("X-Repo-Commit", commit.clone())];
            return Answer::empty(404, headers);
        };
        let etag = etag(file, &content);
        let mut headers = vec![("X-Repo-Commit", commit.clone())];
        if is_large(file) {
            headers.push(("X-Linked-Etag", format!("\"{etag}\"")));
            headers.push(("X-Linked-Size", content.len().to_string()));
            if let Some(cdn) = &self.cdn {
                headers.push(("Location", format!("{cdn}/cdn/{id}/{commit}/{file}?signature=x%2F")));
                headers.push(("ETag", "\"of-the-redirect\"".to_owned()));
                return Answer::empty(302, headers);
            }
        }
        headers.push(("ETag", format!("W/\"{etag}\"")));
        bytes(&path, seen, headers, ignore_range)
    }
}

/// The bytes of a file, or the part that is asked for.
fn bytes(path: &Path, seen: &Seen, mut headers: Vec<(&'static str, String)>, ignore_range: bool) -> Answer {
    let Ok(body) = fs::read(path) else { return Answer::empty(404, vec![]) };
    let range = seen.headers.get("range").filter(|_| !ignore_range);
    let Some(from) = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
    else {
        let headers_only = seen.method == "HEAD";
        if headers_only {
            headers.push(("Content-Length", body.len().to_string()));
        }
        return Answer { status: 200, headers, body };
    };
    if from >= body.len() {
        return Answer::empty(416, vec![("Content-Range", format!("bytes */{}", body.len()))]);
    }
    headers.push(("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len())));
    Answer { status: 206, headers, body: body[from..].to_vec() }
}
