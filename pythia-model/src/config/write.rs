//! Writing a `config.json` as Python's `json.dump(config, file, indent=1)` does.

use super::{Config, Gelu};
use pythia_tensor::DType;
use std::fmt::Debug;

impl Config {
    /// The content of a `config.json` that transformers and this crate read, in the spelling of the published
    /// Pythia models and with Python's formatting.
    pub fn to_json(&self) -> String {
        let text = |s: &str| format!("\"{s}\"");
        let eos = self.eos_token_ids.iter().map(u32::to_string).collect::<Vec<_>>();
        let activation = match self.hidden_act {
            Gelu::Erf => "gelu",
            Gelu::Tanh => "gelu_new",
        };
        let mut keys = vec![
            ("architectures", list(&[text("GPTNeoXForCausalLM")])),
            ("model_type", text("gpt_neox")),
            ("vocab_size", self.vocab_size.to_string()),
            ("hidden_size", self.hidden_size.to_string()),
            ("num_hidden_layers", self.num_hidden_layers.to_string()),
            ("num_attention_heads", self.num_attention_heads.to_string()),
            ("intermediate_size", self.intermediate_size.to_string()),
            ("hidden_act", text(activation)),
            ("rotary_pct", float(self.rotary_pct)),
            // Published configs have 10000, not 10000.0.
            ("rotary_emb_base", float(self.rotary_base).trim_end_matches(".0").to_owned()),
            ("max_position_embeddings", self.max_position_embeddings.to_string()),
            ("initializer_range", float(0.02)),
            ("layer_norm_eps", float(self.layer_norm_eps)),
            ("use_cache", true.to_string()),
            ("bos_token_id", self.bos_token_id.map_or("null".to_owned(), |id| id.to_string())),
            ("eos_token_id", if let [one] = &eos[..] { one.clone() } else { list(&eos) }),
            ("tie_word_embeddings", self.tie_word_embeddings.to_string()),
            ("use_parallel_residual", self.use_parallel_residual.to_string()),
        ];
        if !self.attention_bias {
            keys.push(("attention_bias", false.to_string()));
        }
        if let Some(dtype) = self.torch_dtype.and_then(torch_name) {
            keys.push(("torch_dtype", text(dtype)));
        }
        let lines: Vec<_> = keys.iter().map(|(key, value)| format!(" \"{key}\": {value}")).collect();
        format!("{{\n{}\n}}", lines.join(",\n"))
    }
}

/// The type as `torch_dtype` has it.
pub(crate) fn torch_name(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("float32"),
        DType::F16 => Some("float16"),
        DType::BF16 => Some("bfloat16"),
        _ => None,
    }
}

/// A list that is the value of a key of the outermost object; null if it is empty.
fn list(items: &[String]) -> String {
    if items.is_empty() { "null".to_owned() } else { format!("[\n  {}\n ]", items.join(",\n  ")) }
}

/// Python's `repr` of a float (an `f32`: of the shortest decimal that reads as it). Rust's `Debug` has the same
/// digits and the same range without an exponent, but Python's exponents have a sign and two digits.
fn float(x: impl Debug) -> String {
    let text = format!("{x:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_are_written_as_python_does() {
        let ours = [1e-5, 1e-4, 0.25, 1.0, 10000.0, 1e15, 1e16, 1.5e-7, 2e100, 0.1 + 0.2].map(float);
        let python =
            "1e-05 0.0001 0.25 1.0 10000.0 1000000000000000.0 1e+16 1.5e-07 2e+100 0.30000000000000004";
        assert_eq!(ours.join(" "), python);
        assert_eq!(float(1e-5_f32), "1e-05");
    }
}
