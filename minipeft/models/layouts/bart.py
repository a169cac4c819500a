"""The checkpoints of BART (Lewis et al. 2020) at Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minipeft.models.layouts.fields import Unsupported, activation
from minipeft.models.layouts.layout import Layout, Row, Settings, both


def _attention(side: str, path: str, name: str) -> tuple[Row, ...]:
    layer = f"{side}.layers.{{l}}"
    return (
        *both(f"{layer}.{path}.q_proj", f"{layer}.{name}.q_proj"),
        *both(f"{layer}.{path}.k_proj", f"{layer}.{name}.k_proj"),
        *both(f"{layer}.{path}.v_proj", f"{layer}.{name}.v_proj"),
        *both(f"{layer}.{path}.out_proj", f"{layer}.{name}.out_proj"),
        *both(f"{layer}.{path}_norm", f"{layer}.{name}_layer_norm"),
    )


def _rest(side: str) -> tuple[Row, ...]:
    layer = f"{side}.layers.{{l}}"
    return (
        Row(f"{side}_input.positions.weight", f"{side}.embed_positions.weight", "from 2"),
        *both(f"{side}_input.norm", f"{side}.layernorm_embedding"),
        *both(f"{layer}.feed_forward.up_proj", f"{layer}.fc1"),
        *both(f"{layer}.feed_forward.down_proj", f"{layer}.fc2"),
        *both(f"{layer}.feed_forward_norm", f"{layer}.final_layer_norm"),
    )


def _of_both_sides(name: str) -> Callable[[Settings], Any]:
    """Their setting for the encoder and the decoder; Unsupported where the two differ."""

    def value(settings: Settings) -> Any:
        encoder, decoder = settings[f"encoder_{name}"], settings[f"decoder_{name}"]
        if encoder != decoder:
            raise Unsupported(
                f"encoder_{name} is {encoder} and decoder_{name} {decoder}; only equal ones are implemented"
            )
        return encoder

    return value


BART = Layout(
    fields={
        "vocab_size": "vocab_size",
        "d_model": "d_model",
        "n_layers": _of_both_sides("layers"),
        "n_heads": _of_both_sides("attention_heads"),
        "d_ff": _of_both_sides("ffn_dim"),
        "context": "max_position_embeddings",
        "activation": activation("activation_function"),
        "start": "decoder_start_token_id",
        "pad": "pad_token_id",
        "tied": lambda s: s.get("tie_word_embeddings", True),
    },
    fixed={
        "scale_embedding": (False,),
        "normalize_before": (False,),
        "normalize_embedding": (True,),
        "add_final_layer_norm": (False,),
        "static_position_embeddings": (False,),
        "add_bias_logits": (False,),
        "extra_pos_embeddings": (2,),
        "is_encoder_decoder": (True,),
    },
    same={
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    },
    rows=(
        Row("encoder_input.tokens.weight", "shared.weight"),
        *_rest("encoder"),
        *_rest("decoder"),
        *_attention("encoder", "attention", "self_attn"),
        *_attention("decoder", "attention", "self_attn"),
        *_attention("decoder", "cross_attention", "encoder_attn"),
        Row("lm_head.bias", "final_logits_bias", "vector", optional=True),
    ),
    base="model.",
    heads=("final_logits_bias", "lm_head."),
    tied=tuple(
        (f"{name}.weight", "shared.weight") for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    ),
    untied=(
        Row("encoder_input.tokens.weight", "encoder.embed_tokens.weight"),
        Row("decoder_input.tokens.weight", "decoder.embed_tokens.weight"),
        Row("lm_head.weight", "lm_head.weight"),
    ),
    unused=("shared",),
)
