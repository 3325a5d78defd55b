//! Plain HTTP with the Hub: what a revision is, what a file is, and the bytes.

use super::cache::{check_etag, check_file};
use super::name::{is_commit, printable};
use super::progress::Progress;
use super::url::{escape, is_web, join, parse, same_origin, shown};
use anyhow::{Context, Result, anyhow, ensure};
use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;
use ureq::config::ConfigBuilder;
use ureq::http::{Request, Response, StatusCode, Uri, header};
use ureq::tls::{PemItem, RootCerts, parse_pem};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

/// How often a request is tried before giving up.
const TRIES: u32 = 5;
/// How many redirects are followed.
const REDIRECTS: usize = 10;
/// The most bytes of JSON that are read.
const JSON_LIMIT: u64 = 16 << 20;
/// The longest wait between two tries, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// A Hub at one endpoint.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    /// Without a slash at the end.
    endpoint: String,
    origin: Uri,
    token: Option<String>,
    first_wait: Duration,
}

/// Why a request failed, and whether to try it again.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again cannot help.
    Final(anyhow::Error),
    /// No connection came about.
    Unreachable(anyhow::Error),
    /// Trying again may help, after what the server asked to wait. `progressed`: the try brought something.
    Passing { error: anyhow::Error, wait: Option<Duration>, progressed: bool },
}

impl Failure {
    pub(super) fn passing(error: anyhow::Error) -> Self {
        Self::Passing { error, wait: None, progressed: false }
    }

    /// What a connection that broke in the middle of a body means.
    pub(super) fn cut(url: &str, error: &std::io::Error) -> Self {
        Self::passing(anyhow!("{url}: the connection broke ({})", printable(&error.to_string())))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

/// The error of a Hub that has the model, but not this revision of it.
#[derive(Debug)]
pub(super) struct NoRevision(String);

impl fmt::Display for NoRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoRevision {}

/// A revision, as the Hub describes it.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) commit: String,
    pub(super) files: Vec<Listed>,
}

/// A file of a revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    /// If that was asked for.
    pub(super) metadata: Option<Metadata>,
}

/// A file, as the Hub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The sha256 of a large file or the git blob sha1 of a small one; checked to be a plain name.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

