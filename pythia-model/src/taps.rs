//! Named points of the forward pass that a caller can watch or edit, under TransformerLens's names.

use crate::{Config, Error, Result};
use std::fmt;
use std::str::FromStr;

/// A point of the forward pass. Its text is TransformerLens's name, such as `blocks.3.attn.hook_pattern`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// `hook_embed`: the token embeddings, `[T, C]`.
    Embed,
    /// A point inside layer `0`, ...: `blocks.<layer>.<at>`.
    Block(usize, At),
    /// `ln_final.hook_normalized`: what the unembedding reads, `[T, C]`.
    LnFinal,
}

/// A point inside a layer. `T` counts the tokens of all sequences of the batch, except for the scores and the pattern,
/// which come once for each sequence with its own tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// `hook_resid_pre`: the residual stream before the layer, `[T, C]`.
    ResidPre,
    /// `ln1.hook_normalized`: what attention reads, scale and shift applied, `[T, C]`.
    Ln1,
    /// `attn.hook_q`: queries before the rotation, `[T, H, D]`.
    Q,
    /// `attn.hook_k`: keys before the rotation, `[T, H, D]`.
    K,
    /// `attn.hook_v`: values, `[T, H, D]`.
    V,
    /// `attn.hook_attn_scores`: scaled scores, minus infinity where masked, `[H, T, positions]`.
    Scores,
    /// `attn.hook_pattern`: their softmax, `[H, T, positions]`.
    Pattern,
    /// `attn.hook_z`: the heads' mixes of values, `[T, H, D]`.
    Z,
    /// `hook_attn_out`: what attention adds to the residual stream, `[T, C]`.
    AttnOut,
    /// `hook_resid_mid`: the residual stream between attention and MLP, `[T, C]`; only in models without the parallel residual.
    ResidMid,
    /// `ln2.hook_normalized`: what the MLP reads, scale and shift applied, `[T, C]`.
    Ln2,
    /// `mlp.hook_pre`: the neurons before GELU, `[T, intermediate_size]`.
    MlpPre,
    /// `mlp.hook_post`: the neurons after GELU, `[T, intermediate_size]`.
    MlpPost,
    /// `hook_mlp_out`: what the MLP adds to the residual stream, `[T, C]`.
    MlpOut,
    /// `hook_resid_post`: the residual stream after the layer, `[T, C]`.
    ResidPost,
}

impl At {
    /// Every point of a layer, in the order of the forward pass (with the parallel residual, the MLP's come with attention's).
    pub const ALL: [Self; 15] = [
        Self::ResidPre,
        Self::Ln1,
        Self::Q,
        Self::K,
        Self::V,
        Self::Scores,
        Self::Pattern,
        Self::Z,
        Self::AttnOut,
        Self::ResidMid,
        Self::Ln2,
        Self::MlpPre,
        Self::MlpPost,
        Self::MlpOut,
        Self::ResidPost,
    ];

    /// The name within the block.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResidPre => "hook_resid_pre",
            Self::Ln1 => "ln1.hook_normalized",
            Self::Q => "attn.hook_q",
            Self::K => "attn.hook_k",
            Self::V => "attn.hook_v",
            Self::Scores => "attn.hook_attn_scores",
            Self::Pattern => "attn.hook_pattern",
            Self::Z => "attn.hook_z",
            Self::AttnOut => "hook_attn_out",
            Self::ResidMid => "hook_resid_mid",
            Self::Ln2 => "ln2.hook_normalized",
            Self::MlpPre => "mlp.hook_pre",
            Self::MlpPost => "mlp.hook_post",
            Self::MlpOut => "hook_mlp_out",
            Self::ResidPost => "hook_resid_post",
        }
    }
}

