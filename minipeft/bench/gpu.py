"""A training step compared with PyTorch eager + PEFT on one GPU: same weights and data, float32, no dropout.

Losses and gradients are compared first, with TF32 off on both sides. Then steps are taken in turn, each begun and ended
by waiting for the device, so that launching counts as well as computing; both read the loss. The peaks are those of the
two memory pools, over a step taken after the others: bytes in use by arrays, weights included.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from minipeft.accounting import peak_memory
from minipeft.backend import cuda
from minipeft.bench import Part, Row
from minipeft.bench.step import SHAPES, disagreement, quartiles
from minipeft.bench.torch_side import Shape, batch_of, both, shifted
from minipeft.optim import AdamW
from minipeft.train import train_step

CASES = [("gpt2", m, b, t) for m in ("lora", "full") for b in ("stock", "tuned") for t in (False, True)]
PAIRS = 30


@dataclass(frozen=True)
class Card:
    """Where both sides run: the names of the device, how to wait for it, how to allow TF32, and the peaks of a step."""

    ours: str
    theirs: str
    synchronize: Callable[[], None]
    allow_tf32: Callable[[bool], None]
    our_peak: Callable[[Callable[[], None]], float]
    their_peak: Callable[[Callable[[], None]], float]


def gpu() -> Card:
    """Return the current GPU; raise NoGpuError if CuPy or PyTorch finds none."""
    import torch

    cuda.library()
    if not torch.cuda.is_available():
        raise cuda.NoGpuError(f"PyTorch {torch.__version__} finds no GPU; install a build of it for CUDA")

    def allow_tf32(flag: bool) -> None:
        cuda.allow_tf32(flag)
        torch.set_float32_matmul_precision("high" if flag else "highest")

    def our_peak(step: Callable[[], None]) -> float:
        with peak_memory() as memory:
            step()
        return memory.peak / 1e6

    def their_peak(step: Callable[[], None]) -> float:
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 1e6

    return Card("cuda", "cuda", torch.cuda.synchronize, allow_tf32, our_peak, their_peak)


def parts(quick: bool = False) -> list[Part]:
    """Return one part a mode, baseline and precision: the ratio of our step to theirs, and the peaks."""
    cases = [case for case in CASES if case[2:] == ("tuned", False)] if quick else CASES
    card = gpu()

    def row(name: str, mode: str, baseline: str, tf32: bool) -> list[Row]:
        try:
            return [measure(card, SHAPES[name], mode, baseline, tf32, 3 if quick else PAIRS)]
        finally:
            card.allow_tf32(False)

    return [Part(" ".join(case[:3]) + (" tf32" if case[3] else ""), partial(row, *case)) for case in cases]


def measure(card: Card, shape: Shape, mode: str, baseline: str, tf32: bool, pairs: int = PAIRS) -> Row:
    """Return the row of one case."""
    import torch

    shape = replace(shape, shards=1)

    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = both(shape, mode, baseline == "tuned", Path(folder))
    theirs.to(card.theirs)
    ours.to(card.ours)
    ids, labels = batch_of(shape)
    batch = {"ids": ids, "labels": shifted(labels)}
    torch_ids, torch_labels = (torch.tensor(x, device=card.theirs) for x in (ids, labels))
    card.allow_tf32(False)
    worst = disagreement(theirs, ours, batch, torch_ids, torch_labels, mode, shape)
    card.allow_tf32(tf32)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)
    own = AdamW(ours, lr=1e-4, weight_decay=0.01)

    def their_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = theirs(input_ids=torch_ids, labels=torch_labels).loss
        loss.backward()
        optimizer.step()
        loss.item()

    def our_step() -> None:
        train_step(ours, batch, own)

    def seconds(step: Callable[[], None]) -> float:
        card.synchronize()
        start = time.perf_counter()
        step()
        card.synchronize()
        return time.perf_counter() - start

    for _ in range(3):  # kernels are compiled, pools grow
        seconds(our_step)
        seconds(their_step)
    times = [(seconds(our_step), seconds(their_step)) for _ in range(pairs)]
    low, middle, high = quartiles([a / b for a, b in times])
    return {
        "shape": shape.name,
        "mode": mode,
        "baseline": baseline,
        "tf32": "on" if tf32 else "off",
        "ratio": middle,
        "lower quartile": low,
        "upper quartile": high,
        "ours ms": 1e3 * statistics.median(a for a, _ in times),
        "theirs ms": 1e3 * statistics.median(b for _, b in times),
        "ours peak MB": card.our_peak(our_step),
        "theirs peak MB": card.their_peak(their_step),
        "largest disagreement": worst,
        "pairs": pairs,
    }
