//! `score`: how probable a model finds a text.

use crate::args::ModelArgs;
use crate::input::{Input, InputArgs};
use crate::model::Opened;
use crate::output::{Out, percent};
use crate::style::{Paint, Style, column, visible};
use anyhow::{Result, ensure};
use pythia_model::{Tokenizer, Workspace, score};
use serde::Serialize;

/// Show the log-probability of each token of a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli score -m 410m \"The capital of France is Paris\"")]
pub(crate) struct Args {
    /// The text [default: all of stdin, where every byte counts, a last newline too]
    text: Option<String>,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Scores<'a> {
    ids: &'a [u32],
    /// Natural logarithms; the first token has none.
    logprobs: &'a [Option<f32>],
    sum: f64,
    /// None if there is only one token.
    perplexity: Option<f64>,
}

/// `score`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let input = args.input.required(args.text.as_deref())?;
    let team = args.model.team()?;
    let place = args.model.locate()?;
    let opened = match (&input, args.model.json) {
        // Nothing is said in text.
        (Input::Ids(_), true) => Opened { model: args.model.model(&place, &team)?, tokenizer: None },
        _ => args.model.open(&place, &team)?,
    };
    let ids = input.ids(opened.tokenizer.as_ref(), &place.name())?;
    ensure!(!ids.is_empty(), "the text is empty: there is nothing to score");
    let logprobs = team.enter(|crew| score(&opened.model, crew, &mut Workspace::new(), &ids))?;
    let known: Vec<f64> = logprobs.iter().flatten().map(|&l| f64::from(l)).collect();
    let sum: f64 = known.iter().sum();
    let perplexity = (!known.is_empty()).then(|| (-sum / known.len() as f64).exp());
    if args.model.json {
        return out.json(&Scores { ids: &ids, logprobs: &logprobs, sum, perplexity });
    }
    let style = Style::of(out);
    let header = format!("{} {:>9} {:>8}", column("token", TOKEN), "logprob", "prob");
    let mut lines = vec![style.paint(Paint::Faint, &header)];
    lines.extend(ids.iter().zip(&logprobs).map(|(&id, &l)| row(style, opened.tokenizer.as_ref(), id, l)));
    lines.push(format!("\n{} {sum:>9.4}  over {} tokens", column("sum", TOKEN), known.len()));
    if let Some(perplexity) = perplexity {
        let mean = sum / known.len() as f64;
        let perplexity = style.paint(Paint::Strong, &format!("{perplexity:>9.4}"));
        lines.push(format!("{} {mean:>9.4}", column("mean", TOKEN)));
        lines.push(format!("{} {perplexity}  = exp(-mean)", column("perplexity", TOKEN)));
    }
    out.text(&(lines.join("\n") + "\n"))
}

/// The width of the column of tokens.
const TOKEN: usize = 24;

fn row(style: Style, tokenizer: Option<&Tokenizer>, id: u32, logprob: Option<f32>) -> String {
    let token = match tokenizer.and_then(|t| t.token(id)) {
        Some(token) => visible(&token),
        None => format!("#{id}"),
    };
    let Some(logprob) = logprob else {
        return format!("{} {}", column(&token, TOKEN), style.paint(Paint::Faint, "    given"));
    };
    let p = f64::from(logprob).exp();
    let paint = match p {
        0.25.. => Paint::Good,
        0.01.. => Paint::Fair,
        _ => Paint::Bad,
    };
    let numbers = style.paint(paint, &format!("{logprob:>9.4} {:>8}", percent(p)));
    format!("{} {numbers}", column(&token, TOKEN))
}
