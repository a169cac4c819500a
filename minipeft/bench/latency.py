"""What an adapter adds to a forward pass (Hu et al. 2022, Table 1): merged LoRA, AdapterL, AdapterH.

A decoder of GPT-2's layout, batch × length, no gradient. Merged LoRA is a plain layer, so its ratio measures the noise.
The claim: adapters add depth that cannot be computed beside the rest, and it weighs most where batch × length is small.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from minipeft.autograd import no_grad
from minipeft.bench.step import quartiles
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import AdapterConfig, LoraConfig, get_peft_model

GRID = ((8, 128), (4, 64), (1, 128), (1, 16), (1, 1))
SIZES = {"vocab_size": 512, "d_model": 256, "n_layers": 8, "n_heads": 8, "context": 128}
R = 32  # of the adapters: 2 r d is some 2 % of a layer's 12 d²


def models(sizes: dict[str, int] | None = None, r: int | None = None) -> dict[str, Any]:
    """The four models by name, the base first; sizes and r: by default ``SIZES`` and ``R``."""
    config = DecoderConfig.gpt2(**(SIZES if sizes is None else sizes))
    width = R if r is None else r
    made: dict[str, Any] = {"base": DecoderLM(config)}
    lora = get_peft_model(DecoderLM(config), LoraConfig(r=8, init_lora_weights=False))
    made["LoRA, merged"] = lora.merge_and_unload()
    for name, method in (
        ("AdapterL", AdapterConfig(r=width, after=["feed_forward"], layer_norm=True)),
        ("AdapterH", AdapterConfig(r=width)),
    ):
        made[name] = get_peft_model(DecoderLM(config), method)
    return {name: model.eval() for name, model in made.items()}


def times(made: dict[str, Any], batch: int, length: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of a forward pass on ids (batch, length) by model, taken in turn; three of each are not counted."""
    vocabulary = next(iter(made.values())).config.vocab_size
    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length))
    seconds: dict[str, list[float]] = {name: [] for name in made}
    with no_grad():
        for i in range(repeats + 3):
            for name, model in made.items():
                start = time.perf_counter()
                model(ids)
                if i >= 3:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def run(repeats: int = 60) -> list[dict[str, Any]]:
    """One row a batch × length and method: the median ratio to the base's forward pass taken beside it."""
    made = models()
    rows = []
    for batch, length in GRID:
        seconds = times(made, batch, length, repeats)
        base = seconds.pop("base")
        for name, own in seconds.items():
            low, middle, high = quartiles([a / b for a, b in zip(own, base, strict=True)])
            rows.append(
                {
                    "batch": batch,
                    "length": length,
                    "method": name,
                    "ratio": middle,
                    "lower quartile": low,
                    "upper quartile": high,
                    "base ms": 1e3 * quartiles(base)[1],
                }
            )
    return rows
