"""The checkpoints of Llama (Touvron et al. 2023) at Hugging Face."""

from __future__ import annotations

from minipeft.models.layouts.fields import Unsupported, full_context, rope
from minipeft.models.layouts.layout import Layout, Row, Settings


def _n_heads(settings: Settings) -> int:
    d, heads, head_dim = settings["hidden_size"], settings["num_attention_heads"], settings.get("head_dim")
    if head_dim is not None and head_dim * heads != d:
        raise Unsupported(f"head_dim is {head_dim}; only hidden_size / num_attention_heads is implemented")
    return heads


LLAMA = Layout(
    constructor="llama",
    fields={
        "vocab_size": "vocab_size",
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": _n_heads,
        "n_kv_heads": lambda s: s.get("num_key_value_heads") or s["num_attention_heads"],
        "d_ff": "intermediate_size",
        "context": full_context("max_position_embeddings"),
        "eps": "rms_norm_eps",
        "rope_theta": lambda s: float(rope(s)["rope_theta"]),
        "tied": lambda s: s.get("tie_word_embeddings", False),
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "is_causal": (True, None),
        "is_decoder": (False, True, None),
    },
    rows=(
        Row("input.tokens.weight", "embed_tokens.weight"),
        Row("stack.layers.{l}.attention_norm.weight", "layers.{l}.input_layernorm.weight"),
        Row("stack.layers.{l}.attention.q_proj.weight", "layers.{l}.self_attn.q_proj.weight"),
        Row("stack.layers.{l}.attention.k_proj.weight", "layers.{l}.self_attn.k_proj.weight"),
        Row("stack.layers.{l}.attention.v_proj.weight", "layers.{l}.self_attn.v_proj.weight"),
        Row("stack.layers.{l}.attention.out_proj.weight", "layers.{l}.self_attn.o_proj.weight"),
        Row("stack.layers.{l}.feed_forward_norm.weight", "layers.{l}.post_attention_layernorm.weight"),
        Row("stack.layers.{l}.feed_forward.gate_proj.weight", "layers.{l}.mlp.gate_proj.weight"),
        Row("stack.layers.{l}.feed_forward.up_proj.weight", "layers.{l}.mlp.up_proj.weight"),
        Row("stack.layers.{l}.feed_forward.down_proj.weight", "layers.{l}.mlp.down_proj.weight"),
        Row("stack.norm.weight", "norm.weight"),
    ),
    base="model.",
    heads=("lm_head.",),
    tied=(("lm_head.weight", "embed_tokens.weight"),),
    untied=(Row("lm_head.weight", "lm_head.weight"),),
    ignored=(r".*rotary_emb\.inv_freq",),
)
