//! The Hugging Face Hub: what a model's name means, the cache it shares with `huggingface_hub`, and the download.

mod cache;
pub(crate) mod checksum;
mod client;
mod download;
mod evict;
mod held;
pub(crate) mod known_sums;
pub mod name;
pub mod progress;
mod pull;
mod url;

pub use evict::Eviction;
pub use held::{Held, HeldFile, Upstream};
pub use name::Source;
pub use progress::Progress;
pub use pull::Plan;

use anyhow::{Context, Result, bail, ensure};
use cache::{Cached, PYTORCH, Repo, SAFETENSORS};
use client::{Client, Metadata};
use known_sums::KnownSums;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// The files beside the weights that are fetched where they exist.
const BESIDE: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// The Hub and its cache.
#[derive(Debug)]
pub struct Hub {
    client: Client,
    cache: PathBuf,
    offline: bool,
    /// Where the XXH3 of each download is noted.
    known_sums: KnownSums,
}

/// How a [`Hub`] is reached. [`Hub::from_env`] reads it from the environment; tests set it.
#[derive(Debug, Clone)]
pub struct Builder {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    proxy: Option<ureq::Proxy>,
    certificates: Option<PathBuf>,
    offline: bool,
    stall: Duration,
    first_wait: Duration,
}

impl Builder {
    /// The public Hub without a token or a proxy, with the cache in the folder `cache`.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            cache: cache.into(),
            token: None,
            proxy: None,
            certificates: None,
            offline: false,
            stall: Duration::from_mins(1),
            first_wait: Duration::from_secs(1),
        }
    }

    /// What the variables say that `huggingface_hub` reads: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`,
    /// `XDG_CACHE_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`; and `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE` or
    /// `SSL_CERT_FILE` for the certificates to trust. An empty variable counts as unset.
    ///
    /// # Errors
    /// If no folder for the cache can be named, or the token cannot be read or is not one.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let text = |name: &str| var(name).map(|value| value.to_string_lossy().trim().to_owned());
        let cache = cache::root(&var, home).context(
            "there is no home folder for the cache: set HF_HUB_CACHE to a folder that can be written",
        )?;
        let mut builder = Self::new(cache);
        if let Some(endpoint) = text("HF_ENDPOINT") {
            builder.endpoint = endpoint;
        }
        let bundles = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];
        builder.certificates = bundles.into_iter().find_map(var).map(PathBuf::from);
        let switch = text("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
        builder.offline = matches!(switch.as_str(), "1" | "ON" | "YES" | "TRUE");
        builder.token = match text("HF_TOKEN") {
            Some(token) => Some(check_token(&token).context("HF_TOKEN")?),
            None => var("HF_TOKEN_PATH")
                .map(PathBuf::from)
                .or_else(|| cache::hf_home(&var, home).map(|folder| folder.join("token")))
                .map(|path| read_token(&name::expand_home(&path, home)))
                .transpose()?
                .flatten(),
        };
        Ok(builder)
    }

    /// Where the Hub is: a URL. A slash at its end does not matter.
    #[must_use]
    pub fn endpoint(mut self, url: &str) -> Self {
        url.clone_into(&mut self.endpoint);
        self
    }

    /// The access token, sent to the endpoint only.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// The proxy for all requests, as a URL.
    ///
    /// # Errors
    /// If it is not one.
    pub fn proxy(mut self, url: &str) -> Result<Self> {
        let proxy = ureq::Proxy::new(url).with_context(|| format!("`{url}` is not a proxy's URL"))?;
        self.proxy = Some(proxy);
        Ok(self)
    }

    /// A PEM file with the certificates to trust instead of Mozilla's, which the binary holds: for networks that
    /// open TLS at their border.
    #[must_use]
    pub fn certificates(mut self, path: impl Into<PathBuf>) -> Self {
        self.certificates = Some(path.into());
        self
    }

    /// Whether the network is forbidden.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// How long a connection may be silent (60 s), and the wait before the second try (1 s), which doubles with
    /// each further one.
    #[must_use]
    pub fn patience(mut self, stall: Duration, first_wait: Duration) -> Self {
        (self.stall, self.first_wait) = (stall, first_wait);
        self
    }

    /// The Hub. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// If the endpoint is not a URL, or the file of certificates has none (which offline does not matter).
    pub fn build(self) -> Result<Hub> {
        let certificates = match self.certificates.as_deref().filter(|_| !self.offline) {
            Some(path) => client::certificates(path)?,
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .proxy(self.proxy)
            .tls_config(TlsConfig::builder().root_certs(certificates).build())
            .timeout_connect(Some(self.stall.min(Duration::from_secs(15))))
            .timeout_per_read(Some(self.stall))
            .timeout_per_write(Some(self.stall));
        let client = Client::new(&self.endpoint, self.token, config, self.first_wait)?;
        Ok(Hub { client, cache: self.cache, offline: self.offline, known_sums: KnownSums::default() })
    }
}

