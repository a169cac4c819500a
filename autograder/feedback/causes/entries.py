"""The right numbers, but zero, unchanged, in another order or with other signs; and numbers that are nearly right."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from autograder.feedback.causes.wrong import TRANSPOSED, Cause, Wrong


def nothing(w: Wrong) -> Cause | None:
    """All zero, or all False."""
    if w.expected.any() and not w.got.any():
        word = "False" if w.got.dtype.kind == "b" else "zero"
        return Cause("zero", f"{w.name} is {word} everywhere.")
    return None


def complement(w: Wrong) -> Cause | None:
    """Booleans the other way round."""
    if w.expected.dtype.kind == "b" and w.got.dtype.kind == "b" and np.array_equal(w.got, ~w.expected):
        return Cause("complement", f"{w.name} is True where it must be False, and the other way round.")
    return None


def unchanged(w: Wrong) -> Cause | None:
    """It is an input (the cotangent, say) or another of the right outputs."""
    for name, x in w.inputs():
        if w.same(w.got, x) and np.ptp(x) > 0:
            kind = "cotangent" if name.startswith("the cotangent") else "an input"
            return Cause(kind, f"{w.name} is {name}, unchanged.")
    for name, x in w.others():
        if w.same(w.got, x) and np.ptp(x) > 0:
            return Cause("another output", f"{w.name} has the values that {name} must have.")
    return None


def reordered(w: Wrong) -> Cause | None:
    """The right numbers in the wrong places: axes swapped, reversed, shifted, or in any other order."""
    e, g = w.expected, w.got
    if e.size < 2 or float(np.ptp(e)) == 0.0:
        return None
    axes = range(e.ndim)
    for perm in permutations(axes):
        if e.ndim > 4 or perm == tuple(axes) or tuple(e.shape[p] for p in perm) != e.shape:
            continue
        if w.same(g, e.transpose(perm)):
            text = f"{w.name} {TRANSPOSED}"
            return Cause("transpose", f"{text}{f' (axes {perm})' if e.ndim > 2 else ''}.", f"{text}.")
    for axis in axes:
        if w.same(g, np.flip(e, axis)):
            return Cause("order", f"{w.name} is in reversed order along axis {axis}.")
        for shift in (1, -1):
            moved = np.roll(e, shift, axis)
            inner = [slice(None)] * e.ndim
            inner[axis] = slice(1, None) if shift == 1 else slice(None, -1)
            if e.shape[axis] > 2 and w.same(g[tuple(inner)], moved[tuple(inner)]):
                return Cause("shift", f"{w.name} is shifted by one along axis {axis}.")
    if w.same(np.sort(g.ravel()), np.sort(e.ravel())) and e.size > 3 and e.dtype.kind != "b":
        return Cause(
            "order", f"{w.name} holds the right numbers in another order: a reshape where axes must be transposed?"
        )
    return None


def signs(w: Wrong) -> Cause | None:
    """Right but for the signs of some entries."""
    if w.expected.dtype.kind == "f" and w.expected.size > 2 and w.same(np.abs(w.got), np.abs(w.expected)):
        return Cause("sign", f"{w.name} has the right absolute values, and some of the signs are wrong.")
    return None


def accuracy(w: Wrong) -> Cause | None:
    """Nearly right: the numbers of a shorter type, an approximation, another ε."""
    if w.expected.dtype.kind != "f":
        return None
    finite = np.isfinite(w.expected)
    if not finite.any():
        return None
    e, g = w.expected[finite].astype(np.float64), w.got[finite].astype(np.float64)
    error = float(np.abs(g - e).max()) / float(np.abs(e).max() or 1.0)
    if not 0.0 < error < 5e-3:  # 0 if only entries that must not be finite are wrong
        return None
    half, single = np.array_equal(g, g.astype(np.float16)), np.array_equal(g, g.astype(np.float32))
    if w.allowed == 0.0 and error < 1e-6:
        return Cause("accuracy", f"{w.name} is right up to rounding, and must be equal to the bit.")
    about = f"{w.name} is right to about {max(1, int(-np.log10(error)))} digits"
    if half:
        return Cause("accuracy", f"{about}: its entries are float16 numbers.", f"{w.name} has float16's accuracy.")
    if single and w.got.dtype.itemsize == 8 and error < 1e-4:
        return Cause("accuracy", f"{about}: its entries are float32 numbers.", f"{w.name} has float32's accuracy.")
    shorter = "computed in float32?" if error < 1e-5 else "another ε, an approximation, or computed in float16?"
    return Cause("accuracy", f"{about}: {shorter}", f"{w.name} is nearly right: {shorter}")
