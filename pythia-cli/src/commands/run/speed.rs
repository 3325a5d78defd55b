//! How fast tokens come.

use std::time::Instant;

/// A clock that is told of every token.
pub(super) struct Speed {
    prompt: usize,
    tokens: usize,
    start: Instant,
    /// When the first and the latest token came.
    came: Option<(Instant, Instant)>,
}

impl Speed {
    /// Starts the clock; `prompt` tokens are to be run first.
    pub(super) fn new(prompt: usize) -> Self {
        Self { prompt, tokens: 0, start: Instant::now(), came: None }
    }

    /// Counts a token; tells whether it is the first.
    pub(super) fn count(&mut self) -> bool {
        let now = Instant::now();
        self.tokens += 1;
        self.came = Some((self.came.map_or(now, |(first, _)| first), now));
        self.tokens == 1
    }

    /// The line for the user. A beam search gives all its tokens `at_the_end`.
    pub(super) fn line(&self, at_the_end: bool) -> String {
        let Some((first, last)) = self.came else { return "no tokens".to_owned() };
        let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64().max(1e-9);
        if at_the_end {
            let seconds = seconds(self.start, last);
            return format!("{} prompt and {} new tokens in {seconds:.2} s", self.prompt, self.tokens);
        }
        let prefill = self.prompt as f64 / seconds(self.start, first);
        let prompt = format!("prompt: {} tokens, {prefill:.1} tok/s", self.prompt);
        if self.tokens == 1 {
            return prompt;
        }
        let decode = (self.tokens - 1) as f64 / seconds(first, last);
        format!("{prompt}; new: {} tokens, {decode:.1} tok/s", self.tokens)
    }
}
