//! The config of a checkpoint: from a `config.json`, or from the training's settings and the shapes of its tensors.

use super::folder::{Extent, NeoxFolder};
use super::names::WORD_EMBEDDINGS;
use super::settings::{Settings, text};
use crate::config::torch_name;
use crate::weights::file::TensorFile;
use crate::{Config, Error, Result, SIZES};
use pythia_tensor::DType;
use serde_json::{Map, Value, json};

/// What the layer files alone say of the model.
struct Shapes {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    intermediate_size: usize,
    attention_bias: bool,
    dtype: DType,
}

/// Settings of models that transformers' GPT-NeoX cannot be, unless they are absent or false.
const REFUSED: [&str; 3] = ["gpt_j_tied", "use_mup", "sliding_window_width"];

impl NeoxFolder {
    /// The model's config: the `config.json` in the folder or the one above; else, what the tensors' shapes and the
    /// training's settings say, `configs/*.yml` in one of the two. As gpt-neox's converter does, this takes `gelu` as
    /// the erf form, though training may have computed the tanh form.
    ///
    /// # Errors
    /// If there is neither; if the settings contradict themselves or the tensors, or are those of a model that is none
    /// of transformers' GPT-NeoX; as [`Config::from_file`].
    pub(crate) fn config(&self) -> Result<Config> {
        if let Some(path) = self.beside("config.json") {
            return Config::from_file(path);
        }
        let shapes = self.shapes()?;
        let settings = self.beside("configs").map(|dir| Settings::read(&dir)).transpose()?.flatten();
        match settings {
            Some(settings) => shapes.with(&settings),
            None => Err(Error::file(self.dir(), shapes.no_settings())),
        }
    }

    fn shapes(&self) -> Result<Shapes> {
        let Extent { layers, ranks } = self.extent()?;
        let (embedding, layer) = (self.layer(0, 0)?, self.layer(2, 0)?);
        let (dtype, [rows, hidden_size]) = matrix(&embedding, WORD_EMBEDDINGS)?;
        let (_, [neurons, _]) = matrix(&layer, "mlp.dense_h_to_4h.weight")?;
        let whole = |part: usize| {
            let message = || format!("{part} rows on each of {ranks} ranks are too many");
            part.checked_mul(ranks).ok_or_else(|| Error::file(self.dir(), message()))
        };
        Ok(Shapes {
            vocab_size: whole(rows)?,
            hidden_size,
            num_hidden_layers: layers,
            intermediate_size: whole(neurons)?,
            attention_bias: layer.contains("attention.dense.bias"),
            dtype,
        })
    }
}

impl Shapes {
    /// The config of a model of these shapes that was trained with `settings`. Defaults are gpt-neox's.
    fn with(&self, settings: &Settings) -> Result<Config> {
        self.check(settings)?;
        let or = |key: &str, default: Value| {
            Ok::<_, Error>(Some(settings.get(key)?).filter(|v| !v.is_null()).cloned().unwrap_or(default))
        };
        let mut keys = Map::new();
        let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
        put("architectures", json!(["GPTNeoXForCausalLM"]));
        put("model_type", json!("gpt_neox"));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", or("num_attention_heads", Value::Null)?);
        put("intermediate_size", json!(self.intermediate_size));
        put("attention_bias", json!(self.attention_bias));
        put("torch_dtype", json!(torch_name(self.dtype)));
        put("hidden_act", or("activation", json!("gelu"))?);
        put("rotary_pct", or("rotary_pct", json!(1.0))?);
        put("rotary_emb_base", or("rotary_emb_base", json!(10_000))?);
        put("layer_norm_eps", or("layernorm_epsilon", json!(1e-5))?);
        let positions = or("max_position_embeddings", or("seq_length", json!(2048))?)?;
        put("max_position_embeddings", positions);
        put("use_parallel_residual", json!(settings.flag("gpt_j_residual", false)?));
        put("tie_word_embeddings", json!(!settings.flag("no_weight_tying", false)?));
        // `<|endoftext|>` of the tokenizers that EleutherAI trains with; of others this file does not say.
        let tokenizer = or("tokenizer_type", json!("HFTokenizer"))?;
        let end = if tokenizer == "HFTokenizer" { json!(0) } else { Value::Null };
        put("bos_token_id", end.clone());
        put("eos_token_id", end);
        Config::from_bytes(settings.path(), &serde_json::to_vec(&keys).unwrap_or_default())
    }

