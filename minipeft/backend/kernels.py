"""Chains of elementwise steps as one kernel each, for a GPU: ten passes over an array as one.

Each function equals NumPy lines of `minipeft.ops` and `minipeft.optim`, which are what to read first. On a GPU each of
those lines would be a kernel of its own that reads and writes all of its operands, so the time goes to memory and
launches. The source is ``kernels.cu`` beside this file, in one type T, float or double.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend.arrays import Array, array_module, kernels_of
from minipeft.backend.cuda import NULL

BEGIN = """
typedef {type} T;
#define LOWEST ((T){lowest})
#define TINY ((T){tiny})
"""
THREADS = 256


@lru_cache
def source(dtype: Any) -> str:
    """All kernels for float32 or float64, as CUDA C."""
    name = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    info = np.finfo(dtype)
    begin = BEGIN.format(type=name, lowest=repr(float(info.min)), tiny=repr(float(info.tiny)))
    return begin + Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")


def _launch(x: Array, name: str, grid: tuple[int, int], threads: int, *args: Any) -> None:
    if grid[0] and grid[1]:
        kernels_of(x).launch(source(x.dtype), name, grid, threads, args)


def _by_entry(x: Array, name: str, *args: Any) -> None:
    blocks = min(-(-x.size // THREADS), 65535)
    _launch(x, name, (blocks, 1), THREADS, *args, np.int64(x.size))


def _by_row(x: Array, name: str, n_rows: int, width: int, *args: Any) -> None:
    """One block a row: a warp for short rows, more where each thread would go through eight entries or more."""
    threads = 32
    while threads < 1024 and threads * 8 <= width:
        threads *= 2
    if width:
        _launch(x, name, (n_rows, 1), threads, *args)


def _solid(x: Array) -> Array:
    return x if x.flags.c_contiguous else array_module(x).ascontiguousarray(x)


def _or_null(x: Array | None) -> Any:
    return NULL if x is None else x


def activation(x: Array, name: str, want_slope: bool) -> tuple[Array, Array | None]:
    """f(x) and, where wanted, f'(x), for x of any shape."""
    xp = array_module(x)
    x = _solid(x)
    z = xp.empty(x.shape, dtype=x.dtype)
    slope = xp.empty(x.shape, dtype=x.dtype) if want_slope else None
    _by_entry(x, f"activate_{name}", x, z, _or_null(slope))
    return z, slope


def gate(g: Array, u: Array, name: str, want_g: bool, want_u: bool) -> tuple[Array, Array | None, Array | None]:
    """f(g) u and, where wanted, its derivatives u f'(g) and f(g)."""
    xp = array_module(g)
    g, u = _solid(g), _solid(u)
    z = xp.empty(g.shape, dtype=g.dtype)
    to_g = xp.empty(g.shape, dtype=g.dtype) if want_g else None
    to_u = xp.empty(g.shape, dtype=g.dtype) if want_u else None
    _by_entry(g, f"gate_{name}", g, u, z, _or_null(to_g), _or_null(to_u))
    return z, to_g, to_u


def norm(
    x: Array, gamma: Array, beta: Array | None, eps: float, centre: bool, keep: bool
) -> tuple[Array, Array, Array]:
    """z, x̂ and 1/√(var + ε) of rows x (R, d): (R, d), (R, d), (R, 1); without ``keep`` x̂ is z."""
    xp = array_module(x)
    x, gamma, beta = _solid(x), _solid(gamma), None if beta is None else _solid(beta)
    n, d = x.shape
    z = xp.empty(x.shape, dtype=x.dtype)
    x_hat = xp.empty(x.shape, dtype=x.dtype) if keep else None
    rstd = xp.empty((n, 1), dtype=x.dtype)
    shift, hat = _or_null(beta), _or_null(x_hat)
    _by_row(x, "normalize", n, d, x, gamma, shift, z, hat, rstd, np.int64(d), np.int32(centre), np.float64(eps))
    return z, z if x_hat is None else x_hat, rstd


def norm_backward(dz: Array, x_hat: Array, rstd: Array, gamma: Array, centre: bool) -> Array:
    """dx of rows, (R, d)."""
    dz, gamma = _solid(dz), _solid(gamma)
    n, d = dz.shape
    dx = array_module(dz).empty(dz.shape, dtype=dz.dtype)
    _by_row(dz, "normalize_backward", n, d, dz, x_hat, rstd, gamma, dx, np.int64(d), np.int32(centre))
    return dx


