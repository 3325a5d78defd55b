//! [`Tokenizer`]: a `tokenizer.json` read with Hugging Face's own crate, plus the raw bytes of every token.

mod refusals;

use crate::weights::gguf::GgufFile;
use crate::weights::neox::NeoxFolder;
use crate::weights::said;
use crate::{Error, Result, disk};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::DecoderWrapper;

/// The largest `tokenizer.json` that is read. Pythia's has 2 MB; the largest published ones about 35 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The longest run of white space, in bytes, that is encoded. From 999,999 characters on, the regex `\s+(?!\S)` of the crate's
/// splitter exceeds its engine's backtracking limit, which the crate takes for the end of the text: wrong tokens.
const MAX_WHITE_SPACE: usize = 900_000;

/// The byte-level BPE tokenizer of a GPT-NeoX model.
///
/// Text becomes ids exactly as with transformers' `GPTNeoXTokenizerFast(text, add_special_tokens=False)`, and
/// ids become text as with `decode(ids, clean_up_tokenization_spaces=False)`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    /// The bytes that each id decodes to.
    bytes: HashMap<u32, Box<[u8]>>,
    vocab_size: usize,
}

/// A text as [`Tokenizer::encode_with_offsets`] returns it; the three vectors have one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary spells them, `Ġworld` for ` world`.
    pub tokens: Vec<String>,
    /// Start and end of each token in the text, counted in characters (not in bytes), as transformers does.
    /// Whether a leading space belongs to its token is the tokenizer's setting (`trim_offsets`).
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// The tokenizer in the file `path`, a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be read, is not a regular file or has more than 64 MB, or for the reasons of
    /// [`Tokenizer::from_bytes`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(path, &disk::read(path, MAX_FILE_BYTES)?)
    }

    /// The tokenizer of the model in a folder, its `tokenizer.json`; or of a GGUF file, or of a folder that holds one. The
    /// file's own tokens come before a `tokenizer.json` beside it. For GPT-NeoX's layer files, the `tokenizer.json` may lie
    /// in the folder above. `None` if there is none.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn of_model(place: impl AsRef<Path>) -> Result<Option<Self>> {
        let place = place.as_ref();
        let gguf = GgufFile::find(place)?;
        if let Some(gguf) = &gguf
            && let Some(json) = gguf.tokenizer_json()?
        {
            return Self::from_bytes(gguf.path(), &json).map(Some);
        }
        if gguf.is_none()
            && let Some(neox) = NeoxFolder::find(place)?
        {
            return neox.beside("tokenizer.json").map(Self::from_file).transpose();
        }
        let dir = gguf.as_ref().and_then(|gguf| gguf.path().parent()).unwrap_or(place);
        let path = dir.join("tokenizer.json");
        let there = path.try_exists().map_err(|e| Error::io(&path, e))?;
        there.then(|| Self::from_file(path)).transpose()
    }

    /// The tokenizer in the bytes of a `tokenizer.json`; `path` only serves to name it in errors.
    ///
    /// Truncation and padding that the file may ask for are switched off, as transformers does by default.
    ///
    /// # Errors
    /// If the bytes are not a valid `tokenizer.json` or describe a tokenizer that is not byte-level.
    pub fn from_bytes(path: impl AsRef<Path>, json: &[u8]) -> Result<Self> {
        let path = path.as_ref();
        let broken = |message: String| {
            Error::file(path, format!("not a valid tokenizer.json: {message}; download the file again"))
        };
        if let Some(message) = refusals::refusal(json) {
            return Err(Error::file(path, message));
        }
        // Crafted files make the crate's BPE builder panic (huggingface/tokenizers#2094, #2198).
        let mut inner = catch_unwind(|| tokenizers::Tokenizer::from_bytes(json))
            .map_err(|panic| broken(panic_message(&*panic)))?
            .map_err(|e| broken(said(&e)))?;
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(Error::file(
                path,
                "the `decoder` is not `ByteLevel`; only the byte-level BPE tokenizers of GPT-NeoX models are supported",
            ));
        }
        inner.with_truncation(None).map_err(|e| broken(e.to_string()))?.with_padding(None);
        let bytes = token_table(&inner);
        let vocab_size = bytes.keys().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { inner, path: path.to_owned(), bytes, vocab_size })
    }

    /// The ids of `text`. No special token is added; one that is spelled out in the text, such as
    /// `<|endoftext|>`, is recognised.
    ///
    /// # Errors
    /// If the tokenizer fails on the text, or if the text has more than 900,000 bytes of white space in a row.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.guarded(text, || self.inner.encode_fast(text, false))?.get_ids().to_vec())
    }

    /// The ids of `text`, as [`Tokenizer::encode`] gives them, with their spellings and places in the text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<Encoding> {
        let encoding = self.guarded(text, || self.inner.encode_char_offsets(text, false))?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// Runs an encoding function of the crate on `text`. What it does is configured by the file, so it may panic.
    fn guarded(
        &self,
        text: &str,
        encode: impl FnOnce() -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Result<tokenizers::Encoding> {
        let longest_run = || text.split(|c: char| !c.is_whitespace()).map(str::len).max().unwrap_or(0);
        if text.len() > MAX_WHITE_SPACE && longest_run() > MAX_WHITE_SPACE {
            return Err(Error::Argument(format!(
                "the text has more than {MAX_WHITE_SPACE} bytes of white space in a row, which cannot be tokenized \
                 reliably; shorten it"
            )));
        }
        // The only state that a panic could leave half-written is the crate's word cache, behind its own lock.
        catch_unwind(AssertUnwindSafe(encode))
            .map_err(|panic| panic_message(&*panic))
            .and_then(|result| result.map_err(|e| said(&e)))
            .map_err(|message| {
                Error::file(&self.path, format!("this tokenizer cannot encode the text: {message}"))
            })
    }

    /// The text of `ids`, special tokens included and spaces untouched.
    ///
    /// Bytes that are no UTF-8 become U+FFFD. Ids without a token (the model's padding rows) have no text.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| self.token_bytes(id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that `id` stands for, possibly only a part of a character; `None` if no token has this id.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(&id).map(|bytes| &**bytes)
    }

    /// The text that `id` stands for, for a reader: bytes that are no UTF-8 by themselves are shown as `\xe2`.
    /// `None` if no token has this id.
    pub fn token(&self, id: u32) -> Option<String> {
        let mut text = String::new();
        for chunk in self.token_bytes(id)?.utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                write!(text, "\\x{byte:02x}").ok()?;
            }
        }
        Some(text)
    }

    /// The largest token id plus one. A model usually has more rows than that: they pad its matrices.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({}, {} ids)", self.path.display(), self.vocab_size)
    }
}

