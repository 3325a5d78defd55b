//! What the user calls a model and one of its versions: `-m` and `--revision`.

use anyhow::{Result, bail, ensure};
use pythia_model::{SIZES, suite};
use std::path::{Path, PathBuf};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The small model inside the binary.
    Embedded,
    /// A folder with `config.json` and weights, or a GGUF file. It need not exist: whoever opens it says so.
    Folder(PathBuf),
    /// A repository of the Hugging Face Hub, `ORG/NAME`, already [validated](check_id).
    Hub(String),
}

impl Source {
    /// What `-m NAME` means; without a name, the embedded model.
    ///
    /// An existing folder wins. A name that starts with `.`, `/` or `~`, or holds a backslash, is always a folder; one
    /// that ends in `.gguf` is a file.
    /// `ORG/NAME` is a Hub id as it stands. A bare name is a member of the suite: `pythia-70m`, `70m`,
    /// `1.4b-deduped`, `160m-seed3`, and the old names (`19m` is `70m`).
    ///
    /// # Errors
    /// If the name is none of these; the error lists what is accepted.
    pub fn parse(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else { return Ok(Self::Embedded) };
        let home = std::env::home_dir();
        let path = expand_home(Path::new(name), home.as_deref());
        if name.starts_with(['.', '/', '~'])
            || name.contains('\\')
            || (!name.is_empty() && path.is_dir())
            || is_gguf(&path)
        {
            return Ok(Self::Folder(path));
        }
        if name.contains('/') {
            check_id(name)?;
            return Ok(Self::Hub(name.to_owned()));
        }
        if let Some(model) = suite::find(name) {
            return Ok(Self::Hub(model.hub_id()));
        }
        bail!(
            "`{}` is not a model: expected an existing folder, a Hub id such as EleutherAI/pythia-70m, or a name \
             of the suite: {}, some also with -deduped, -v0 or -seed1 to -seed9 (`pythia-cli models` lists them all)",
            printable(name),
            SIZES.map(|size| size.name).join(", ")
        )
    }
}

/// Whether a path is called as GGUF files are.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// What to tell who calls a model of the suite by its name from before January 2023.
pub fn renamed(name: &str) -> Option<String> {
    let model = suite::find(name)?;
    let ends = name.to_ascii_lowercase().ends_with(&model.name);
    (!ends).then(|| format!("{} is called {} today", printable(name), model.hub_id()))
}

/// `path` with a leading `~` replaced by `home`, where a home is known.
pub(super) fn expand_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) if rest.as_os_str().is_empty() => home.to_owned(),
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// A text of the user or of a server, fit for a terminal: no control characters and not long.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Checks that `id` is `ORG/NAME` in the Hub's own spelling, so that as a folder name it cannot leave the cache.
///
/// # Errors
/// If it is not: the error says what an id looks like.
pub fn check_id(id: &str) -> Result<()> {
    // The cache joins the two parts with `--`, which the Hub therefore forbids inside them.
    let part = |p: &str| {
        is_word(p) && !p.contains("..") && !p.contains("--") && !p.starts_with('.') && !p.ends_with('.')
    };
    let whole = id.len() <= 96 && id.split('/').count() == 2 && id.split('/').all(part);
    ensure!(
        whole,
        "`{}` is neither an existing folder nor a Hub id: an id is ORG/NAME, such as EleutherAI/pythia-70m, made of \
         letters, digits, `.`, `_` and `-` (`..` and `--` excepted)",
        printable(id)
    );
    Ok(())
}

/// Checks that `revision` can be a branch, tag or commit and, as a path below `refs/`, cannot leave it.
///
/// # Errors
/// If it cannot: the error says what a revision looks like.
pub fn check_revision(revision: &str) -> Result<()> {
    let part = |p: &str| is_word(p) && !p.contains("..") && p != ".";
    ensure!(
        revision.len() <= 200 && revision.split('/').all(part),
        "`{}` is not a revision: expected main, a step such as step143000, a branch, a tag or a commit, made of \
         letters, digits, `.`, `_`, `-` and `/`",
        printable(revision)
    );
    Ok(())
}

