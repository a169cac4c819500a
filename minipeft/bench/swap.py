"""Hot swap: how long it takes to put another adapter on a model that is in memory, beside a forward pass of it.

GPT-2 small's shape, LoRA of rank 8 on queries and values. Switching moves references and touches no weight, so its
time does not depend on the width; merging makes 24 new matrices of 768 × 768.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import no_grad
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import LoraConfig, PeftModel, get_peft_model


def gpt2_small_with_two() -> PeftModel:
    """GPT-2 small's shape with random weights, and two trained-looking adapters."""
    config = DecoderConfig.gpt2(vocab_size=50257, d_model=768, n_layers=12, n_heads=12, context=1024)
    peft = get_peft_model(DecoderLM(config), LoraConfig(r=8), adapter_name="one")
    peft.add_adapter("two", LoraConfig(r=8), rng=1)
    rng = np.random.default_rng(2)
    for name in peft.adapters:
        peft.set_adapter(name)
        for p in peft.trained().values():
            p.data[...] += 0.01 * rng.standard_normal(p.shape).astype(p.dtype)
    return peft.eval()


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run(repeats: int = 9) -> list[dict[str, Any]]:
    """One row an action: the median of its milliseconds, and of its ratio to a forward pass taken beside it."""
    peft = gpt2_small_with_two()
    ids = np.random.default_rng(3).integers(0, 50257, (1, 128))

    def forward() -> None:
        with no_grad():
            peft(ids)

    def merge_and_back() -> None:
        peft.merge_adapter()
        peft.unmerge_adapter()

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "two"
        peft.set_adapter("two")
        peft.save_pretrained(saved)
        peft.set_adapter("one")

        def load() -> None:
            peft.load_adapter(saved, "three")
            peft.set_adapter("one")
            peft.delete_adapter("three")

        def switch() -> None:
            peft.set_adapter("two")
            peft.set_adapter("one")

        def disable() -> None:
            with peft.disable_adapter():
                pass

        actions = {
            "set_adapter, there and back": switch,
            "disable and enable": disable,
            "merge and unmerge": merge_and_back,
            "load from files, checked": load,
        }
        rows = []
        for name, action in actions.items():
            action()
            pairs = [(seconds(action), seconds(forward)) for _ in range(repeats)]
            rows.append(
                {
                    "action": name,
                    "ms": 1e3 * statistics.median(t for t, _ in pairs),
                    "of a forward pass of 128 tokens": statistics.median(t / f for t, f in pairs),
                }
            )
    return rows
