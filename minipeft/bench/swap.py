"""Hot swap: how long it takes to put another adapter on a loaded model, compared with a forward pass.

GPT-2 small's shape, LoRA of rank 8 on queries and values. Switching moves references and touches no weight, so its
time does not depend on the width; merging makes 24 new matrices of 768 × 768.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from minipeft.accounting.timing import in_turn, median_ratio
from minipeft.autograd import no_grad
from minipeft.bench import Part, Row
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import LoraConfig, PeftModel, get_peft_model

REPEATS = 9
Action = Callable[[PeftModel, Path], None]  # on a model, with a folder where its adapter "two" is saved


def gpt2_small_with_two() -> PeftModel:
    """Return a model of GPT-2 small's shape with random weights and two adapters that change it."""
    config = DecoderConfig.gpt2(vocab_size=50257, d_model=768, n_layers=12, n_heads=12, context=1024)
    peft = get_peft_model(DecoderLM(config), LoraConfig(r=8), adapter_name="one")
    peft.add_adapter("two", LoraConfig(r=8), rng=1)
    rng = np.random.default_rng(2)
    for name in peft.adapters:
        peft.set_adapter(name)
        for p in peft.trained().values():
            p.data[...] += 0.01 * rng.standard_normal(p.shape).astype(p.dtype)
    return peft.eval()


def parts(quick: bool = False) -> list[Part]:
    """Return one part an action, with its row: the median milliseconds, and their ratio to a forward pass."""
    made = cache(gpt2_small_with_two)
    repeats = 1 if quick else REPEATS

    def row(name: str) -> list[Row]:
        return measure(name, made(), repeats)

    return [Part(name, partial(row, name)) for name in ACTIONS]


def measure(name: str, peft: PeftModel, repeats: int) -> list[Row]:
    """Return the row of an action."""
    ids = np.random.default_rng(3).integers(0, 50257, (1, 128))

    def forward() -> None:
        with no_grad():
            peft(ids)

    with tempfile.TemporaryDirectory() as folder:
        peft.set_adapter("two")
        peft.save_pretrained(Path(folder) / "two")
        peft.set_adapter("one")
        action = partial(ACTIONS[name], peft, Path(folder) / "two")
        action()
        seconds = in_turn({"action": action, "forward": forward}, repeats, unmeasured=0)
    return [
        {
            "action": name,
            "ms": 1e3 * statistics.median(seconds["action"]),
            "of a forward pass of 128 tokens": median_ratio(seconds["action"], seconds["forward"]),
        }
    ]


def switch(peft: PeftModel, saved: Path) -> None:
    peft.set_adapter("two")
    peft.set_adapter("one")


def disable(peft: PeftModel, saved: Path) -> None:
    with peft.disable_adapter():
        pass


def merge_and_back(peft: PeftModel, saved: Path) -> None:
    peft.merge_adapter()
    peft.unmerge_adapter()


def load(peft: PeftModel, saved: Path) -> None:
    peft.load_adapter(saved, "three")
    peft.set_adapter("one")
    peft.delete_adapter("three")


ACTIONS: dict[str, Action] = {
    "set_adapter, there and back": switch,
    "disable and enable": disable,
    "merge and unmerge": merge_and_back,
    "load from files, checked": load,
}
