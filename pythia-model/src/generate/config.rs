//! What a generation is asked for.

use crate::{Error, Result, SamplingConfig};

/// How to continue a prompt, in transformers' names.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    /// The most tokens that are generated.
    pub max_new_tokens: usize,
    /// Until there are this many, the tokens that end a text are not chosen.
    pub min_new_tokens: usize,
    /// Texts that end the generation; they are cut off. They may span tokens.
    pub stop: Vec<String>,
    /// Whether to go on after a token that ends a text.
    pub ignore_eos: bool,
    /// How many continuations of the prompt are wanted.
    pub num_return_sequences: usize,
    /// Beam search over this many texts at once if greater than 1.
    pub num_beams: usize,
    /// See [`BeamConfig::length_penalty`](crate::BeamConfig::length_penalty).
    pub length_penalty: f64,
    /// See [`BeamConfig::early_stopping`](crate::BeamConfig::early_stopping).
    pub early_stopping: bool,
    /// How each token is chosen.
    pub sampling: SamplingConfig,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            min_new_tokens: 0,
            stop: Vec::new(),
            ignore_eos: false,
            num_return_sequences: 1,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: false,
            sampling: SamplingConfig::default(),
        }
    }
}

impl GenerationConfig {
    /// Whether the options are in their ranges and go together.
    ///
    /// # Errors
    /// The text names the option and what was found.
    pub fn validate(&self) -> Result<()> {
        self.sampling.validate()?;
        let refuse = |message: String| Err(Error::Argument(message));
        if self.max_new_tokens == 0 {
            return refuse("max_new_tokens must be at least 1".to_owned());
        }
        if self.min_new_tokens > self.max_new_tokens {
            let (min, max) = (self.min_new_tokens, self.max_new_tokens);
            return refuse(format!("min_new_tokens ({min}) exceeds max_new_tokens ({max})"));
        }
        if self.num_beams == 0 || self.num_return_sequences == 0 {
            return refuse("num_beams and num_return_sequences must be at least 1".to_owned());
        }
        if self.num_beams > 1 && self.sampling.temperature != 0.0 {
            let t = self.sampling.temperature;
            return refuse(format!(
                "beam search does not sample: with num_beams, temperature must be 0, not {t}"
            ));
        }
        if self.num_beams > 1 && !self.stop.is_empty() {
            return refuse("stop strings cannot be combined with beam search".to_owned());
        }
        Ok(())
    }
}
