//! What `verify` tells: a table and the findings, or JSON.

use super::check::{By, Checked, Sum, expected};
use super::findings::Finding;
use crate::hub::progress::gigabytes;
use crate::hub::{Held, HeldFile, Upstream};
use crate::output::{Out, list};
use crate::style::{Paint, Style, column};
use anyhow::Result;
use pythia_model::Fingerprint;
use pythia_model::fingerprint::Part;
use pythia_model::suite::{Defect, Published};
use serde::Serialize;
use std::path::Path;

/// All that was found out.
pub(super) struct Report {
    /// The Hub id, or the folder.
    pub(super) name: String,
    pub(super) model: Option<&'static Published>,
    pub(super) held: Vec<Held>,
    /// In the order of `held`.
    pub(super) upstream: Option<Vec<Upstream>>,
    pub(super) checked: Checked,
    pub(super) findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Checkpoint<'a> {
    revision: &'a str,
    commit: Option<&'a str>,
    path: &'a Path,
    files: Vec<File<'a>>,
    fingerprint: Option<Shown>,
    /// What is known to be wrong with it.
    defects: Vec<String>,
}

#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    bytes: Option<u64>,
    /// None if there is none to compare with.
    expected: Option<String>,
    /// None if it was not read.
    checksum: Option<&'a str>,
    /// What was computed. By XXH3, the checksum is the one that is known to belong to it.
    by: Option<By>,
}

/// A fingerprint, its hashes in hexadecimal digits, as numbers in JSON have no 64 bits.
#[derive(Serialize)]
struct Shown {
    hash: String,
    embedding: ShownPart,
    layer_index: usize,
    layer: ShownPart,
    unembedding: ShownPart,
}

#[derive(Serialize)]
struct ShownPart {
    norm: f64,
    hash: String,
}

impl Shown {
    fn of(f: &Fingerprint) -> Self {
        let part = |part: Part| ShownPart { norm: part.norm, hash: hex(part.hash) };
        let [embedding, layer, unembedding] = [f.embedding, f.layer, f.unembedding].map(part);
        Self { hash: hex(f.hash), embedding, layer_index: f.layer_index, layer, unembedding }
    }
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

impl Report {
    /// One object a checkpoint, then one a finding.
    pub(super) fn json(&self, out: &mut Out) -> Result<()> {
        for (c, held) in self.held.iter().enumerate() {
            let upstream = self.upstream.as_ref().and_then(|all| all.get(c));
            let files = held.files.iter().map(|file| File {
                name: &file.name,
                bytes: file.bytes,
                expected: expected(file, upstream),
                checksum: self.sum(file).map(|sum| &*sum.hex),
                by: self.sum(file).map(|sum| sum.by),
            });
            out.json(&Checkpoint {
                revision: &held.revision,
                commit: held.commit.as_deref(),
                path: &held.folder,
                files: files.collect(),
                fingerprint: self.fingerprint(c).map(Shown::of),
                defects: self.defects(&held.revision).map(ToString::to_string).collect(),
            })?;
        }
        self.findings.iter().try_for_each(|finding| out.json(finding))
    }

