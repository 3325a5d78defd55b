//! [`Weights`]: the tensors of a GPT-NeoX model, checked against its [`Config`] and mapped, not loaded.

mod file;
mod folder;
pub(crate) mod gguf;
pub(crate) mod layout;
pub(crate) mod neox;
mod pytorch;
pub(crate) mod safetensors;
#[cfg(test)]
mod tests;
mod unique;

pub use file::{FileStamp, TensorFile};

use crate::{Config, Error, Result};
pub(crate) use file::{said, shown};
pub(crate) use folder::Checkpoint;
use layout::{EMBED_IN, EMBED_OUT, FINAL_LAYER_NORM, LAYER_NORMS, LINEARS, LM_HEAD, LinearShape, in_layer};
use pythia_tensor::{Quantized, Tensor};
use std::path::Path;

/// The weights of a model. Matrices stay in the file's memory and type (those that several files share, as the training
/// code writes them, are merged in memory of their own); vectors, less than a thousandth of the whole, are widened to
/// `f32` on opening. Whether the numbers are finite is not checked.
#[derive(Debug, Clone)]
pub struct Weights {
    /// The embedding, `[V, C]`.
    pub embed_in: Tensor,
    /// The layers, from the first to the last.
    pub layers: Vec<LayerWeights>,
    /// The layer norm before the unembedding.
    pub final_layer_norm: LayerNormWeights,
    /// The unembedding, `[V, C]`; the embedding itself where the config ties them.
    pub embed_out: Tensor,
    /// The unembedding quantised, if the model's precision is.
    pub embed_out_quantized: Option<Quantized>,
    /// The files that all this lies in; none if it was in memory.
    pub files: Vec<FileStamp>,
    /// The tensors of the files that the model has no use for, sorted. Buffers of old checkpoints (attention masks,
    /// rotary frequencies) are not listed.
    pub ignored: Vec<String>,
}

/// The weights of one layer.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Before attention.
    pub input_layernorm: LayerNormWeights,
    /// Before the MLP.
    pub post_attention_layernorm: LayerNormWeights,
    /// `[3 C, C]`, its rows in the order `[head][q, k, v][D]`.
    pub query_key_value: Linear,
    /// `[C, C]`.
    pub attention_dense: Linear,
    /// `[intermediate_size, C]`.
    pub dense_h_to_4h: Linear,
    /// `[C, intermediate_size]`.
    pub dense_4h_to_h: Linear,
}

/// `x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[N, K]`: a row for each of the `N` outputs.
    pub weight: Tensor,
    /// The same quantised, if the model's precision is.
    pub quantized: Option<Quantized>,
    /// `[N]`, if the matrix has one.
    pub bias: Option<Vec<f32>>,
}

/// The scale and the shift of a layer norm, `[C]` each.
#[derive(Debug, Clone)]
pub struct LayerNormWeights {
    /// The scale.
    pub weight: Vec<f32>,
    /// The shift.
    pub bias: Vec<f32>,
}

impl Weights {
    /// Opens `model.safetensors`, or `model.safetensors.index.json` and its shards, in a model's folder; where there is
    /// neither, `pytorch_model.bin` or `pytorch_model.bin.index.json` and its shards; a GGUF file that `dir` names, or the
    /// only one in it. The files are mapped, so this takes
    /// milliseconds at any size, and must not be changed in place meanwhile (see [`TensorFile`]).
    ///
    /// Or the layer files that GPT-NeoX writes in training, `layer_LL-model_RR-model_states.pt`, in `dir` or in the folder
    /// that a file `latest` in `dir` names. What several ranks of model parallelism share is merged: parts of matrices are
    /// joined, in memory of their own; norms are averaged; the biases of `attention.dense` and `mlp.dense_4h_to_h` are
    /// added up if the residual is parallel, else averaged; both in `f64`, rounded to the stored type.
    ///
    /// # Errors
    /// If there are no weights; if a file is damaged or contradicts itself; if a tensor is
    /// missing or has another shape or type than the config asks for. The text names the file and the tensor.
    pub fn open(dir: impl AsRef<Path>, config: &Config) -> Result<Self> {
        read(Checkpoint::open(dir.as_ref(), config)?, config)
    }

