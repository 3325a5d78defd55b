//! `tokenize` and `detokenize`: text to token ids and back.

use crate::args::ModelArgs;
use crate::input::{Ids, Input, InputArgs, read_stdin};
use crate::output::{Out, joined};
use crate::quiet::quietly;
use crate::style::{Paint, Style, column, visible};
use anyhow::{Context, Result, bail};
use pythia_model::{Encoding, Tokenizer};
use serde::Serialize;
use std::io::{self, IsTerminal};

/// Show the tokens of a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli tokenize \"Hello world\"")]
pub(crate) struct TokenizeArgs {
    /// The text [default: all of stdin]
    text: Option<String>,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// Turn token ids into text
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli detokenize 12,7,9")]
pub(crate) struct DetokenizeArgs {
    /// Token ids, with commas or spaces between [default: those on stdin]
    ids: Vec<Ids>,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
struct Tokens<'a> {
    ids: &'a [u32],
    tokens: &'a [String],
    offsets: &'a [(usize, usize)],
}

#[derive(Serialize)]
struct Text<'a> {
    ids: &'a [u32],
    text: &'a str,
}

/// `tokenize`.
pub(crate) fn tokenize(args: &TokenizeArgs, out: &mut Out) -> Result<()> {
    let input = args.input.required(args.text.as_deref())?;
    let tokenizer = tokenizer(&args.model)?;
    let encoding = match &input {
        Input::Text(text) => quietly(|| tokenizer.encode_with_offsets(text))?,
        Input::Ids(ids) => {
            let text = decode(&tokenizer, ids)?;
            quietly(|| tokenizer.encode_with_offsets(&text))?
        }
    };
    let Encoding { ids, tokens, offsets } = &encoding;
    if args.model.json {
        return out.json(&Tokens { ids, tokens, offsets });
    }
    let style = Style::of(out);
    let row = |(&id, (start, end)): (&u32, &(usize, usize))| {
        let token = visible(&tokenizer.token(id).unwrap_or_default());
        let range = style.paint(Paint::Faint, &format!("{start}..{end}"));
        format!("{id:>7}  {}  {range}\n", column(&token, 24))
    };
    let table: String = ids.iter().zip(offsets).map(row).collect();
    let count = style.paint(Paint::Faint, &format!("{} tokens: {}", ids.len(), joined(ids)));
    out.text(&format!("{table}{count}\n"))
}

/// `detokenize`.
pub(crate) fn detokenize(args: &DetokenizeArgs, out: &mut Out) -> Result<()> {
    let Ids(ids) = match args.ids.as_slice() {
        [] if io::stdin().is_terminal() => bail!("no token ids: give them as arguments or on stdin"),
        [] => read_stdin()?.parse()?,
        given => Ids(given.iter().flat_map(|ids| &ids.0).copied().collect()),
    };
    let text = decode(&tokenizer(&args.model)?, &ids)?;
    if args.model.json {
        return out.json(&Text { ids: &ids, text: &text });
    }
    out.text(&(text + "\n"))
}

/// The text of ids that all have one.
fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    if let Some(id) = ids.iter().find(|id| tokenizer.token_bytes(**id).is_none()) {
        bail!("the tokenizer has no token {id}: its ids are below {}", tokenizer.vocab_size());
    }
    Ok(tokenizer.decode(ids))
}

fn tokenizer(model: &ModelArgs) -> Result<Tokenizer> {
    let place = model.locate()?;
    place.tokenizer()?.with_context(|| {
        format!("{} has no tokenizer.json: put that of its family into the folder", place.name())
    })
}
