"""Hold a wrong array with what it may be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autograder.feedback.words import Cause, Part, called, filled
from autograder.grading.check import allowance
from autograder.homeworks.case import Case


@dataclass(frozen=True)
class Wrong:
    """An array that is not right, with what it may be compared with.

    name: of the output; expected, got: arrays of numbers; reference: the right outputs by name; allowed: the relative
    error that passes, 0 where it must be right to the bit; tol: the one up to which two arrays are taken for the same.
    """

    name: str
    expected: np.ndarray
    got: np.ndarray
    case: Case
    reference: Mapping[str, Any]
    allowed: float = 1e-6
    tol: float = 1e-6

    def cause(self, kind: str, *parts: Part, names: tuple[str, ...] = (), axis: int = -1, public: str = "") -> Cause:
        """Return a cause of this output. axis: of which a public case is told; public: all that it is told."""
        names = (self.name, *names)
        if axis >= 0:
            public = filled(parts, names).replace("an axis", f"axis {axis}", 1)
        return Cause(kind, parts, names, public)

    def same(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Equal up to rounding, entry by entry."""
        if a.shape != b.shape:
            return False
        if a.size == 0:
            return True
        worst, scale = np.abs(a - b).max(), np.abs(b).max()
        return bool(worst <= self.tol * scale < np.inf)

    @property
    def wrong(self) -> np.ndarray:
        """Where it is wrong, as booleans."""
        return wrong_entries(self.expected, self.got, self.allowed)

    def spread(self, x: np.ndarray) -> np.ndarray | None:
        """Return x broadcast to the output's shape; None if it does not fit or has the same value everywhere."""
        if x.ndim > self.expected.ndim or x.size < 2 or float(np.ptp(x)) == 0.0:
            return None
        try:
            return np.broadcast_to(x, self.expected.shape)
        except ValueError:
            return None

    def inputs(self) -> Iterator[tuple[str, np.ndarray]]:
        """The inputs that are real numbers, in float64, with what they are called."""
        for name, x in self.case.arrays.items():
            if x.dtype.kind == "f" and np.isfinite(x).all():
                yield called(name), x.astype(np.float64)

    def others(self) -> Iterator[tuple[str, np.ndarray]]:
        """The other right outputs that are arrays of real numbers, in float64."""
        for name, x in self.reference.items():
            if isinstance(x, np.ndarray) and x.dtype.kind == "f" and np.isfinite(x).all():
                shown = self.case.shown.get(name, name)
                if shown != self.name:
                    yield shown, x.astype(np.float64)


def wrong_entries(expected: np.ndarray, got: np.ndarray, tol: float) -> np.ndarray:
    """Where two arrays of one shape differ by more than the pass rule allows."""
    if expected.dtype.kind != "f":
        return np.asarray(expected != got)
    finite = np.isfinite(expected)
    allowed = allowance(expected, tol) if tol > 0.0 else 0.0
    close = np.abs(got.astype(np.float64) - expected.astype(np.float64)) <= allowed
    return np.asarray(~np.where(finite, close, (got == expected) | (np.isnan(got) & np.isnan(expected))))