/// Whether `text` is a full git commit: 40 hexadecimal digits in lower case.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(name: &str) -> String {
        match Source::parse(Some(name)) {
            Ok(Source::Hub(id)) => id,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn no_name_is_the_embedded_model() {
        assert_eq!(Source::parse(None).unwrap(), Source::Embedded);
    }

    #[test]
    fn names_of_the_suite_are_completed() {
        for (name, id) in [
            ("70m", "EleutherAI/pythia-70m"),
            ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
            ("1.4b-deduped", "EleutherAI/pythia-1.4b-deduped"),
            ("160m-seed3", "EleutherAI/pythia-160m-seed3"),
            ("pythia-160m-data-seed2", "EleutherAI/pythia-160m-data-seed2"),
            ("14m", "EleutherAI/pythia-14m"),
            ("Pythia-12B", "EleutherAI/pythia-12b"),
            ("70m-deduped-v0", "EleutherAI/pythia-70m-deduped-v0"),
            ("pythia-intervention-long-1.4b-deduped", "EleutherAI/pythia-intervention-long-1.4b-deduped"),
            ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
            ("databricks/dolly-v2-3b", "databricks/dolly-v2-3b"),
        ] {
            assert_eq!(hub(name), id);
        }
    }

    #[test]
    fn old_names_redirect_and_say_so() {
        assert_eq!(hub("pythia-350m-deduped"), "EleutherAI/pythia-410m-deduped");
        let notice = renamed("pythia-350m-deduped").unwrap();
        assert_eq!(notice, "pythia-350m-deduped is called EleutherAI/pythia-410m-deduped today");
        for name in ["410m-deduped", "Pythia-410M", "EleutherAI/pythia-70m", "gpt2", "someone/pythia-19m"] {
            assert_eq!(renamed(name), None, "{name}");
        }
    }

    #[test]
    fn folders_win() {
        let file = Source::parse(Some("a/b.gguf")).unwrap();
        assert_eq!(file, Source::Folder(PathBuf::from("a/b.gguf")));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(Source::parse(Some(path)).unwrap(), Source::Folder(folder.path().to_owned()));
        for name in [".", "./70m", "../x/y/z", "/nowhere/at-all"] {
            assert_eq!(Source::parse(Some(name)).unwrap(), Source::Folder(name.into()));
        }
        // A relative path to an existing folder, though it could be an id: tests run in the crate's folder.
        assert_eq!(Source::parse(Some("src/hub")).unwrap(), Source::Folder("src/hub".into()));
        let home = Path::new("/home/ada");
        assert_eq!(expand_home(Path::new("~/m"), Some(home)), Path::new("/home/ada/m"));
        assert_eq!(expand_home(Path::new("~"), Some(home)), home);
        assert_eq!(expand_home(Path::new("~ada/m"), Some(home)), Path::new("~ada/m"));
    }

    #[test]
    fn nonsense_is_refused_with_what_is_accepted() {
        for name in ["", "71m", "pythia", "gpt2", "70m-dedup", "160m-seed0", "160m-seed12", "synth:70m"] {
            let error = format!("{:#}", Source::parse(Some(name)).unwrap_err());
            assert!(error.contains("EleutherAI/pythia-70m") && error.contains("2.8b"), "{error}");
            assert!(error.contains(&format!("`{name}`")) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn ids_and_revisions_cannot_leave_the_cache() {
        let long = format!("a/{}", "b".repeat(95));
        for id in ["a/b/c", "a/..", "../b", "a/b..c", "a--b/c", "a/", "a/b c", "a/b\n", "é/x", ".a/b", &long]
        {
            assert!(check_id(id).is_err(), "{id}");
        }
        for revision in ["", "..", "a/../b", "/a", "a/", "a//b", ".", "a b", "a\\b", "a\0", "a..b"] {
            assert!(check_revision(revision).is_err(), "{revision}");
        }
        for revision in ["main", "step143000", "refs/pr/1", "v1.0", "0123abc"] {
            check_revision(revision).unwrap();
        }
        assert!(!format!("{:#}", check_id("a/\u{1b}[31m").unwrap_err()).contains('\u{1b}'));
    }
}
