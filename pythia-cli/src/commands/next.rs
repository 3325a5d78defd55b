//! `next`: the distribution of the next token.

use crate::args::ModelArgs;
use crate::input::InputArgs;
use crate::output::{Out, joined, percent};
use crate::style::{Paint, Style, bar, column, end_of, visible};
use anyhow::{Result, ensure};
use pythia_model::{Tokenizer, Workspace, next};
use serde::Serialize;

/// Show the most probable next tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli next \"Once upon a\" --top 5

The first token is the one that `run` takes at temperature 0. In a token, · is a space.")]
pub(crate) struct Args {
    /// The text so far [default: all of stdin, where every byte counts, a last newline too]
    #[arg(value_name = "PROMPT")]
    text: Option<String>,
    /// How many tokens to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Top {
    top: Vec<Candidate>,
}

#[derive(Serialize)]
struct Candidate {
    id: u32,
    /// None if the model has no tokenizer.
    token: Option<String>,
    logprob: f32,
}

/// `next`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    ensure!(args.top > 0, "--top 0 shows nothing: ask for at least 1");
    let input = args.input.required(args.text.as_deref())?;
    let team = args.model.team()?;
    let place = args.model.locate()?;
    let opened = args.model.open(&place, &team)?;
    let tokenizer = opened.tokenizer.as_ref();
    let ids = input.ids(tokenizer, &place.name())?;
    ensure!(!ids.is_empty(), "the prompt is empty: give a text, or the end-of-text token `<|endoftext|>`");
    let limit = tokenizer.map_or(usize::MAX, Tokenizer::vocab_size);
    let best = team.enter(|crew| next(&opened.model, crew, &mut Workspace::new(), &ids, args.top, limit))?;
    let token = |id| tokenizer.and_then(|t| t.token(id));
    let top: Vec<_> =
        best.into_iter().map(|(id, logprob)| Candidate { id, token: token(id), logprob }).collect();
    if args.model.json {
        return out.json(&Top { top });
    }
    let prompt = match tokenizer {
        Some(tokenizer) => visible_line(&tokenizer.decode(&ids)),
        None => joined(&ids),
    };
    let table = table(Style::of(out), &prompt, &top);
    out.text(&table)
}

/// A prompt on one line: spaces stay what they are.
fn visible_line(text: &str) -> String {
    visible(text).replace('·', " ")
}

/// The mark of the token that greedy decoding takes.
const GREEDY: &str = "  ← greedy";

fn table(style: Style, prompt: &str, top: &[Candidate]) -> String {
    let shown: Vec<String> =
        top.iter().map(|c| c.token.as_deref().map_or_else(|| format!("#{}", c.id), visible)).collect();
    let ranks = top.len().to_string().len().max(2);
    // The other columns, two spaces between each, and the mark of the winner.
    let other = ranks + 7 + 8 + 4 * 2 + GREEDY.chars().count();
    let longest = shown.iter().map(|t| t.chars().count()).max().unwrap_or(0);
    let tokens = longest.min(style.width.saturating_sub(other + 8)).clamp(8, 24);
    let cells = style.width.saturating_sub(other + tokens).clamp(8, 60);

    let blank = style.paint(Paint::Good, "▁▁▁");
    let mut lines =
        vec![String::new(), format!("{} {blank}", end_of(prompt, style.width - 4)), String::new()];
    let widest = top.first().map_or(1.0, probability);
    for (rank, (candidate, token)) in top.iter().zip(&shown).enumerate() {
        let p = probability(candidate);
        let id = style.paint(Paint::Faint, &format!("{:>7}", candidate.id));
        let bar = style.paint(Paint::Good, &bar(p / widest, cells));
        let token = column(token, tokens);
        let (token, mark) = match rank {
            0 => (style.paint(Paint::Strong, &token), style.paint(Paint::Faint, GREEDY)),
            _ => (token, String::new()),
        };
        lines.push(format!("{:>ranks$}  {token}  {id}  {:>8}  {bar}{mark}", rank + 1, percent(p)));
    }
    let rest = 1.0 - top.iter().map(probability).sum::<f64>();
    let name = column("everything else", tokens + 9);
    let rest = format!("{:>ranks$}  {name}  {:>8}", "", percent(rest.max(0.0)));
    lines.extend([style.paint(Paint::Faint, &rest), String::new()]);
    lines.join("\n")
}

fn probability(candidate: &Candidate) -> f64 {
    f64::from(candidate.logprob).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_bar_for_each_token_and_the_rest() {
        let candidate =
            |id, token: &str, p: f32| Candidate { id, token: Some(token.into()), logprob: p.ln() };
        let top = [candidate(7, " mat", 0.5), candidate(12, "\n", 0.25)];
        let text = table(Style::plain(60), "The cat sat on the", &top);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "The cat sat on the ▁▁▁");
        assert_eq!(lines[3], " 1  ·mat            7    50.0 %  █████████████████  ← greedy");
        assert_eq!(lines[4], " 2  \\n             12    25.0 %  ████████▌");
        assert_eq!(lines[5], "    everything else      25.0 %");
        assert!(lines.iter().all(|line| line.chars().count() <= 60));
    }
}
