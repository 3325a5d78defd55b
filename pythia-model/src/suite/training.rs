//! How the models were trained.

use super::Published;
use pythia_tensor::DType;

/// Tokens of a training step: 1024 sequences, each of 2048 predicted tokens. The names of checkpoints count steps of
/// this size, those of the models that took larger ones too.
pub const TOKENS_PER_STEP: u64 = 1024 * 2048;

/// The sizes whose v0 models took half as many steps of twice the tokens.
const V0_LARGE_BATCH: [&str; 3] = ["160m", "410m", "1.4b"];

/// What the models of a size have in common, first versions apart.
struct Training {
    size: &'static str,
    learning_rate: f64,
    dtype: DType,
}

const fn training(size: &'static str, learning_rate: f64, dtype: DType) -> Training {
    Training { size, learning_rate, dtype }
}

/// From the README of EleutherAI/pythia. (For 1b, the training code's own file has 2.5e-4 and f16.)
const TRAININGS: [Training; 10] = [
    training("14m", 1e-3, DType::F16),
    training("31m", 1e-3, DType::F16),
    training("70m", 1e-3, DType::F16),
    training("160m", 6e-4, DType::F16),
    training("410m", 3e-4, DType::F16),
    training("1b", 3e-4, DType::BF16),
    training("1.4b", 2e-4, DType::F16),
    training("2.8b", 1.6e-4, DType::F16),
    training("6.9b", 1.2e-4, DType::F16),
    training("12b", 1.2e-4, DType::F16),
];

impl Published {
    fn training(&self) -> Option<&'static Training> {
        TRAININGS.iter().find(|training| training.size == self.size.name && !self.is_v0())
    }

    /// Tokens of a step of its training.
    pub fn batch_tokens(&self) -> u64 {
        let large = self.is_v0() && V0_LARGE_BATCH.contains(&self.size.name);
        if large { 2 * TOKENS_PER_STEP } else { TOKENS_PER_STEP }
    }

    /// Tokens that its training saw in all.
    pub fn tokens(&self) -> u64 {
        self.checkpoints().last().map_or(0, |last| last.tokens)
    }

    /// The largest learning rate of its training. None for first versions, for which it is not on record here.
    pub fn learning_rate(&self) -> Option<f64> {
        self.training().map(|training| training.learning_rate)
    }

    /// The type it was trained in. None for first versions, for which it is not on record here.
    pub fn trained_in(&self) -> Option<DType> {
        self.training().map(|training| training.dtype)
    }
}
