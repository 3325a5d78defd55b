//! What a piece of work costs at the least: its operations at the machine's arithmetic peak, its bytes at its read bandwidth.

use pythia_model::{Config, Model, Precision};
use pythia_tensor::{Crew, peak};

/// What the machine can do at best, as measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peaks {
    /// 10^9 operations per second in the precision's arithmetic, a multiply-add being two.
    pub(super) gflops: f64,
    /// 10^9 bytes per second.
    pub(super) read_gb_s: f64,
}

/// What bounds a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// The peak of the precision's arithmetic.
    Arithmetic,
    /// The read bandwidth.
    Reading,
}

/// What a piece of work needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Operations.
    pub(super) flops: f64,
    /// Bytes to read.
    pub(super) bytes: f64,
}

impl Peaks {
    /// Measures them with the crew's threads: the arithmetic is the precision's.
    pub(super) fn measure(crew: &Crew<'_>, precision: Precision) -> Self {
        let gflops = match precision {
            Precision::Exact => peak::fma_gflops(crew),
            Precision::Bf16 => peak::bf16_gflops(crew).unwrap_or_else(|| peak::fma_gflops(crew)),
            Precision::Int8 => peak::int8_gops(crew),
            Precision::Int4 => peak::int4_gops(crew),
        };
        Self { gflops, read_gb_s: peak::read_gb_s(crew) }
    }

    /// The shortest time that the work can take, in seconds, and what makes it so long.
    pub(super) fn limit(self, needs: Needs) -> (f64, Bound) {
        let arithmetic = needs.flops / (1e9 * self.gflops);
        let reading = needs.bytes / (1e9 * self.read_gb_s);
        if arithmetic > reading { (arithmetic, Bound::Arithmetic) } else { (reading, Bound::Reading) }
    }
}

/// What `sequences` prompts of `tokens` need: two operations for each weight of the linear layers and each token; for
/// each layer, two products of `T x T / 2 x C` in attention, whose upper triangle is not needed; one row of logits each.
/// Every matrix is read once.
pub(super) fn prefill(model: &Model, sequences: usize, tokens: usize) -> Needs {
    let config = model.config();
    let (c, t) = (config.hidden_size as f64, tokens as f64);
    let attention = config.num_hidden_layers as f64 * 4.0 * t * t / 2.0 * c;
    let logits = 2.0 * config.vocab_size as f64 * c;
    let flops = sequences as f64 * (2.0 * linear_weights(config) * t + attention + logits);
    Needs { flops, bytes: model.matrix_bytes() as f64 }
}

/// What the next token of each of `sequences` needs after `before` others: every matrix once, and its keys and values.
pub(super) fn decode(model: &Model, sequences: usize, before: f64) -> Needs {
    let config = model.config();
    let (c, n) = (config.hidden_size as f64, sequences as f64);
    let attention = config.num_hidden_layers as f64 * 4.0 * before * c;
    let linears = 2.0 * (linear_weights(config) + config.vocab_size as f64 * c);
    Needs {
        flops: n * (linears + attention),
        bytes: model.matrix_bytes() as f64 + n * before * model.cache_bytes_per_token() as f64,
    }
}

/// The weights of the layers' matrices.
fn linear_weights(config: &Config) -> f64 {
    let [c, i, l] =
        [config.hidden_size, config.intermediate_size, config.num_hidden_layers].map(|n| n as f64);
    l * (4.0 * c * c + 2.0 * c * i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Place;

    #[test]
    fn operations_and_bytes_of_the_embedded_model() {
        let model = Place::Embedded.model().unwrap();
        let config = model.config();
        let [c, l, v] = [config.hidden_size, config.num_hidden_layers, config.vocab_size].map(|n| n as f64);
        // 12 C^2 weights in each layer, in two bytes each.
        let (weights, attention) = (12.0 * l * c * c, l * 2.0 * 100.0 * 100.0 * c);
        let needs = prefill(&model, 3, 100);
        assert_eq!(needs.flops, 3.0 * (200.0 * weights + attention + 2.0 * v * c));
        assert_eq!(needs.bytes, 2.0 * (weights + v * c));
        let needs = decode(&model, 2, 10.0);
        assert_eq!(needs.flops, 2.0 * (2.0 * (weights + v * c) + l * 4.0 * 10.0 * c));
        assert_eq!(needs.bytes, 2.0 * (weights + v * c) + 2.0 * (2.0 * 4.0 * 10.0 * c * l));
    }

    #[test]
    fn the_slower_of_the_two_is_the_limit() {
        let peaks = Peaks { gflops: 100.0, read_gb_s: 10.0 };
        assert_eq!(peaks.limit(Needs { flops: 2e11, bytes: 1e10 }), (2.0, Bound::Arithmetic));
        assert_eq!(peaks.limit(Needs { flops: 1e10, bytes: 3e10 }), (3.0, Bound::Reading));
    }
}