    /// Refuses settings of another model than one of these shapes, or than a GPT-NeoX of transformers'.
    fn check(&self, settings: &Settings) -> Result<()> {
        for (key, found) in [("num_layers", self.num_hidden_layers), ("hidden_size", self.hidden_size)] {
            let value = settings.get(key)?;
            if !value.is_null() && value.as_u64() != Some(found as u64) {
                let message = format!(
                    "is {}, but the layer files have {found}: correct it, or put the model's config.json here",
                    text(value)
                );
                return Err(settings.error(key, &message));
            }
        }
        for key in REFUSED {
            let value = settings.get(key)?;
            if *value != false && !value.is_null() {
                return Err(settings.error(key, &format!("is {}, which is not supported", text(value))));
            }
        }
        let embedding = settings.get("pos_emb")?;
        if embedding != "rotary" {
            let found = text(embedding);
            return Err(settings.error("pos_emb", &format!("is {found}, supported: rotary")));
        }
        let whole =
            |kind: &&Value| kind.is_number() || ["global", "flash"].iter().any(|known| *kind == known);
        match settings.all("attention_config").iter().find(|kind| !whole(kind)) {
            Some(kind) => {
                let message = format!("has {}, supported: global and flash", text(kind));
                Err(settings.error("attention_config", &message))
            }
            None => Ok(()),
        }
    }

    /// What to do without settings.
    fn no_settings(&self) -> String {
        let same = SIZES.iter().find(|size| {
            let config = size.config();
            (config.vocab_size, config.hidden_size) == (self.vocab_size, self.hidden_size)
                && (config.num_hidden_layers, config.intermediate_size)
                    == (self.num_hidden_layers, self.intermediate_size)
        });
        let same = same.map(|size| format!(" (the shapes are those of EleutherAI/pythia-{})", size.name));
        format!(
            "the layer files do not say how many heads the model has: put its config.json{} here, or the .yml files of \
             its training into a folder `configs`",
            same.unwrap_or_default()
        )
    }
}

/// The type and the shape of a matrix.
fn matrix(file: &TensorFile, name: &str) -> Result<(DType, [usize; 2])> {
    let fail = |message: String| Error::tensor(file.path(), name, message);
    let (dtype, shape) = file.info(name)?.ok_or_else(|| fail("missing".to_owned()))?;
    let shape = shape.try_into().map_err(|_| fail(format!("expected a matrix, found {shape:?}")))?;
    Ok((dtype, shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Size;
    use std::fs;
    use std::path::Path;

    fn shapes(size: &Size) -> Shapes {
        let config = size.config();
        Shapes {
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            num_hidden_layers: config.num_hidden_layers,
            intermediate_size: config.intermediate_size,
            attention_bias: true,
            dtype: DType::F16,
        }
    }

    #[test]
    fn the_settings_of_pythias_trainings_give_the_published_configs() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pythia/configs");
        let Ok(entries) = fs::read_dir(&dir) else {
            eprintln!("notice: {} is absent, so this test checks nothing", dir.display());
            return;
        };
        let (mut read, to) = (0, tempfile::tempdir().unwrap());
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let size = Size::named(name.trim_start_matches("pythia-").trim_end_matches("-deduped")).unwrap();
            fs::write(to.path().join("a.yml"), fs::read(&path).unwrap()).unwrap();
            let config = shapes(size).with(&Settings::read(to.path()).unwrap().unwrap());
            // As published, it has the layers for heads and the heads for layers.
            if name == "pythia-12b-deduped" {
                let message = config.unwrap_err().to_string();
                assert!(
                    message.contains("`num-layers` is 40, but the layer files have 36: correct"),
                    "{message}"
                );
            } else {
                assert_eq!(config.unwrap(), size.config(), "{name}");
            }
            read += 1;
        }
        assert_eq!(read, 18);
    }

    #[test]
    fn shapes_of_a_published_size_are_recognised() {
        let message = shapes(Size::named("1b").unwrap()).no_settings();
        assert!(
            message.contains("put its config.json (the shapes are those of EleutherAI/pythia-1b) here"),
            "{message}"
        );
    }
}
