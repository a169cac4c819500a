"""Recognize a missing or an extra term, and wrong sums along an axis."""

from __future__ import annotations

import numpy as np

from autograder.feedback.causes.factors import multiple
from autograder.feedback.causes.wrong import Wrong
from autograder.feedback.words import TRANSPOSED, Cause, Part


def term(w: Wrong) -> Cause | None:
    """A term that is missing or too much: the difference is a multiple of something that is known."""
    d = w.got - w.expected
    if d.size < 3 or not d.any() or not np.isfinite(d).all():
        return None
    known = [*w.inputs(), *w.others()]
    if w.expected.ndim >= 2 and min(w.expected.shape) > 1:  # a vector's transpose is itself
        known.append((TRANSPOSED, w.expected.T))
    for name, x in known:
        k = w.spread(x)
        if k is None or name == w.name:
            continue
        c = float(multiple(d, k))
        if not w_close(d, c * k, w):
            continue
        if abs(c + 1) < 1e-4:
            part = Part.LACKS_TERM
        elif abs(c - 1) < 1e-4:
            part = Part.TERM_TOO_OFTEN
        else:
            part = Part.MULTIPLE_OF_TERM
        return w.cause("term", part, names=(name,))
    if float(np.ptp(d)) <= 1e-3 * np.abs(d).max():
        return w.cause("term", Part.SAME_AMOUNT)
    for axis in range(d.ndim):
        if d.shape[axis] > 2 and float(np.ptp(d, axis=axis).max()) <= 1e-6 * np.abs(d).max() + rounding(w):
            text = f"{w.name} is off by an amount that is the same all along axis {axis}"
            return w.cause("term along an axis", Part.SAME_ALONG, public=f"{text}: a sum or a mean over it is missing?")
    return None


def rounding(w: Wrong) -> float:
    """How far apart two equal results may be for the rounding of their types."""
    size = min(w.expected.dtype.itemsize, w.got.dtype.itemsize)
    return (1e-12 if size == 8 else 1e-5) * float(np.abs(w.expected).max())


def w_close(a: np.ndarray, b: np.ndarray, w: Wrong) -> bool:
    """Equal relative to their own size, rounding of the larger arrays they came from allowed."""
    return bool(np.abs(a - b).max() <= 1e-6 * np.abs(a).max() + rounding(w) < np.inf)


def sums(w: Wrong) -> Cause | None:
    """Sums along an axis that are right along another, or that must be 0 and are not."""
    e, g = w.expected, w.got
    if e.dtype.kind != "f" or e.ndim < 1 or e.size < 4:
        return None

    def unit(x: np.ndarray) -> list[int]:
        return [a for a in range(x.ndim) if x.shape[a] > 1 and np.allclose(x.sum(axis=a), 1.0, rtol=0, atol=1e-5)]

    right, came = unit(e), unit(g)
    if right and came and right != came:
        public = f"{w.name} sums to 1 along axis {came[0]}; it must along axis {right[0]}."
        return w.cause("axis", Part.SUMS_TO_ONE, public=public)
    if right and right[0] not in came:
        return w.cause("sum", Part.NO_SUM_TO_ONE, axis=right[0])
    scale = float(np.abs(e).max())
    for axis in range(e.ndim):
        if e.shape[axis] < 2 or np.abs(e.sum(axis=axis)).max() > 1e-9 * scale:
            continue
        if np.abs(g.sum(axis=axis)).max() > 1e-6 * scale:
            return w.cause("sum", Part.NO_SUM_TO_ZERO, axis=axis)
    return None
