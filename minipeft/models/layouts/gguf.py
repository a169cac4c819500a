"""A GGUF file as the Hugging Face folder that it was made from: the same settings, names and order of rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.files.config import is_off, shown
from minipeft.files.errors import FileError
from minipeft.files.gguf import GGUF
from minipeft.models.layouts.fields import check_number
from minipeft.models.layouts.layout import Settings

SETTINGS = {  # GGUF's, without "llama.": (Hugging Face's, type)
    "embedding_length": ("hidden_size", int),
    "block_count": ("num_hidden_layers", int),
    "attention.head_count": ("num_attention_heads", int),
    "attention.head_count_kv": ("num_key_value_heads", int),
    "feed_forward_length": ("intermediate_size", int),
    "context_length": ("max_position_embeddings", int),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", float),
    "rope.freq_base": ("rope_theta", float),
}
OPTIONAL = ("attention.head_count_kv", "rope.freq_base")
NO_EFFECT = {  # of the scaled rotary positions nothing is left once these are not scaled
    *("attention.layer_norm_epsilon", "tensor_data_layout", "rope.scaling.original_context_length"),
    *("rope.scaling.finetuned", "rope.scaling.alpha", "rope.scaling.yarn_log_multiplier"),
    *("rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast"),
    "rope.scaling.yarn_beta_slow",
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


@dataclass(frozen=True)
class Sizes:
    """What the values of other keys are compared with."""

    head: float
    vocabulary: int
    context: int
    is_scaled: bool


def _only(*values: Any) -> Callable[[Sizes], tuple[Any, ...]]:
    return lambda _: values


ACCEPTED: dict[str, Callable[[Sizes], tuple[Any, ...]]] = {  # 0 is "none" in llama.cpp
    "vocab_size": lambda s: (s.vocabulary,),
    "rope.dimension_count": lambda s: (s.head,),
    "attention.key_length": lambda s: (s.head,),
    "attention.value_length": lambda s: (s.head,),
    "attention.scale": lambda s: (s.head**-0.5, 0),
    "attention.causal": _only(True),
    "attention.sliding_window": lambda s: (0, s.context),
    "rope.scaling.type": _only("none", "linear"),
    "rope.scaling.factor": lambda s: (1, 0) if s.is_scaled else (),
    "rope.scale_linear": lambda s: (1, 0) if s.is_scaled else (),
    "rope.scaling.attn_factor": _only(1),
    "logit_scale": _only(1, 0),
    "residual_scale": _only(1, 0),
    "embedding_scale": _only(1, 0),
}


def gguf_settings(gguf: GGUF) -> Settings:
    """Return the config.json that a GGUF file of a Llama stands for.

    Raises FileError for another architecture, a missing field, or one that changes the outputs and is not implemented.
    """
    metadata, path = gguf.metadata, gguf.path
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture != "llama":
        raise FileError(f"{path}: general.architecture is {shown(architecture)}; only 'llama' is read from GGUF")
    for key, accepted in (("general.type", ("model",)), ("split.count", (0, 1))):
        if not any(_is(metadata.get(key, accepted[0]), a) for a in accepted):
            raise FileError(
                f"{path}: {key} is {shown(metadata[key])}; only a whole model in one file is read (merge parts with "
                "llama-gguf-split --merge)"
            )
    own = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    settings: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": "output.weight" not in gguf.entries}
    for key, (name, kind) in SETTINGS.items():
        if key in own:
            check_number(own[key], kind, f"llama.{key}", path)
            settings[name] = own[key]
        elif key not in OPTIONAL:
            raise FileError(f"{path}: the metadata 'llama.{key}' is missing")
    if settings.get("rope_theta", 1.0) <= 0:
        raise FileError(f"{path}: llama.rope.freq_base is {settings['rope_theta']}; expected a number above 0")
    embedding = gguf.entries.get("token_embd.weight")
    if embedding is None:
        raise FileError(f"{path}: the tensor 'token_embd.weight' is missing")
    _check_others(gguf, own, embedding.shape[0])
    return {**settings, "vocab_size": embedding.shape[0]}


def _check_others(gguf: GGUF, own: dict[str, Any], vocabulary: int) -> None:
    """Raise FileError for a key that may change the outputs and is not implemented with its value."""
    sizes = Sizes(
        own["embedding_length"] / own["attention.head_count"],
        vocabulary,
        own["context_length"],
        own.get("rope.scaling.type", "linear") != "none",  # llama.cpp takes a factor without a type for linear
    )
    for key, value in own.items():
        if key in SETTINGS or key in NO_EFFECT:
            continue
        accepted = ACCEPTED[key](sizes) if key in ACCEPTED else None
        is_wide = key == "attention.sliding_window" and isinstance(value, int) and value >= sizes.context
        if accepted is None and not is_off(value):
            raise FileError(
                f"{gguf.path}: llama.{key} is {shown(value)}, which may change what the model computes; only its "
                "absence is implemented"
            )
        if accepted and not is_wide and not any(_is(value, a) for a in accepted):
            known = " or ".join(f"{a:g}" if isinstance(a, float) else repr(a) for a in accepted)
            raise FileError(f"{gguf.path}: llama.{key} is {shown(value)}; only {known} is implemented for this model")
    if "rope_freqs.weight" in gguf.entries:
        raise FileError(
            f"{gguf.path}: the tensor 'rope_freqs.weight' scales the rotary positions, as in Llama 3.1; only positions "
            "that are not scaled are implemented"
        )


def _is(value: Any, accepted: Any) -> bool:
    """Return whether a metadata value is the accepted one, to the precision of float32; True is not 1."""
    if isinstance(value, bool) or isinstance(accepted, (bool, str)) or not isinstance(value, (int, float)):
        return type(value) is type(accepted) and value == accepted
    return abs(value - accepted) <= 1e-6 * abs(accepted)


def gguf_sizes(gguf: GGUF) -> str:
    """Return the sizes in the metadata for a message, by their names there."""
    known = [f"llama.{key}" for key in SETTINGS]
    return ", ".join(f"{key} = {gguf.metadata[key]!r}" for key in known if key in gguf.metadata)


def gguf_arrays(gguf: GGUF) -> dict[str, np.ndarray]:
    """Return the tensors under Hugging Face's names, dequantized, with the rows of q and k in Hugging Face's order."""
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
    """Return rows (H D, d) of rotated pairs next to each other (0, D/2, 1, D/2 + 1, …, as in llama.cpp) in halves."""
    if not isinstance(heads, int) or heads < 1 or x.ndim != 2 or len(x) % (2 * heads):
        raise FileError(f"{what} of shape {x.shape} cannot be split into {heads!r} heads of even size")
    return x.reshape(heads, len(x) // heads // 2, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