    /// The files that [`Weights::open`] would map, for who wants to have them in memory first ([`read_ahead`](crate::read_ahead)).
    ///
    /// # Errors
    /// As [`Weights::open`]; but what the config expects of the tensors is not looked at.
    pub fn files(dir: impl AsRef<Path>, config: &Config) -> Result<Vec<FileStamp>> {
        Ok(Checkpoint::open(dir.as_ref(), config)?.stamps())
    }

    /// Opens a safetensors file that is in memory, for instance one embedded in the program; `name` is what errors
    /// call it. Nothing is copied if `bytes` starts at a multiple of 8.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn from_static(bytes: &'static [u8], name: &str, config: &Config) -> Result<Self> {
        read(Checkpoint::of(TensorFile::from_static(name, bytes)?), config)
    }

    /// Every matrix that activations are multiplied with, in the order of the forward pass, by its name in a
    /// checkpoint. The last is the unembedding, called so even if it is tied.
    pub fn matrices(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let layers = self.layers.iter().enumerate().flat_map(|(l, layer)| {
            let linears = LINEARS.into_iter().zip(layer.linears());
            linears.map(move |(name, linear)| (in_layer(l, name) + ".weight", &linear.weight))
        });
        layers.chain([(EMBED_OUT.to_owned(), &self.embed_out)])
    }

    /// Gives every matrix its quantised form, in the order of [`Weights::matrices`]; those left over get none.
    pub(crate) fn set_quantized(&mut self, quantized: Vec<Quantized>) {
        let mut quantized = quantized.into_iter();
        for linear in self.layers.iter_mut().flat_map(LayerWeights::linears_mut) {
            linear.quantized = quantized.next();
        }
        self.embed_out_quantized = quantized.next();
    }
}

impl LayerWeights {
    /// The matrices, in the order of [`LINEARS`].
    pub(crate) fn linears(&self) -> [&Linear; 4] {
        [&self.query_key_value, &self.attention_dense, &self.dense_h_to_4h, &self.dense_4h_to_h]
    }

    fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [
            &mut self.query_key_value,
            &mut self.attention_dense,
            &mut self.dense_h_to_4h,
            &mut self.dense_4h_to_h,
        ]
    }
}

fn read(checkpoint: Checkpoint, config: &Config) -> Result<Weights> {
    let files = checkpoint.stamps();
    let mut reader = Reader { checkpoint, config };
    let table = [config.vocab_size, config.hidden_size];
    let embed_in = reader.tensor(EMBED_IN, &table, "`vocab_size` and `hidden_size`")?;
    let layers = (0..config.num_hidden_layers).map(|i| reader.layer(i)).collect::<Result<_>>()?;
    let final_layer_norm = reader.layer_norm(FINAL_LAYER_NORM)?;
    let embed_out = reader.unembedding(&embed_in)?;
    let ignored = reader.rest()?;
    Ok(Weights { embed_in, layers, final_layer_norm, embed_out, embed_out_quantized: None, files, ignored })
}

/// Takes the model's tensors out of a checkpoint.
struct Reader<'a> {
    checkpoint: Checkpoint,
    config: &'a Config,
}

