"""Recognize what is wrong with an output from its numbers: a factor, a transpose, a missing sum, a region.

Each function searches for one family of causes and returns what it found, the most certain first. A cause is named only
if every entry agrees with it, up to rounding. A guess is worded as a question.

The arrays come from a submission and may hold anything. Three rules keep every function from raising: products that are
divided are computed by `multiple`, which scales first; numbers that are divided or raised to powers are NumPy's, not
Python's, so that an overflow is inf; and `Wrong.same` and `near` reject whatever is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np

from autograder.feedback.causes.entries import accuracy, complement, nothing, reordered, signs, unchanged
from autograder.feedback.causes.factors import (
    another_function,
    factor,
    factor_along_an_axis,
    factor_of_an_input,
    unnamed_factor,
)
from autograder.feedback.causes.places import not_finite, region
from autograder.feedback.causes.shapes import wrong_shape
from autograder.feedback.causes.terms import sums, term
from autograder.feedback.causes.wrong import Wrong, wrong_entries
from autograder.feedback.words import Cause

__all__ = ["Wrong", "causes", "not_finite", "wrong_entries", "wrong_shape"]

FAMILIES: tuple[Callable[[Wrong], Cause | None], ...] = (
    nothing, complement, factor, unchanged, reordered, signs, factor_of_an_input, term, region, accuracy, sums,
    unnamed_factor, factor_along_an_axis, another_function,
)  # fmt: skip

EQUALS = {"cotangent", "an input", "another output"}


def causes(w: Wrong) -> list[Cause]:
    """Return the causes for a wrong array of the right shape, finite where it must be: the most certain first."""
    if w.expected.size == 0:
        return []
    if w.expected.dtype.kind == "f":
        if not np.isfinite(w.expected).all():
            return [c for f in (region, accuracy) if (c := f(w)) is not None]
        w = replace(w, expected=w.expected.astype(np.float64), got=w.got.astype(np.float64))
        families = (accuracy,) if w.same(w.got, w.expected) else FAMILIES
        found = list(islice(filter(None, (f(w) for f in families)), 2))
        return found if found[1:] and found[1].kind in EQUALS else found[:1]  # what it equals besides may be told
    simple = [c for f in (nothing, complement) if (c := f(w)) is not None]
    real = replace(w, expected=w.expected.astype(np.float64), got=w.got.astype(np.float64))  # integers wrap around
    return simple or list(filter(None, (reordered(real), region(w))))
