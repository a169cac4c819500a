"""Lay out an input in memory. This file is copied to the worker, so it imports only NumPy."""

from __future__ import annotations

import numpy as np

LAYOUTS = ("plain", "strided", "fortran", "negative", "readonly", "broadcast")


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """Return a copy of x with the same values and another memory layout (see `autograder.homeworks.case.Case`)."""
    if layout == "strided":
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "fortran":
        return np.array(x, order="F")
    if layout == "negative":
        return np.array(x[::-1], order="C")[::-1]
    if layout == "broadcast":  # all rows are the first; the values must be so already
        return np.broadcast_to(x[:1].copy(), x.shape)
    x = np.array(x, order="C")
    if layout == "readonly":
        x.flags.writeable = False
    return x
