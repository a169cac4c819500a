"""Describe a wrong output of a public case besides its cause: the worst entry, the number of wrong ones, a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from autograder.feedback.causes import wrong_entries
from autograder.feedback.reasons import MAP_CELLS, Picture
from autograder.grading.check import Failure
from autograder.homeworks.case import Case


@dataclass(frozen=True)
class Details:
    """The wrong entries of an array: which they are, the index of the worst, and the two values there."""

    bad: np.ndarray
    worst: tuple[int, ...]
    expected: Any
    got: Any

    def __str__(self) -> str:
        if not self.bad.any():
            return ""
        values = f"got {number(self.got)}, expected {number(self.expected)}"
        if self.bad.size == 1:
            return values
        at = ", ".join(map(str, self.worst))
        return f"{int(self.bad.sum())} of {self.bad.size} entries are wrong, the worst at [{at}]: {values}"


def number(x: Any) -> str:
    """Return a number as people read it."""
    return f"{x:.6g}" if isinstance(x, float) else str(x)


@np.errstate(all="ignore")
def details(f: Failure, case: Case) -> Details | None:
    """Return which entries are wrong and the worst of them, for arrays of numbers of one shape."""
    e, g = f.expected, f.got
    if not isinstance(e, np.ndarray) or not isinstance(g, np.ndarray) or e.shape != g.shape or not e.size:
        return None
    if e.dtype.kind not in "fiub" or g.dtype.kind not in "fiub":
        return None
    bad = wrong_entries(e, g, case.tol if f.key not in case.exact else 0.0)
    error = absolute_error(e, g)
    error = np.where(np.isfinite(error), error, np.where(bad, np.inf, 0.0))
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), e.shape))
    return Details(bad, worst, e[worst].item(), g[worst].item())


def absolute_error(e: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return |g - e| in float64."""
    return np.asarray(np.abs(g.astype(np.float64) - e.astype(np.float64)))


def entries(f: Failure, found: Details | None) -> str:
    """Return the details in words; "" if there are none."""
    e, g = f.expected, f.got
    if f.kind == "shape" and isinstance(e, np.ndarray) and isinstance(g, np.ndarray):
        return f"got shape {g.shape}, expected {e.shape}"
    return "" if found is None else str(found)


@np.errstate(all="ignore")
def picture(f: Failure, found: Details | None, explained: bool) -> Picture | None:
    """Return a map of where an output is wrong; None if a sentence says as much (a number, a vector all wrong).

    explained: a cause is known, so that a map in which everything is wrong says nothing more.
    """
    if found is None or found.bad.ndim < 1 or found.bad.size < 4 or not found.bad.any():
        return None
    error = absolute_error(f.expected, f.got)
    error = np.where(found.bad, np.where(np.isfinite(error), error, np.inf), 0.0)
    at, cut = found.worst, ""
    if error.ndim == 1:
        error = error[None]
    elif error.ndim > 2 and not error[at[:-2]].all():
        error = error[at[:-2]]
        cut = f"[{', '.join(map(str, at[:-2]))}, :, :]"
    elif error.ndim > 2:
        cut = f" (its first {error.ndim - 1} axes as rows)"
        error = error.reshape(-1, error.shape[-1])
    if error.all() and explained:
        return None
    rows, columns = error.shape
    error = coarse(error)
    what = f"Where {f.output}{cut} is wrong in the case {f.case}: {rows} × {columns}, the darker the larger the error"
    return Picture(error, what + ("." if np.isfinite(error).all() else "; black is not finite."))


def coarse(error: np.ndarray) -> np.ndarray:
    """Return at most `MAP_CELLS` squares a side, each the largest error of its entries."""
    for axis in (0, 1):
        n = error.shape[axis]
        if n > MAP_CELLS:
            starts = np.unique(np.linspace(0, n, MAP_CELLS, endpoint=False).astype(int))
            error = np.maximum.reduceat(error, starts, axis=axis)
    return error