impl Reader<'_> {
    /// The tensor `name`, whose shape `keys` of the config give.
    fn tensor(&mut self, name: &str, shape: &[usize], keys: &str) -> Result<Tensor> {
        match self.optional(name, shape, keys)? {
            Some(tensor) => Ok(tensor),
            None => Err(self.missing(name, shape, keys)),
        }
    }

    fn optional(&mut self, name: &str, shape: &[usize], keys: &str) -> Result<Option<Tensor>> {
        let Some((path, tensor)) = self.checkpoint.take(name)? else { return Ok(None) };
        if tensor.shape() == shape {
            return Ok(Some(tensor));
        }
        let found = tensor.shape();
        let message = format!("config contradicts weights: expected {shape:?} by {keys}, found {found:?}");
        Err(Error::tensor(path, name, message))
    }

    fn missing(&self, name: &str, shape: &[usize], keys: &str) -> Error {
        let layers = match layout::layer_of(name) {
            Some(_) => format!("`num_hidden_layers` {}, ", self.config.num_hidden_layers),
            None => String::new(),
        };
        let message = format!("missing: the config expects it, of shape {shape:?}, by {layers}{keys}");
        Error::tensor(self.checkpoint.path(), name, message)
    }

    fn vector(&mut self, name: &str, length: usize, keys: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(name, &[length], keys)?.to_f32())
    }

    fn layer_norm(&mut self, name: &str) -> Result<LayerNormWeights> {
        let (c, keys) = (self.config.hidden_size, "`hidden_size`");
        Ok(LayerNormWeights {
            weight: self.vector(&format!("{name}.weight"), c, keys)?,
            bias: self.vector(&format!("{name}.bias"), c, keys)?,
        })
    }

    fn linear(&mut self, layer: usize, m: &LinearShape) -> Result<Linear> {
        let name = in_layer(layer, m.name);
        let weight = self.tensor(&format!("{name}.weight"), &[m.rows, m.columns], m.keys)?;
        let of_attention = m.name.starts_with("attention.");
        let keys = if of_attention { "`attention_bias` and `hidden_size`" } else { m.keys };
        let bias = m.bias.then(|| self.vector(&format!("{name}.bias"), m.rows, keys)).transpose()?;
        Ok(Linear { weight, quantized: None, bias })
    }

    fn layer(&mut self, layer: usize) -> Result<LayerWeights> {
        let [input, post_attention] = LAYER_NORMS.map(|name| in_layer(layer, name));
        let [qkv, dense, up, down] = self.config.linears();
        Ok(LayerWeights {
            input_layernorm: self.layer_norm(&input)?,
            post_attention_layernorm: self.layer_norm(&post_attention)?,
            query_key_value: self.linear(layer, &qkv)?,
            attention_dense: self.linear(layer, &dense)?,
            dense_h_to_4h: self.linear(layer, &up)?,
            dense_4h_to_h: self.linear(layer, &down)?,
        })
    }

    /// The unembedding. Tied checkpoints may carry it as well, but then it must be the embedding.
    fn unembedding(&mut self, embed_in: &Tensor) -> Result<Tensor> {
        let tied = self.config.tie_word_embeddings;
        for name in [EMBED_OUT, LM_HEAD] {
            let Some(tensor) = self.optional(name, embed_in.shape(), "`vocab_size` and `hidden_size`")?
            else {
                continue;
            };
            if tied && (tensor.dtype(), tensor.bytes()) != (embed_in.dtype(), embed_in.bytes()) {
                let message = format!(
                    "config contradicts weights: `tie_word_embeddings` is true, but this is not equal to {EMBED_IN}"
                );
                return Err(Error::tensor(self.checkpoint.path(), name, message));
            }
            return Ok(if tied { embed_in.clone() } else { tensor });
        }
        if tied {
            Ok(embed_in.clone())
        } else {
            Err(self.missing(EMBED_OUT, embed_in.shape(), "`tie_word_embeddings` false and `vocab_size`"))
        }
    }

    /// What is left. Weights that a GPT-NeoX of another config would use are an error.
    fn rest(self) -> Result<Vec<String>> {
        let Self { checkpoint, config } = self;
        let path = checkpoint.path().to_owned();
        let mut ignored = checkpoint.rest();
        ignored.retain(|name| !layout::is_buffer(name));
        for name in &ignored {
            check_ignored(&path, name, config)?;
        }
        Ok(ignored)
    }
}

/// Refuses to ignore what a GPT-NeoX of another config would use.
pub(crate) fn check_ignored(path: &Path, name: &str, config: &Config) -> Result<()> {
    let contradiction = match layout::layer_of(name) {
        Some(layer) if layer >= config.num_hidden_layers => {
            format!("`num_hidden_layers` is {}", config.num_hidden_layers)
        }
        // The only tensors of a layer that a config can do without.
        Some(layer) if config.linears().iter().any(|m| in_layer(layer, m.name) + ".bias" == *name) => {
            "`attention_bias` is false".to_owned()
        }
        _ => return Ok(()),
    };
    let message = format!("config contradicts weights: {contradiction}, but the file has this tensor");
    Err(Error::tensor(path, shown(name), message))
}
