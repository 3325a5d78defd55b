"""Writes a GPT-NeoX model as a GGUF file, with f16 matrices and without a vocabulary."""

import json
from pathlib import Path

import numpy
from gguf import GGUFWriter, LlamaFileType
from safetensors import safe_open

NAMES = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
}

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def write_gguf(model: Path, file: Path):
    """`model` is a folder with config.json and model.safetensors."""
    config = json.loads((model / "config.json").read_text())
    part = file.with_suffix(".part")
    writer = GGUFWriter(part, "gptneox")
    write_config(writer, config)
    with safe_open(model / "model.safetensors", framework="numpy") as weights:
        for name in weights.keys():
            if gguf := gguf_name(name):
                writer.add_tensor(gguf, stored(gguf, weights.get_tensor(name), config["num_attention_heads"]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()
    part.rename(file)


def write_config(writer: GGUFWriter, config: dict):
    head = config["hidden_size"] // config["num_attention_heads"]
    writer.add_name("pythia")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_rope_dimension_count(int(head * config["rotary_pct"]))
    writer.add_rope_freq_base(float(config["rotary_emb_base"]))
    writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])


def gguf_name(name: str) -> str | None:
    """The name of a tensor in the file; None for buffers, which are no weights."""
    path, kind = name.rsplit(".", 1)
    if path in NAMES:
        return f"{NAMES[path]}.{kind}"
    layer, path = path.removeprefix("gpt_neox.layers.").split(".", 1)
    return f"blk.{layer}.{LAYER_NAMES[path]}.{kind}" if path in LAYER_NAMES else None


def stored(gguf: str, tensor: numpy.ndarray, heads: int) -> numpy.ndarray:
    """As llama.cpp wants it: vectors in f32; query, key and value of all heads apart, not head by head."""
    if ".attn_qkv." in gguf:
        shape = tensor.shape
        tensor = tensor.reshape(heads, 3, -1, *shape[1:]).swapaxes(0, 1).reshape(shape)
    return numpy.ascontiguousarray(tensor, dtype=numpy.float16 if tensor.ndim == 2 else numpy.float32)
