"""Memory that each training step takes again from the step before it.

The arrays of a step have the sizes of those of the step before, yet the C library hands what is freed back to the
operating system, and new memory costs a fault for every 4 kB that are touched first: a tenth of a step of four layers
of d = 256. Inside of `Buffers.lent` large arrays come to lie in blocks that earlier ones have left.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

LARGE = 256 * 1024  # bytes: for smaller arrays the search takes longer than the faults
WASTE = 1 / 8  # of its size may a block be larger than the array in it

Shape = tuple[int, ...]
Block = tuple[np.ndarray, tuple[int, bool]]  # memory, and where it starts, as NumPy's array interface says it


class Loan:
    """What an array in a block stands on, with every view of it: when the last of them is gone, the block is free."""

    __slots__ = ("__array_interface__", "_block", "_free")

    def __init__(self, block: Block, free: deque[Block], shape: Shape, dtype: np.dtype[Any]):
        self._block, self._free = block, free
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": block[1]}

    def __del__(self) -> None:
        self._free.append(self._block)


class Buffers:
    """Blocks of memory, by size; any number of threads may take and give back at the same time.

    Where no block of a size is free, one that is a little larger serves, or else a new one is made. Free ones of other
    sizes, first those that were asked for longest ago, are then given up, so that no more is ever held than was once
    in use at the same time.
    """

    def __init__(self) -> None:
        self._free: OrderedDict[int, deque[Block]] = OrderedDict()
        self._lock = threading.RLock()  # for the table of sizes; blocks come back without it, from any thread
        self.held_bytes = 0
        self.most_used = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, ()  # a copy starts empty

    @property
    def free_bytes(self) -> int:
        """Bytes that are held for arrays to come."""
        with self._lock:
            return sum(size * len(blocks) for size, blocks in self._free.items())

    def take(self, shape: Shape, dtype: np.dtype[Any]) -> np.ndarray:
        """A contiguous array of any content."""
        size = math.prod(shape) * dtype.itemsize
        with self._lock:
            free = self._free.setdefault(size, deque())
            self._free.move_to_end(size)
        try:
            return np.asarray(Loan(free.pop(), free, shape, dtype))
        except IndexError:
            block, free = self._larger(size) or (self._new(size), free)
            return np.asarray(Loan(block, free, shape, dtype))

    def _larger(self, size: int) -> tuple[Block, deque[Block]] | None:
        """A free block that is not much larger, and where it is to go back to."""
        with self._lock:
            larger = sorted(other for other in self._free if size < other <= (1.0 + WASTE) * size)
            queues = [self._free[other] for other in larger]
        for free in queues:
            try:
                return free.pop(), free
            except IndexError:  # no free block of this size, or another thread took it
                continue
        return None

    def _new(self, size: int) -> Block:
        with self._lock:
            self.held_bytes += size
            self.most_used = max(self.most_used, self.held_bytes - self.free_bytes)
            self._give_up(self.held_bytes - self.most_used)
        memory = np.empty(size, dtype=np.uint8)
        return memory, memory.__array_interface__["data"]

    def _give_up(self, excess: float) -> None:
        """Release free blocks, of the sizes requested longest ago first; the caller holds the lock."""
        for size, free in self._free.items():
            while excess > 0 and free:
                try:
                    free.popleft()
                except IndexError:  # another thread was quicker
                    break
                excess -= size
                self.held_bytes -= size

    def clear(self) -> None:
        """Give up all that is free."""
        with self._lock:
            self._give_up(math.inf)
            self.most_used = 0

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, `reused` takes from here: in this thread, and in those that start in its context."""
        token = _lender.set(self)
        try:
            yield
        finally:
            _lender.reset(token)


_lender: ContextVar[Buffers | None] = ContextVar("lender", default=None)


def reused(shape: Shape, dtype: np.dtype[Any]) -> np.ndarray | None:
    """An array of any content in memory that was used before; None for a small one, and outside of `Buffers.lent`."""
    lender = _lender.get()
    if lender is None or math.prod(shape) * dtype.itemsize < LARGE or dtype.kind not in "fiub":
        return None
    return lender.take(shape, dtype)
