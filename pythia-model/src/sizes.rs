//! The sizes in which Pythia has been published.

use crate::{Config, Error, Result};
use pythia_tensor::DType;
use pythia_tensor::Gelu;

/// The shape of a published size, or of another model like them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// As in `EleutherAI/pythia-410m`.
    pub name: &'static str,
    /// Transformer layers (`L`).
    pub num_hidden_layers: usize,
    /// Channels of the residual stream (`C`).
    pub hidden_size: usize,
    /// Attention heads (`H`).
    pub num_attention_heads: usize,
    /// Rows of the embedding (`V`): 50277 tokens, padded.
    pub vocab_size: usize,
}

const fn size(name: &'static str, [layers, hidden, heads, vocab]: [usize; 4]) -> Size {
    Size {
        name,
        num_hidden_layers: layers,
        hidden_size: hidden,
        num_attention_heads: heads,
        vocab_size: vocab,
    }
}

/// The ten published sizes, from the smallest to the largest, from their `config.json` files on the Hugging Face Hub.
pub const SIZES: [Size; 10] = [
    size("14m", [6, 128, 4, 50304]),
    size("31m", [6, 256, 8, 50304]),
    size("70m", [6, 512, 8, 50304]),
    size("160m", [12, 768, 12, 50304]),
    size("410m", [24, 1024, 16, 50304]),
    size("1b", [16, 2048, 8, 50304]),
    size("1.4b", [24, 2048, 16, 50304]),
    size("2.8b", [32, 2560, 32, 50304]),
    size("6.9b", [32, 4096, 32, 50432]),
    size("12b", [36, 5120, 40, 50688]),
];

impl Size {
    /// The size with this name, such as `410m` or `1.4B`.
    ///
    /// # Errors
    /// If there is none; the text lists those there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        SIZES.iter().find(|size| size.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known = SIZES.map(|size| size.name).join(", ");
            Error::Argument(format!("unknown model size `{name}`; known: {known}"))
        })
    }

    /// The configuration that all published sizes share, with this one's numbers.
    pub fn config(&self) -> Config {
        Config {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: 4 * self.hidden_size,
            hidden_act: Gelu::Erf,
            rotary_pct: 0.25,
            rotary_base: 10_000.0,
            max_position_embeddings: 2048,
            layer_norm_eps: 1e-5,
            use_parallel_residual: true,
            attention_bias: true,
            tie_word_embeddings: false,
            bos_token_id: Some(0),
            eos_token_ids: vec![0],
            torch_dtype: Some(DType::F16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        // From the table in the README of EleutherAI/pythia.
        for (name, total, non_embedding) in [
            ("70m", 70_426_624, 18_915_328),
            ("160m", 162_322_944, 85_056_000),
            ("410m", 405_334_016, 302_311_424),
            ("1b", 1_011_781_632, 805_736_448),
            ("1.4b", 1_414_647_808, 1_208_602_624),
            ("2.8b", 2_775_208_960, 2_517_652_480),
            ("6.9b", 6_857_302_016, 6_444_163_072),
            ("12b", 11_846_072_320, 11_327_027_200),
        ] {
            let counts = Size::named(name).unwrap().config().parameters();
            assert_eq!((counts.total, counts.non_embedding), (total, non_embedding), "{name}");
        }
    }

    #[test]
    fn tied_embeddings_count_once_and_absent_biases_not_at_all() {
        let mut config = Size::named("70M").unwrap().config();
        config.tie_word_embeddings = true;
        assert_eq!(config.parameters().total, 70_426_624 - 50304 * 512);
        config.attention_bias = false;
        assert_eq!(config.parameters().non_embedding, 18_915_328 - 6 * 4 * 512);
    }

    #[test]
    fn an_unknown_size_lists_the_known_ones() {
        let message = Size::named("3b").unwrap_err().to_string();
        assert!(message.starts_with("unknown model size `3b`; known: 14m, 31m,"), "{message}");
    }
}
