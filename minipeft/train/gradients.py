"""The norm and the scaling of gradients, as `minipeft.optim.clip` defines them: fused on a GPU, by blocks elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import Array, array_module, has_kernels, kernels, row_blocks


def squared_norm(grads: list[Array]) -> Array | float:
    """Return Σ g² over all gradients in float64, a scalar that stays on the device; 0 for no gradients."""
    if grads and has_kernels(grads[0]):
        by_type = [[g.reshape(-1) for g in grads if g.dtype == dtype] for dtype in {g.dtype for g in grads}]
        return sum(map(kernels.squares, by_type))
    return sum(map(_squares, grads)) if grads else 0.0


def scale_gradients(grads: list[Array], c: float) -> None:
    """Multiply each gradient by c, in place."""
    if grads and has_kernels(grads[0]):
        for dtype in {g.dtype for g in grads}:
            kernels.scale([g for g in grads if g.dtype == dtype], c)
        return
    for g in grads:
        g *= c


def _squares(x: Array) -> Any:
    """Return Σ x² in float64, converted block by block: a copy of all of x would double its memory."""
    xp = array_module(x)
    flat = x.reshape(-1)
    total = xp.zeros((), dtype=np.float64)
    for block in row_blocks(flat):
        part = flat[block].astype(np.float64)
        total = total + xp.matmul(part, part)
    return total
