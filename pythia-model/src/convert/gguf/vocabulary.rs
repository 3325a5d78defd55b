//! The tokenizer as llama.cpp has it.

use super::Metadata;
use crate::convert::Source;
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// What a `tokenizer.json` says of its tokens.
#[derive(Deserialize)]
struct File {
    added_tokens: Vec<Added>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// In the old spelling and the new one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

// Kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Writes the tokens of a model's `tokenizer.json`; that there are none, if it has no such file.
pub(super) fn write(source: &Source, out: &mut Metadata) -> Result<()> {
    let file = source.beside().iter().find(|(name, _)| name == "tokenizer.json");
    let Some((name, json)) = file else {
        out.text("tokenizer.ggml.model", "no_vocab");
        return Ok(());
    };
    let fail = |message: String| Error::file(Path::new(name), message);
    let File { added_tokens, model } = serde_json::from_slice(json)
        .map_err(|e| fail(format!("expected a byte-level BPE tokenizer with vocabulary and merges: {e}")))?;
    let rows = source.config().vocab_size;
    let mut tokens: Vec<_> = (0..rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let normal = model.vocab.into_iter().map(|(token, id)| (id, token, NORMAL));
    let added = added_tokens
        .into_iter()
        .map(|Added { id, content, special }| (id, content, if special { CONTROL } else { USER_DEFINED }));
    for (id, token, kind) in normal.chain(added) {
        let place = tokens.get_mut(id as usize).ok_or_else(|| {
            fail(format!("the token id {id} does not belong to a model with `vocab_size` {rows}"))
        })?;
        *place = (token, kind);
    }
    let (tokens, kinds): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
    let merges = model.merges.into_iter().map(|merge| match merge {
        Merge::Joined(merge) => merge,
        Merge::Pair(left, right) => format!("{left} {right}"),
    });
    out.text("tokenizer.ggml.model", "gpt2");
    // What llama.cpp calls the tokenizer of GPT-NeoX, which OLMo has too.
    out.text("tokenizer.ggml.pre", "olmo");
    out.texts("tokenizer.ggml.tokens", &tokens);
    out.i32s("tokenizer.ggml.token_type", &kinds);
    out.texts("tokenizer.ggml.merges", &merges.collect::<Vec<_>>());
    out.bool("tokenizer.ggml.add_bos_token", false);
    Ok(())
}
