//! What is wrong, or looks wrong, with checkpoints.

use super::check::{Checked, Sum, expected};
use crate::hub::{Held, HeldFile, Upstream};
use crate::output::list;
use pythia_model::Fingerprint;
use pythia_model::fingerprint::{Common, Extent, compare};
use pythia_model::suite::Published;
use serde::Serialize;
use std::path::PathBuf;

/// Something wrong, or that looks so.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Which kind of thing.
    #[serde(rename = "finding")]
    pub(super) kind: Kind,
    /// Whether files have to be downloaded again; otherwise it is a warning.
    pub(super) damage: bool,
    /// The checkpoints that it concerns.
    pub(super) revisions: Vec<String>,
    /// The file, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<PathBuf>,
    /// What was expected, what was found, what to do.
    pub(super) text: String,
    /// The reports of defects of these checkpoints.
    pub(super) known: Vec<String>,
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// The bytes are not those that the checksum is of.
    Checksum,
    /// The length is not what the Hub says.
    Size,
    /// The link leads to another blob than the Hub says.
    Link,
    /// The link leads nowhere.
    Dead,
    /// The system cannot read it, or it is not what its format requires.
    Unreadable,
    /// A checkpoint is not in the cache.
    Missing,
    /// A checkpoint has no weights, or not all.
    Incomplete,
    /// The Hub has something else under this name by now.
    Moved,
    /// Checkpoints have the same weights.
    Identical,
    /// Checkpoints have the weights of the final model.
    Final,
    /// A file has the weights of another checkpoint.
    Shards,
    /// Checkpoints have some matrices in common.
    Common,
}

impl Finding {
    fn new(kind: Kind, damage: bool, revisions: &[&str], text: String) -> Self {
        let revisions = revisions.iter().map(|&r| r.to_owned()).collect();
        Self { kind, damage, revisions, path: None, text, known: Vec::new() }
    }

    /// Adds what is known of the checkpoints.
    pub(super) fn add_known(&mut self, model: Option<&Published>) {
        let Some(model) = model else { return };
        let defects = self.revisions.iter().flat_map(|revision| model.defects(revision));
        for defect in defects.map(ToString::to_string) {
            if !self.known.contains(&defect) {
                self.known.push(defect);
            }
        }
    }
}

/// The N of `stepN`.
pub(super) fn step(revision: &str) -> Option<u64> {
    revision.strip_prefix("step")?.parse().ok()
}

/// The checkpoints that were asked for and are not there.
pub(super) fn absent(model: &str, absent: &[String]) -> Option<Finding> {
    let names: Vec<&str> = absent.iter().map(|name| &**name).collect();
    let steps: Option<Vec<String>> = names.iter().map(|name| step(name).map(|n| n.to_string())).collect();
    let how = match (steps, &names[..]) {
        (_, []) => return None,
        (Some(steps), _) => format!("--steps {}", steps.join(",")),
        (None, [first, ..]) => format!("--revision {first}"),
    };
    let text = format!("not in the cache: {}; download with `pythia-cli pull {model} {how}`", list(&names));
    Some(Finding::new(Kind::Missing, true, &names, text))
}

/// What is wrong with the files, each once. A checkpoint that lacks something is damage if it was `asked` for.
pub(super) fn files(
    held: &[Held],
    upstream: Option<&[Upstream]>,
    checked: &Checked,
    asked: bool,
) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for (c, held) in held.iter().enumerate() {
        let upstream = upstream.and_then(|all| all.get(c));
        let mut wrong = false;
        for file in &held.files {
            let Some((kind, text)) = judge(file, upstream, checked) else { continue };
            wrong = true;
            let known = found.iter_mut().find(|f| f.path.as_ref() == Some(&file.path) && f.kind == kind);
            if let Some(known) = known {
                known.revisions.push(held.revision.clone());
                continue;
            }
            let text = format!("{} of {}: {text}", file.name, held.revision);
            let finding = Finding::new(kind, true, &[&held.revision], text);
            found.push(Finding { path: Some(file.path.clone()), ..finding });
        }
        let sound = !wrong && held.files.iter().all(|file| expected(file, upstream).is_some());
        // That a dead link's file is lacking is told already.
        if !(wrong && held.lacking.is_some()) {
            found.extend(whole(held, checked.fingerprints.get(c), sound, asked));
        }
        found.extend(upstream.and_then(|upstream| moved(held, upstream)));
    }
    found
}

