//! GGUF, as llama.cpp's `convert_hf_to_gguf.py` writes GPT-NeoX.
//!
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> describes the format. llama.cpp wants vectors in `f32`,
//! the rows of the fused query, key and value as `[q, k, v][head][D]`, biases of attention and an unembedding even where
//! a model has none: zeros, and the embedding again.

mod metadata;
mod vocabulary;

use super::source::Planned;
use super::{Progress, Source, Written, numbers, safetensors::named};
use crate::weights::gguf::to_gguf as name_in_gguf;
use crate::weights::layout::{EMBED_IN, EMBED_OUT, in_layer};
use crate::{Error, Pieces, Result, disk};
use metadata::Metadata;
use pythia_tensor::{DType, Gelu};
use std::io::{self, Write};
use std::iter;
use std::ops::Range;
use std::path::Path;

/// Tensors start at multiples of so many bytes.
const ALIGNMENT: usize = 32;
/// Numbers of a block of `q8_0`, which has one scale.
pub(super) const BLOCK: usize = 32;

/// How matrices are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Numbers of this type.
    Plain(DType),
    /// 8 bits, and a scale in `f16` for 32 of them along a row. Matrices whose rows are no multiple of 32 are `f16`.
    Q8_0,
}

impl Encoding {
    /// The number that stands for it before each tensor.
    fn ggml_type(self) -> u32 {
        match self {
            Self::Plain(DType::F16) => 1,
            Self::Plain(DType::BF16) => 30,
            Self::Plain(_) => 0,
            Self::Q8_0 => 8,
        }
    }

    /// The number that says what most of a file has: llama.cpp's `llama_ftype`.
    fn file_type(self) -> u32 {
        match self {
            Self::Plain(DType::F16) => 1,
            Self::Plain(DType::BF16) => 32,
            Self::Plain(_) => 0,
            Self::Q8_0 => 7,
        }
    }
}

/// A tensor of the file.
struct Part {
    name: String,
    /// The checkpoint's tensor; without one it is zeros.
    source: Option<String>,
    shape: Vec<usize>,
    encoding: Encoding,
}

impl Part {
    /// In `encoding`, or in the type that it has, so far as llama.cpp takes that.
    fn new(planned: &Planned, encoding: Option<Encoding>) -> Option<Self> {
        let shape = planned.shape.clone();
        let encoding = match (&shape[..], encoding.unwrap_or(Encoding::Plain(planned.dtype))) {
            ([_], _) => Encoding::Plain(DType::F32),
            ([_, columns], Encoding::Q8_0) if !columns.is_multiple_of(BLOCK) => Encoding::Plain(DType::F16),
            (_, encoding) => encoding,
        };
        Some(Self { name: name_in_gguf(&planned.name)?, source: Some(planned.name.clone()), shape, encoding })
    }

    fn bytes(&self) -> usize {
        let elements: usize = self.shape.iter().product();
        match self.encoding {
            Encoding::Plain(dtype) => elements * dtype.size(),
            Encoding::Q8_0 => elements / BLOCK * (2 + BLOCK),
        }
    }
}

