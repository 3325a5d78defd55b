//! `run`: continues a text, once or line by line.

mod speed;
#[cfg(test)]
mod tests;

use crate::args::ModelArgs;
use crate::generation::GenerationArgs;
use crate::input::{Input, InputArgs};
use crate::interrupt::{Interrupted, Watch};
use crate::model::Opened;
use crate::output::{Out, joined, note};
use crate::quiet::quietly;
use crate::speculation::SpeculationArgs;
use anyhow::{Context, Result, bail, ensure};
use pythia_model::{
    Cache, Finish, Generated, GenerationConfig, Speculation, Step, Tokenizer, Workspace, generate,
    generate_speculatively,
};
use pythia_tensor::Crew;
use serde::Serialize;
use speed::Speed;
use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;

/// Continue a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli run \"Once upon a time\" -n 40 --temperature 0.8 --top-p 0.95

Prints the prompt and its continuation as one text. Without a prompt, all of stdin is the prompt; on a terminal, a \
conversation begins: each line is added to the text as a new line and continued, an empty line lets the model go on, \
and Ctrl-D ends. A model without a tokenizer prints token ids.")]
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
    speculation: SpeculationArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
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
    /// Speculative decoding's: tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    proposed: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<usize>,
}

/// `run`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let config = args.generation.config();
    config.validate()?;
    let input = args.input.given(args.text.as_deref())?;
    if input.is_none() {
        ensure!(
            !args.model.json && config.num_return_sequences == 1 && config.num_beams == 1,
            "a conversation goes without --json, --num-return-sequences and --num-beams: leave them out, or give a \
             prompt as an argument, with --file or on stdin"
        );
    }
    let team = args.model.team()?;
    let place = args.model.locate()?;
    let (opened, name) = (args.model.open(&place, &team)?, place.name());
    let draft = args.speculation.open_draft(&args.model, &team)?;
    let speculation = args.speculation.speculation(draft.as_ref(), &opened)?;
    team.enter(|crew| {
        let writer = Writer { opened: &opened, name: &name, crew, args };
        match input {
            Some(input) => writer.once(&input, &config, speculation, out),
            None => writer.converse(io::stdin().lock(), &config, speculation, out),
        }
    })
}

/// What is kept from one generation to the next.
struct Memory<'d> {
    workspace: Workspace,
    cache: Cache,
    speculation: Option<Speculation<'d>>,
}

/// A model at work on one text.
struct Writer<'a> {
    opened: &'a Opened,
    name: &'a str,
    crew: &'a Crew<'a>,
    args: &'a Args,
}

