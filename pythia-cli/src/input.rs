//! The text or the token ids that a command works on.

use crate::quiet::quietly;
use anyhow::{Context, Result, anyhow, bail};
use pythia_model::Tokenizer;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the text comes from, beside the argument that each command names for itself `text`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// Token ids instead of a text, such as 12,7,9
    #[arg(long, value_name = "IDS", conflicts_with_all = ["text", "file"])]
    ids: Option<Ids>,
    /// The text is in this file
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
}

/// What was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Text(String),
    Ids(Vec<u32>),
}

/// Token ids as a user writes them: between commas, spaces or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl FromStr for Ids {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        let id = |part: &str| {
            let expected = "expected token ids, whole numbers from 0 up with commas between";
            part.parse().map_err(|_| anyhow!("`{part}` is not a token id: {expected}"))
        };
        Ok(Self(parts.map(id).collect::<Result<_>>()?))
    }
}

impl InputArgs {
    /// What was given: the argument `text`, `--ids`, `--file`, or all of stdin. Nothing if stdin is a terminal.
    pub(crate) fn given(&self, text: Option<&str>) -> Result<Option<Input>> {
        match self.chosen(text)? {
            None if !io::stdin().is_terminal() => Ok(Some(Input::Text(read_stdin()?))),
            chosen => Ok(chosen),
        }
    }

    /// The same without stdin.
    pub(crate) fn chosen(&self, text: Option<&str>) -> Result<Option<Input>> {
        Ok(match (&self.ids, text, &self.file) {
            (Some(Ids(ids)), _, _) => Some(Input::Ids(ids.clone())),
            (_, Some(text), _) => Some(Input::Text(text.to_owned())),
            (_, _, Some(path)) => Some(Input::Text(read_file(path)?)),
            (None, None, None) => None,
        })
    }

    /// As [`InputArgs::given`], where something is needed.
    pub(crate) fn required(&self, text: Option<&str>) -> Result<Input> {
        self.given(text)?.context("no text: give it as an argument, with --file or on stdin, or give --ids")
    }
}

impl Input {
    /// The token ids. A text needs `tokenizer`, of the model that is called `model`.
    pub(crate) fn ids(&self, tokenizer: Option<&Tokenizer>, model: &str) -> Result<Vec<u32>> {
        match (self, tokenizer) {
            (Self::Ids(ids), _) => Ok(ids.clone()),
            (Self::Text(text), Some(tokenizer)) => Ok(quietly(|| tokenizer.encode(text))?),
            (Self::Text(_), None) => bail!(
                "{model} has no tokenizer.json, so it cannot read text: give token ids with --ids 12,7,9, or put the \
                 tokenizer.json of its family into the folder"
            ),
        }
    }
}

/// The text in a file.
fn read_file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    utf8(bytes, &path.display().to_string())
}

/// All of stdin.
pub(crate) fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
    utf8(bytes, "stdin")
}

fn utf8(bytes: Vec<u8>, name: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let place = e.utf8_error().valid_up_to();
        anyhow!("{name} is not UTF-8 text: byte {place} is wrong; convert it, for instance with iconv")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_separated_by_commas_spaces_or_both() {
        let ids = |text: &str| text.parse::<Ids>().map(|ids| ids.0);
        assert_eq!(ids("12,7, 9\n3").unwrap(), [12, 7, 9, 3]);
        assert_eq!(ids(" ").unwrap(), [0_u32; 0]);
        for (text, part) in [("1,x", "`x`"), ("-1", "`-1`"), ("4294967296", "`4294967296`"), ("1.5", "`1.5`")]
        {
            let message = ids(text).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("commas"), "{message}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_place() {
        let message = utf8(b"ab\xff".to_vec(), "notes.txt").unwrap_err().to_string();
        assert!(message.starts_with("notes.txt is not UTF-8 text: byte 2"), "{message}");
    }
}
