"""The peak of a training step: measured on a few examples, extended to many.

Forward and backward run on n copies of one example while the allocator reports the most that was held. The step is cut
into segments; a segment ends when a parameter receives its gradient. What does not depend on n, such as the gradients
so far, changes only there. So the peak of segment i is affine in n, and

    peak(n) = parameters + optimizer state + max over i of (c_i + n a_i)

What is exact, and what is not:

- For 1, 2, 4, ... examples, up to the first with `SETTLED` bytes and `LABELS` labels, the peak is measured: exact,
  up to some hundred bytes of Python objects. Above, c_i and a_i come from the last two measurements.
- An operation that works block by block holds at most one block for any n, so it is not affine until its arrays are
  larger than a block. The two limits are above that. Between the measurements the peak is slightly overestimated.
- The peak is not affine in the sequence length, because attention scores grow with its square: each length is measured.
- Not included: the workspace of the optimizer's update, data, the interpreter.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.accounting.counting import readable_bytes, recorded_nodes
from minipeft.autograd import Tensor
from minipeft.backend import Array, array_module, device_of, is_array, to_numpy
from minipeft.backend.cuda import peak_memory
from minipeft.nn.layers import random_stream
from minipeft.ops.loss import IGNORED

SETTLED = 16 << 20  # bytes; work as large as this consists of arrays larger than the blocks that operations work in
LABELS = 1024  # half of it are the most that the vocabulary head works on at once (all of it on a GPU)
MARGIN = 0.1  # by how much a peak may exceed its forecast if a budget must hold
GRAIN = 64 << 10  # bytes; two measurements of the same step differ by less

Lap = Callable[[], tuple[int, int]]


@dataclass(frozen=True)
class Work:
    """A measured step: its operations, and the peak of each segment in bytes, without and with accumulation."""

    operations: list[str]
    peaks: dict[bool, list[int]]


class Gradients(dict[Tensor, Array]):
    """The gradients of a backward. Adding one ends a segment, whose peak is appended to ``peaks``."""

    def __init__(self, lap: Lap):
        super().__init__()
        self.lap = lap
        self.peaks: list[int] = []

    def end_segment(self) -> None:
        self.peaks.append(self.lap()[1])

    def get(self, parameter: Tensor, default: Any = None) -> Any:
        self.end_segment()
        return super().get(parameter, default)


class Forecast:
    """The peak of training steps on batches like ``batch``, by the number of examples.

    Args:
        model: has ``loss``; its parameters and their ``grad`` are not changed.
        optimizer: holds the parameters that are trained.
        batch: the arguments of ``model.loss`` by name. The example with the most labels is measured.
        shards: threads that share a batch, each with its own activations and gradients. The forecast is the worst case:
            all of them at their peak at the same time.

    Measuring resets the peak of `tracemalloc`.
    """

    def __init__(self, model: Any, optimizer: Any, batch: Any, shards: int = 1):
        self.model = model
        self.batch = batch
        self.shards = shards
        self.parameters = sum(p.data.nbytes for p in model.parameters())
        self.trained = sum(p.data.nbytes for p in optimizer.params.values())
        self.optimizer_state = len(optimizer.slots) * self.trained
        self._measured: dict[int, Work] = {}

    @property
    def states(self) -> int:
        """Return the bytes of parameters and optimizer state."""
        return self.parameters + self.optimizer_state

    def work(self, examples: int, accumulating: bool = False) -> int:
        """Return the bytes at the peak in one thread, without parameters, optimizer state and earlier gradients.

        Raises ValueError if the loss has another graph for more examples, so that nothing can be extended.
        """
        if examples == 1:
            return max(self._work(1).peaks[accumulating])
        size = 2
        while 2 * size <= examples and not self._settled(size):
            size *= 2
        pairs = zip(self._work(size // 2).peaks[accumulating], self._work(size).peaks[accumulating], strict=True)
        return max(b + 2 * (examples - size) * (b - a) // size for a, b in pairs)

    def peak(self, examples: int, accumulating: bool = False) -> int:
        """Return the bytes at the peak of a step on ``examples``.

        accumulating: its gradients are added to those of earlier examples, which exist during the whole step.
        """
        each, more = divmod(examples, self.shards)
        in_place = accumulating and self.shards == 1  # shards have their own gradients, added at the end
        parts = [(each + 1, more), (each, self.shards - more if each else 0)]
        work = sum(n * self.work(part, in_place) for part, n in parts if n)
        return self.states + work + (self.trained if accumulating else 0)

    def needs(self, examples: int, accumulating: bool = False) -> int:
        """Return the budget in bytes within which a step on ``examples`` stays: its peak, a margin, whole `GRAIN`s."""
        return math.ceil((1 + MARGIN) * self.peak(examples, accumulating) / GRAIN) * GRAIN

    def at_once(self, examples: int, budget: int) -> int:
        """Return how many of ``examples`` fit into ``budget`` bytes: all, or the most with gradients accumulated.

        What is measured for the answer stays within the budget, except for the first example.
        Raises ValueError if one example needs more, with a budget that works.
        """
        one = self.needs(1, accumulating=examples > 1)
        if one > budget:
            raise ValueError(
                f"a memory budget of {readable_bytes(budget)} is below the smallest that works, {one + GRAIN} bytes "
                f"({readable_bytes(one + GRAIN)}): one example at a time; {readable_bytes(self.states)} of them are "
                "parameters and optimizer state. Give at least that, shorten the examples, or train fewer parameters"
            )
        most = min(examples, self.shards * self._reach(-(-examples // self.shards), budget))
        if most == examples and self.needs(examples) <= budget:
            return examples
        low, high = 1, min(most + 1, examples)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.needs(middle, accumulating=True) <= budget else (low, middle)
        return low

    def _reach(self, examples: int, budget: int) -> int:
        """Return up to how many examples a forecast measures only steps that fit into the budget."""
        size = 1
        while size < examples and self.states + self.trained + 2 * self.work(size, accumulating=True) <= budget:
            size *= 2  # the work at most doubles
            if self._settled(size):
                return examples
        return min(examples, 2 * size - 1)

    def _settled(self, size: int) -> bool:
        """Return whether the peak is affine from half of this number of examples on."""
        labels = self.batch["labels"].size * size // len(self.batch["labels"]) if "labels" in self.batch else LABELS
        return max(self._work(size).peaks[False]) >= SETTLED and labels >= LABELS

    def _work(self, examples: int) -> Work:
        """Return the measured step on copies of the example that has the most labels."""
        if examples not in self._measured:
            rows = {name: x for name, x in self.batch.items() if is_array(x) and x.ndim}
            labelled = to_numpy(rows["labels"] != IGNORED) if "labels" in rows else np.ones((1, 1))
            i = int(labelled.reshape(len(labelled), -1).sum(axis=1).argmax())
            copies = {name: array_module(x).concatenate([x[i : i + 1]] * examples) for name, x in rows.items()}
            batch = {**self.batch, **copies}
            if examples == 1:
                self._loss(batch).backward(into={})  # what is loaded at the first use is not part of a step
            work = self._measure(batch)
            if examples > 1 and work.operations != self._work(1).operations:
                raise ValueError(
                    f"the loss of {examples} examples has another graph than that of one: no peak can be foreseen"
                )
            self._measured[examples] = work
        return self._measured[examples]

    def _measure(self, batch: Any) -> Work:
        peaks = {}
        with memory_of(device_of(next(self.model.parameters()).data)) as lap:
            gradients = Gradients(lap)
            for accumulating in (False, True):
                before, _ = lap()
                loss = self._loss(batch)
                operations = [node.name for node in recorded_nodes(loss)]
                loss.backward(into=gradients)
                gradients.end_segment()
                peaks[accumulating], gradients.peaks = [n - before for n in gradients.peaks], []
                del loss
        return Work(operations, peaks)

    def _loss(self, batch: Any) -> Tensor:
        with random_stream(0):
            loss: Tensor = self.model.loss(**batch)
        return loss


@contextmanager
def memory_of(device: str) -> Iterator[Lap]:
    """Yield lap(), which returns the bytes held on a device now, and the most since the last call."""
    if device == "cuda":
        with peak_memory() as pool:

            def lap_of_gpu() -> tuple[int, int]:
                peak, pool.peak = pool.peak, pool.used
                return pool.used, peak

            yield lap_of_gpu
        return

    def lap_of_host() -> tuple[int, int]:
        held = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return held

    running = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        yield lap_of_host
    finally:
        if not running:
            tracemalloc.stop()