impl Client {
    /// `config` brings the proxy, the certificates and the timeouts.
    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        config: ConfigBuilder<AgentScope>,
        first_wait: Duration,
    ) -> Result<Self> {
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        let origin = endpoint.parse::<Uri>().ok().filter(is_web);
        let origin = origin.with_context(|| {
            format!(
                "HF_ENDPOINT is `{}`: expected a URL such as https://huggingface.co",
                printable(&endpoint)
            )
        })?;
        let agent = config
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("pythia-cli/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build()
            .new_agent();
        Ok(Self { agent, endpoint, origin, token, first_wait })
    }

    /// What `revision` of `id` is; both are checked names.
    pub(super) fn revision(&self, id: &str, revision: &str, progress: &dyn Progress) -> Result<Revision> {
        self.describe(id, revision, "", progress)
    }

    /// The same with the metadata of all its files.
    pub(super) fn revision_with_metadata(
        &self,
        id: &str,
        revision: &str,
        progress: &dyn Progress,
    ) -> Result<Revision> {
        self.describe(id, revision, "?blobs=true", progress)
    }

    fn describe(&self, id: &str, revision: &str, query: &str, progress: &dyn Progress) -> Result<Revision> {
        let url = format!("{}/api/models/{id}/revision/{}{query}", self.endpoint, escape(revision, false));
        self.retry(progress, || match self.json(&url) {
            // Whoever has no network should learn it at once.
            Err(Failure::Unreachable(error)) => Err(Failure::Final(error)),
            Ok(Answer::Found(bytes)) => Ok(parse_revision(&bytes, revision).with_context(|| url.clone())?),
            Ok(Answer::Refused(status, code)) => Err(self.refusal(status, &code, id, revision).into()),
            Err(failure) => Err(failure),
        })
    }

    fn json(&self, url: &str) -> Result<Answer, Failure> {
        let (mut response, _) = self.follow("GET", url, None)?;
        let status = response.status();
        if matches!(status.as_u16(), 401 | 403 | 404) {
            let code = text(&response, "x-error-code").unwrap_or_default().to_owned();
            return Ok(Answer::Refused(status, code));
        }
        let mut bytes = Vec::new();
        let mut reader = response.body_mut().as_reader().take(JSON_LIMIT + 1);
        reader.read_to_end(&mut bytes).map_err(|e| Failure::cut(url, &e))?;
        if bytes.len() as u64 > JSON_LIMIT {
            return Err(anyhow!("{url}: the answer has more than {JSON_LIMIT} bytes").into());
        }
        Ok(Answer::Found(bytes))
    }

    fn refusal(&self, status: StatusCode, code: &str, id: &str, revision: &str) -> anyhow::Error {
        let endpoint = &self.endpoint;
        if status != StatusCode::NOT_FOUND {
            let token =
                if self.token.is_some() { "the token given has no access" } else { "no token is set" };
            return anyhow!(
                "{endpoint} refuses {id} ({}): the name is wrong, or the repository is private or gated and {token}; \
                 check the name, or set HF_TOKEN to a token that has access",
                status.as_u16()
            );
        }
        if code == "RepoNotFound" || (code.is_empty() && revision == "main") {
            return anyhow!(
                "{endpoint} has no model {id}: check the spelling; the suite's are EleutherAI/pythia-SIZE and \
                 EleutherAI/pythia-SIZE-deduped, or give a size alone, such as 70m"
            );
        }
        anyhow::Error::new(NoRevision(format!(
            "{id} has no revision {revision}: expected main, stepN, a branch, a tag or a commit (`pythia-cli \
             checkpoints` lists the steps of a model of the suite)"
        )))
    }

    /// The etag and size of a file at a commit.
    pub(super) fn metadata(
        &self,
        id: &str,
        commit: &str,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<Metadata> {
        let url = self.file_url(id, commit, file);
        self.retry(progress, || self.head(&url, commit))
    }

    pub(super) fn file_url(&self, id: &str, commit: &str, file: &str) -> String {
        format!("{}/{id}/resolve/{commit}/{}", self.endpoint, escape(file, true))
    }

    /// The Hub's own answer describes the file, not that of the content network it redirects to.
    fn head(&self, url: &str, commit: &str) -> Result<Metadata, Failure> {
        let mut uri = parse(url)?;
        let mut etag = None;
        for _ in 0..REDIRECTS {
            let response = self.request("HEAD", &uri, None)?;
            self.check(&response, &uri)?;
            if let Some(other) = text(&response, "x-repo-commit").filter(|c| *c != commit) {
                return Err(anyhow!("{url}: asked for commit {commit}, got {}", printable(other)).into());
            }
            let next = location(&response, &uri)?;
            let linked = text(&response, "x-linked-etag");
            // A redirect within the Hub only moves the question on; one out of it is the answer.
            let last = next.as_ref().is_none_or(|n| !same_origin(n, &uri));
            if etag.is_none() && (linked.is_some() || last) {
                let found = linked.or_else(|| text(&response, "etag"));
                let found = found.with_context(|| format!("{url}: the answer has no etag"))?;
                let found = found.strip_prefix("W/").unwrap_or(found).trim_matches('"');
                check_etag(found).with_context(|| url.to_owned())?;
                etag = Some(found.to_owned());
            }
            let own = if next.is_none() { number(&response, "content-length") } else { None };
            if let (Some(etag), Some(size)) = (&etag, number(&response, "x-linked-size").or(own)) {
                return Ok(Metadata { etag: etag.clone(), size });
            }
            uri = next
                .with_context(|| format!("{url}: the answer has neither X-Linked-Size nor Content-Length"))?;
        }
        Err(anyhow!("{url}: more than {REDIRECTS} redirects").into())
    }

    /// Asks for the bytes at `url` from `from` on. The status is 200, 206 or 416.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let (response, uri) = self.follow("GET", url, (from > 0).then_some(from))?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        if matches!(response.status().as_u16(), 401 | 403 | 404) {
            self.check(&response, &uri)?;
        }
        Ok(response)
    }

    /// Follows redirects; answers of 401, 403, 404 and 416 are for the caller to judge.
    fn follow(&self, method: &str, url: &str, from: Option<u64>) -> Result<(Response<Body>, Uri), Failure> {
        let mut uri = parse(url)?;
        for _ in 0..=REDIRECTS {
            let response = self.request(method, &uri, from)?;
            match location(&response, &uri)? {
                Some(next) => uri = next,
                None if matches!(response.status().as_u16(), 401 | 403 | 404 | 416) => {
                    return Ok((response, uri));
                }
                None => {
                    self.check(&response, &uri)?;
                    return Ok((response, uri));
                }
            }
        }
        Err(anyhow!("{url}: more than {REDIRECTS} redirects").into())
    }

    fn request(&self, method: &str, uri: &Uri, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        // The token is the endpoint's business only, not that of the host it redirects to.
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(uri, &self.origin)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(()).with_context(|| format!("cannot ask for {}", shown(uri)))?;
        self.agent.run(request).map_err(|e| self.classify(&e, uri))
    }

    fn classify(&self, error: &ureq::Error, uri: &Uri) -> Failure {
        use ureq::{Error as E, Timeout};
        let refused = |kind| {
            matches!(
                kind,
                ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
            )
        };
        let unreachable = match error {
            E::HostNotFound | E::ConnectionFailed | E::ConnectProxyFailed(_) => true,
            E::Timeout(t) => matches!(t, Timeout::Connect | Timeout::Resolve),
            // A failing name server comes as an error without a kind.
            E::Io(e) => refused(e.kind()) || e.to_string().contains("lookup address"),
            _ => false,
        };
        let passing = match error {
            E::Io(e) => e.kind() != ErrorKind::InvalidData,
            E::Timeout(_) | E::Protocol(_) | E::BodyStalled => true,
            _ => false,
        };
        let cause = printable(&error.to_string());
        let check = if cause.contains("certificate") {
            "a network that opens TLS needs its certificate in SSL_CERT_FILE"
        } else {
            "check the network, the proxy and HF_ENDPOINT"
        };
        let what = anyhow!(
            "cannot reach {} ({cause}): {check}, or use a model that is in the cache with --offline, or a local \
             folder with -m",
            if same_origin(uri, &self.origin) { self.endpoint.clone() } else { shown(uri) },
        );
        match (unreachable, passing) {
            (true, _) => Failure::Unreachable(what),
            (false, true) => Failure::passing(what),
            (false, false) => Failure::Final(what),
        }
    }

    /// Whether a status is success, or a redirect, or which failure.
    fn check(&self, response: &Response<Body>, uri: &Uri) -> Result<(), Failure> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        let code = status.as_u16();
        let error = anyhow!("{}: the server answered {status}", shown(uri));
        if matches!(code, 408 | 429 | 500..=599) {
            let wait = number(response, "retry-after").map(Duration::from_secs);
            return Err(Failure::Passing { error, wait, progressed: false });
        }
        let remedy = match code {
            401 | 403 if same_origin(uri, &self.origin) => {
                "the repository is private or gated; set HF_TOKEN to a token that has access"
            }
            404 => "the file is not there",
            _ => "try again later, or set HF_ENDPOINT to another mirror",
        };
        Err(error.context(remedy).into())
    }

    /// Tries up to five times, waiting longer and longer; a try that progressed is not counted.
    pub(super) fn retry<T>(
        &self,
        progress: &dyn Progress,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (error, wait, progressed) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Unreachable(error)) => (error, None, false),
                Err(Failure::Passing { error, wait, progressed }) => (error, wait, progressed),
            };
            if progressed {
                tries = 1;
            } else if tries == TRIES {
                return Err(
                    error.context(format!("gave up after {TRIES} tries, run the command again to go on"))
                );
            }
            let wait = wait.unwrap_or(self.first_wait * 2_u32.pow(tries - 1)).min(LONGEST_WAIT);
            progress.note(&format!("{error:#}; trying again in {:.1} s", wait.as_secs_f64()));
            std::thread::sleep(wait);
        }
    }
}

