//! `diff --steps`: the checkpoints of a model along its training, or those of two side by side.

mod beside;

use super::report::{Groups, PredictionsReport, number};
use super::{Args, Checkpoint, Comparison, Side};
use crate::hub::Source;
use crate::hub::name::renamed;
use crate::interrupt::Writing;
use crate::model::{Opened, Place};
use crate::output::{Out, note};
use crate::plot::{Heat, Lines, Panel, Plot, Series};
use crate::steps;
use crate::style::{Paint, Style};
use anyhow::{Context, Result, bail, ensure};
use pythia_model::diff::{Predictions, WeightsDifference};
use pythia_model::{suite, write_whole};
use pythia_tensor::Team;
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf, absolute};
use std::rc::Rc;

/// A checkpoint beside three others, each of which is A.
struct Moved {
    step: u64,
    /// The one before in the list; the first has none.
    previous: Option<Comparison>,
    first: Comparison,
    last: Comparison,
}

#[derive(Serialize)]
struct Line<'a> {
    revision: String,
    step: u64,
    previous: Option<Report<'a>>,
    first: Report<'a>,
    last: Report<'a>,
}

#[derive(Serialize)]
struct Report<'a> {
    weights: Option<Groups<'a>>,
    predictions: Option<PredictionsReport<'a>>,
}

impl<'a> Report<'a> {
    fn new(comparison: &'a Comparison) -> Self {
        Self {
            weights: comparison.weights.as_ref().map(Groups::new),
            predictions: comparison.predictions.as_ref().map(PredictionsReport::new),
        }
    }
}

pub(super) fn run(args: &Args, steps: &str, team: &Team, out: &mut Out) -> Result<()> {
    // After hours of work is no time to say so.
    let path = args.plot.as_deref().map(plot_path).transpose()?;
    let plot = match &args.b {
        Some(b) => beside::run(args, b, steps, team, out)?,
        None => alone(args, steps, team, out)?,
    };
    let Some(path) = path else { return Ok(()) };
    let _writing = path.parent().map(Writing::into);
    write_whole(&path, |file| file.write_all(plot.svg().as_bytes()))?;
    note(&format!("drawn into {}", path.display()));
    Ok(())
}

/// Compares the checkpoints of one model, and gives what is to be drawn of it.
fn alone(args: &Args, steps: &str, team: &Team, out: &mut Out) -> Result<Plot> {
    let model = Trained::new(args, &args.a)?;
    let steps = steps::parse(steps, model.published())?;
    let (Some(&first), Some(&last)) = (steps.first(), steps.last()) else {
        bail!("--steps names no checkpoint")
    };
    ensure!(first != last, "--steps {first} is one checkpoint: give two or more to compare");
    let mut rows = Rows::default();
    walk(args, &model, &steps, team, |moved| {
        rows.keep(&moved);
        if args.json {
            let revision = format!("step{}", moved.step);
            let previous = moved.previous.as_ref().map(Report::new);
            let (first, last) = (Report::new(&moved.first), Report::new(&moved.last));
            return out.json(&Line { revision, step: moved.step, previous, first, last });
        }
        let style = Style::of(out);
        let head = if moved.step == first { style.paint(Paint::Faint, HEAD) } else { String::new() };
        out.text(&(head + &row(&moved)))
    })?;
    Ok(rows.plot(&args.a, [first, last]))
}

/// Compares every checkpoint with the one before, the first and the last, and tells `each` of it.
fn walk(
    args: &Args,
    model: &Trained<'_>,
    steps: &[u64],
    team: &Team,
    mut each: impl FnMut(Moved) -> Result<()>,
) -> Result<()> {
    let Some(&last_step) = steps.last() else { return Ok(()) };
    let (side, Opened { model: last, tokenizer }) = model.open(last_step, team)?;
    let ids = args.ids([(&side, tokenizer.as_ref()), (&side, None)])?;
    let last = Rc::new(Checkpoint::read(last, ids.as_deref(), team)?);
    let (mut first, mut previous) = (None, None::<Rc<Checkpoint>>);
    for &step in steps {
        let current = if step == last_step {
            last.clone()
        } else {
            let current = args.model(&model.at(step)?, team)?;
            Rc::new(Checkpoint::read(current, ids.as_deref(), team)?)
        };
        let from = |a: &Checkpoint| args.compare(a, &current, team, &mut |_| {});
        each(Moved {
            step,
            previous: previous.as_deref().map(from).transpose()?,
            first: from(first.get_or_insert_with(|| current.clone()))?,
            last: from(&last)?,
        })?;
        previous = Some(current);
    }
    Ok(())
}

/// A model with checkpoints.
struct Trained<'a> {
    args: &'a Args,
    source: Source,
}

impl<'a> Trained<'a> {
    fn new(args: &'a Args, name: &'a str) -> Result<Self> {
        let source = Source::parse(Some(name)).map_err(|e| match name.split_once('@') {
            Some((model, _)) => {
                e.context(format!("--steps says which checkpoints to compare: give {model} alone"))
            }
            None => e,
        })?;
        if let (Source::Hub(_), Some(notice)) = (&source, renamed(name)) {
            note(&notice);
        }
        Ok(Self { args, source })
    }