    /// A line for each checkpoint, then the findings, then what is known beside them.
    pub(super) fn table(&self, out: &mut Out) -> Result<()> {
        let style = Style::of(out);
        let layer = (0..self.held.len()).find_map(|c| Some(self.fingerprint(c)?.layer_index));
        let layer = layer.map_or_else(|| "layer".to_owned(), |layer| format!("layer {layer}"));
        let head =
            [column("checkpoint", NAME), column("files", 5), column("state", 7), column("embedding", PART)];
        let head = format!("{}  {}  unembedding", head.join("  "), column(&layer, PART));
        let mut lines = vec![style.paint(Paint::Faint, &head)];
        lines.extend((0..self.held.len()).map(|c| self.line(style, c)));
        lines.push(String::new());
        for Finding { damage, text, known, .. } in &self.findings {
            let (paint, word) = if *damage { (Paint::Bad, "damage: ") } else { (Paint::Fair, "warning: ") };
            lines.push(format!("{}{text}", style.paint(paint, word)));
            lines.extend(known.iter().map(|defect| format!("  known defect: {defect}")));
        }
        lines.extend(self.other_defects());
        let (bytes, seconds) = (self.checked.bytes, self.checked.seconds);
        let speed = bytes as f64 / 1e9 / seconds.max(1e-9);
        let known = self.checked.sums.values().flatten().filter(|sum| sum.by == By::Xxh3).count();
        let known = match known {
            0 => String::new(),
            known => {
                format!("; {known} of {} files by XXH3, --full computes SHA-256", self.checked.sums.len())
            }
        };
        let read = format!("{} read in {seconds:.1} s ({speed:.2} GB/s){known}", gigabytes(bytes));
        let count = self.held.len();
        let with = match (&self.upstream, self.model) {
            (Some(_), _) => ", compared with the Hub",
            (None, Some(_)) => ", not compared with the Hub",
            (None, None) => "",
        };
        let checkpoints = if count == 1 { "checkpoint" } else { "checkpoints" };
        let end = format!("{}: {count} {checkpoints}{with}, {read}", self.name);
        lines.extend([style.paint(Paint::Faint, &end), String::new()]);
        out.text(&lines.join("\n"))
    }

    fn line(&self, style: Style, c: usize) -> String {
        let Some(held) = self.held.get(c) else { return String::new() };
        let damaged = self.findings.iter().any(|f| f.damage && f.revisions.contains(&held.revision));
        let (paint, state) = match (damaged, &held.lacking) {
            (true, _) => (Paint::Bad, "damaged"),
            (false, Some(_)) => (Paint::Fair, "lacking"),
            (false, None) => (Paint::Good, "whole"),
        };
        let files = format!("{:>5}", held.files.len());
        let state = style.paint(paint, &column(state, 7));
        let parts =
            self.fingerprint(c).map_or([None; 3], |f| [f.embedding, f.layer, f.unembedding].map(Some));
        let parts = parts.map(|part| part.map_or_else(|| column("-", PART), shown)).join("  ");
        format!("{}  {files}  {state}  {parts}", column(&held.revision, NAME)).trim_end().to_owned()
    }

    /// What is known of the checkpoints here and stands beside no finding.
    fn other_defects(&self) -> Vec<String> {
        let all = self.model.into_iter().flat_map(Published::all_defects);
        let line = |defect: &Defect| {
            let told = |finding: &Finding| finding.known.contains(&defect.to_string());
            let has = |revision: &&str| self.defects(revision).any(|known| known == defect);
            let names: Vec<&str> = self.held.iter().map(|held| &*held.revision).filter(has).collect();
            let tell = !names.is_empty() && !self.findings.iter().any(told);
            tell.then(|| format!("known defect: {}: {defect}", list(&names)))
        };
        all.filter_map(line).collect()
    }

    fn defects(&self, revision: &str) -> impl Iterator<Item = &'static Defect> {
        self.model.into_iter().flat_map(move |model| model.defects(revision).collect::<Vec<_>>())
    }

    fn sum(&self, file: &HeldFile) -> Option<&Sum> {
        self.checked.sums.get(&file.path)?.as_ref().ok()
    }

    fn fingerprint(&self, c: usize) -> Option<&Fingerprint> {
        self.checked.fingerprints.get(c)?.as_ref()?.as_deref().ok()
    }
}

/// The width of the column of checkpoints.
const NAME: usize = 10;
/// The width of a part's column.
const PART: usize = 16;

/// A part's norm, and the start of its hash.
fn shown(part: Part) -> String {
    column(&format!("{:>7.2} {:08x}", part.norm, part.hash >> 32), PART)
}
