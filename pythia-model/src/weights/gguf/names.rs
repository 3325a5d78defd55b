//! What GGUF calls the tensors of GPT-NeoX.

/// The name in a checkpoint and in GGUF, without `.weight` or `.bias`.
type Pair = (&'static str, &'static str);

const WHOLE: [Pair; 3] = [
    ("gpt_neox.embed_in", "token_embd"),
    ("gpt_neox.final_layer_norm", "output_norm"),
    ("embed_out", "output"),
];
const OF_LAYER: [Pair; 6] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("attention.query_key_value", "attn_qkv"),
    ("attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];

/// The name in GGUF of a checkpoint's tensor.
pub(crate) fn to_gguf(name: &str) -> Option<String> {
    let (path, kind) = name.rsplit_once('.')?;
    if let Some((_, gguf)) = WHOLE.iter().find(|(ours, _)| *ours == path) {
        return Some(format!("{gguf}.{kind}"));
    }
    let (layer, path) = path.strip_prefix("gpt_neox.layers.")?.split_once('.')?;
    let (_, gguf) = OF_LAYER.iter().find(|(ours, _)| *ours == path)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

/// The name in a checkpoint of GGUF's tensor.
pub(super) fn from_gguf(name: &str) -> Option<String> {
    let (path, kind) = name.rsplit_once('.')?;
    if let Some((ours, _)) = WHOLE.iter().find(|(_, gguf)| *gguf == path) {
        return Some(format!("{ours}.{kind}"));
    }
    let (layer, path) = path.strip_prefix("blk.")?.split_once('.')?;
    let (ours, _) = OF_LAYER.iter().find(|(_, gguf)| *gguf == path)?;
    Some(format!("gpt_neox.layers.{layer}.{ours}.{kind}"))
}

/// Whether rows are `[q, k, v][head][D]` in GGUF, and `[head][q, k, v][D]` in a checkpoint.
pub(super) fn is_fused(name: &str) -> bool {
    name.contains(".attn_qkv.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SIZES;

    #[test]
    fn every_tensor_has_a_name_and_gets_its_own_back() {
        for (name, _) in SIZES[0].config().tensors() {
            let gguf = to_gguf(&name).unwrap();
            assert_eq!(from_gguf(&gguf).as_ref(), Some(&name));
            assert_eq!(is_fused(&gguf), name.contains("query_key_value"), "{name}");
        }
        assert_eq!(to_gguf("gpt_neox.layers.11.mlp.dense_4h_to_h.bias").unwrap(), "blk.11.ffn_down.bias");
        for other in ["rope_freqs.weight", "blk.0", "x", ""] {
            assert_eq!((from_gguf(other), to_gguf(other)), (None, None), "{other}");
        }
    }
}
