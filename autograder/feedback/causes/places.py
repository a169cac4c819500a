"""Where an output is wrong: a region of its axes, entries chosen by ids or by the values of an input."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograder.feedback.causes.wrong import Cause, Wrong


def region(w: Wrong) -> Cause | None:
    """Wrong in a part of the entries alone: which."""
    bad = w.wrong
    where = place(bad, w)
    if where is None:
        return None
    e, g = w.expected[bad], w.got[bad]
    if not g.any():
        what = f"{w.name} is 0 where it must not be"
    elif not e.any():
        what = f"{w.name} is not 0 where it must be"
    else:
        what = f"{w.name} is wrong"
    return Cause("region", f"{what}, {where[0]}.", f"{what}, {where[1]}.")


def not_finite(w: Wrong) -> list[Cause]:
    """Where NaN or infinite entries came."""
    bad = ~np.isfinite(w.got) & np.isfinite(w.expected)
    what = "NaN" if np.isnan(w.got[bad]).all() else "infinite" if np.isinf(w.got[bad]).all() else "NaN or infinite"
    if bad.all():
        text = f"{w.name} is {what} everywhere."
        return [Cause("not finite", text)]
    where = place(bad, w)
    if where is None:
        text = f"{w.name} is {what} in some entries."
        return [Cause("not finite", f"{w.name} is {what} in {int(bad.sum())} of {bad.size} entries.", text)]
    return [Cause("not finite", f"{w.name} is {what}, {where[0]}.", f"{w.name} is {what}, {where[1]}.")]


def place(bad: np.ndarray, w: Wrong) -> tuple[str, str] | None:
    """Where the marked entries lie, in words: for a public and for a hidden case. None where they lie anywhere."""
    if bad.ndim == 0 or bad.all() or not bad.any():
        return None
    for name, x in w.case.arrays.items():
        where = by_values(bad, name, x)
        if where is not None:
            return where, where
    best: tuple[float, tuple[str, str]] | None = None  # of several descriptions, the one that is marked most densely
    for axis in range(bad.ndim):
        n = bad.shape[axis]
        others = tuple(a for a in range(bad.ndim) if a != axis)
        at = np.flatnonzero(bad.any(axis=others))
        if len(at) == n:
            continue
        for name, x in w.case.arrays.items():
            where = by_ids(at, n, name, x)
            if where is not None:
                return where, where
        words = along_axis(at, n, axis, bad.ndim)
        filled = float(np.take(bad, at, axis).mean())
        if words is not None and (best is None or filled > best[0]):
            best = filled, words
    diagonal = by_diagonal(bad)
    if diagonal is not None and (best is None or diagonal[0] > best[0]):
        best = diagonal
    return None if best is None else best[1]


def along_axis(at: np.ndarray, n: int, axis: int, ndim: int) -> tuple[str, str] | None:
    """Words for some of the n indices along an axis."""
    along, entries = f"of axis {axis}", "entry" if len(at) == 1 else f"{len(at)} entries"
    if axis == 0 and ndim > 1 and n > 1 and list(at) == list(range(1, n)):
        words = f"only behind the first entry {along} (only the first example is right?)"
        return words, words
    if list(at) == list(range(len(at))):
        return f"only in the first {entries} {along}", f"only in the first entries {along}"
    if list(at) == list(range(n - len(at), n)):
        return f"only in the last {entries} {along}", f"only in the last entries {along}"
    if len(at) <= 4:
        return f"only at {', '.join(map(str, at))} {along}", f"only at some entries {along}"
    return None


def by_diagonal(bad: np.ndarray) -> tuple[float, tuple[str, str]] | None:
    """Marked on one side of a diagonal of the last two axes (rows i, columns j) alone: how densely, and words."""
    if bad.ndim < 2:
        return None
    flat = np.asarray(bad.any(axis=tuple(range(bad.ndim - 2))))
    i, j = np.nonzero(flat)
    low, high = int((j - i).min()), int((j - i).max())
    rows, columns = flat.shape
    if low == -(rows - 1) and high == columns - 1:
        return None
    offset = columns - rows
    every = np.arange(columns) - np.arange(rows)[:, None]
    density = float(bad[..., (every >= low) & (every <= high)].mean())
    if low >= 1 and offset > 0 and high == offset:
        words = (
            "only where i < j ≤ i + offset (rows i, columns j): the mask ignores the offset between rows and columns?"
        )
        return density, (words, words)
    if low >= 1:
        words = f"only above a diagonal, where j ≥ i + {low} (rows i, columns j)"
    elif high <= -1:
        words = f"only below a diagonal, where j ≤ i - {-high} (rows i, columns j)"
    elif low == high == 0:
        words = "only on the diagonal"
    else:
        return None
    return density, (words, words.partition(", where")[0])


def by_values(bad: np.ndarray, name: str, x: np.ndarray) -> str | None:
    """Marked only where an input of the same shape, or of the shape of the first axes, has some property."""
    if x.ndim == 0:
        return None
    if x.shape == bad.shape:
        here = bad
    elif x.ndim < bad.ndim and bad.shape[: x.ndim] == x.shape:
        here = np.asarray(bad.any(axis=tuple(range(x.ndim, bad.ndim))))
    elif x.dtype.kind == "b":
        try:
            x = np.array(np.broadcast_to(x, bad.shape))
        except ValueError:
            return None
        here = bad
    else:
        return None
    if x.dtype.kind == "b":
        marks: dict[str, Any] = {"False": ~x, "True": x}
    elif x.shape == bad.shape or x.dtype.kind in "iu":
        marks = {"negative": x < 0, "positive": x > 0, "0": x == 0}
    else:
        return None
    for word, mark in marks.items():
        if mark.any() and not mark.all() and not here[~mark].any() and here[mark].mean() > 0.4:
            return f"only where {name} is {word}"
    return None


def by_ids(at: np.ndarray, n: int, name: str, ids: np.ndarray) -> str | None:
    """Marked only at positions that occur, repeat or do not occur among integers of an input."""
    if ids.dtype.kind not in "iu" or ids.size < 2 or int(ids.max()) >= n or int(ids.min()) < 0:
        return None
    values, counts = np.unique(ids, return_counts=True)
    marked = set(at.tolist())
    repeated, present = set(values[counts > 1].tolist()), set(values.tolist())
    if repeated and marked == repeated and repeated != set(range(n)):
        return f"only for {name} that occur more than once"
    if marked == present and len(present) < n:
        return f"only for those that occur in {name}"
    if marked == set(range(n)) - present:
        return f"only for those that do not occur in {name}"
    return None
