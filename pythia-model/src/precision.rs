//! [`Precision`]: the arithmetic that a model's matrices are multiplied with.

use crate::{Error, Result};
use pythia_tensor::{Bits, Isa};
use std::fmt;
use std::str::FromStr;

/// The arithmetic of the linear layers and the unembedding. Embedding, layer norms, the softmax and the residual stream
/// are `f32` in each of them. Keys, values and what attention multiplies are `f32` in `exact`, and `bf16` in the
/// others.
///
/// The same bits for any number of threads come out in all of them; for any batch and any split of a prompt in all but
/// `bf16`, which sums passes of at most 16 tokens in another order than longer ones (but with AMX).
///
/// ```
/// use pythia_model::Precision;
/// assert_eq!("int8".parse::<Precision>()?, Precision::Int8);
/// assert!("f64".parse::<Precision>().unwrap_err().to_string().contains("exact, bf16, int8, int4"));
/// # Ok::<(), pythia_model::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// The stored weights widened to `f32`, products and sums in `f32`. With AMX, a product is the sum of
    /// products of bf16 parts, to 2^-21 of it at worst; sums are as near to the true ones as those of other instruction sets.
    #[default]
    Exact,
    /// Weights and activations rounded to `bf16`, sums in `f32`. Only where the processor multiplies `bf16`.
    Bf16,
    /// Weights of 8 bits.
    Int8,
    /// Weights of 4 bits.
    Int4,
}

impl Precision {
    /// All of them, the most exact first.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Bf16, Self::Int8, Self::Int4];

    /// `exact`, `bf16`, `int8` or `int4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// The bits of a weight, if the weights are quantised.
    pub fn bits(self) -> Option<Bits> {
        match self {
            Self::Exact | Self::Bf16 => None,
            Self::Int8 => Some(Bits::Int8),
            Self::Int4 => Some(Bits::Int4),
        }
    }

    /// Whether an instruction set has this arithmetic.
    pub fn runs_on(self, isa: Isa) -> bool {
        self != Self::Bf16 || isa.has_bf16()
    }

    /// Nothing, if [`Precision::runs_on`].
    ///
    /// # Errors
    /// If not; the text says what can be run.
    pub fn check(self, isa: Isa) -> Result<()> {
        if self.runs_on(isa) {
            return Ok(());
        }
        let can = listed(Self::ALL.into_iter().filter(|precision| precision.runs_on(isa)));
        Err(Error::Argument(format!(
            "precision `{self}` needs the instruction set avx512bf16, found {isa}; what can run here: {can}"
        )))
    }
}

fn listed(precisions: impl Iterator<Item = Precision>) -> String {
    precisions.map(Precision::name).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
            Error::Argument(format!(
                "unknown precision `{}`; known: {}",
                name.escape_debug(),
                listed(Self::ALL.into_iter())
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_the_precision() {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse::<Precision>().unwrap(), precision);
        }
        let message = "INT8".parse::<Precision>().unwrap_err().to_string();
        assert_eq!(message, "unknown precision `INT8`; known: exact, bf16, int8, int4");
    }

    #[test]
    fn what_cannot_run_is_refused_and_what_can_is_named() {
        let portable = Isa::named("portable").unwrap();
        for precision in [Precision::Exact, Precision::Int8, Precision::Int4] {
            precision.check(portable).unwrap();
        }
        let message = Precision::Bf16.check(portable).unwrap_err().to_string();
        assert_eq!(
            message,
            "precision `bf16` needs the instruction set avx512bf16, found portable; what can run here: exact, int8, \
             int4"
        );
        if let Ok(isa) = Isa::named("avx512bf16") {
            Precision::Bf16.check(isa).unwrap();
        }
    }
}