/// The bytes of every token, by the rule of the crate's `ByteLevel` decoder: a token whose characters all stand
/// for bytes is these bytes; any other, such as an added run of spaces, is its own UTF-8.
fn token_table(inner: &tokenizers::Tokenizer) -> HashMap<u32, Box<[u8]>> {
    use tokenizers::Model as _;
    let spelling = |id| {
        let added = inner.get_added_vocabulary().simple_id_to_token(id);
        added.or_else(|| inner.get_model().id_to_token(id))
    };
    let to_bytes = |token: String| match token.chars().map(char_to_byte).collect::<Option<Vec<u8>>>() {
        Some(bytes) => bytes.into_boxed_slice(),
        None => token.into_bytes().into_boxed_slice(),
    };
    let ids = inner.get_vocab(true).into_values();
    ids.filter_map(|id| Some((id, to_bytes(spelling(id)?)))).collect()
}

/// The byte that a character of a byte-level BPE token stands for, the inverse of GPT-2's `bytes_to_unicode`
/// (openai/gpt-2, src/encoder.py): printable Latin-1 stands for itself; the other 68 bytes, in order, are the
/// characters from U+0100 on.
fn char_to_byte(c: char) -> Option<u8> {
    let c = u32::from(c);
    let byte = match c {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => c,
        0x100..=0x120 => c - 0x100,        // 0x00 to the space
        0x121..=0x142 => c - 0x121 + 0x7F, // DEL to the no-break space
        0x143 => 0xAD,                     // the soft hyphen
        _ => return None,
    };
    u8::try_from(byte).ok()
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    said(&text.unwrap_or("the tokenizers crate gave up"))
}

#[cfg(test)]
pub(crate) mod tests;