def softmax(s: Array, causal: bool, mask: Array | None) -> None:
    """Softmax of each row of s (B, H, N, S), contiguous, in place; mask boolean, broadcastable, True where seen."""
    if not s.flags.c_contiguous:
        raise ValueError("softmax works in place on rows: s must be contiguous")
    _, H, N, S = s.shape
    strides = [0, 0, 0, 0] if mask is None else [0 if n == 1 else k for n, k in zip(mask.shape, mask.strides)]
    sizes = (np.int64(S), np.int64(H), np.int64(N), np.int32(causal))
    _by_row(s, "softmax", s.size // max(S, 1), S, s, *sizes, _or_null(mask), *map(np.int64, strides))


def softmax_backward(p: Array, dp: Array) -> None:
    """ds = p (dp - Σ_row dp p), written into dp; p and dp (R, S), contiguous."""
    if not (p.flags.c_contiguous and dp.flags.c_contiguous):
        raise ValueError("softmax_backward works in place on rows: p and dp must be contiguous")
    _by_row(p, "softmax_backward", p.shape[0], p.shape[1], p, dp, np.int64(p.shape[1]))


def cross_entropy(s: Array, labels: Array, want_grad: bool, scale: float = 1.0) -> Array:
    """The loss of each row of logits s (R, V), contiguous, (R,); s becomes ``scale`` times its gradient, if wanted."""
    if not s.flags.c_contiguous:
        raise ValueError("cross_entropy works in place on rows: the logits must be contiguous")
    xp = array_module(s)
    n, V = s.shape
    losses = xp.empty((n,), dtype=s.dtype)
    labels = labels if labels.dtype == np.int64 else labels.astype(np.int64)
    _by_row(s, "cross_entropy", n, V, s, _solid(labels), losses, np.int64(V), np.int32(want_grad), np.float64(scale))
    return losses


def _table(arrays: Sequence[Sequence[Array]]) -> tuple[Array, tuple[int, int]]:
    """Addresses and the number of entries, a row for arrays of one size; and a grid that covers them."""
    kernels = kernels_of(arrays[0][0])
    rows = [[*map(kernels.address, line), line[0].size] for line in arrays]
    largest = max(row[-1] for row in rows)
    return kernels.upload(np.array(rows, dtype=np.int64)), (max(1, min(-(-largest // THREADS), 1024)), len(rows))


def adamw(
    tensors: Sequence[tuple[Array, Array, Array, Array]],
    decays: Sequence[float],
    lr: float,
    betas: Sequence[float],
    eps: float,
    step: int,
) -> None:
    """The update of `AdamW` for all (x, g, m, v) of one dtype in one launch, in place; each contiguous."""
    x = tensors[0][0]
    table, grid = _table(tensors)
    c2 = math.sqrt(1.0 - betas[1] ** step)
    rate = lr * c2 / (1.0 - betas[0] ** step)
    numbers = map(np.float64, (rate, lr, *betas, c2 * eps))
    _launch(x, "adamw", grid, THREADS, table, _constants(kernels_of(x), tuple(decays)), *numbers)


@lru_cache(maxsize=64)
def _constants(kernels: Any, values: tuple[float, ...]) -> Array:
    """Numbers that stay the same from step to step, uploaded once."""
    return kernels.upload(np.array(values, dtype=np.float64))


def squares(arrays: Sequence[Array]) -> Array:
    """Σ x² over all entries of arrays of one dtype, contiguous, in float64: a scalar that stays on the device."""
    table, grid = _table([(x,) for x in arrays])
    out = array_module(arrays[0]).empty(grid[::-1], dtype=np.float64)
    _launch(arrays[0], "squares", grid, THREADS, table, out)
    return out.sum()


def scale(arrays: Sequence[Array], c: float) -> None:
    """x *= c for all arrays of one dtype, in one launch for those that are contiguous."""
    solid = [x for x in arrays if x.flags.c_contiguous and x.size]
    for x in arrays:
        if not x.flags.c_contiguous:
            x *= c
    if not solid:
        return
    table, grid = _table([(x,) for x in solid])
    _launch(solid[0], "scale", grid, THREADS, table, np.float64(c))
