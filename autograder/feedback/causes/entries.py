"""Recognize the right numbers, but zero, unchanged, in another order or with other signs; or nearly right ones."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from autograder.feedback.causes.wrong import Wrong
from autograder.feedback.words import Cause, Part


def nothing(w: Wrong) -> Cause | None:
    """All zero, or all False."""
    if w.expected.any() and not w.got.any():
        return w.cause("zero", Part.FALSE if w.got.dtype.kind == "b" else Part.ZERO)
    return None


def complement(w: Wrong) -> Cause | None:
    """Booleans the other way round."""
    if w.expected.dtype.kind == "b" and w.got.dtype.kind == "b" and np.array_equal(w.got, ~w.expected):
        return w.cause("complement", Part.COMPLEMENT)
    return None


def unchanged(w: Wrong) -> Cause | None:
    """It is an input (the cotangent, say) or another of the right outputs."""
    for name, x in w.inputs():
        if w.same(w.got, x) and np.ptp(x) > 0:
            kind = "cotangent" if name.startswith("the cotangent") else "an input"
            return w.cause(kind, Part.INPUT, names=(name,))
    for name, x in w.others():
        if w.same(w.got, x) and np.ptp(x) > 0:
            return w.cause("another output", Part.OTHER_OUTPUT, names=(name,))
    return None


def reordered(w: Wrong) -> Cause | None:
    """The right numbers in the wrong places: axes swapped, reversed, shifted, or in any other order."""
    e, g = w.expected, w.got
    if e.size < 2 or float(np.ptp(e)) == 0.0:
        return None
    axes = range(e.ndim)
    for perm in permutations(axes) if e.ndim <= 4 else ():
        if perm == tuple(axes) or tuple(e.shape[p] for p in perm) != e.shape:
            continue
        if w.same(g, e.transpose(perm)):
            public = f"{w.name} is the transpose of what is expected (axes {perm})." if e.ndim > 2 else ""
            return w.cause("transpose", Part.TRANSPOSE, public=public)
    for axis in axes:
        if w.same(g, np.flip(e, axis)):
            return w.cause("order", Part.REVERSED, axis=axis)
        for shift in (1, -1):
            moved = np.roll(e, shift, axis)
            inner = [slice(None)] * e.ndim
            inner[axis] = slice(1, None) if shift == 1 else slice(None, -1)
            if e.shape[axis] > 2 and w.same(g[tuple(inner)], moved[tuple(inner)]):
                return w.cause("shift", Part.SHIFTED, axis=axis)
    if w.same(np.sort(g.ravel()), np.sort(e.ravel())) and e.size > 3 and e.dtype.kind != "b":
        return w.cause("order", Part.REORDERED)
    return None


def signs(w: Wrong) -> Cause | None:
    """Right but for the signs of some entries."""
    if w.expected.dtype.kind == "f" and w.expected.size > 2 and w.same(np.abs(w.got), np.abs(w.expected)):
        return w.cause("sign", Part.SIGNS)
    return None


ROUNDED = 1e-5  # relative error; what is further off is another mistake, which "nearly right" would hide


def accuracy(w: Wrong) -> Cause | None:
    """Recognize what is nearly right: numbers of a shorter type, another ε."""
    if w.expected.dtype.kind != "f":
        return None
    finite = np.isfinite(w.expected)
    if not finite.any():
        return None
    e, g = w.expected[finite].astype(np.float64), w.got[finite].astype(np.float64)
    error = float(np.abs(g - e).max()) / float(np.abs(e).max() or 1.0)
    if not 0.0 < error < 2e-3:  # 0 if only entries that must not be finite are wrong
        return None
    half, single = np.array_equal(g, g.astype(np.float16)), np.array_equal(g, g.astype(np.float32))
    if w.allowed == 0.0 and error < 1e-6:
        return w.cause("accuracy", Part.TO_THE_BIT)
    about = f"{w.name} is right to about {max(1, int(-np.log10(error)))} digits"
    if half:
        return w.cause("accuracy", Part.HALF, public=f"{about}: its entries are float16 numbers.")
    if single and w.got.dtype.itemsize == 8 and error < 1e-4:
        return w.cause("accuracy", Part.SINGLE, public=f"{about}: its entries are float32 numbers.")
    return w.cause("accuracy", Part.NEARLY, public=f"{about}.") if error < ROUNDED else None