fn check_token(token: &str) -> Result<String> {
    // The token itself is not for the screen.
    ensure!(token.bytes().all(|b| b.is_ascii_graphic()), "expected a token of visible ASCII characters");
    Ok(token.to_owned())
}

fn read_token(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => check_token(text.trim()).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
    .with_context(|| format!("cannot take the access token from {}", path.display()))
}

impl Hub {
    /// The Hub as the environment describes it: see [`Builder::from_vars`]; proxies from `https_proxy`,
    /// `http_proxy`, `all_proxy` and `no_proxy`. Offline if `offline` or `HF_HUB_OFFLINE` says so. Checksums of what is
    /// downloaded are noted in `~/.cache/pythia-cli`.
    ///
    /// # Errors
    /// If a variable makes no sense; the error names it.
    pub fn from_env(offline: bool) -> Result<Self> {
        let mut builder =
            Builder::from_vars(&|name| std::env::var_os(name), std::env::home_dir().as_deref())?;
        builder.proxy = ureq::Proxy::try_from_env();
        builder.offline |= offline;
        Ok(Self { known_sums: KnownSums::of_user(), ..builder.build()? })
    }

    /// Whether the network is forbidden.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The cache's root folder.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The folder with `revision` of the model `id`: config, tokenizer where there is one, weights.
    ///
    /// A revision that is whole in the cache costs no network, `main` included: it stays where it was when it was
    /// downloaded. Otherwise the files are downloaded; a download that stopped is resumed.
    ///
    /// # Errors
    /// If a name is malformed; if the cache lacks something and the network is forbidden or fails; if the Hub has
    /// no such repository or revision, or refuses it, or has no weights for it; if a file arrives damaged; if
    /// the disk is full; if a link leads out of the cache. Each error says what to do.
    pub fn snapshot(&self, id: &str, revision: &str, progress: &dyn Progress) -> Result<PathBuf> {
        name::check_id(id)?;
        name::check_revision(revision)?;
        let repo = Repo::new(&self.cache, id);
        let folder = self.find(&repo, id, revision, progress)?;
        repo.check_links(&self.cache, &folder)?;
        Ok(folder)
    }

    /// The folder of a snapshot, which is downloaded if it has to be.
    fn find(&self, repo: &Repo, id: &str, revision: &str, progress: &dyn Progress) -> Result<PathBuf> {
        match repo.lookup(revision) {
            Cached::Complete(folder) => Ok(folder),
            Cached::Usable { folder, .. } if self.offline => Ok(folder),
            // What is here stands at this commit, wherever the branch has moved to since.
            Cached::Usable { folder, commit } => self.download(repo, id, &commit, progress).or_else(|e| {
                progress.note(&format!("taking {id} as it is in the cache: {e:#}"));
                Ok(folder)
            }),
            Cached::Lacking(what) if self.offline => bail!(
                "offline, and the cache folder {} lacks {what} for {id} at {revision}: run once without --offline \
                 (and without HF_HUB_OFFLINE), or copy that folder from a machine that has it, or give a local \
                 folder with -m",
                repo.folder().display()
            ),
            Cached::Lacking(_) => self.download(repo, id, revision, progress),
        }
    }

    fn download(&self, repo: &Repo, id: &str, revision: &str, progress: &dyn Progress) -> Result<PathBuf> {
        let Listing { commit, files } = self.listing(repo, id, revision, progress)?;
        files.iter().try_for_each(|file| self.fetch(repo, id, &commit, file, progress))?;
        // Last: a reference stands for a snapshot that is whole.
        repo.write_ref(revision, &commit)?;
        Ok(repo.snapshot(&commit))
    }

