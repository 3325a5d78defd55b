//! `run`: continues a text, once or line by line.

use crate::args::ModelArgs;
use crate::generation::GenerationArgs;
use crate::input::{Input, InputArgs};
use crate::interrupt::{Interrupted, Watch};
use crate::model::{Opened, Place};
use crate::output::{Out, joined, note};
use crate::quiet::quietly;
use anyhow::{Context, Result, bail, ensure};
use pythia_model::{Cache, Generated, GenerationConfig, Step, Workspace, generate};
use pythia_tensor::Crew;
use serde::Serialize;
use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::time::Instant;

/// Continue a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli run \"Once upon a time\" -n 40 --temperature 0.8 --top-p 0.95

Prints the prompt and its continuation as one text. Without a prompt, all of stdin is the prompt; on a
terminal, a conversation begins: each line is added to the text as a new line and continued, an empty
line lets the model go on, and Ctrl-D ends. A model without a tokenizer prints token ids.")]
pub(crate) struct Args {
    /// The text to continue [default: all of stdin, where every byte counts, a last newline too]
    #[arg(value_name = "PROMPT")]
    text: Option<String>,
    /// Print only the continuation
    #[arg(long)]
    no_echo: bool,
    /// Print the speed to stderr [default: if it is a terminal]
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Sample<'a> {
    /// If there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<usize>,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    finish: &'static str,
    /// Beam search's.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

/// `run`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let config = args.generation.config();
    config.validate()?;
    let input = args.input.given(args.text.as_deref())?;
    if input.is_none() {
        ensure!(!args.model.json, "--json needs a prompt: give it as an argument, with --file or on stdin");
        let single = config.num_return_sequences == 1 && config.num_beams == 1;
        ensure!(single, "a conversation has one continuation: give a prompt, or leave out --num-return-sequences and --num-beams");
    }
    let place = args.model.locate()?;
    let opened = place.open()?;
    let team = args.model.team()?;
    team.enter(|crew| {
        let writer = Writer { opened: &opened, crew, args, config };
        match input {
            Some(input) => writer.once(&input, &place, out),
            None => writer.converse(io::stdin().lock(), &place, out),
        }
    })
}

/// A model at work on one text.
struct Writer<'a> {
    opened: &'a Opened,
    crew: &'a Crew<'a>,
    args: &'a Args,
    config: GenerationConfig,
}

