"""A sparse projection kept as its entries: drawn once, where `peft.intrinsic` draws it anew at every step.

The numbers are those of `peft.intrinsic.Sparse`. Of D d entries a fraction 1/√D is not zero, so P θ_d and Pᵀ y take
2 √D d products each; drawing takes D d random numbers, which is why a projection is worth keeping for a run's steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from minipeft.array import Array
from minipeft.peft.intrinsic import ROWS, Projected, Projection, Sparse

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]


@lru_cache(maxsize=64)  # the tensors of one model: runs that differ in the learning rate alone come one after the other
def entries(size: int, d: int, total: int, seed: tuple[int, ...]) -> Entries:
    """The rows (n,), columns (n,) and values (n,) of the entries of P (size, d) that are not zero."""
    drawn = Sparse(size, d, total, seed)
    like = np.empty(0, dtype=np.float32)
    rows, columns, values = [], [], []
    for start in range(0, size, ROWS):
        block = drawn._block(start, like)
        row, column = np.nonzero(block)
        rows.append((row + start).astype(np.int32))
        columns.append(column.astype(np.int32))
        values.append(block[row, column])
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)


class StoredSparse(Projection):
    """The same P as `Sparse` with the same arguments; sums are made in float64 and returned in the type of x."""

    def __init__(self, size: int, d: int, total: int, seed: tuple[int, ...]):
        super().__init__(size, d, total, seed)
        self.rows, self.columns, self.values = entries(size, d, total, seed)

    def apply(self, x: Array) -> Array:
        """P x for x (d,): (size,)."""
        return np.bincount(self.rows, self.values * x[self.columns], self.size).astype(x.dtype)

    def transpose(self, y: Array) -> Array:
        """Pᵀ y for y (size,): (d,)."""
        return np.bincount(self.columns, self.values * y[self.rows], self.d).astype(y.dtype)


def store(model: Any, kind: Callable[..., Projection] = StoredSparse) -> Any:
    """Keep the entries of every sparse projection in a model to which `IntrinsicConfig` was applied; the model."""
    for _, module in model.named_modules():
        if isinstance(module, Projected):
            held = module._projections.by_name
            held.update({name: kind(p.size, p.d, p.total, p.seed) for name, p in held.items() if type(p) is Sparse})
    return model
