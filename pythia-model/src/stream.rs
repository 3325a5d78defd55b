//! [`TextStream`]: text from token ids as they arrive, cut at stop strings.

use crate::{Error, Result, Tokenizer};

/// What [`TextStream::push`] releases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The text to show now, possibly empty.
    pub text: String,
    /// The index of the stop string at which the text has been cut. Generation should end.
    pub stopped: Option<usize>,
}

/// Turns token ids into text one at a time, at a cost that does not depend on how many came before.
///
/// The pieces never hold a part of a character, nor anything that may turn out to be the beginning of a stop
/// string; joined, with [`TextStream::finish`] last, they are [`Tokenizer::decode`] of all ids, cut before the
/// stop string. The stream stops with the first token that completes a stop string; if that token completes
/// several, the one that starts first in the text wins, then the first in the list.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stops: Vec<StopString>,
    /// The bytes of a character that has not come in full.
    partial: Vec<u8>,
    /// Text that has not been released because a stop string may have begun in it.
    held: String,
    stopped: Option<usize>,
}

impl<'a> TextStream<'a> {
    /// A stream over tokens of `tokenizer` that ends at any of `stops`.
    ///
    /// # Errors
    /// If a stop string is empty.
    pub fn new(tokenizer: &'a Tokenizer, stops: &[String]) -> Result<Self> {
        if let Some(i) = stops.iter().position(String::is_empty) {
            return Err(Error::Argument(format!(
                "stop string {} of {} is empty, it would end every text at once; leave it out",
                i + 1,
                stops.len()
            )));
        }
        let stops = stops.iter().map(|s| StopString::new(s)).collect();
        Ok(Self { tokenizer, stops, partial: Vec::new(), held: String::new(), stopped: None })
    }

    /// Takes the next token. An id without a token adds no text; after the stop nothing does.
    pub fn push(&mut self, id: u32) -> Piece {
        if self.stopped.is_none()
            && let Some(bytes) = self.tokenizer.token_bytes(id)
        {
            self.partial.extend_from_slice(bytes);
            let text = self.take_characters();
            self.search(&text);
        }
        Piece { text: self.release(), stopped: self.stopped }
    }

    /// The rest of the text, when no more tokens come. Bytes of a character that was never completed become
    /// U+FFFD, as [`Tokenizer::decode`] has them.
    pub fn finish(mut self) -> String {
        if self.stopped.is_none() {
            let rest = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
            self.search(&rest);
        }
        self.held
    }

    /// Moves what can be decoded out of `partial`: all but an incomplete character at its end, with U+FFFD for
    /// bytes that no continuation can make valid.
    fn take_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = 0;
        for chunk in self.partial.utf8_chunks() {
            text.push_str(chunk.valid());
            rest += chunk.valid().len();
            if chunk.invalid().is_empty() {
                continue;
            }
            let at_end = rest + chunk.invalid().len() == self.partial.len();
            if at_end && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none()) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            rest += chunk.invalid().len();
        }
        self.partial.drain(..rest);
        text
    }

    /// Appends `text` to `held`; if this completes a stop string, cuts `held` there.
    fn search(&mut self, text: &str) {
        let before = self.held.len();
        self.held.push_str(text);
        let found = self.stops.iter_mut().enumerate().filter_map(|(i, stop)| {
            let end = before + text.bytes().position(|byte| stop.completes(byte))? + 1;
            // All of an unfinished stop string is held, so that its start is in `held`.
            Some((end - stop.text.len(), i))
        });
        if let Some((start, i)) = found.min() {
            self.held.truncate(start);
            self.stopped = Some(i);
        }
    }

    /// Takes from `held` what can no longer become part of a stop string.
    fn release(&mut self) -> String {
        let begun = match self.stopped {
            None => self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0),
            Some(_) => 0,
        };
        let rest = self.held.split_off(self.held.len() - begun);
        std::mem::replace(&mut self.held, rest)
    }
}

/// A stop string and how much of it the text so far ends with: the matcher of Knuth, Morris and Pratt (1977).
#[derive(Debug)]
struct StopString {
    text: Box<[u8]>,
    /// For each proper prefix of `text`, one byte longer than its index: the length of its longest border (a
    /// shorter prefix with which it ends).
    borders: Vec<usize>,
    /// The length of the longest prefix of `text` with which the stream ends.
    matched: usize,
}

impl StopString {
    fn new(text: &str) -> Self {
        let mut stop = Self { text: text.as_bytes().into(), borders: vec![0], matched: 0 };
        // The borders of the prefixes are what the matcher says when it reads its own text.
        for i in 1..text.len() {
            stop.completes(text.as_bytes()[i]);
            stop.borders.push(stop.matched);
        }
        stop.matched = 0;
        stop
    }

    /// Takes the next byte of the stream: does the stream now end with this stop string?
    fn completes(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        if self.text[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.text.len()
    }
}

#[cfg(test)]
mod tests;