/// The certificates in a PEM file.
pub(super) fn certificates(path: &Path) -> Result<RootCerts> {
    let pem =
        std::fs::read(path).with_context(|| format!("cannot read the certificates in {}", path.display()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(one) = item.with_context(|| path.display().to_string())? {
            found.push(one);
        }
    }
    ensure!(!found.is_empty(), "{} has no certificate: expected a PEM file of them", path.display());
    Ok(RootCerts::from(found))
}

/// What an API call brought.
enum Answer {
    Found(Vec<u8>),
    /// The status and `X-Error-Code`.
    Refused(StatusCode, String),
}

fn parse_revision(bytes: &[u8], revision: &str) -> Result<Revision> {
    #[derive(serde::Deserialize)]
    struct Info {
        sha: String,
        #[serde(default)]
        siblings: Vec<Sibling>,
    }
    #[derive(serde::Deserialize)]
    struct Sibling {
        rfilename: String,
        size: Option<u64>,
        #[serde(rename = "blobId")]
        blob_id: Option<String>,
        lfs: Option<Lfs>,
    }
    #[derive(serde::Deserialize)]
    struct Lfs {
        sha256: String,
    }
    let info: Info =
        serde_json::from_slice(bytes).context("expected the Hub's JSON with `sha` and `siblings`")?;
    ensure!(is_commit(&info.sha), "`sha` is `{}`: expected a commit of 40 hex digits", printable(&info.sha));
    ensure!(!is_commit(revision) || info.sha == revision, "asked for {revision}, got commit {}", info.sha);
    let listed = |Sibling { rfilename: name, size, blob_id, lfs }| {
        check_file(&name)?;
        let etag = lfs.map(|lfs| lfs.sha256).or(blob_id);
        let metadata = etag.zip(size).map(|(etag, size)| Metadata { etag, size });
        metadata.iter().try_for_each(|metadata| check_etag(&metadata.etag))?;
        Ok(Listed { name, metadata })
    };
    let files = info.siblings.into_iter().map(listed).collect::<Result<_>>()?;
    Ok(Revision { commit: info.sha, files })
}

/// Where a redirect leads, if the answer is one.
fn location(response: &Response<Body>, base: &Uri) -> Result<Option<Uri>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let target =
        text(response, "location").with_context(|| format!("{}: a redirect to nowhere", shown(base)))?;
    let next = join(base, target)
        .with_context(|| format!("{}: a redirect to `{}`", shown(base), printable(target)))?;
    let downgrade = base.scheme_str() == Some("https") && next.scheme_str() != Some("https");
    ensure!(!downgrade, "{}: refused the redirect to {}, which is not encrypted", shown(base), shown(&next));
    Ok(Some(next))
}

