//! The options of every command that generates, in transformers' spelling.

use crate::input::Ids;
use anyhow::{Context, Result};
use pythia_model::{GenerationConfig, SamplingConfig};

/// How a prompt is continued.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerationArgs {
    /// The most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// Do not end the text before this many
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_new_tokens: usize,
    /// End before this string; may be given again. A newline is $'\n' in most shells
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on after the end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Continuations of the prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=1024))]
    num_return_sequences: u16,
    /// Beam search over this many texts; 1 is off
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=1024))]
    num_beams: u16,
    /// Beam search divides a text's score by its length to this power
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    length_penalty: f64,
    /// Beam search ends as soon as it has enough texts
    #[arg(long)]
    early_stopping: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// How each token is chosen.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Divides the logits; 0 takes the most probable token
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the K most probable tokens; 0 is off
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sample from the most probable tokens that together have probability P; 1 is off
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Sample from tokens with at least P times the highest probability; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// Sample from the tokens of most typical information that together have probability P; 1 is off
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    typical_p: f64,
    /// Divides the logits of tokens that are in the text; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// Subtracted for each time a token was generated; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f64,
    /// Subtracted if a token was generated at all; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f64,
    /// Repeat no sequence of N tokens; 0 is off
    #[arg(long, value_name = "N", default_value_t = 0)]
    no_repeat_ngram_size: usize,
    /// Added to a token's logit; -inf forbids it; may be given again
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Tokens never to choose
    #[arg(long, value_name = "IDS")]
    suppress_tokens: Option<Ids>,
    /// What the random numbers depend on
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn logit_bias(text: &str) -> Result<(u32, f32)> {
    let expected = "expected ID=BIAS, such as 12=-2.5 or 12=-inf";
    let (id, bias) = text.split_once('=').context(expected)?;
    Ok((id.trim().parse().context(expected)?, bias.trim().parse().context(expected)?))
}

impl GenerationArgs {
    /// What the options say. Nothing is checked yet.
    pub(crate) fn config(&self) -> GenerationConfig {
        let sampling = &self.sampling;
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            num_return_sequences: usize::from(self.num_return_sequences),
            num_beams: usize::from(self.num_beams),
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
            sampling: SamplingConfig {
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                typical_p: sampling.typical_p,
                repetition_penalty: sampling.repetition_penalty,
                frequency_penalty: sampling.frequency_penalty,
                presence_penalty: sampling.presence_penalty,
                no_repeat_ngram_size: sampling.no_repeat_ngram_size,
                logit_bias: sampling.logit_bias.clone(),
                suppress_tokens: sampling.suppress_tokens.clone().map(|ids| ids.0).unwrap_or_default(),
                seed: sampling.seed,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_read_as_written() {
        assert_eq!(logit_bias("12=-2.5").unwrap(), (12, -2.5));
        assert_eq!(logit_bias("0 = -inf").unwrap(), (0, f32::NEG_INFINITY));
        for text in ["12", "x=1", "1=x", "-1=0"] {
            assert!(format!("{:#}", logit_bias(text).unwrap_err()).contains("ID=BIAS"), "{text}");
        }
    }
}