impl Writer<'_> {
    fn once(&self, input: &Input, place: &Place, out: &mut Out) -> Result<()> {
        let Opened { model, tokenizer } = self.opened;
        let ids = input.ids(tokenizer.as_ref(), &place.name())?;
        if ids.is_empty() {
            let start = model.config().bos_token_id.unwrap_or(0);
            bail!("the prompt is empty: give a text, or start from the end-of-text token with --ids {start}");
        }
        let context = model.config().max_position_embeddings;
        // What does not fit is for `generate` to say.
        let mut cache = model.cache(ids.len().saturating_add(self.config.max_new_tokens).min(context))?;
        let prompt = match (input, tokenizer) {
            (Input::Text(text), _) => text.clone(),
            (Input::Ids(ids), Some(tokenizer)) => tokenizer.decode(ids),
            (Input::Ids(ids), None) => joined(ids),
        };
        let stats = self.args.stats || (io::stderr().is_terminal() && !self.args.model.json);
        let generated = self.write(&prompt, &ids, &self.config, (&mut Workspace::new(), &mut cache), stats, out)?;
        let several = generated.len() > 1;
        for (i, generated) in generated.iter().enumerate() {
            if self.args.model.json {
                out.json(&Sample {
                    sample: several.then_some(i),
                    prompt_ids: &ids,
                    ids: &generated.ids,
                    text: &generated.text,
                    finish: generated.finish.as_str(),
                    score: generated.score,
                })?;
            } else if !self.is_live() {
                let header = if several { format!("--- {} of {} ---\n", i + 1, self.config.num_return_sequences) } else { String::new() };
                out.text(&format!("{header}{}\n", self.shown(&prompt, generated)))?;
            }
        }
        Ok(())
    }

    /// Continues a text that grows by the lines of `input`, each on a line of its own.
    fn converse(&self, mut input: impl BufRead, place: &Place, out: &mut Out) -> Result<()> {
        let Opened { model, tokenizer } = self.opened;
        let tokenizer = tokenizer.as_ref().with_context(|| {
            format!("{} has no tokenizer.json, so there is no conversation: give a prompt with --ids", place.name())
        })?;
        let context = model.config().max_position_embeddings;
        let (mut workspace, mut cache, mut ids) = (Workspace::new(), model.cache(context)?, Vec::new());
        note("Each line continues the text; an empty one lets the model go on; Ctrl-D ends.");
        loop {
            out.text("> ")?;
            let mut line = String::new();
            if input.read_line(&mut line).context("cannot read a line from stdin")? == 0 {
                return out.text("\n");
            }
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() && ids.is_empty() {
                continue;
            }
            let new = if line.is_empty() || ids.is_empty() { line.to_owned() } else { format!("\n{line}") };
            ids.extend(quietly(|| tokenizer.encode(&new))?);
            let room = context.saturating_sub(ids.len());
            ensure!(room > 0, "the text has {} tokens and fills the model's context of {context}: start anew", ids.len());
            let mut config = self.config.clone();
            config.max_new_tokens = config.max_new_tokens.min(room);
            config.min_new_tokens = config.min_new_tokens.min(room);
            let memory = (&mut workspace, &mut cache);
            let generated = self.write(line, &ids, &config, memory, self.args.stats, out)?;
            ids.extend(generated.into_iter().flat_map(|g| g.ids));
        }
    }

    /// Whether text is printed as it comes: there is one, and each of its tokens is final.
    fn is_live(&self) -> bool {
        !self.args.model.json && self.config.num_return_sequences == 1 && self.config.num_beams == 1
    }

    /// Continues `ids`, shown as `prompt`; prints it if it [is live](Self::is_live).
    fn write(
        &self,
        prompt: &str,
        ids: &[u32],
        config: &GenerationConfig,
        (workspace, cache): (&mut Workspace, &mut Cache),
        stats: bool,
        out: &mut Out,
    ) -> Result<Vec<Generated>> {
        let Opened { model, tokenizer } = self.opened;
        let (watch, live) = (Watch::new(), self.is_live());
        let mut speed = Speed::new(ids.len() - cache.len().min(ids.len()));
        let (mut printed, mut failed) = (0, None);
        let generated = generate(model, tokenizer.as_ref(), self.crew, workspace, cache, ids, config, &mut |step: Step<'_>| {
            speed.count();
            if live {
                let before = if speed.tokens == 1 && !self.args.no_echo { prompt } else { "" };
                let piece = match tokenizer {
                    Some(_) => step.text.to_owned(),
                    None if speed.tokens == 1 && self.args.no_echo => step.id.to_string(),
                    None => format!(",{}", step.id),
                };
                printed += step.text.len();
                failed = out.text(&format!("{before}{piece}")).err();
            }
            if failed.is_some() || watch.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        if live {
            // A cancelled text may have an end that was held back.
            let rest = generated.first().and_then(|g| g.text.get(printed..)).unwrap_or_default();
            out.text(&format!("{rest}\n"))?;
        }
        if watch.stopped() {
            return Err(Interrupted.into());
        }
        if stats {
            note(&speed.line(config.num_beams > 1));
        }
        Ok(generated)
    }

    /// A text that was not printed as it came.
    fn shown(&self, prompt: &str, generated: &Generated) -> String {
        let text = match self.opened.tokenizer {
            Some(_) => generated.text.clone(),
            None => joined(&generated.ids),
        };
        match (self.args.no_echo, &self.opened.tokenizer) {
            (true, _) => text,
            (false, Some(_)) => format!("{prompt}{text}"),
            (false, None) => format!("{prompt},{text}"),
        }
    }
}

/// How fast tokens come.
struct Speed {
    prompt: usize,
    tokens: usize,
    start: Instant,
    /// When the first and the latest token came.
    came: Option<(Instant, Instant)>,
}

impl Speed {
    fn new(prompt: usize) -> Self {
        Self { prompt, tokens: 0, start: Instant::now(), came: None }
    }

    fn count(&mut self) {
        let now = Instant::now();
        self.tokens += 1;
        self.came = Some((self.came.map_or(now, |(first, _)| first), now));
    }

    /// The line for the user. A beam search gives all its tokens at its end.
    fn line(&self, at_the_end: bool) -> String {
        let Some((first, last)) = self.came else { return "no tokens".to_owned() };
        let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64().max(1e-9);
        if at_the_end {
            return format!("{} prompt and {} new tokens in {:.2} s", self.prompt, self.tokens, seconds(self.start, last));
        }
        let prefill = self.prompt as f64 / seconds(self.start, first);
        let mut line = format!("prompt: {} tokens, {prefill:.1} tok/s", self.prompt);
        if self.tokens > 1 {
            let decode = (self.tokens - 1) as f64 / seconds(first, last);
            line += &format!("; new: {} tokens, {decode:.1} tok/s", self.tokens);
        }
        line
    }
}
