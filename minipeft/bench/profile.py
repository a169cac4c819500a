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
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import numpy as np

from minipeft.accounting import count_flops
from minipeft.autograd import Function
from minipeft.bench import Part, Row
from minipeft.bench.step import SHAPES, kept_up, large_product
from minipeft.bench.torch_side import ALPHA, RANK, TARGETS, Shape, batch_of, shifted
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.specialize import page_of
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
    """Yield every Function that is defined."""
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
                name = page_of(function).__name__
                timed = times.around(f"{name}.{phase}", getattr(function, phase))
                setattr(function, phase, staticmethod(timed))
    try:
        yield
    finally:
        for owner, name, value in restore:
            setattr(owner, name, value)


def our_model(shape: Shape, mode: str) -> Any:
    """Return a GPT-2 of this shape with random weights; for "lora" with LoRA on queries, keys and values."""
    config = DecoderConfig.gpt2(
        shape.vocab_size, shape.d_model, shape.n_layers, shape.n_heads, context=max(shape.length, 64)
    )
    model: Any = DecoderLM(config).train()
    if mode == "lora":
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    return model


class Profile:
    """A step of a shape and mode, taken ``repeats`` times."""

    def __init__(self, name: str, mode: str, repeats: int):
        self.shape = SHAPES[name]
        self.model = our_model(self.shape, mode)
        self.optimizer = AdamW(self.model, lr=1e-4)
        ids, labels = batch_of(self.shape)
        self.batch = {"ids": ids, "labels": shifted(labels)}
        self.repeats = repeats
        self.seconds = 0.0

    def step(self) -> float:
        """Take a step and return its seconds."""
        start = time.perf_counter()
        train_step(self.model, self.batch, self.optimizer, shards=self.shape.shards)
        return time.perf_counter() - start

    def whole(self) -> list[Row]:
        """Return the rows of the step as a whole and of its floor."""
        with self._threads():
            with count_flops() as flops:
                self.step()
            self.seconds = float(np.median([self.step() for _ in range(self.repeats)]))
            floor = flops.total / kept_up(large_product(np), 1.0)
        return [self._row("the whole step", self.seconds), self._row("floor: FLOPs at the sgemm rate", floor)]

    def functions(self) -> list[Row]:
        """Return a row a Function and phase, the slowest first, and one of what is left of the step."""
        times = Times()
        with self._threads(), watching(times):
            for _ in range(self.repeats):
                self.step()
        n = self.repeats * self.shape.shards
        rows = [
            self._row(what, seconds / n, times.products[what] / n, times.calls[what] // n)
            for what, seconds in sorted(times.seconds.items(), key=lambda item: -item[1])
        ]
        return [*rows, self._row("outside of Functions", self.seconds - sum(times.seconds.values()) / n)]

    def _threads(self) -> AbstractContextManager[Any]:
        from threadpoolctl import threadpool_limits

        return threadpool_limits(self.shape.threads, user_api="blas")

    def _row(self, what: str, seconds: float, products: float | None = None, calls: int | None = None) -> Row:
        return {
            "what": what,
            "ms": 1e3 * seconds,
            "of the step": seconds / self.seconds,
            "in products, ms": None if products is None else 1e3 * products,
            "calls": calls,
        }


def parts(quick: bool = False) -> list[Part]:
    """Return two parts: the whole step and its floor, then a row a Function and phase, the slowest first."""
    made = cache(lambda: Profile("d256" if quick else "gpt2", "lora", 1 if quick else 5))
    return [Part("the step", lambda: made().whole()), Part("its Functions", lambda: made().functions())]