/// Writes a model as a GGUF file for llama.cpp, with its tokenizer. The file appears whole or not at all.
///
/// Without an `encoding`, matrices have the type that they have. llama.cpp computes GELU in its tanh form, whatever a
/// model's config says, so that its numbers differ a little from transformers'.
///
/// # Errors
/// If there is a file already; if a tensor is missing or has another shape than the config says, or a number that the
/// new type cannot hold; if the tokenizer is none for this model; if the system cannot write.
pub fn to_gguf(
    source: &Source,
    path: impl AsRef<Path>,
    encoding: Option<Encoding>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written> {
    let path = path.as_ref();
    if path.symlink_metadata().is_ok() {
        return Err(Error::file(path, "this file is there already: choose the name of a new one"));
    }
    let parts = parts(source, encoding)?;
    let mut header = metadata(source, path, &parts)?;
    let mut offset = 0;
    for part in &parts {
        header.tensor(&part.name, &part.shape, part.encoding.ggml_type(), offset as u64);
        offset = (offset + part.bytes()).next_multiple_of(ALIGNMENT);
    }
    let total = parts.iter().map(|part| part.bytes() as u64).sum();
    let mut done = 0;
    progress(Progress { done, total });
    disk::write_whole(path, |file| {
        file.write_all(&header.file(ALIGNMENT))?;
        for part in &parts {
            write(file, source, part)?;
            done += part.bytes() as u64;
            progress(Progress { done, total });
        }
        Ok(())
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Written { files: vec![name], bytes: total })
}

/// The tensors of the file, in the order of the forward pass.
fn parts(source: &Source, encoding: Option<Encoding>) -> Result<Vec<Part>> {
    let (config, planned) = (source.config(), source.plan(None)?);
    let mut parts: Vec<_> = planned.iter().filter_map(|planned| Part::new(planned, encoding)).collect();
    if !config.attention_bias {
        for layer in 0..config.num_hidden_layers {
            for linear in config.linears().iter().filter(|linear| !linear.bias) {
                let name = name_in_gguf(&(in_layer(layer, linear.name) + ".bias")).unwrap_or_default();
                let encoding = Encoding::Plain(DType::F32);
                parts.push(Part { name, source: None, shape: vec![linear.rows], encoding });
            }
        }
    }
    if config.tie_word_embeddings
        && let Some(embedding) = planned.iter().find(|planned| planned.name == EMBED_IN)
        && let Some(part) = Part::new(embedding, encoding)
    {
        parts.push(Part { name: name_in_gguf(EMBED_OUT).unwrap_or_default(), ..part });
    }
    Ok(parts)
}

/// What llama.cpp needs to know of the model.
fn metadata(source: &Source, path: &Path, parts: &[Part]) -> Result<Metadata> {
    let c = source.config();
    let mut out = Metadata::default();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    out.text("general.architecture", "gptneox");
    out.text("general.name", &stem);
    out.u32("general.quantization_version", 2);
    // The first tensor is the embedding, which has the type of the other matrices.
    out.u32("general.file_type", parts.first().map_or(0, |part| part.encoding.file_type()));
    for (key, n) in [
        ("context_length", c.max_position_embeddings),
        ("embedding_length", c.hidden_size),
        ("block_count", c.num_hidden_layers),
        ("feed_forward_length", c.intermediate_size),
        ("rope.dimension_count", c.rotary_dims()),
        ("attention.head_count", c.num_attention_heads),
        ("vocab_size", c.vocab_size),
    ] {
        out.u32(&format!("gptneox.{key}"), n as u32);
    }
    out.f32("gptneox.rope.freq_base", c.rotary_base as f32);
    out.f32("gptneox.attention.layer_norm_epsilon", c.layer_norm_eps);
    out.bool("gptneox.use_parallel_residual", c.use_parallel_residual);
    // No key of llama.cpp's: it has no choice.
    out.text("pythia.hidden_act", if c.hidden_act == Gelu::Erf { "gelu" } else { "gelu_new" });
    vocabulary::write(source, &mut out)?;
    for (key, id) in [("bos", c.bos_token_id), ("eos", c.eos_token_ids.first().copied())] {
        if let Some(id) = id {
            out.u32(&format!("tokenizer.ggml.{key}_token_id"), id);
        }
    }
    Ok(out)
}

/// Writes a tensor, up to where the next one starts.
fn write(file: &mut Pieces, source: &Source, part: &Part) -> io::Result<()> {
    let bytes = part.bytes();
    match &part.source {
        Some(name) => {
            let tensor = source.tensor(name).map_err(io::Error::other)?;
            for rows in rows(source, part) {
                match part.encoding {
                    Encoding::Plain(dtype) => numbers::write_rows(file, &tensor, rows, dtype)
                        .map_err(|e| named(e, source, name, dtype))?,
                    Encoding::Q8_0 => numbers::write_q8_0(file, &tensor, rows)?,
                }
            }
        }
        None => file.write_all(&vec![0; bytes])?,
    }
    file.write_all(&vec![0; bytes.next_multiple_of(ALIGNMENT) - bytes])
}

/// The rows of a tensor in the order of the file: for query, key and value, first the queries of all heads.
fn rows(source: &Source, part: &Part) -> Vec<Range<usize>> {
    let (h, d) = (source.config().num_attention_heads, source.config().head_dim());
    if !part.name.contains(".attn_qkv.") {
        return iter::once(0..part.shape.first().copied().unwrap_or(0)).collect();
    }
    let start = |i: usize| (i % h * 3 + i / h) * d;
    (0..3 * h).map(|i| start(i)..start(i) + d).collect()
}
