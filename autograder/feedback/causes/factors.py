"""Recognize a factor: a constant with or without a name, an input, one for each row; or another function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from autograder.feedback.causes.wrong import Wrong
from autograder.feedback.words import Cause, Part

OF_THE_CASE = {"at_most", "seed", "steps", "count", "memory"}  # numbers that no formula has
LARGEST = np.finfo(np.float64).max


def factor(w: Wrong) -> Cause | None:
    """A constant factor that has a name: -1, a parameter, a length, 2, their inverses and roots."""
    c = constant_factor(w)
    if c is None:
        return None
    if abs(c + 1) <= w.tol:
        return w.cause("sign", Part.SIGN)
    named = name_factor(c, w)
    if named is None:
        return None
    label, meaning, part, names = named
    return w.cause("factor", part, names=names, public=f"{w.name} is {label} times what is expected: {meaning}.")


def unnamed_factor(w: Wrong) -> Cause | None:
    """A constant factor without a name."""
    c = constant_factor(w)
    if c is None or w.expected.size < 3:
        return None
    return w.cause("factor", Part.FACTOR, public=f"{w.name} is {c:.6g} times what is expected in every entry.")


def constant_factor(w: Wrong) -> float | None:
    """c where got = c · expected in every entry."""
    e, g = w.expected.ravel(), w.got.ravel()
    if not e.any() or not g.any():
        return None
    c = float(multiple(g, e))
    return c if w.same(g, c * e) else None


def multiple(a: np.ndarray, b: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Return the c for which c·b is nearest to a in the least squares sense, 0 where b is 0.

    Both arrays are scaled by powers of two first: their squares neither overflow nor vanish.
    """
    (_, i), (_, j) = np.frexp(np.abs(a).max()), np.frexp(np.abs(b).max())
    a, b = np.ldexp(a, -i), np.ldexp(b, -j)
    square = (b * b).sum(axis=axis, keepdims=axis is not None)
    product = (a * b).sum(axis=axis, keepdims=axis is not None)
    return np.ldexp(np.divide(product, square, out=np.zeros_like(square), where=square > 0), i - j)


Named = tuple[str, str, Part, tuple[str, ...]]  # a label, what it means, the words for a hidden case and their names


def name_factor(c: float, w: Wrong) -> Named | None:
    """What the factor c may be."""
    found: list[Named] = []

    def near(value: float) -> bool:
        return abs(c - value) <= max(w.tol, 1e-9) * abs(value) < np.inf

    given: dict[str, Any] = {
        n: v
        for n, v in w.case.params.items()
        if isinstance(v, (int, float)) and not isinstance(v, bool) and n not in OF_THE_CASE
    }
    given.update({n: x for n, x in w.case.arrays.items() if x.shape == () and x.dtype.kind in "fi"})
    numbers = {n: np.float64(v) for n, v in given.items() if 0.0 < abs(v) <= LARGEST and abs(v) != 1.0}
    for n, v in numbers.items():
        is_ = f" ({n} = {v:.6g})"
        square, inverse = (
            "too much, or it multiplies where it should divide",
            "missing, or it divides where it should multiply",
        )
        for value, label, meaning, part in (
            (1 / v, f"1/{n}", f"the factor {n} is missing", Part.FACTOR_INVERSE),
            (v, n, f"the factor {n} is there once too often", Part.FACTOR_NAMED),
            (1 / v**2, f"1/{n}²", f"the factor {n}² is {inverse}", Part.FACTOR_INVERSE_SQUARE),
            (v**2, f"{n}²", f"the factor {n}² is {square}", Part.FACTOR_SQUARE),
            (abs(v) ** -0.5, f"1/√{n}", f"a factor √{n} is missing", Part.FACTOR_INVERSE_ROOT),
            (abs(v) ** 0.5, f"√{n}", f"a factor √{n} is too much", Part.FACTOR_ROOT),
        ):
            if near(value):
                found.append((label, meaning + is_, part, (n,)))
    if near(2.0):
        found.append(("2", "something is counted twice", Part.FACTOR_TWO, ()))
    if near(0.5):
        found.append(("1/2", "a factor of 2 is missing", Part.FACTOR_HALF, ()))
    if not found or c in (2.0, 0.5):
        found += list(lengths(near, w))[:1]
    if not found:
        return None
    label, _, part, names = found[0]
    return label, ", or ".join(dict.fromkeys(f[1] for f in found[:2])), part, names


