"""The checkpoints of GPT-2 (Radford et al. 2019) at Hugging Face."""

from __future__ import annotations

from minipeft.models.layouts.fields import activation
from minipeft.models.layouts.layout import Layout, Row, both

GPT2 = Layout(
    constructor="gpt2",
    fields={
        "vocab_size": "vocab_size",
        "d_model": "n_embd",
        "n_layers": "n_layer",
        "n_heads": "n_head",
        "context": "n_positions",
        "d_ff": lambda s: s.get("n_inner") or 4 * s["n_embd"],
        "eps": "layer_norm_epsilon",
        "activation": activation("activation_function"),
        "tied": lambda s: s.get("tie_word_embeddings", True),
    },
    fixed={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "is_causal": (True, None),
        "is_decoder": (False, True, None),  # it has no effect on a decoder
    },
    same={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    rows=(
        Row("input.tokens.weight", "wte.weight"),
        Row("input.positions.weight", "wpe.weight"),
        *both("stack.layers.{l}.attention_norm", "h.{l}.ln_1"),
        *both("stack.layers.{l}.attention.q_proj", "h.{l}.attn.c_attn", "0/3T"),
        *both("stack.layers.{l}.attention.k_proj", "h.{l}.attn.c_attn", "1/3T"),
        *both("stack.layers.{l}.attention.v_proj", "h.{l}.attn.c_attn", "2/3T"),
        *both("stack.layers.{l}.attention.out_proj", "h.{l}.attn.c_proj", "T"),
        *both("stack.layers.{l}.feed_forward_norm", "h.{l}.ln_2"),
        *both("stack.layers.{l}.feed_forward.up_proj", "h.{l}.mlp.c_fc", "T"),
        *both("stack.layers.{l}.feed_forward.down_proj", "h.{l}.mlp.c_proj", "T"),
        *both("stack.norm", "ln_f"),
    ),
    base="transformer.",
    heads=("lm_head.",),
    tied=(("lm_head.weight", "wte.weight"),),
    untied=(Row("lm_head.weight", "lm_head.weight"),),
    ignored=(r"h\.\d+\.attn\.(masked_)?bias",),
)
