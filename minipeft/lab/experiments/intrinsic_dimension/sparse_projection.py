"""A sparse projection that keeps its entries, drawn once for all steps of a run.

`peft.projections.Sparse` draws D d random numbers at every step and keeps the fraction 1/√D of them. Here the number of
entries is drawn, then their places, then their signs: the same distribution in √D d draws, made once for all steps of a
run. P θ_d and Pᵀ y then take one product an entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import Array
from minipeft.peft.intrinsic import Projected
from minipeft.peft.projections import Projection, Sparse


class StoredSparse(Projection):
    """Entries ±√(1/(D q)) at a fraction q = 1/√D of the places, D = total, all from the seed.

    rows, columns, values (n,): the entries that are not zero. Sums are made in float64 and returned in the type of x.
    """

    def __init__(self, size: int, d: int, total: int, seed: tuple[int, ...]):
        super().__init__(size, d, total, seed)
        q = total**-0.5
        rng = np.random.default_rng(seed)
        n = int(rng.binomial(size * d, q))
        places = np.sort(rng.choice(size * d, n, replace=False, shuffle=False))
        self.rows, self.columns = np.divmod(places, d)
        self.values = (rng.integers(0, 2, n) * 2.0 - 1.0) * (total * q) ** -0.5

    def apply(self, x: Array) -> Array:
        """Return P x for x (d,): (size,)."""
        return np.bincount(self.rows, self.values * x[self.columns], self.size).astype(x.dtype)

    def transpose(self, y: Array) -> Array:
        """Return Pᵀ y for y (size,): (d,)."""
        return np.bincount(self.columns, self.values * y[self.rows], self.d).astype(y.dtype)


def store(model: Any) -> Any:
    """Put stored projections in place of all in a model to which `IntrinsicConfig` was applied; the model.

    Raises ValueError where they are not sparse.
    """
    for _, module in model.named_modules():
        if isinstance(module, Projected):
            held = module._projections.by_name
            odd = {type(p).__name__ for p in held.values()} - {"Sparse", "StoredSparse"}
            if odd:
                raise ValueError(f"only sparse projections are stored, these are {sorted(odd)}: choose 'sparse'")
            held.update({n: StoredSparse(p.size, p.d, p.total, p.seed) for n, p in held.items() if type(p) is Sparse})
    return model
