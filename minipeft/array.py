"""The array library: NumPy or CuPy, told apart here and nowhere else.

Every operation starts with ``xp = array_module(x)`` and then calls ``xp``. What the two libraries do
differently (scatter-add, error functions, random numbers, the size of a cache block) has one function here.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np

from minipeft import buffers, cuda

ENOUGH_BLOCKS = 16  # with fewer, starting a thread takes longer than it saves

Result = TypeVar("Result")
Array = Any  # a numpy.ndarray, a cupy.ndarray, or the array type of a registered backend


@dataclass(frozen=True)
class Backend:
    """One array library: its functions ``xp``, its array type, the way from and to NumPy, its kernels if any."""

    name: str
    xp: Any
    array_type: type
    from_numpy: Callable[[np.ndarray], Array]
    to_numpy: Callable[[Array], np.ndarray]
    kernels: cuda.Device | None = None

    @property
    def kind(self) -> str:
        """What operations are specialized for: "cuda" for a device that runs kernels, otherwise its name."""
        return self.name if self.kernels is None else "cuda"


_by_name: dict[str, Backend] = {}
_by_type: dict[type, Backend] = {}


def register(backend: Backend) -> None:
    """Make ``backend`` known under its device name and its array type."""
    _by_name[backend.name] = backend
    _by_type[backend.array_type] = backend


register(Backend("cpu", np, np.ndarray, lambda x: x, lambda x: x))


def _register_cupy() -> None:
    cupy = cuda.library()
    register(Backend("cuda", cupy, cupy.ndarray, cupy.asarray, cupy.asnumpy, cuda.CupyDevice()))


def backend_named(device: str) -> Backend:
    """The backend of a device name; ValueError for an unknown one, NoGpuError for "cuda" without CuPy or a GPU."""
    if device == "cuda" and device not in _by_name:
        _register_cupy()
    if device not in _by_name:
        raise ValueError(f"unknown device {device!r}; expected one of {sorted({*_by_name, 'cuda'})}")
    return _by_name[device]


def backend_of(x: Any) -> Backend:
    """The backend whose array type ``x`` has; NumPy for Python and NumPy scalars."""
    backend = _by_type.get(type(x))
    if backend is not None:
        return backend
    if type(x).__module__.partition(".")[0] == "cupy":
        _register_cupy()
        return _by_type[type(x)]
    if isinstance(x, (int, float, bool, np.generic, np.ndarray)):
        return _by_name["cpu"]
    raise TypeError(f"expected an array of NumPy or CuPy, got {type(x).__name__}; make one with numpy.asarray first")


def array_module(x: Any) -> Any:
    """The library (``numpy`` or ``cupy``) that ``x`` belongs to."""
    return backend_of(x).xp


def device_of(x: Any) -> str:
    """The device name of ``x``: "cpu", "cuda", or a registered one."""
    return backend_of(x).name


def has_kernels(x: Any) -> bool:
    """Whether ``x`` is on a device with kernels of its own (`minipeft.fused`): a GPU."""
    return backend_of(x).kernels is not None


def kernels_of(x: Any) -> cuda.Device:
    """What runs kernels on the device of ``x``; TypeError for one that has none."""
    backend = backend_of(x)
    if backend.kernels is None:
        raise TypeError(f"device {backend.name!r} has no kernels: call the NumPy form, or check has_kernels(x) first")
    return backend.kernels


def is_array(x: Any) -> bool:
    """Whether ``x`` is an array of a known library."""
    return type(x) in _by_type or isinstance(x, np.ndarray) or type(x).__module__.partition(".")[0] == "cupy"


def to_numpy(x: Any) -> np.ndarray:
    """``x`` as a NumPy array; from a GPU this waits for the device and copies."""
    return backend_of(x).to_numpy(x)


def to_device(x: Any, device: str) -> Array:
    """``x`` on ``device`` ("cpu" or "cuda"); the same array when it is there already.

    Raises ValueError for an unknown device, NoGpuError where CuPy or a GPU is missing.
    """
    backend = backend_named(device)
    if isinstance(x, backend.array_type):
        return x
    return backend.from_numpy(to_numpy(x))


def aliases(x: Array, y: Array) -> bool:
    """Whether the memory of ``x`` and ``y`` may overlap (by their bounds, so quick and on the safe side)."""
    return x is y or bool(array_module(x).may_share_memory(x, y))


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """A host generator from a seed; a generator passes through.

    Random numbers are drawn on the host, in float64, and then sent to the device:
    the same seed gives the same parameters on both, and a saved state can be resumed.
    """
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)


def scatter_add(target: Array, index: Array, updates: Array) -> None:
    """``target[index[i]] += updates[i]`` in place, repeated indices summed.

    target (V, ...), index (M,) integers from 0 to V - 1, updates (M, ...). On the CPU the rows are sorted by index and
    summed by segments, in a fixed order: the same bits each time, and many times faster than ``add.at``.
    """
    if has_kernels(target):
        array_module(target).add.at(target, index, updates)
        return
    if index.shape[0] == 0:
        return
    xp = array_module(target)
    order = xp.argsort(index, kind="stable")
    ids = index[order]
    first = xp.concatenate([xp.ones(1, dtype=bool), ids[1:] != ids[:-1]])
    starts = xp.flatnonzero(first)
    target[ids[starts]] += xp.add.reduceat(updates[order], starts, axis=0)


def _reused(like: Array, shape: tuple[int, ...]) -> Array | None:
    return buffers.reused(shape, like.dtype) if type(like) is np.ndarray else None


def empty(like: Array, shape: tuple[int, ...] | None = None) -> Array:
    """An array of any content beside ``like``: of its library, device and dtype, and by default of its shape.

    In a training step on the CPU a large one lies in memory that an earlier step has left (`buffers`).
    """
    shape = like.shape if shape is None else shape
    out = _reused(like, shape)
    return array_module(like).empty(shape, dtype=like.dtype) if out is None else out


def times(x: Array, y: Array) -> Array:
    """x ∘ y, placed as `empty` does, for y that broadcasts to the shape of x."""
    if x.dtype != y.dtype:
        return x * y
    return array_module(x).multiply(x, y, out=_reused(x, x.shape))


BLOCK_BYTES = 512 * 1024


def row_blocks(x: Array, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices over the rows of ``x`` (R, C) whose blocks fit a core's cache; one slice for a GPU.

    A chain of elementwise steps runs 1.5 to 3 times faster when each block stays in the cache; in smaller blocks
    threads would wait for Python's lock more often than they compute.
    """
    n_rows = x.shape[0]
    if has_kernels(x):
        yield slice(0, n_rows)
        return
    row_bytes = max(1, x.nbytes // max(1, n_rows))
    step = max(1, block_bytes // row_bytes)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


_thread_count: ContextVar[int] = ContextVar("thread_count", default=1)


@contextmanager
def quick_handover() -> Iterator[None]:
    """Python's lock is handed over after 10 µs inside, in all threads, and as before afterwards.

    Threads of array operations want it every 10 to 100 µs; at the usual 5 ms a thread that has just given the lock away
    takes it again before the other has woken up.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@lru_cache
def _threads(n: int) -> ThreadPoolExecutor:
    """So many threads, the same at every call, each of which uses again the memory that it has freed.

    The C library gives new threads new places to allocate in, and keeps what was freed in the old ones: with threads
    made for every step the process would grow step by step.
    """
    return ThreadPoolExecutor(n, thread_name_prefix=f"minipeft-{n}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not come along


def side_by_side(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of all calls, made at the same time, one thread each, in the context of the caller.

    None of them may call this again. What the first of them, in the order of ``calls``, raises is raised once all have
    ended.
    """
    with quick_handover():
        jobs = [_threads(len(calls)).submit(copy_context().run, call) for call in calls]
        wait(jobs)
        return [job.result() for job in jobs]


@contextmanager
def use_threads(n: int) -> Iterator[None]:
    """Let `block_threads` return up to n inside (in this thread)."""
    token = _thread_count.set(n)
    try:
        yield
    finally:
        _thread_count.reset(token)


def block_threads(blocks: Sequence[Any]) -> int:
    """Return how many threads should share the blocks: those of `use_threads`, or 1 if there are few blocks."""
    return _thread_count.get() if len(blocks) >= ENOUGH_BLOCKS else 1


def in_threads(work: Callable[[Sequence[Any]], None], items: Sequence[Any], threads: int) -> None:
    """``work`` on ``items``, cut into as many runs of neighbours as there are threads, one run a thread."""
    if threads == 1:
        work(items)
        return
    cuts = [len(items) * i // threads for i in range(threads + 1)]
    side_by_side([partial(work, items[a:b]) for a, b in itertools.pairwise(cuts)])


def rows(x: Array) -> Array:
    """``x`` (..., C) as (R, C), one row for fewer than two axes: one large product in place of many small ones."""
    if x.ndim < 2:
        return x.reshape(1, x.size)
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 fails where C = 0


def product(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
    """``xp.matmul``, without a false alarm: OpenBLAS 0.3.31 on AVX-512 multiplies five float32 columns with a vector by
    way of a register that it never set, so the result is right, yet "invalid value" is reported by chance."""
    if a.shape[-1] == 5 and a.dtype == np.float32:
        with np.errstate(invalid="ignore"):
            return xp.matmul(a, b, out=out)
    return xp.matmul(a, b, out=out)


def row_max(x: Array) -> Array:
    """The largest entry of each row, (R, C) -> (R, 1): NumPy finds where it is 4 times faster than what it is, unless
    rows are long."""
    if has_kernels(x) or x.shape[1] > 2048:
        return x.max(axis=1, keepdims=True)
    xp = array_module(x)
    return x[xp.arange(x.shape[0]), x.argmax(axis=1)][:, None]


def row_sum(x: Array) -> Array:
    """Sum over the columns, (R, C) -> (R, 1), as a product with ones: faster than ``sum(axis=1)``."""
    xp = array_module(x)
    return product(xp, x, xp.ones((x.shape[1], 1), dtype=x.dtype))


def row_dot(x: Array, y: Array) -> Array:
    """Σ x ∘ y over the columns, (R, C) and (R, C) -> (R, 1), as a product for each row: x ∘ y is never stored."""
    return array_module(x).matmul(x[:, None, :], y[:, :, None])[:, 0]


def column_sum(x: Array) -> Array:
    """Sum over the rows, (R, C) -> (C,), as a product with ones: three times faster than ``sum(axis=0)``."""
    xp = array_module(x)
    return product(xp, xp.ones((1, x.shape[0]), dtype=x.dtype), x)[0]


def read(*scalars: Array) -> list[float]:
    """The values of arrays of one entry on one device, all of them in one wait for it."""
    if device_of(scalars[0]) == "cpu":
        return [float(x) for x in scalars]
    xp = array_module(scalars[0])
    return to_numpy(xp.stack([x.reshape(()).astype(np.float64) for x in scalars])).tolist()


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


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """``a @ b`` for (..., m, k) and (..., k, n), counted: 2 m k n FLOPs for each matrix of the batch."""
    backend = backend_of(a)
    if out is None and a.ndim == b.ndim == 2 and a.dtype == b.dtype:
        out = _reused(a, (a.shape[0], b.shape[1]))
    if backend.kernels is not None and max(a.ndim, b.ndim) > 2:
        c = cuda.batched_matmul(backend.kernels, backend.xp, a, b, out)
    else:
        c = product(backend.xp, a, b, out)
    count = _counter.get()
    if count is not None:
        flops = 2 * c.size * a.shape[-1]
        with _adding:
            if _in_backward.get():
                count.backward += flops
            else:
                count.forward += flops
    return c