def lengths(near: Callable[[float], bool], w: Wrong) -> Iterator[Named]:
    """Factors made of the length of an axis, or of the number of rows, of an input."""
    sizes: dict[int, str] = {}
    for name, x in w.case.arrays.items():
        for axis, n in enumerate(x.shape):
            sizes.setdefault(n, f"the length of axis {axis} of {name}")
        for k in range(2, x.ndim + 1):
            sizes.setdefault(int(np.prod(x.shape[:k])), f"the number of entries of the first {k} axes of {name}")
    for name, v in w.case.params.items():
        if isinstance(v, int) and not isinstance(v, bool) and v > 1:
            for n in [n for n in sizes if n % v == 0]:
                sizes.setdefault(n // v, f"{sizes[n]} divided by {name}")
    mean, total = "a mean where a sum belongs?", "a sum where a mean belongs?"
    guesses = {mean: Part.FACTOR_MEAN, total: Part.FACTOR_SUM}
    for n, what in sizes.items():
        if n < 2:
            continue
        for value, label, meaning in (
            (1 / n, f"1/{n}", f"{n} is {what}; {mean}"),
            (float(n), f"{n}", f"{n} is {what}; {total}"),
            (n**-0.5, f"1/√{n}", f"{n} is {what}; divided by its root once too often?"),
            (n**0.5, f"√{n}", f"{n} is {what}; not divided by its root?"),
            (n / (n - 1), f"{n}/{n - 1}", f"{n} is {what}; divided by n - 1 instead of n"),
            ((n - 1) / n, f"{n - 1}/{n}", f"{n} is {what}; divided by n instead of n - 1"),
            (((n - 1) / n) ** 0.5, f"√({n - 1}/{n})", f"{n} is {what}; a variance divided by n - 1 instead of n"),
            ((n / (n - 1)) ** 0.5, f"√({n}/{n - 1})", f"{n} is {what}; a variance divided by n instead of n - 1"),
        ):
            if near(value):
                part = guesses.get(meaning.partition("; ")[2], Part.FACTOR_LENGTH)
                yield label, meaning.rstrip("?"), part, ()


def factor_of_an_input(w: Wrong) -> Cause | None:
    """Multiplied by an input once too often, or not at all; the same for division."""
    e, g = w.expected, w.got
    if e.size < 3:
        return None
    for name, x in w.inputs():
        k = w.spread(x)
        if k is None:
            continue
        if w.same(g * k, e):
            part = Part.LACKS_FACTOR
        elif w.same(g, e * k):
            part = Part.FACTOR_TOO_OFTEN
        elif w.same(g * k * k, e):
            part = Part.DIVIDED
        elif w.same(g, e * k * k):
            part = Part.MULTIPLIED
        else:
            continue
        return w.cause("factor of an input", part, names=(name,))
    return None


def factor_along_an_axis(w: Wrong) -> Cause | None:
    """Return a cause if each row along an axis is off by its own factor."""
    e, g = w.expected, w.got
    for axis in range(e.ndim):
        if e.shape[axis] < 3 or e.ndim < 2:
            continue
        if w.same(g, multiple(g, e, axis) * e) and g.any():
            return w.cause("factor along an axis", Part.FACTOR_ALONG, axis=axis)
    return None


def another_function(w: Wrong) -> Cause | None:
    """A known function of what is expected."""
    e, g = w.expected, w.got
    if e.size < 3:
        return None
    for part, value in (
        (Part.SQUARE, e * e),
        (Part.ROOT, np.sqrt(e)),
        (Part.INVERSE, 1.0 / e),
        (Part.EXPONENTIAL, np.exp(e)),
        (Part.LOGARITHM, np.log(e)),
    ):
        if w.same(g, value):
            return w.cause("another function", part)
    return None
