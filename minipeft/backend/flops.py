"""The floating-point operations of the products made, counted by phase."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class FlopCount:
    """Floating-point operations of the matrix products made so far, by phase; a multiply-add counts two."""

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward


_adding = threading.Lock()  # the threads of one training step share a count
_counter: ContextVar[FlopCount | None] = ContextVar("flop_counter", default=None)
_in_backward: ContextVar[bool] = ContextVar("in_backward", default=False)


@contextmanager
def counting(count: FlopCount) -> Iterator[FlopCount]:
    """Add the FLOPs of every ``matmul`` made inside (in this thread) to ``count``, and to the counts around it."""
    around = _counter.get()
    forward, backward = count.forward, count.backward
    token = _counter.set(count)
    try:
        yield count
    finally:
        _counter.reset(token)
        if around is not None and around is not count:
            with _adding:
                around.forward += count.forward - forward
                around.backward += count.backward - backward


@contextmanager
def backward_phase() -> Iterator[None]:
    """Count the products made inside as the backward's."""
    token = _in_backward.set(True)
    try:
        yield
    finally:
        _in_backward.reset(token)


def add(n: int) -> None:
    """Add n operations to the count around this call, if there is one."""
    count = _counter.get()
    if count is not None:
        with _adding:
            if _in_backward.get():
                count.backward += n
            else:
                count.forward += n
