"""What checkpointing and blockwise attention save, and what they cost: memory and time, compared with the default.

A LoRA step of a GPT-2 of four layers, on many short sequences and on a long one. Time: steps of all variants in turn,
each as a ratio to the default's step of the same turn. Memory: bytes kept for the backward, as counted on the graph,
and the bytes allocated at the peak of a step less those of the states, as `tracemalloc` sees them and as foreseen.
"""

from __future__ import annotations

import tracemalloc
from functools import partial
from typing import Any

import numpy as np

from minipeft.accounting import Forecast, count_flops, memory
from minipeft.accounting.timing import in_turn
from minipeft.bench import Part, Row
from minipeft.bench.step import quartiles
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.nn import random_stream
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.train import train_step

SIZES = {"vocab_size": 512, "d_model": 256, "n_layers": 4, "n_heads": 8}
GRID = ((8, 128), (1, 1024))  # batch, length
QUICK_GRID = ((2, 128),)
REPEATS = 9
BLOCK = 128  # keys
VARIANTS = {
    "default": (False, False),
    "checkpointing": (True, False),
    "blockwise": (False, True),
    "both": (True, True),
}


class Variant:
    """A model with its settings, its optimizer and its batch."""

    def __init__(self, checkpointing: bool, blockwise: bool, batch: int, length: int):
        base = DecoderLM(DecoderConfig.gpt2(**SIZES, context=length)).gradient_checkpointing(checkpointing)
        if blockwise:
            base.set_attention("blockwise", BLOCK)
        self.model: Any = get_peft_model(base, LoraConfig(r=8))
        self.optimizer = AdamW(self.model, lr=1e-4)
        ids = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (batch, length))
        self.batch = {"ids": ids, "labels": ids}

    def step(self) -> None:
        """Take one step."""
        train_step(self.model, self.batch, self.optimizer)

    def facts(self) -> dict[str, float]:
        """Return the megabytes kept, at the peak and foreseen, and the GFLOP of a step."""
        with random_stream(0):
            kept = memory(self.model, None, self.model.loss(**self.batch)).activations
        tracemalloc.start()
        try:
            train_step(self.model, self.batch, self.optimizer)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        with count_flops() as flops:
            train_step(self.model, self.batch, self.optimizer)
        forecast = Forecast(self.model, self.optimizer, self.batch)
        foreseen = forecast.peak(len(self.batch["ids"])) - forecast.states
        return {"kept MB": kept / 1e6, "peak MB": peak / 1e6, "foreseen MB": foreseen / 1e6, "GFLOP": flops.total / 1e9}


def parts(quick: bool = False) -> list[Part]:
    """Return one part a shape, with a row a variant."""
    grid, repeats = (QUICK_GRID, 1) if quick else (GRID, REPEATS)
    return [Part(f"{b} × {t}", partial(measure, b, t, repeats), b * t**1.2) for b, t in grid]


def measure(batch: int, length: int, repeats: int) -> list[Row]:
    """Return the rows of one shape, one a variant."""
    made = {name: Variant(*settings, batch, length) for name, settings in VARIANTS.items()}
    times = in_turn({name: variant.step for name, variant in made.items()}, repeats, unmeasured=2)
    rows = []
    for name, variant in made.items():
        low, middle, high = quartiles([a / b for a, b in zip(times[name], times["default"], strict=True)])
        rows.append(
            {
                "batch": batch,
                "length": length,
                "variant": name,
                **variant.facts(),
                "ms": 1e3 * quartiles(times[name])[1],
                "time ratio": middle,
                "lower quartile": low,
                "upper quartile": high,
            }
        )
    return rows
