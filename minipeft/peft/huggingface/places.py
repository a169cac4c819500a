"""Where a weight of minipeft is in a Hugging Face model: the names that export and import share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.models import DecoderLM, Encoder, EncoderClassifier, EncoderDecoder
from minipeft.models.layouts.layout import huggingface_names
from minipeft.nn.layers import LayerNorm, RMSNorm
from minipeft.nn.module import Module

HF_WEIGHTS = "adapter_model.safetensors"
HF_CONFIG = "adapter_config.json"
TUNER = "base_model.model."  # what the tensors of TUNERS begin with
TUNERS = ("LORA", "IA3", "LN_TUNING")
SEQUENCES = (
    DecoderLM,
    Encoder,
    EncoderDecoder,
)  # their classifier reads the first row, which with a prompt is the prompt's own
TASKS = {"DecoderLM": "CAUSAL_LM", "EncoderClassifier": "SEQ_CLS", "EncoderDecoder": "SEQ_2_SEQ_LM"}
HF_SIDES = {"PROMPT_TUNING": ["encoder"], "PREFIX_TUNING": ["decoder"]}  # where they are in an encoder-decoder
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """A module of a Hugging Face model, and which of how many equal parts of its output a weight of minipeft is."""

    module: str
    part: int
    count: int
    how: str

    @property
    def is_linear(self) -> bool:
        """Return whether it is a linear layer or an embedding there (a convolution, say, is not)."""
        return self.how not in ("matrix", "vector") and not self.how.startswith("from")


def names_of(model: Module) -> dict[str, tuple[str, str]]:
    """Map minipeft's paths to (name, how), each in its own module; empty for a model without a Hugging Face layout."""
    try:
        return huggingface_names(model, tied=False)
    except (ValueError, AttributeError):
        return {}


def places_of(model: Module) -> dict[str, Place]:
    """Map the paths of minipeft's modules to their places."""
    places = {}
    for ours, (theirs, how) in names_of(model).items():
        if ours.endswith(".weight"):
            part, _, count = how.rstrip("T").partition("/")
            fused = bool(count)
            module = theirs.removesuffix(".weight")
            places[ours.removesuffix(".weight")] = Place(module, int(part) if fused else 0, int(count or 1), how)
    return places


def fits(places: Mapping[str, Place], path: str) -> bool:
    """Return whether the module at ``path`` is a linear layer or an embedding there."""
    return path in places and places[path].is_linear


def norm_parameters(model: Module) -> list[str]:
    """Return the paths of the gains and shifts of all normalizations."""
    norms = [(path, m) for path, m in model.named_modules() if isinstance(m, (LayerNorm, RMSNorm))]
    return [f"{path}.{name}" for path, m in norms for name, _ in m.named_parameters()]


def sequences(peft_type: str) -> tuple[type[Module], ...]:
    """Return the models for which prompts or prefixes mean the same there and here."""
    return SEQUENCES if peft_type == "PROMPT_TUNING" else (*SEQUENCES, EncoderClassifier)


def layout_of(model: Any) -> Any:
    """Return the model's `Layout`."""
    return model.layouts()[model.huggingface_type()]
