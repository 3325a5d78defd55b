//! The options of sampling.

use crate::{Error, Result};

/// How the next token is chosen, in transformers' names and meanings. The default is greedy and changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingConfig {
    /// Divides the logits; above 1 flattens the distribution, below 1 sharpens it. 0, the default, is greedy: the
    /// most probable token, whatever the filters below say.
    pub temperature: f64,
    /// Samples from the tokens at least as probable as the `top_k`-th; 0, the default, from all.
    pub top_k: usize,
    /// Samples from the fewest tokens, the most probable first, that together have this probability; in `0..=1`,
    /// and 1, the default, is off. Of equally probable tokens the lower ids come first.
    pub top_p: f64,
    /// Samples from tokens with at least this fraction of the highest probability; in `0..=1`, and 0, the default,
    /// is off.
    pub min_p: f64,
    /// Samples from the tokens whose information is nearest to the entropy of the distribution and that together
    /// have this probability (Meister et al. 2022); above 0 and at most 1, and 1, the default, is off.
    pub typical_p: f64,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the generated text; positive, and
    /// 1, the default, is off (Keskar et al. 2019).
    pub repetition_penalty: f64,
    /// Subtracted from the logit of a token once for each time that it was generated, as in OpenAI's API: the
    /// prompt does not count.
    pub frequency_penalty: f64,
    /// Subtracted from the logit of each token that was generated, however often, as in OpenAI's API: the prompt
    /// does not count.
    pub presence_penalty: f64,
    /// Forbids tokens that would repeat a sequence of this length from the prompt or the generated text; 0, the
    /// default, is off.
    pub no_repeat_ngram_size: usize,
    /// Added to the logits of these ids; -inf forbids one. If an id occurs more than once its biases add up.
    pub logit_bias: Vec<(u32, f32)>,
    /// Ids that are never sampled.
    pub suppress_tokens: Vec<u32>,
    /// What the random numbers depend on, and the only thing.
    pub seed: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            no_repeat_ngram_size: 0,
            logit_bias: Vec::new(),
            suppress_tokens: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingConfig {
    /// Checks that every option is in its range.
    ///
    /// # Errors
    /// If one is not; the error names it, the range and the value.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, name: &str, range: &str, found: f64| {
            ok.then_some(())
                .ok_or_else(|| Error::Argument(format!("`{name}` must be {range}, found {found}")))
        };
        let fraction = 0.0..=1.0;
        let t = self.temperature;
        check(t.is_finite() && t >= 0.0, "temperature", "a number from 0 (greedy) up", t)?;
        check(fraction.contains(&self.top_p), "top_p", "from 0 to 1 (off)", self.top_p)?;
        check(fraction.contains(&self.min_p), "min_p", "from 0 (off) to 1", self.min_p)?;
        let typical = self.typical_p;
        check(
            fraction.contains(&typical) && typical > 0.0,
            "typical_p",
            "above 0 and at most 1 (off)",
            typical,
        )?;
        // In f32 it must neither vanish nor be infinite.
        let penalty = self.repetition_penalty;
        check(
            (penalty as f32).is_normal() && penalty > 0.0,
            "repetition_penalty",
            "a number above 0 (1 is off)",
            penalty,
        )?;
        for (name, penalty) in
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)]
        {
            check((penalty as f32).is_finite(), name, "a finite number (0 is off)", penalty)?;
        }
        for &(id, bias) in &self.logit_bias {
            let name = format!("logit_bias of token {id}");
            check(bias < f32::INFINITY, &name, "a finite number, or -inf to forbid the token", bias.into())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_and_the_ends_of_the_ranges_are_valid() {
        SamplingConfig::default().validate().unwrap();
        let ends = SamplingConfig {
            temperature: 1e30,
            top_p: 0.0,
            min_p: 1.0,
            typical_p: 1e-9,
            repetition_penalty: 0.5,
            frequency_penalty: -2.0,
            logit_bias: vec![(3, f32::NEG_INFINITY)],
            ..Default::default()
        };
        ends.validate().unwrap();
    }

    #[test]
    fn errors_name_the_option_its_range_and_the_value() {
        let message = |change: &dyn Fn(&mut SamplingConfig)| {
            let mut config = SamplingConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(
            message(&|c| c.temperature = -0.5),
            "`temperature` must be a number from 0 (greedy) up, found -0.5"
        );
        assert_eq!(message(&|c| c.top_p = 1.5), "`top_p` must be from 0 to 1 (off), found 1.5");
        assert_eq!(message(&|c| c.min_p = f64::NAN), "`min_p` must be from 0 (off) to 1, found NaN");
        assert_eq!(
            message(&|c| c.typical_p = 0.0),
            "`typical_p` must be above 0 and at most 1 (off), found 0"
        );
        assert_eq!(
            message(&|c| c.repetition_penalty = 0.0),
            "`repetition_penalty` must be a number above 0 (1 is off), found 0"
        );
        assert!(message(&|c| c.repetition_penalty = 1e300).starts_with("`repetition_penalty`"));
        assert!(message(&|c| c.temperature = f64::NAN).starts_with("`temperature`"));
        assert!(message(&|c| c.frequency_penalty = f64::INFINITY).starts_with("`frequency_penalty`"));
        assert!(message(&|c| c.presence_penalty = f64::NAN).starts_with("`presence_penalty`"));
        assert_eq!(
            message(&|c| c.logit_bias = vec![(1, 0.0), (9, f32::NAN)]),
            "`logit_bias of token 9` must be a finite number, or -inf to forbid the token, found NaN"
        );
    }
}
