//! What the user calls a model and one of its versions: `-m` and `--revision`.

use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};

/// The sizes of the suite, as the Hub spells them.
pub const SIZES: [&str; 10] = ["14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b"];

/// What the sizes were called before January 2023, when embeddings were not yet counted as parameters are now.
const OLD_SIZES: [(&str, &str); 8] = [
    ("19m", "70m"),
    ("125m", "160m"),
    ("350m", "410m"),
    ("800m", "1b"),
    ("1.3b", "1.4b"),
    ("2.7b", "2.8b"),
    ("6.7b", "6.9b"),
    ("13b", "12b"),
];

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
        if let Some(member) = suite_member(name) {
            return Ok(Self::Hub(format!("EleutherAI/pythia-{member}")));
        }
        bail!(
            "`{}` is not a model: expected an existing folder, a Hub id such as EleutherAI/pythia-70m, or a name \
             of the suite: {}, each with -deduped, -v0 or -seed1 to -seed9 after it if wanted",
            printable(name),
            SIZES.join(", ")
        )
    }
}

/// Whether a path is called as GGUF files are.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// `70m-deduped` for `pythia-70m-deduped`, `19m-deduped` and the like; nothing for a name outside the suite.
fn suite_member(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("pythia-").unwrap_or(&name);
    // The repositories of the bias study: pythia-intervention-[long-]SIZE-deduped.
    let (study, rest) = match name.strip_prefix("intervention-") {
        Some(rest) => match rest.strip_prefix("long-") {
            Some(rest) => ("intervention-long-", rest),
            None => ("intervention-", rest),
        },
        None => ("", name),
    };
    let (size, variant) = rest.split_at(rest.find('-').unwrap_or(rest.len()));
    let size = OLD_SIZES.iter().find(|(old, _)| *old == size).map_or(size, |(_, new)| new);
    let known = matches!(variant, "" | "-deduped" | "-v0" | "-deduped-v0") || is_seed(variant);
    (SIZES.contains(&size) && known).then(|| format!("{study}{size}{variant}"))
}

/// `-seed3`, `-data-seed3` (only the data's order differs) or `-weight-seed3` (only the initial weights differ).
fn is_seed(variant: &str) -> bool {
    let prefixes = ["-seed", "-data-seed", "-weight-seed"];
    prefixes.iter().filter_map(|p| variant.strip_prefix(p)).any(|n| matches!(n.as_bytes(), [b'1'..=b'9']))
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

/// Which steps the suite has, for a `stepN` that a repository lacks: the rule and the nearest ones. Nothing if the
/// revision is not `stepN`.
pub(super) fn steps_hint(revision: &str) -> Option<String> {
    let step: u64 = revision.strip_prefix("step")?.parse().ok()?;
    let saved: Vec<u64> =
        std::iter::once(0).chain((0..10).map(|i| 1 << i)).chain((1..=143).map(|k| k * 1000)).collect();
    let below = saved.iter().rev().find(|s| **s < step);
    let above = saved.iter().find(|s| **s > step);
    let nearest: Vec<String> = below.into_iter().chain(above).map(|s| format!("step{s}")).collect();
    let rule = "Pythia has steps 0, 1, 2, 4, 8, ..., 512 and every 1000 from 1000 to 143000";
    Some(format!("{rule}; the nearest to step{step} are: {}", nearest.join(", ")))
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
        for size in SIZES {
            assert_eq!(hub(size), format!("EleutherAI/pythia-{size}"));
        }
    }

    #[test]
    fn old_names_redirect() {
        for (old, new) in OLD_SIZES {
            assert_eq!(hub(&format!("pythia-{old}-deduped")), format!("EleutherAI/pythia-{new}-deduped"));
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

    #[test]
    fn a_wrong_step_gets_its_neighbours() {
        for (revision, nearest) in [
            ("step3", "step2, step4"),
            ("step700", "step512, step1000"),
            ("step1500", "step1000, step2000"),
            ("step143001", "step143000"),
        ] {
            let hint = steps_hint(revision).unwrap();
            assert!(hint.ends_with(&format!("are: {nearest}")), "{hint}");
        }
        assert_eq!(steps_hint("main"), None);
        assert_eq!(steps_hint("step99999999999999999999999"), None);
    }
}
