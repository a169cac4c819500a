"""A GGUF file as the Hugging Face folder that it was made from: the same settings, names and order of rows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from minipeft.files.errors import FileError
from minipeft.files.gguf import GGUF
from minipeft.models.huggingface import Settings

SETTINGS = {  # theirs -> Hugging Face's
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
NAMES = (
    (r"token_embd\.", "embed_tokens."),
    (r"output_norm\.", "norm."),
    (r"output\.", "lm_head."),
    (r"blk\.(\d+)\.attn_norm\.", r"layers.\1.input_layernorm."),
    (r"blk\.(\d+)\.attn_(q|k|v)\.", r"layers.\1.self_attn.\2_proj."),
    (r"blk\.(\d+)\.attn_output\.", r"layers.\1.self_attn.o_proj."),
    (r"blk\.(\d+)\.ffn_norm\.", r"layers.\1.post_attention_layernorm."),
    (r"blk\.(\d+)\.ffn_(gate|up|down)\.", r"layers.\1.mlp.\2_proj."),
)


def gguf_settings(gguf: GGUF) -> Settings:
    """The config.json that a GGUF file of a Llama stands for; FileError for another architecture or a missing field."""
    architecture = gguf.metadata.get("general.architecture")
    if architecture != "llama":
        raise FileError(f"{gguf.path}: the architecture is {architecture!r}; only 'llama' is read from GGUF")
    settings: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": "output.weight" not in gguf.entries}
    for theirs, name in SETTINGS.items():
        if f"llama.{theirs}" in gguf.metadata:
            settings[name] = gguf.metadata[f"llama.{theirs}"]
    if "llama.rope.scaling.type" in gguf.metadata:
        settings["rope_scaling"] = {"rope_type": gguf.metadata["llama.rope.scaling.type"]}
    embedding = gguf.entries.get("token_embd.weight")
    if embedding is None:
        raise FileError(f"{gguf.path}: the tensor 'token_embd.weight' is missing")
    return {**settings, "vocab_size": embedding.shape[0]}


def gguf_arrays(gguf: GGUF) -> dict[str, np.ndarray]:
    """The tensors under Hugging Face's names, dequantized, the rows of q and k in Hugging Face's order."""
    heads = {"q": gguf.metadata.get("llama.attention.head_count")}
    heads["k"] = gguf.metadata.get("llama.attention.head_count_kv", heads["q"])
    arrays = {}
    for name in gguf.entries:
        x = gguf.array(name)
        projection = re.fullmatch(r"blk\.\d+\.attn_([qk])\.weight", name)
        if projection:
            x = half_by_half(x, heads[projection[1]], f"{gguf.path}: {name!r}")
        for pattern, replacement in NAMES:
            name = re.sub("^" + pattern, replacement, name)
        arrays[name] = x
    return arrays


def half_by_half(x: np.ndarray, heads: Any, what: str) -> np.ndarray:
    """Rows (H D, d) of rotated pairs side by side (0, D/2, 1, D/2 + 1, …, as llama.cpp has them) in halves again."""
    if not isinstance(heads, int) or heads < 1 or x.ndim != 2 or len(x) % (2 * heads):
        raise FileError(f"{what} of shape {x.shape} cannot be split into {heads!r} heads of even size")
    return x.reshape(heads, len(x) // heads // 2, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