impl Writer<'_> {
    /// Continues one prompt.
    fn once(
        &self,
        input: &Input,
        config: &GenerationConfig,
        speculation: Option<Speculation<'_>>,
        out: &mut Out,
    ) -> Result<()> {
        let Opened { model, tokenizer } = self.opened;
        let ids = input.ids(tokenizer.as_ref(), self.name)?;
        if ids.is_empty() {
            let start = model.config().bos_token_id.unwrap_or(0);
            bail!("the prompt is empty: give a text, or start from the end-of-text token with --ids {start}");
        }
        let context = model.config().max_position_embeddings;
        // What does not fit is for `generate` to say.
        let cache = model.cache(ids.len().saturating_add(config.max_new_tokens).min(context))?;
        let prompt = match (input, tokenizer) {
            (Input::Text(text), _) => text.clone(),
            (Input::Ids(ids), Some(tokenizer)) => tokenizer.decode(ids),
            (Input::Ids(ids), None) => joined(ids),
        };
        let stats = self.args.stats || (io::stderr().is_terminal() && !self.args.model.json);
        let mut memory = Memory { workspace: Workspace::new(), cache, speculation };
        let generated = self.write(&prompt, &ids, config, &mut memory, stats, out)?;
        let (several, cancelled) = (generated.len() > 1, is_cancelled(&generated));
        if cancelled && self.args.model.json {
            // No half of an object.
            return Err(Interrupted.into());
        }
        for (i, generated) in generated.iter().enumerate() {
            if self.args.model.json {
                out.json(&Sample {
                    sample: several.then_some(i),
                    prompt_ids: &ids,
                    ids: &generated.ids,
                    text: &generated.text,
                    finish: generated.finish.as_str(),
                    score: generated.score,
                    proposed: memory.speculation.as_ref().map(Speculation::proposed),
                    accepted: memory.speculation.as_ref().map(Speculation::accepted),
                })?;
            } else if !self.is_live(config) {
                if several {
                    out.text(&format!("--- {} of {} ---\n", i + 1, config.num_return_sequences))?;
                }
                out.text(&format!("{}\n", self.shown(&prompt, generated)))?;
            }
        }
        if cancelled { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Continues a text that grows by the lines of `input`, each on a line of its own.
    fn converse(
        &self,
        mut input: impl BufRead,
        config: &GenerationConfig,
        speculation: Option<Speculation<'_>>,
        out: &mut Out,
    ) -> Result<()> {
        let Opened { model, tokenizer } = self.opened;
        let tokenizer = tokenizer.as_ref().with_context(|| {
            format!("{} has no tokenizer.json, so it cannot read lines: give a prompt with --ids", self.name)
        })?;
        let context = model.config().max_position_embeddings;
        let mut memory = Memory { workspace: Workspace::new(), cache: model.cache(context)?, speculation };
        let mut ids = Vec::new();
        note("Each line continues the text; an empty one lets the model go on; Ctrl-D ends.");
        loop {
            out.text("> ")?;
            let mut line = String::new();
            if input.read_line(&mut line).context("cannot read a line from stdin")? == 0 {
                return out.text("\n");
            }
            let line = line.trim_end_matches(['\n', '\r']);
            match (line.is_empty(), ids.is_empty()) {
                (true, true) => continue,
                (true, false) => {}
                (false, true) => ids = quietly(|| tokenizer.encode(line))?,
                (false, false) => ids.extend(quietly(|| tokenizer.encode(&format!("\n{line}")))?),
            }
            let room = context.saturating_sub(ids.len());
            let have = ids.len();
            ensure!(
                room > 0,
                "the text has {have} tokens, which fill the model's context of {context}: start anew"
            );
            let mut config = config.clone();
            config.max_new_tokens = config.max_new_tokens.min(room);
            config.min_new_tokens = config.min_new_tokens.min(room);
            let generated = self.write(line, &ids, &config, &mut memory, self.args.stats, out)?;
            if is_cancelled(&generated) {
                return Err(Interrupted.into());
            }
            for generated in generated {
                if generated.finish == Finish::Stop {
                    // The tokens of the shown text may be others than the first of those with the stop string.
                    memory.cache.truncate(have);
                }
                ids.extend(shown_ids(tokenizer, generated)?);
            }
        }
    }

    /// Whether text is printed as it comes: there is one, and each of its tokens is final.
    fn is_live(&self, config: &GenerationConfig) -> bool {
        !self.args.model.json && config.num_return_sequences == 1 && config.num_beams == 1
    }

    /// Continues `ids`, shown as `prompt`; prints it if it [is live](Self::is_live).
    fn write(
        &self,
        prompt: &str,
        ids: &[u32],
        config: &GenerationConfig,
        memory: &mut Memory<'_>,
        stats: bool,
        out: &mut Out,
    ) -> Result<Vec<Generated>> {
        let Opened { model, tokenizer } = self.opened;
        let (watch, live) = (Watch::new(), self.is_live(config));
        let Memory { workspace, cache, speculation } = memory;
        let mut speed = Speed::new(ids.len().saturating_sub(cache.len()));
        let (mut printed, mut failed) = (0, None);
        let mut on_step = |step: Step<'_>| {
            // A beam search on its way has no token yet.
            if let Some(id) = step.id {
                let first = speed.count();
                if live {
                    printed += step.text.len();
                    failed = out.text(&self.piece(prompt, id, step.text, first)).err();
                }
            }
            let end = failed.is_some() || watch.stopped();
            if end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (tokenizer, crew) = (tokenizer.as_ref(), self.crew);
        let generated = match speculation {
            None => generate(model, tokenizer, crew, workspace, cache, ids, config, &mut on_step)?,
            Some(speculation) => generate_speculatively(
                model,
                tokenizer,
                crew,
                workspace,
                cache,
                ids,
                config,
                speculation,
                &mut on_step,
            )?,
        };
        if let Some(e) = failed {
            return Err(e);
        }
        if live {
            // A cancelled text may have an end that was held back.
            let rest = generated.first().and_then(|g| g.text.get(printed..)).unwrap_or_default();
            out.text(&format!("{rest}\n"))?;
        }
        if stats && !is_cancelled(&generated) {
            let guesses = speculation
                .as_ref()
                .map(|s| format!("; {} of {} proposed tokens accepted", s.accepted(), s.proposed()));
            note(&format!("{}{}", speed.line(config.num_beams > 1), guesses.unwrap_or_default()));
        }
        Ok(generated)
    }

    /// What a token adds to the output; the first one brings the prompt.
    fn piece(&self, prompt: &str, id: u32, text: &str, first: bool) -> String {
        let prompt = if first && !self.args.no_echo { prompt } else { "" };
        match self.opened.tokenizer {
            Some(_) => format!("{prompt}{text}"),
            None if first && self.args.no_echo => id.to_string(),
            None => format!("{prompt},{id}"),
        }
    }

    /// A text that was not printed as it came.
    fn shown(&self, prompt: &str, generated: &Generated) -> String {
        let Generated { ids, text, .. } = generated;
        match (&self.opened.tokenizer, self.args.no_echo) {
            (Some(_), true) => text.clone(),
            (Some(_), false) => format!("{prompt}{text}"),
            (None, true) => joined(ids),
            (None, false) => format!("{prompt},{}", joined(ids)),
        }
    }
}

/// Whether the user said so.
fn is_cancelled(generated: &[Generated]) -> bool {
    generated.iter().any(|g| g.finish == Finish::Cancelled)
}

/// The tokens of what a reader has seen of a continuation.
fn shown_ids(tokenizer: &Tokenizer, generated: Generated) -> Result<Vec<u32>> {
    let Generated { mut ids, text, finish, .. } = generated;
    match finish {
        Finish::Stop => return Ok(quietly(|| tokenizer.encode(&text))?),
        Finish::Eos => drop(ids.pop()),
        Finish::Length | Finish::Cancelled => {}
    }
    Ok(ids)
}
