"""The array library: NumPy or CuPy, told apart here and nowhere else.

Every operation starts with ``xp = array_module(x)`` and then calls ``xp``. What the two libraries do
differently (scatter-add, random numbers, the way to another device) has one function here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.backend import cuda

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
    """Whether ``x`` is on a device with kernels of its own (`minipeft.backend.kernels`): a GPU."""
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


def rows(x: Array) -> Array:
    """``x`` (..., C) as (R, C), one row for fewer than two axes: one large product in place of many small ones."""
    if x.ndim < 2:
        return x.reshape(1, x.size)
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 fails where C = 0


def read(*scalars: Array) -> list[float]:
    """The values of arrays of one entry on one device, all of them in one wait for it."""
    if device_of(scalars[0]) == "cpu":
        return [float(x) for x in scalars]
    xp = array_module(scalars[0])
    return to_numpy(xp.stack([x.reshape(()).astype(np.float64) for x in scalars])).tolist()
