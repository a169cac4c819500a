"""Time for each counted FLOP, from d = 64 to d = 1024 and from T = 64 to T = 1024; and the top K layers of a stack.

A step that does more work should take less time a FLOP, towards the rate of a large product. The last rows train the
top K of eight layers: their time relative to full fine-tuning, and their counted FLOPs relative to it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from minipeft.accounting import count_flops
from minipeft.accounting.timing import seconds_of
from minipeft.bench import Part, Row
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, PeftConfig, TopLayersConfig, get_peft_model
from minipeft.train import train_step

WIDTHS = (64, 128, 256, 512, 1024)
LENGTHS = (64, 128, 256, 512, 1024)
LAYERS = 8
REPEATS = 9
TARGETS = ["q_proj", "v_proj"]


class Stepper:
    """A model with a method, its optimizer and a batch; `seconds` takes a step."""

    def __init__(self, d: int, length: int, batch: int, n_layers: int, method: PeftConfig | None, shards: int = 1):
        config = DecoderConfig.gpt2(vocab_size=256, d_model=d, n_layers=n_layers, n_heads=d // 32, context=length)
        model: Any = DecoderLM(config)
        self.model = model if method is None else get_peft_model(model, method)
        self.optimizer = AdamW(self.model, lr=1e-4)
        ids = np.random.default_rng(0).integers(0, 256, (batch, length))
        self.batch = {"ids": ids, "labels": ids}
        self.shards = shards
        with count_flops() as flops:
            self.seconds()
        self.flops = flops.total

    def seconds(self) -> float:
        return seconds_of(partial(train_step, self.model, self.batch, self.optimizer, shards=self.shards))


def parts(quick: bool = False) -> list[Part]:
    """Return a part, with one row, for each width, each length, and each number of top layers."""
    repeats = 1 if quick else REPEATS
    widths, lengths, tops = (WIDTHS[:2], LENGTHS[:2], (1,)) if quick else (WIDTHS, LENGTHS, (1, 2, 4))
    full = cache(lambda: Stepper(256, 128, 8, LAYERS, None, shards=2))
    return [
        *(Part(f"d={d}", partial(size, d, 128, 8, repeats), d * d / 65536) for d in widths),
        *(Part(f"T={n}", partial(size, 256, n, max(1, 1024 // n), repeats)) for n in lengths),
        *(Part(f"top {k}", partial(top, f"top {k} of {LAYERS}", TopLayersConfig(k), full, repeats), 4.0) for k in tops),
        *(Part(f"LoRA, top {k}", partial(top, *lora_on_top(k), full, repeats), 4.0) for k in tops),
    ]


def lora_on_top(k: int) -> tuple[str, PeftConfig]:
    """Return the name and the method of LoRA on the top k layers."""
    layers = list(range(LAYERS - k, LAYERS))
    return f"LoRA on the top {k} of {LAYERS}", LoraConfig(r=8, target_modules=TARGETS, layers_to_transform=layers)


def size(d: int, length: int, batch: int, repeats: int) -> list[Row]:
    """Return the row of a width and length."""
    stepper = Stepper(d, length, batch, 2, LoraConfig(r=8, target_modules=TARGETS))
    ps = 1e12 * statistics.median(stepper.seconds() for _ in range(repeats)) / stepper.flops
    what = f"d={d} T={length} B={batch}, 2 layers, LoRA"
    against = {"time / full": None, "FLOP / full": None}
    return [{"what": what, "GFLOP": stepper.flops / 1e9, "ps a FLOP": ps, **against}]


def top(name: str, method: PeftConfig, full: Callable[[], Stepper], repeats: int) -> list[Row]:
    """Return the row of a method on the top layers, compared with full fine-tuning."""
    own = Stepper(256, 128, 8, LAYERS, method, shards=2)
    pairs = [(own.seconds(), full().seconds()) for _ in range(repeats)]
    return [
        {
            "what": f"{name}, d=256 T=128 B=8",
            "GFLOP": own.flops / 1e9,
            "ps a FLOP": 1e12 * statistics.median(a for a, _ in pairs) / own.flops,
            "time / full": statistics.median(a / b for a, b in pairs),
            "FLOP / full": own.flops / full().flops,
        }
    ]