/// What is wrong with a file, if anything is.
fn judge(file: &HeldFile, upstream: Option<&Upstream>, checked: &Checked) -> Option<(Kind, String)> {
    let path = file.path.display();
    let Some(bytes) = file.bytes else {
        return Some((Kind::Dead, format!("it is a link to {path}, which is not there: pull it again")));
    };
    if let Some((etag, size)) = upstream.and_then(|upstream| upstream.files.as_ref()?.get(&file.name)) {
        if let Some(blob) = file.etag.as_ref().filter(|blob| *blob != etag) {
            let text = format!(
                "it is a link to the blob {blob}, but the Hub says {etag}: delete the link and pull again"
            );
            return Some((Kind::Link, text));
        }
        if bytes != *size {
            let text = format!("{bytes} bytes, but the Hub says {size}: delete {path} and pull again");
            return Some((Kind::Size, text));
        }
    }
    match checked.sums.get(&file.path)? {
        Err(error) => Some((Kind::Unreadable, error.clone())),
        Ok(Sum { hex, .. }) => {
            let expected = expected(file, upstream).filter(|expected| !expected.eq_ignore_ascii_case(hex))?;
            let text = format!("the checksum is {hex}, expected {expected}: delete {path} and pull again");
            Some((Kind::Checksum, text))
        }
    }
}

/// Whether a checkpoint's files are a model; `sound`: each of them is as it was published.
fn whole(
    held: &Held,
    fingerprint: Option<&Option<Result<std::sync::Arc<Fingerprint>, String>>>,
    sound: bool,
    asked: bool,
) -> Option<Finding> {
    let name = &held.revision;
    if let Some(lacking) = &held.lacking {
        let text = format!("{name} lacks {lacking}: pull it");
        return Some(Finding::new(Kind::Incomplete, asked, &[name], text));
    }
    let error = fingerprint?.as_ref()?.as_ref().err()?;
    let text = if sound { format!("{name} has no fingerprint: {error}") } else { format!("{name}: {error}") };
    Some(Finding::new(Kind::Unreadable, !sound, &[name], text))
}

/// Whether the Hub has something else by now.
fn moved(held: &Held, upstream: &Upstream) -> Option<Finding> {
    let (name, commit) = (&held.revision, held.commit.as_deref().unwrap_or_default());
    let text = match (&upstream.moved_to, &upstream.files) {
        (Some(now), _) => format!("{name} stands at {now} on the Hub by now, here at {commit}"),
        (None, None) => format!("{name} is not on the Hub any more: it cannot be compared"),
        (None, Some(_)) => return None,
    };
    Some(Finding::new(Kind::Moved, false, &[name], text))
}

/// What the weights of checkpoints have in common.
pub(super) fn weights(held: &[Held], checked: &Checked, model: Option<&Published>) -> Vec<Finding> {
    let mut of = Vec::new();
    for (held, fingerprint) in held.iter().zip(&checked.fingerprints) {
        // Two names of a commit are one checkpoint.
        let known = of.iter().any(|(other, _): &(&Held, _)| other.commit == held.commit);
        if let (Some(Ok(fingerprint)), false) = (fingerprint, known) {
            of.push((held, &**fingerprint));
        }
    }
    let fingerprints: Vec<&Fingerprint> = of.iter().map(|(_, fingerprint)| *fingerprint).collect();
    let name = |c: usize| of.get(c).map_or("", |(held, _)| &*held.revision);
    let last = match model {
        Some(model) => model.checkpoints().last().map(|last| last.step),
        // Where no list tells, the last one that is here, beside main.
        None if of.iter().any(|(held, _)| held.revision == "main") => {
            of.iter().filter_map(|(held, _)| step(&held.revision)).max()
        }
        None => None,
    };
    let is_final = |name: &str| name == "main" || last.is_some() && step(name) == last;
    compare(&fingerprints).iter().filter_map(|common| tell(common, &name, &is_final)).collect()
}

fn tell<'n>(
    Common { checkpoints, extent }: &Common,
    name: &dyn Fn(usize) -> &'n str,
    is_final: &dyn Fn(&str) -> bool,
) -> Option<Finding> {
    let names: Vec<&str> = checkpoints.iter().map(|c| name(*c)).collect();
    let (last, steps): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|name| is_final(name));
    let with = match &last[..] {
        [] => String::new(),
        last => format!(" as the final model ({})", last.join(", ")),
    };
    let (kind, text) = match extent {
        // The final model is the last step.
        Extent::All if steps.is_empty() => return None,
        Extent::All if last.is_empty() => {
            (Kind::Identical, format!("{} have the same weights", list(&steps)))
        }
        Extent::All => (Kind::Final, format!("{}: the same weights{with}", list(&steps))),
        Extent::Files { of, files } => {
            let of = name(*of);
            let others: Vec<&str> = names.iter().copied().filter(|name| *name != of).collect();
            let holds = format!("{} of {of} holds the weights that {} have too", list(files), list(&others));
            let which = if last.is_empty() {
                String::new()
            } else {
                format!(" ({} is the final model)", list(&last))
            };
            (Kind::Shards, format!("{holds}{which}, its other files do not: shards of different steps"))
        }
        Extent::Matrices { common, of } => {
            (Kind::Common, format!("{} have {common} of {of} matrices in common", list(&names)))
        }
    };
    Some(Finding::new(kind, false, &names, text))
}
