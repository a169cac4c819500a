"""Work in blocks that stay in a core's cache."""

from __future__ import annotations

from collections.abc import Iterator

from minipeft.backend.arrays import Array, array_module, has_kernels
from minipeft.backend.matmul import product


def empty(like: Array, shape: tuple[int, ...] | None = None) -> Array:
    """An array of any content beside ``like``: of its library, device and dtype, and by default of its shape."""
    return array_module(like).empty(like.shape if shape is None else shape, dtype=like.dtype)


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