    fn published(&self) -> Option<&'static suite::Published> {
        match &self.source {
            Source::Hub(id) => suite::find(id),
            _ => None,
        }
    }

    /// A checkpoint: a revision on the Hub, `stepN` in a folder.
    fn at(&self, step: u64) -> Result<Side> {
        let folder = match &self.source {
            Source::Folder(folder) => folder,
            Source::Hub(id) => return self.args.side(&format!("{id}@step{step}")),
            Source::Embedded => bail!("the model inside this program has no checkpoints"),
        };
        let folder = folder.join(format!("step{step}"));
        ensure!(
            folder.is_dir(),
            "{}: there is no such folder; the steps of a folder lie in it as stepN",
            folder.display()
        );
        let name = folder.display().to_string();
        let args = self.args.side_args(&name, None);
        Ok(Side { name, args, place: Place::Folder(folder) })
    }

    /// A checkpoint, ready, and its tokenizer: the folders of the steps may share one.
    fn open(&self, step: u64, team: &Team) -> Result<(Side, Opened)> {
        let side = self.at(step)?;
        let mut opened = self.args.open(&side, team)?;
        if let (Source::Folder(folder), None) = (&self.source, &opened.tokenizer) {
            opened.tokenizer = Place::Folder(folder.clone()).tokenizer()?;
        }
        Ok((side, opened))
    }
}

/// Where the plot goes: what can be known of that beforehand must be right.
fn plot_path(path: &Path) -> Result<PathBuf> {
    let svg = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("svg"));
    ensure!(svg, "--plot {}: plots are SVG: give a name that ends in .svg", path.display());
    let path = absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    let folder = path.parent().unwrap_or(&path);
    ensure!(folder.is_dir(), "--plot {}: there is no folder {}", path.display(), folder.display());
    Ok(path)
}

const HEAD: &str = "          relative distance from        KL(A‖B), nats, from          log-prob.
    step  previous     first      last  previous     first      last     of text
";

fn row(moved: &Moved) -> String {
    let all = [moved.previous.as_ref(), Some(&moved.first), Some(&moved.last)];
    let cells = cells(all.map(|c| c.and_then(distance))) + &cells(all.map(|c| c.and_then(divergence)));
    let log_prob =
        moved.last.predictions.as_ref().map_or_else(|| "-".to_owned(), |p| format!("{:.3}", p.log_probs[1]));
    format!("{:>8}{cells} {log_prob:>11}\n", moved.step)
}

/// Numbers in columns, as far as there are any.
fn cells(values: [Option<f64>; 3]) -> String {
    values.map(|value| format!(" {:>9}", value.map_or_else(|| "-".to_owned(), number))).concat()
}

fn distance(comparison: &Comparison) -> Option<f64> {
    comparison.weights.as_ref().map(|weights| weights.all().relative())
}

fn divergence(comparison: &Comparison) -> Option<f64> {
    comparison.predictions.as_ref().map(Predictions::mean)
}

/// What is drawn.
#[derive(Default)]
struct Rows {
    /// From the checkpoint before, the first and the last.
    distances: [Vec<(u64, f64)>; 3],
    divergences: [Vec<(u64, f64)>; 3],
    steps: Vec<u64>,
    /// Embedding, layers and unembedding: for each step but the first, the distance from the one before.
    parts: Vec<(String, Vec<f64>)>,
}

impl Rows {
    fn keep(&mut self, moved: &Moved) {
        self.steps.push(moved.step);
        if let Some(weights) = moved.previous.as_ref().and_then(|previous| previous.weights.as_ref()) {
            for (name, distance) in parts(weights) {
                match self.parts.iter_mut().find(|part| part.0 == name) {
                    Some((_, values)) => values.push(distance),
                    None => self.parts.push((name, vec![distance])),
                }
            }
        }
        let from = [moved.previous.as_ref(), Some(&moved.first), Some(&moved.last)];
        for (place, comparison) in from.into_iter().enumerate() {
            self.distances[place].extend(comparison.and_then(distance).map(|d| (moved.step, d)));
            self.divergences[place].extend(comparison.and_then(divergence).map(|d| (moved.step, d)));
        }
    }

    fn plot(self, model: &str, [first, last]: [u64; 2]) -> Plot {
        let names = ["A: the step before".to_owned(), format!("A: step {first}"), format!("A: step {last}")];
        let panel = |title: &str, lines: [Vec<(u64, f64)>; 3]| {
            let series =
                names.iter().zip(lines).map(|(name, points)| Series { name: name.clone(), points }).collect();
            Panel::Lines(Lines { title: title.to_owned(), series })
        };
        let mut panels = Vec::new();
        if !self.distances[1].is_empty() {
            panels.push(panel("Relative distance ‖B - A‖ / ‖A‖ of the weights", self.distances));
        }
        if !self.divergences[1].is_empty() {
            panels.push(panel("KL(A‖B) of the next token, mean, nats", self.divergences));
        }
        if !self.parts.is_empty() {
            let title = "Relative distance from the step before, by layer".to_owned();
            panels.push(Panel::Heat(Heat { title, steps: self.steps, rows: self.parts }));
        }
        Plot { title: model.to_owned(), panels }
    }
}

/// The relative distances of embedding, layers and unembedding.
fn parts(weights: &WeightsDifference) -> Vec<(String, f64)> {
    let kinds = weights.kinds();
    let table = |part: &str| {
        let found = kinds.iter().find(|(kind, _)| kind.ends_with(&format!("{part}.weight")));
        found.map(|(_, difference)| (part.to_owned(), difference.relative()))
    };
    let layers = weights.layers().into_iter().map(|(layer, d)| (format!("layer {layer}"), d.relative()));
    table("embed_in").into_iter().chain(layers).chain(table("embed_out")).collect()
}
