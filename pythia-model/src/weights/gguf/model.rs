//! [`GgufFile`]: what a file says of its model beside the weights.

use super::header::{Header, Value};
use crate::weights::folder::has_usual_weights;
use crate::{Config, Error, Result, disk};
use serde_json::{Map, json};
use std::fs;
use std::path::{Path, PathBuf};

// Kinds of tokens.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// A GGUF file as a whole model.
#[derive(Debug)]
pub(crate) struct GgufFile {
    path: PathBuf,
    bytes: memmap2::Mmap,
}

impl GgufFile {
    /// The file that `place` is, or the only one of a folder without weights of another format; `None` where there is
    /// none.
    pub(crate) fn find(place: &Path) -> Result<Option<Self>> {
        let is_gguf = |path: &Path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        if is_gguf(place) && !place.is_dir() {
            return Self::open(place).map(Some);
        }
        let Ok(entries) = fs::read_dir(place) else { return Ok(None) };
        if has_usual_weights(place) {
            return Ok(None);
        }
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|p| is_gguf(p)).collect();
        files.sort();
        match &files[..] {
            [] => Ok(None),
            [one] => Self::open(one).map(Some),
            [first, ..] => {
                let (n, first) = (files.len(), first.display());
                Err(Error::file(place, format!("there are {n} GGUF files: name one, such as {first}")))
            }
        }
    }

    fn open(path: &Path) -> Result<Self> {
        let (file, length) = disk::open(path)?;
        if length == 0 {
            return Err(Error::file(path, "the file is empty: download or write it again"));
        }
        Ok(Self { path: path.to_owned(), bytes: disk::map(&file).map_err(|e| Error::io(path, e))? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn header(&self) -> Result<Header<'_>> {
        Header::parse(&self.bytes).map_err(|message| Error::file(&self.path, message))
    }

    /// The model's config, checked as that of a `config.json`. llama.cpp's converter does not say which GELU a model
    /// has; Pythia's is the erf form.
    pub(crate) fn config(&self) -> Result<Config> {
        let header = self.header()?;
        let fail = |message: String| Error::file(&self.path, message);
        match header.get("general.architecture") {
            Some(Value::Text("gptneox")) => (),
            Some(Value::Text(other)) => {
                let other = super::shown(other);
                return Err(fail(format!("unknown architecture `{other}`; supported: gptneox")));
            }
            _ => return Err(fail("the key `general.architecture` is missing".to_owned())),
        }
        let size = |key: &str| {
            let key = format!("gptneox.{key}");
            header.size(&key).ok_or_else(|| fail(format!("the key `{key}`: expected a size")))
        };
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let rotary = size("rope.dimension_count")?;
        let embedding = header.infos.iter().find(|info| info.name == "token_embd.weight");
        let rows = embedding.and_then(|info| info.shape.first());
        let tied = !header.infos.iter().any(|info| info.name == "output.weight");
        let mut keys = Map::new();
        let mut put = |key: &str, value: serde_json::Value| keys.insert(key.to_owned(), value);
        put("architectures", json!(["GPTNeoXForCausalLM"]));
        put("model_type", json!("gpt_neox"));
        put("vocab_size", json!(rows));
        put("hidden_size", json!(hidden));
        put("num_hidden_layers", json!(size("block_count")?));
        put("num_attention_heads", json!(heads));
        put("intermediate_size", json!(size("feed_forward_length")?));
        put("max_position_embeddings", json!(size("context_length")?));
        put("rotary_pct", json!(part(rotary, hidden / heads)));
        put("tie_word_embeddings", json!(tied));
        for (key, from, default) in [
            ("hidden_act", "pythia.hidden_act", json!("gelu")),
            ("rotary_emb_base", "gptneox.rope.freq_base", json!(10_000.0)),
            ("layer_norm_eps", "gptneox.attention.layer_norm_epsilon", json!(1e-5)),
            ("use_parallel_residual", "gptneox.use_parallel_residual", json!(true)),
            ("bos_token_id", "tokenizer.ggml.bos_token_id", json!(null)),
            ("eos_token_id", "tokenizer.ggml.eos_token_id", json!(null)),
        ] {
            put(key, header.get(from).map_or(default, Value::json));
        }
        Config::from_bytes(&self.path, &serde_json::to_vec(&keys).unwrap_or_default())
    }

    /// The `tokenizer.json` of the file's tokens; `None` if it has none.
    pub(crate) fn tokenizer_json(&self) -> Result<Option<Vec<u8>>> {
        let header = self.header()?;
        let Some(tokens) = header.texts("tokenizer.ggml.tokens") else { return Ok(None) };
        if header.get("tokenizer.ggml.model") != Some(Value::Text("gpt2")) {
            let message = "`tokenizer.ggml.model`: only byte-level BPE, `gpt2`, is supported: use --ids";
            return Err(Error::file(&self.path, message));
        }
        let merges = header.texts("tokenizer.ggml.merges").unwrap_or_default();
        let kinds = header.ints("tokenizer.ggml.token_type").unwrap_or_default();
        let (mut vocab, mut added) = (Map::new(), Vec::new());
        for (id, token) in tokens.into_iter().enumerate() {
            match kinds.get(id) {
                Some(&UNUSED) => continue,
                Some(&kind @ (CONTROL | USER_DEFINED)) => added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": kind == USER_DEFINED, "special": kind == CONTROL,
                })),
                _ => (),
            }
            vocab.insert(token.to_owned(), id.into());
        }
        let level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": null, "decoder": level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                "merges": merges,
            },
        });
        Ok(Some(json.to_string().into_bytes()))
    }
}

impl Value<'_> {
    /// The same in JSON. An `f32` is the shortest decimal that reads as it: 1e-5, not 9.99999974e-6.
    fn json(self) -> serde_json::Value {
        match self {
            Self::Int(n) => n.into(),
            Self::Float(x) if f64::from(x as f32) == x => {
                (x as f32).to_string().parse::<f64>().unwrap_or(x).into()
            }
            Self::Float(x) => x.into(),
            Self::Bool(b) => b.into(),
            Self::Text(text) => text.into(),
            Self::Array { .. } => json!([]),
        }
    }
}

/// A part of `whole` of which [`Config::rotary_dims`] makes `n` again.
fn part(n: usize, whole: usize) -> f64 {
    let part = n as f64 / whole as f64;
    if (whole as f64 * part) as usize == n { part } else { part.next_up() }
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn parts_of_heads_are_whole_dimensions() {
        for whole in 1..600 {
            for n in 1..=whole {
                assert_eq!((whole as f64 * part(n, whole)) as usize, n, "{n} of {whole}");
            }
        }
        assert_eq!((part(20, 80), part(3, 0)), (0.25, f64::INFINITY));
    }
}
