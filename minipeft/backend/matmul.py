"""The product of two matrices, counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import cuda, flops
from minipeft.backend.arrays import Array, array_module, backend_of


def product(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
    """``xp.matmul``, without a false alarm: OpenBLAS 0.3.31 on AVX-512 multiplies five float32 columns with a vector by
    way of a register that it never set, so the result is right, yet "invalid value" is reported by chance."""
    if a.shape[-1] == 5 and a.dtype == np.float32:
        with np.errstate(invalid="ignore"):
            return xp.matmul(a, b, out=out)
    return xp.matmul(a, b, out=out)


def column_sum(x: Array) -> Array:
    """Sum over the rows, (R, C) -> (C,), as a product with ones: three times faster than ``sum(axis=0)``."""
    xp = array_module(x)
    return product(xp, xp.ones((1, x.shape[0]), dtype=x.dtype), x)[0]


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """``a @ b`` for (..., m, k) and (..., k, n), counted: 2 m k n FLOPs for each matrix of the batch."""
    backend = backend_of(a)
    if backend.kernels is not None and max(a.ndim, b.ndim) > 2:
        c = cuda.batched_matmul(backend.kernels, backend.xp, a, b, out)
    else:
        c = product(backend.xp, a, b, out)
    flops.add(2 * c.size * a.shape[-1])
    return c
