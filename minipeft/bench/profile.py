"""Where the time of a LoRA step goes: by Function, forward and backward, and how much of each is matrix products.

The step of `minipeft bench step` at GPT-2 small's shape, with random weights and without PyTorch. Times are of a thread
(summed over the shards, divided by their number); what is left of the step is the engine, the optimizer and waiting.
The floor is the counted FLOPs at the rate that NumPy keeps up in large products.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minipeft.accounting import count_flops
from minipeft.autograd import Function
from minipeft.bench.step import SHAPES, kept_up, large_product
from minipeft.bench.torch_side import ALPHA, RANK, TARGETS, Shape, batch_of, shifted
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.train import train_step


class Times:
    """Seconds and calls by name; `around` wraps a callable so that its time is added, `products` those inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.products: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.lock = threading.Lock()
        self.inside = threading.local()

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self.inside.name = getattr(self.inside, "name", None), name
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.inside.name = outer
                with self.lock:
                    self.seconds[name] += elapsed
                    self.calls[name] += 1

        return timed

    def product(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                with self.lock:
                    self.products[getattr(self.inside, "name", None) or "elsewhere"] += time.perf_counter() - start

        return timed


def functions(cls: type[Function] = Function) -> Iterator[type[Function]]:
    """Every Function that is defined."""
    for sub in cls.__subclasses__():
        yield sub
        yield from functions(sub)


@contextmanager
def watching(times: Times) -> Iterator[None]:
    """Time the forward and backward of every Function, and NumPy's matmul, inside; this slows small operations."""
    restore: list[tuple[Any, str, Any]] = [(np, "matmul", np.matmul)]
    np.matmul = times.product(np.matmul)  # type: ignore[assignment]
    for function in functions():
        for phase in ("forward", "backward"):
            if phase in vars(function):
                restore.append((function, phase, vars(function)[phase]))
                timed = times.around(f"{function.__name__}.{phase}", getattr(function, phase))
                setattr(function, phase, staticmethod(timed))
    try:
        yield
    finally:
        for owner, name, value in restore:
            setattr(owner, name, value)


def our_model(shape: Shape, mode: str) -> Any:
    """A GPT-2 of this shape with random weights; for "lora" with LoRA on queries, keys and values."""
    config = DecoderConfig.gpt2(
        shape.vocab_size, shape.d_model, shape.n_layers, shape.n_heads, context=max(shape.length, 64)
    )
    model: Any = DecoderLM(config).train()
    if mode == "lora":
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    return model


def run(name: str = "gpt2", mode: str = "lora", repeats: int = 5) -> list[dict[str, Any]]:
    """One row a Function and phase, the slowest first; then the step as a whole and its floor."""
    from threadpoolctl import threadpool_limits

    shape = SHAPES[name]
    model = our_model(shape, mode)
    optimizer = AdamW(model, lr=1e-4)
    ids, labels = batch_of(shape)
    batch = {"ids": ids, "labels": shifted(labels)}

    def step() -> float:
        start = time.perf_counter()
        train_step(model, batch, optimizer, shards=shape.shards)
        return time.perf_counter() - start

    with threadpool_limits(shape.threads, user_api="blas"):
        with count_flops() as flops:
            step()
        whole = float(np.median([step() for _ in range(repeats)]))
        times = Times()
        with watching(times):
            for _ in range(repeats):
                step()
        floor = flops.total / kept_up(large_product(np), 1.0)
    rows = [
        _row("the whole step", None, whole, None, whole),
        _row("floor: FLOPs at the sgemm rate", None, floor, None, whole),
    ]
    n = repeats * shape.shards
    for what, seconds in sorted(times.seconds.items(), key=lambda item: -item[1]):
        rows.append(_row(what, times.calls[what] // n, seconds / n, times.products[what] / n, whole))
    rest = whole - sum(times.seconds.values()) / n
    return [*rows, _row("outside of Functions", None, rest, None, whole)]


def _row(what: str, calls: int | None, seconds: float, products: float | None, whole: float) -> dict[str, Any]:
    return {
        "what": what,
        "ms": 1e3 * seconds,
        "of the step": seconds / whole,
        "in products, ms": None if products is None else 1e3 * products,
        "calls": calls,
    }
