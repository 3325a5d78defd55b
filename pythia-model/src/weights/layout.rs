//! The names and shapes that GPT-NeoX's tensors have in a checkpoint.

use crate::Config;

pub(crate) const EMBED_IN: &str = "gpt_neox.embed_in.weight";
pub(crate) const EMBED_OUT: &str = "embed_out.weight";
/// What transformers has called [`EMBED_OUT`] since version 5.
pub(crate) const LM_HEAD: &str = "lm_head.weight";
pub(crate) const FINAL_LAYER_NORM: &str = "gpt_neox.final_layer_norm";
pub(crate) const LAYER_NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// The matrices of a layer, in the order of the forward pass.
pub(crate) const LINEARS: [&str; 4] =
    ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"];

/// One of a layer's matrices: `rows` outputs of `columns` inputs.
pub(crate) struct LinearShape {
    /// The name within the layer.
    pub(crate) name: &'static str,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bias: bool,
    /// The config keys that say so.
    pub(crate) keys: &'static str,
}

impl Config {
    /// The matrices of a layer, in the order of [`LINEARS`].
    pub(crate) fn linears(&self) -> [LinearShape; 4] {
        let (c, i, bias) = (self.hidden_size, self.intermediate_size, self.attention_bias);
        let mlp = "`intermediate_size` and `hidden_size`";
        let [qkv, dense, up, down] = LINEARS;
        [
            LinearShape { name: qkv, rows: 3 * c, columns: c, bias, keys: "`hidden_size`" },
            LinearShape { name: dense, rows: c, columns: c, bias, keys: "`hidden_size`" },
            LinearShape { name: up, rows: i, columns: c, bias: true, keys: mlp },
            LinearShape { name: down, rows: c, columns: i, bias: true, keys: mlp },
        ]
    }

    /// The name in a checkpoint and the shape of every tensor of the model.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (v, c) = (self.vocab_size, self.hidden_size);
        let norm = |name: &str| [(format!("{name}.weight"), vec![c]), (format!("{name}.bias"), vec![c])];
        let mut tensors = vec![(EMBED_IN.to_owned(), vec![v, c])];
        for layer in 0..self.num_hidden_layers {
            for name in LAYER_NORMS {
                tensors.extend(norm(&in_layer(layer, name)));
            }
            for m in self.linears() {
                let name = in_layer(layer, m.name);
                tensors.push((format!("{name}.weight"), vec![m.rows, m.columns]));
                if m.bias {
                    tensors.push((format!("{name}.bias"), vec![m.rows]));
                }
            }
        }
        tensors.extend(norm(FINAL_LAYER_NORM));
        if !self.tie_word_embeddings {
            tensors.push((EMBED_OUT.to_owned(), vec![v, c]));
        }
        tensors
    }
}

/// The full name of what is called `name` within a layer.
pub(crate) fn in_layer(layer: usize, name: &str) -> String {
    format!("gpt_neox.layers.{layer}.{name}")
}

/// The layer that a tensor belongs to, if any.
pub(crate) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("gpt_neox.layers.")?.split('.').next()?.parse().ok()
}

/// Whether a tensor is a buffer of old checkpoints: a mask or a table that follows from the config.
pub(crate) fn is_buffer(name: &str) -> bool {
    const BUFFERS: [&str; 3] =
        [".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"];
    name.starts_with("gpt_neox.layers.") && BUFFERS.iter().any(|buffer| name.ends_with(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SIZES;

    #[test]
    fn the_tensors_hold_the_parameters() {
        for size in SIZES {
            for (tied, bias) in [(false, true), (true, false)] {
                let mut config = size.config();
                (config.tie_word_embeddings, config.attention_bias) = (tied, bias);
                let count = |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>() as u64;
                let total: u64 = config.tensors().iter().map(count).sum();
                assert_eq!(total, config.parameters().total, "{}", size.name);
            }
        }
    }

    #[test]
    fn buffers_are_not_biases() {
        for (name, layer, buffer) in [
            ("gpt_neox.layers.10.attention.bias", Some(10), true),
            ("gpt_neox.layers.1.attention.rotary_emb.inv_freq", Some(1), true),
            ("gpt_neox.layers.1.attention.dense.bias", Some(1), false),
            ("gpt_neox.layers.x.attention.dense.bias", None, false),
            ("gpt_neox.final_layer_norm.bias", None, false),
        ] {
            assert_eq!((layer_of(name), is_buffer(name)), (layer, buffer), "{name}");
        }
    }
}
