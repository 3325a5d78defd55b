//! A text that is being written: its tokens so far, and when it ends.

use super::{Finish, Generated, Request, Step};
use crate::{Result, TextStream};
use std::ops::ControlFlow;

/// A continuation of the prompt, on its way.
pub(super) struct Continuation<'a> {
    /// The tokens so far.
    pub(super) ids: Vec<u32>,
    /// Why it has ended, if it has.
    pub(super) finish: Option<Finish>,
    text: String,
    stream: Option<TextStream<'a>>,
}

impl<'a> Request<'a> {
    /// A continuation without tokens yet.
    pub(super) fn begin(&self) -> Result<Continuation<'a>> {
        let stream = self.tokenizer.map(|t| TextStream::new(t, &self.config.stop)).transpose()?;
        Ok(Continuation { ids: Vec::new(), finish: None, text: String::new(), stream })
    }

    /// Adds a token to a text and finds out whether it ends there; tells `watch`, whose answer is returned.
    pub(super) fn push(
        &self,
        text: &mut Continuation<'a>,
        sample: usize,
        id: u32,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        text.ids.push(id);
        let mut piece = String::new();
        if self.ends(id) {
            text.finish = Some(Finish::Eos);
        } else if let Some(stream) = &mut text.stream {
            let next = stream.push(id);
            piece = next.text;
            text.finish = next.stopped.map(|_| Finish::Stop);
        }
        if text.finish.is_none() && text.ids.len() == self.config.max_new_tokens {
            text.finish = Some(Finish::Length);
        }
        if text.finish.is_some()
            && let Some(stream) = text.stream.take()
        {
            piece += &stream.finish();
        }
        text.text += &piece;
        watch(Step { sample, id: Some(id), text: &piece })
    }
}

impl Continuation<'_> {
    /// The text as it is; cancelled if it has not ended.
    pub(super) fn finish(mut self) -> Generated {
        if let Some(stream) = self.stream.take() {
            self.text += &stream.finish();
        }
        Generated {
            ids: self.ids,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::Cancelled),
            score: None,
        }
    }
}
