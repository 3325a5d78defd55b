//! `diff A B --steps`: two models, each at the same steps of its training.

use super::super::{Args, Checkpoint, Comparison};
use super::{Report, Trained, cells, distance, divergence};
use crate::output::{Out, percent};
use crate::plot::{Lines, Panel, Plot, Series};
use crate::steps;
use crate::style::{Paint, Style};
use anyhow::Result;
use pythia_model::diff::Predictions;
use pythia_tensor::Team;
use serde::Serialize;

#[derive(Serialize)]
struct Line<'a> {
    revision: String,
    step: u64,
    #[serde(flatten)]
    report: Report<'a>,
}

/// Compares the two at every step, and gives what is to be drawn of it.
pub(super) fn run(args: &Args, b: &str, steps: &str, team: &Team, out: &mut Out) -> Result<Plot> {
    let models = [Trained::new(args, &args.a)?, Trained::new(args, b)?];
    let (mut head, mut distances, mut divergences) = (Some(HEAD), Vec::new(), Vec::new());
    walk(args, &models, &shared(&models, steps)?, team, |step, comparison| {
        distances.extend(distance(comparison).map(|distance| (step, distance)));
        divergences.extend(divergence(comparison).map(|divergence| (step, divergence)));
        if args.json {
            return out.json(&Line {
                revision: format!("step{step}"),
                step,
                report: Report::new(comparison),
            });
        }
        let head = head.take().map_or_else(String::new, |head| Style::of(out).paint(Paint::Faint, head));
        out.text(&(head + &row(step, comparison)))
    })?;
    let panels = [
        ("Relative distance ‖B - A‖ / ‖A‖ of the weights", distances),
        ("KL(A‖B) of the next token, mean, nats", divergences),
    ];
    let panel = |(title, points): (&str, Vec<(u64, f64)>)| {
        let series = vec![Series { name: "B from A".to_owned(), points }];
        Panel::Lines(Lines { title: title.to_owned(), series })
    };
    let panels = panels.into_iter().filter(|(_, points)| !points.is_empty()).map(panel).collect();
    Ok(Plot { title: format!("A: {}, B: {b}", args.a), panels })
}

/// The steps that both have: ranges may have more for one of them, single ones must not. Of a model that is not of the suite,
/// the steps of the other are expected.
fn shared([a, b]: &[Trained<'_>; 2], steps: &str) -> Result<Vec<u64>> {
    let of = |one: &Trained, other: &Trained| steps::parse(steps, one.published().or(other.published()));
    let (mut both, of_b) = (of(a, b)?, of(b, a)?);
    both.retain(|step| of_b.binary_search(step).is_ok());
    Ok(both)
}

fn walk(
    args: &Args,
    [x, y]: &[Trained<'_>; 2],
    steps: &[u64],
    team: &Team,
    mut each: impl FnMut(u64, &Comparison) -> Result<()>,
) -> Result<()> {
    let (mut first, mut ids) = (true, None);
    for &step in steps {
        let [a, b] = if first {
            let [(a, of_a), (b, of_b)] = [x.open(step, team)?, y.open(step, team)?];
            ids = args.ids([(&a, of_a.tokenizer.as_ref()), (&b, of_b.tokenizer.as_ref())])?;
            first = false;
            [of_a.model, of_b.model]
        } else {
            [args.model(&x.at(step)?, team)?, args.model(&y.at(step)?, team)?]
        };
        let [a, b] = [a, b].map(|model| Checkpoint::read(model, ids.as_deref(), team));
        each(step, &args.compare(&a?, &b?, team, &mut |_| {})?)?;
    }
    Ok(())
}

const HEAD: &str = "          relative       KL(A‖B), nats  same most log-probability of text
    step  distance      mean   largest   probable        by A        by B
";

fn row(step: u64, comparison: &Comparison) -> String {
    let predictions = comparison.predictions.as_ref();
    let of = |value: fn(&Predictions) -> String| predictions.map_or_else(|| "-".to_owned(), value);
    let largest = predictions.map(|p| f64::from(p.largest().1));
    let numbers = cells([distance(comparison), divergence(comparison), largest]);
    let [agreement, a, b] = [
        of(|p| percent(p.agreement())),
        of(|p| format!("{:.3}", p.log_probs[0])),
        of(|p| format!("{:.3}", p.log_probs[1])),
    ];
    format!("{step:>8}{numbers} {agreement:>10} {a:>11} {b:>11}\n")
}
