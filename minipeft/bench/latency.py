"""What an adapter adds to a forward pass (Hu et al. 2022, Table 1): merged LoRA, AdapterL, AdapterH.

A decoder of GPT-2's layout, batch × length, no gradient. Merged LoRA is a plain layer, so its ratio measures the noise.
The claim: adapters add depth that cannot be computed in parallel, which costs most if batch × length is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from minipeft.accounting.timing import in_turn
from minipeft.autograd import no_grad
from minipeft.bench import Part, Row
from minipeft.bench.step import quartiles
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import AdapterConfig, LoraConfig, get_peft_model

GRID = ((8, 128), (4, 64), (1, 128), (1, 16), (1, 1))
SIZES = {"vocab_size": 512, "d_model": 256, "n_layers": 8, "n_heads": 8, "context": 128}
REPEATS = 60
R = 32  # of the adapters: 2 r d is some 2 % of a layer's 12 d²


def models() -> dict[str, Any]:
    """Return the four models by name, the base first."""
    made: dict[str, Any] = {"base": DecoderLM(DecoderConfig.gpt2(**SIZES))}
    lora = get_peft_model(DecoderLM(DecoderConfig.gpt2(**SIZES)), LoraConfig(r=8, init_lora_weights=False))
    made["LoRA, merged"] = lora.merge_and_unload()
    for name, config in (
        ("AdapterL", AdapterConfig(r=R, after=["feed_forward"], layer_norm=True)),
        ("AdapterH", AdapterConfig(r=R)),
    ):
        made[name] = get_peft_model(DecoderLM(DecoderConfig.gpt2(**SIZES)), config)
    return {name: model.eval() for name, model in made.items()}


def parts(quick: bool = False) -> list[Part]:
    """Return one part a batch × length, with a row a method: its median ratio to the base's forward pass."""
    made = cache(models)
    grid, repeats = (GRID[-2:], 5) if quick else (GRID, REPEATS)

    def point(batch: int, length: int) -> list[Row]:
        return measure(made(), batch, length, repeats)

    return [Part(f"{batch} × {length}", partial(point, batch, length), batch * length + 16) for batch, length in grid]


def run(repeats: int = REPEATS, grid: Sequence[tuple[int, int]] = GRID) -> list[Row]:
    """Return the rows of all of ``grid``."""
    made = models()
    return [row for batch, length in grid for row in measure(made, batch, length, repeats)]


def measure(made: dict[str, Any], batch: int, length: int, repeats: int) -> list[Row]:
    """Return the rows of one batch × length, one a method."""
    ids = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (batch, length))
    with no_grad():
        times = in_turn({name: partial(model, ids) for name, model in made.items()}, repeats)
    base = times.pop("base")
    rows = []
    for name, seconds in times.items():
        low, middle, high = quartiles([a / b for a, b in zip(seconds, base, strict=True)])
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
