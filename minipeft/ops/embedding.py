"""Looking up rows of a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, device_of, is_array, scatter_add, to_device


class Embedding(Function):
    """z = E[ids] for E (V, d), ids (...) integers, z (..., d);  dE[v] = Σ of dz where ids = v."""

    @staticmethod
    def forward(ctx: Context, table: Array, ids: Array) -> Array:
        ctx.save(ids if ctx.needs_grad[0] else None, table.shape)
        return table[ids]

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        ids, shape = ctx.saved
        dE = array_module(dz).zeros(shape, dtype=dz.dtype)
        scatter_add(dE, ids.reshape(-1), dz.reshape(ids.size, shape[1]))
        return dE, None


def checked_ids(table: Tensor, ids: Array) -> Array:
    """``ids`` on the device of ``table`` (V, d); those on the host are checked there, before they go to the device.

    Raises TypeError for ids that are not integers, IndexError for an id outside 0 … V-1.
    """
    if not is_array(ids) or ids.dtype.kind not in "iu":
        got = ids.dtype if is_array(ids) else type(ids).__name__
        raise TypeError(f"embedding: ids must be an array of integers, got {got}")
    if isinstance(ids, np.ndarray) and ids.size and (ids.min() < 0 or ids.max() >= table.shape[0]):
        raise IndexError(
            f"embedding: ids run from {ids.min()} to {ids.max()}, the table has rows 0 to {table.shape[0] - 1}"
        )
    return to_device(ids, device_of(table.data))


def embedding(table: Tensor, ids: Array) -> Tensor:
    """Rows ``ids`` of ``table`` (V, d), checked as `checked_ids` says."""
    return Embedding.apply(table, checked_ids(table, ids))