/// A header as text.
pub(super) fn text<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok().map(str::trim)
}

/// A header as a whole number.
pub(super) fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    text(response, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_revisions_are_refused() {
        let commit = "0123456789012345678901234567890123456789";
        let json =
            |sha: &str, file: &str| format!(r#"{{"sha":"{sha}","siblings":[{{"rfilename":"{file}"}}]}}"#);
        let plain = Listed { name: "a/b".to_owned(), metadata: None };
        assert_eq!(parse_revision(json(commit, "a/b").as_bytes(), "main").unwrap().files, [plain]);
        for (sha, file, says) in [
            (commit, "../../x", "could leave the cache"),
            (commit, "/etc/passwd", "could leave the cache"),
            ("../../../x", "f", "40 hex digits"),
        ] {
            let error = format!("{:#}", parse_revision(json(sha, file).as_bytes(), "main").unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        assert!(parse_revision(json(commit, "f").as_bytes(), &"a".repeat(40)).is_err());
        assert!(parse_revision(b"<html>", "main").is_err());
    }

    #[test]
    fn the_metadata_of_a_large_file_is_that_of_its_bytes() {
        let (commit, sha1, sha256) = ("01234".repeat(8), "5678".repeat(10), "9abc".repeat(16));
        let json = format!(
            r#"{{"sha":"{commit}","siblings":[
                {{"rfilename":"s","size":5,"blobId":"{sha1}"}},
                {{"rfilename":"l","size":7,"blobId":"{sha1}","lfs":{{"sha256":"{sha256}","size":7,"pointerSize":1}}}}]}}"#
        );
        let files = parse_revision(json.as_bytes(), "main").unwrap().files;
        let metadata = |etag: &str, size| Some(Metadata { etag: etag.to_owned(), size });
        let [small, large] = &files[..] else { panic!("{files:?}") };
        assert_eq!((&small.metadata, &large.metadata), (&metadata(&sha1, 5), &metadata(&sha256, 7)));
        let error = parse_revision(json.replace(&sha256, "../../x").as_bytes(), "main").unwrap_err();
        assert!(format!("{error:#}").contains("refused the etag"));
    }

    #[test]
    fn an_endpoint_must_be_a_url() {
        let second = Duration::from_secs(1);
        for endpoint in ["", "huggingface.co", "ftp://x", "http://"] {
            let error = Client::new(endpoint, None, Agent::config_builder(), second).unwrap_err();
            assert!(format!("{error:#}").contains("HF_ENDPOINT"), "{endpoint}");
        }
    }
}