impl Point {
    /// Whether the forward pass of a model of this shape comes to this point.
    ///
    /// # Errors
    /// If it has no such layer, or no such point in its layers. The text says what there is.
    pub fn check(self, config: &Config) -> Result<()> {
        let Self::Block(layer, at) = self else { return Ok(()) };
        let layers = config.num_hidden_layers;
        let problem = if layer >= layers {
            format!("the model has {layers} layers, `blocks.0` to `blocks.{}`", layers.saturating_sub(1))
        } else if at == At::ResidMid && config.use_parallel_residual {
            "with the parallel residual (`use_parallel_residual`) attention and MLP both read `hook_resid_pre`, and \
             there is nothing between them but `hook_attn_out` and `hook_mlp_out`"
                .to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Argument(format!("no tap `{self}`: {problem}")))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => f.write_str("hook_embed"),
            Self::Block(layer, at) => write!(f, "blocks.{layer}.{}", at.name()),
            Self::LnFinal => f.write_str("ln_final.hook_normalized"),
        }
    }
}

impl FromStr for Point {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let block = || {
            let (layer, at) = name.strip_prefix("blocks.")?.split_once('.')?;
            let at = At::ALL.into_iter().find(|a| a.name() == at)?;
            Some(Self::Block(layer.parse().ok()?, at))
        };
        match name {
            "hook_embed" => Ok(Self::Embed),
            "ln_final.hook_normalized" => Ok(Self::LnFinal),
            _ => block().ok_or_else(|| {
                let known: Vec<_> = At::ALL.iter().map(|a| a.name()).collect();
                Error::Argument(format!(
                    "no tap is called `{name}`; there are `hook_embed`, `ln_final.hook_normalized` and, after `blocks.<layer>.`: {}",
                    known.join(", ")
                ))
            }),
        }
    }
}

/// The numbers at a point, to read and to change.
#[derive(Debug)]
pub struct Tapped<'a> {
    /// Where they are.
    pub point: Point,
    /// Which sequence of the batch they belong to; `None` if the rows of all sequences lie end to end.
    pub sequence: Option<usize>,
    /// Their dimensions, as the point's documentation gives them.
    pub shape: &'a [usize],
    /// Row-major. What is written here is what the pass goes on with.
    pub data: &'a mut [f32],
}

/// Someone who watches or edits points of the forward pass. A layer of which no point is wanted runs as if there were
/// no taps; one of which a point is wanted runs step by step.
pub trait Taps {
    /// Whether [`Taps::at`] shall be called for this point.
    fn wants(&self, point: Point) -> bool;

    /// The pass is at a point that is wanted.
    fn at(&mut self, tapped: Tapped<'_>);

    /// The points that must exist: a pass is refused if the model lacks one of them ([`Point::check`]). None by default.
    fn points(&self) -> &[Point] {
        &[]
    }
}

/// No taps.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTaps;

impl Taps for NoTaps {
    fn wants(&self, _: Point) -> bool {
        false
    }

    fn at(&mut self, _: Tapped<'_>) {}
}

/// Calls a closure at each of a list of points.
#[derive(Debug)]
pub struct TapAt<F> {
    points: Vec<Point>,
    then: F,
}

impl<F: FnMut(Tapped<'_>)> TapAt<F> {
    /// Taps that call `then` at `points`.
    pub fn new(points: impl IntoIterator<Item = Point>, then: F) -> Self {
        Self { points: points.into_iter().collect(), then }
    }
}

impl<F: FnMut(Tapped<'_>)> Taps for TapAt<F> {
    fn wants(&self, point: Point) -> bool {
        self.points.contains(&point)
    }

    fn at(&mut self, tapped: Tapped<'_>) {
        (self.then)(tapped);
    }

    fn points(&self) -> &[Point] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_point() {
        let blocks = At::ALL.into_iter().map(|at| Point::Block(11, at));
        for point in [Point::Embed, Point::LnFinal].into_iter().chain(blocks) {
            assert_eq!(point.to_string().parse::<Point>().unwrap(), point);
        }
        assert_eq!(Point::Block(3, At::Pattern).to_string(), "blocks.3.attn.hook_pattern");
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known() {
        for name in ["blocks.x.hook_resid_pre", "blocks.3.attn.pattern", "resid", "blocks.1"] {
            let message = name.parse::<Point>().unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("hook_resid_pre"), "{message}");
        }
    }
}