    /// What to fetch of a revision. To know that, an index of shards is fetched already.
    fn listing(&self, repo: &Repo, id: &str, revision: &str, progress: &dyn Progress) -> Result<Listing> {
        let found = self.client.revision(id, revision, progress)?;
        let commit = found.commit;
        let has = |file: &str| found.files.iter().any(|f| f.name == file);
        ensure!(has("config.json"), "{id} at {revision} has no config.json: it is not a transformers model");
        for absent in SAFETENSORS.into_iter().chain(["tokenizer.json"]).filter(|file| !has(file)) {
            repo.write_no_exist(&commit, absent)?;
        }
        let has_one = |[single, index]: &[&str; 2]| has(single) || has(index);
        let [single, index] = [SAFETENSORS, PYTORCH].into_iter().find(has_one).with_context(|| {
            format!("{id} at {revision} has no weights: choose another revision or model")
        })?;
        let mut files: Vec<String> =
            BESIDE.into_iter().filter(|file| has(file)).map(ToOwned::to_owned).collect();
        if has(single) {
            files.push(single.to_owned());
        } else {
            self.fetch(repo, id, &commit, index, progress)?;
            for shard in cache::shards(&repo.snapshot(&commit).join(index))? {
                ensure!(has(&shard), "{id} at {revision}: {index} names {shard}, which the repository lacks");
                files.push(shard);
            }
        }
        Ok(Listing { commit, files })
    }

    fn fetch(&self, repo: &Repo, id: &str, commit: &str, file: &str, progress: &dyn Progress) -> Result<()> {
        if repo.snapshot(commit).join(file).is_file() {
            return Ok(());
        }
        let metadata = self.client.metadata(id, commit, file, progress)?;
        self.bring(repo, id, (commit, file), &metadata, progress)?;
        repo.link(commit, file, &metadata.etag)
    }

    /// Brings the blob of a file, if it is not here.
    fn bring(
        &self,
        repo: &Repo,
        id: &str,
        (commit, file): (&str, &str),
        metadata: &Metadata,
        progress: &dyn Progress,
    ) -> Result<()> {
        let blob = repo.blob(&metadata.etag);
        let here = || std::fs::metadata(&blob).is_ok_and(|m| m.is_file() && m.len() == metadata.size);
        if here() {
            return Ok(());
        }
        let partial = repo.lock(&metadata.etag, file, progress)?;
        // Another process may have brought it while this one waited.
        if here() {
            return Ok(());
        }
        let url = self.client.file_url(id, commit, file);
        let digest = download::download(&self.client, &url, metadata, &partial.path, progress)?;
        cache::rename(&partial.path, &blob).with_context(|| format!("cannot write {}", blob.display()))?;
        digest.iter().for_each(|digest| self.known_sums.note(digest));
        Ok(())
    }
}

/// What a revision consists of, as far as it matters.
#[derive(Debug)]
struct Listing {
    commit: String,
    files: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)], home: &Path) -> Result<Builder> {
        Builder::from_vars(&|name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| v.into()), Some(home))
    }

    #[test]
    fn the_environment_is_read_as_huggingface_hub_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let plain = from(&[("HF_TOKEN", ""), ("HF_HUB_OFFLINE", "0")], home.path()).unwrap();
        assert_eq!((plain.token.as_deref(), plain.offline), (None, false));
        assert_eq!(plain.endpoint, "https://huggingface.co");
        let hf = home.path().join(".cache/huggingface");
        assert_eq!(plain.cache, hf.join("hub"));
        std::fs::create_dir_all(&hf).unwrap();
        std::fs::write(hf.join("token"), "hf_file\n").unwrap();
        assert_eq!(from(&[], home.path()).unwrap().token.as_deref(), Some("hf_file"));
        let set = [("HF_TOKEN", "hf_var"), ("HF_HUB_OFFLINE", "true"), ("HF_ENDPOINT", "http://m/")];
        let set = from(&set, home.path()).unwrap();
        assert_eq!((set.token.as_deref(), set.offline, &*set.endpoint), (Some("hf_var"), true, "http://m/"));
        let bundles = [("SSL_CERT_FILE", "/a.pem"), ("REQUESTS_CA_BUNDLE", "/b.pem")];
        assert_eq!(from(&bundles, home.path()).unwrap().certificates, Some("/b.pem".into()));
        let error = format!("{:#}", from(&[("HF_TOKEN", "hf_\u{e9}x")], home.path()).unwrap_err());
        assert!(error.contains("HF_TOKEN") && !error.contains("hf_"), "{error}");
    }

    #[test]
    fn a_bundle_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let build = |offline| Builder::new(folder.path()).certificates(&path).offline(offline).build();
        let damaged = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        for (content, says) in [(None, "cannot read"), (Some("x"), "no certificate"), (Some(damaged), "PEM")]
        {
            content.map_or(Ok(()), |text| std::fs::write(&path, text)).unwrap();
            let error = format!("{:#}", build(false).unwrap_err());
            assert!(error.contains("ca.pem") && error.contains(says), "{error}");
            build(true).unwrap();
        }
        // Half a certificate's worth of base64 suffices to be read; it is judged when a server shows its own.
        std::fs::write(&path, damaged.replace('!', "MIIB")).unwrap();
        build(false).unwrap();
    }
}
