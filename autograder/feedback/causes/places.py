"""Where an output is wrong: a region of its axes, entries chosen by ids or by the values of an input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autograder.feedback.causes.wrong import Wrong
from autograder.feedback.words import Cause, Part, filled, sentence


@dataclass(frozen=True)
class Where:
    """A place. part, names: as in `Cause`; public: what a public case is told instead."""

    part: Part
    names: tuple[str, ...] = ()
    public: str = ""

    def said(self, w: Wrong, kind: str, what: Part) -> Cause:
        """Return the cause that something is wrong there."""
        public = filled((what,), (w.name,))[:-1] + self.public if self.public else ""
        return w.cause(kind, what, self.part, names=self.names, public=public and sentence(public))


def region(w: Wrong) -> Cause | None:
    """Wrong in a part of the entries alone: which."""
    bad = w.wrong
    where = place(bad, w)
    if where is None:
        return None
    what = Part.ZERO_HERE if not w.got[bad].any() else Part.NOT_ZERO_HERE if not w.expected[bad].any() else Part.WRONG
    return where.said(w, "region", what)


def not_finite(w: Wrong) -> list[Cause]:
    """Where NaN or infinite entries came."""
    bad = ~np.isfinite(w.got) & np.isfinite(w.expected)
    what = Part.NAN if np.isnan(w.got[bad]).all() else Part.INFINITE if np.isinf(w.got[bad]).all() else Part.NOT_FINITE
    if bad.all():
        return [w.cause("not finite", what, Part.EVERYWHERE)]
    where = place(bad, w) or Where(Part.SOMEWHERE, public=f" in {int(bad.sum())} of {bad.size} entries")
    return [where.said(w, "not finite", what)]


def place(bad: np.ndarray, w: Wrong) -> Where | None:
    """Where the marked entries lie; None if they lie anywhere."""
    if bad.ndim == 0 or bad.all() or not bad.any():
        return None
    for name, x in w.case.arrays.items():
        where = by_values(bad, name, x)
        if where is not None:
            return where
    best: tuple[float, Where] | None = None  # of several descriptions, the one that is marked most densely
    for axis in range(bad.ndim):
        n = bad.shape[axis]
        others = tuple(a for a in range(bad.ndim) if a != axis)
        at = np.flatnonzero(bad.any(axis=others))
        if len(at) == n:
            continue
        for name, x in w.case.arrays.items():
            where = by_ids(at, n, name, x)
            if where is not None:
                return where
        where = along_axis(at, n, axis, bad.ndim)
        density = float(np.take(bad, at, axis).mean())
        if where is not None and (best is None or density > best[0]):
            best = density, where
    diagonal = by_diagonal(bad)
    if diagonal is not None and (best is None or diagonal[0] > best[0]):
        best = diagonal
    return None if best is None else best[1]


def along_axis(at: np.ndarray, n: int, axis: int, ndim: int) -> Where | None:
    """Describe some of the n indices along an axis."""
    entries = "entry" if len(at) == 1 else f"{len(at)} entries"
    if axis == 0 and ndim > 1 and n > 1 and list(at) == list(range(1, n)):
        return Where(Part.NOT_THE_FIRST, public=Part.NOT_THE_FIRST.value.replace("an axis", f"axis {axis}"))
    if list(at) == list(range(len(at))):
        return Where(Part.FIRST, public=f", only in the first {entries} of axis {axis}")
    if list(at) == list(range(n - len(at), n)):
        return Where(Part.LAST, public=f", only in the last {entries} of axis {axis}")
    if len(at) <= 4:
        return Where(Part.SOME, public=f", only at {', '.join(map(str, at))} of axis {axis}")
    return None


def by_diagonal(bad: np.ndarray) -> tuple[float, Where] | None:
    """Marked only on one side of a diagonal of the last two axes (rows i, columns j): how densely, and where."""
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
        return density, Where(Part.OFFSET)
    if low >= 1:
        return density, Where(Part.ABOVE, public=f"{Part.ABOVE.value}, where j ≥ i + {low} (rows i, columns j)")
    if high <= -1:
        return density, Where(Part.BELOW, public=f"{Part.BELOW.value}, where j ≤ i - {-high} (rows i, columns j)")
    return (density, Where(Part.DIAGONAL)) if low == high == 0 else None


def by_values(bad: np.ndarray, name: str, x: np.ndarray) -> Where | None:
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
        marks = {Part.WHERE_FALSE: ~x, Part.WHERE_TRUE: x}
    elif x.shape == bad.shape or x.dtype.kind in "iu":
        marks = {Part.WHERE_NEGATIVE: x < 0, Part.WHERE_POSITIVE: x > 0, Part.WHERE_ZERO: x == 0}
    else:
        return None
    for part, mark in marks.items():
        if mark.any() and not mark.all() and not here[~mark].any() and here[mark].mean() > 0.4:
            return Where(part, (name,))
    return None


def by_ids(at: np.ndarray, n: int, name: str, ids: np.ndarray) -> Where | None:
    """Marked only at positions that occur, repeat or do not occur among integers of an input."""
    if ids.dtype.kind not in "iu" or ids.size < 2 or int(ids.max()) >= n or int(ids.min()) < 0:
        return None
    values, counts = np.unique(ids, return_counts=True)
    marked = set(at.tolist())
    repeated, present = set(values[counts > 1].tolist()), set(values.tolist())
    if repeated and marked == repeated and repeated != set(range(n)):
        return Where(Part.REPEATED, (name,))
    if marked == present and len(present) < n:
        return Where(Part.PRESENT, (name,))
    if marked == set(range(n)) - present:
        return Where(Part.ABSENT, (name,))
    return None
