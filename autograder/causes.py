"""What is wrong with an output, seen from its numbers alone: a factor, a transpose, a missing sum, a region.

Each function looks for one family of causes and returns what it found, the surest first. A cause is named only where
the numbers say so in every entry, up to rounding; what is a guess is worded as a question.

The arrays come from a submission and may hold anything. Three rules keep every function from raising: products that are
divided are computed by `multiple`, which scales first; numbers that are divided or raised to powers are NumPy's, not
Python's, so that an overflow is inf; and `Wrong.same` and `near` reject whatever is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, islice, permutations
from typing import Any

import numpy as np

from autograder.cases import Case
from autograder.check import allowance

BATCH = "over the batch"
LARGEST = np.finfo(np.float64).max


@dataclass(frozen=True)
class Cause:
    """A cause: its category, a sentence for a public case, and the same without sizes, values or indices."""

    kind: str
    text: str
    hidden: str


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


def called(name: str) -> str:
    """What an input is called: cotangents by their role."""
    return f"the cotangent {name}" if name.startswith("d") and len(name) < 4 else name


def wrong_entries(expected: np.ndarray, got: np.ndarray, tol: float) -> np.ndarray:
    """Where two arrays of one shape differ by more than the pass rule allows."""
    if expected.dtype.kind != "f":
        return np.asarray(expected != got)
    finite = np.isfinite(expected)
    allowed = allowance(expected, tol) if tol > 0.0 else 0.0
    close = np.abs(got.astype(np.float64) - expected.astype(np.float64)) <= allowed
    return np.asarray(~np.where(finite, close, (got == expected) | (np.isnan(got) & np.isnan(expected))))


def nothing(w: Wrong) -> Cause | None:
    """All zero, or all False."""
    if w.expected.any() and not w.got.any():
        word = "False" if w.got.dtype.kind == "b" else "zero"
        return Cause("zero", f"{w.name} is {word} everywhere.", f"{w.name} is {word} everywhere.")
    return None


def complement(w: Wrong) -> Cause | None:
    """Booleans the other way round."""
    if w.expected.dtype.kind == "b" and w.got.dtype.kind == "b" and np.array_equal(w.got, ~w.expected):
        text = f"{w.name} is True where it must be False, and the other way round."
        return Cause("complement", text, text)
    return None


def unchanged(w: Wrong) -> Cause | None:
    """It is an input (the cotangent, say) or another of the right outputs."""
    for name, x in w.inputs():
        if w.same(w.got, x) and np.ptp(x) > 0:
            kind = "cotangent" if name.startswith("the cotangent") else "an input"
            text = f"{w.name} is {name}, unchanged."
            return Cause(kind, text, text)
    for name, x in w.others():
        if w.same(w.got, x) and np.ptp(x) > 0:
            text = f"{w.name} has the values that {name} must have."
            return Cause("another output", text, text)
    return None


def factor(w: Wrong) -> Cause | None:
    """A constant factor that has a name: -1, a parameter, a length, 2, their inverses and roots."""
    c = constant_factor(w)
    if c is None:
        return None
    if abs(c + 1) <= w.tol:
        text = f"{w.name} has the wrong sign everywhere."
        return Cause("sign", text, text)
    named = name_factor(c, w)
    if named is None:
        return None
    label, meaning, hidden = named
    return Cause("factor", f"{w.name} is {label} times what is expected: {meaning}.", f"{w.name} is off by {hidden}.")


def unnamed_factor(w: Wrong) -> Cause | None:
    """A constant factor without a name."""
    c = constant_factor(w)
    if c is None or w.expected.size < 3:
        return None
    return Cause(
        "factor",
        f"{w.name} is {c:.6g} times what is expected in every entry.",
        f"{w.name} is off by a constant factor.",
    )


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


def name_factor(c: float, w: Wrong) -> tuple[str, str, str] | None:
    """What the factor c may be: a label, what it means, and the words for a hidden case."""
    found: list[tuple[str, str, str]] = []

    def near(value: float) -> bool:
        return abs(c - value) <= max(w.tol, 1e-9) * abs(value) < np.inf

    given: dict[str, Any] = {
        n: v for n, v in w.case.params.items() if isinstance(v, (int, float)) and not isinstance(v, bool)
    }
    given.update({n: x for n, x in w.case.arrays.items() if x.shape == () and x.dtype.kind in "fi"})
    numbers = {n: np.float64(v) for n, v in given.items() if 0.0 < abs(v) <= LARGEST and abs(v) != 1.0}
    for n, v in numbers.items():
        is_ = f" ({n} = {v:.6g})"
        for value, label, meaning in (
            (1 / v, f"1/{n}", f"the factor {n} is missing{is_}"),
            (v, n, f"the factor {n} is there once too often{is_}"),
            (1 / v**2, f"1/{n}²", f"the factor {n}² is missing, or it divides where it should multiply{is_}"),
            (v**2, f"{n}²", f"the factor {n}² is too much, or it multiplies where it should divide{is_}"),
            (abs(v) ** -0.5, f"1/√{n}", f"a factor √{n} is missing{is_}"),
            (abs(v) ** 0.5, f"√{n}", f"a factor √{n} is too much{is_}"),
        ):
            if near(value):
                found.append((label, meaning, f"the constant factor {label}"))
    for (n, v), (m, u) in permutations(numbers.items(), 2):
        if near(v / u):
            found.append((f"{n}/{m}", f"{n} = {v:.6g}, {m} = {u:.6g}", f"the constant factor {n}/{m}"))
    if near(2.0):
        found.append(("2", "something is counted twice", "a factor of 2: something is counted twice"))
    if near(0.5):
        found.append(("1/2", "a factor of 2 is missing", "a factor of 1/2"))
    if not found or c in (2.0, 0.5):
        found += list(lengths(near, w))[:1]
    if not found:
        return None
    label = found[0][0]
    return label, ", or ".join(dict.fromkeys(f[1] for f in found[:2])), found[0][2]


def lengths(near: Callable[[float], bool], w: Wrong) -> Iterator[tuple[str, str, str]]:
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
    hidden = "a constant factor made of the length of an axis"
    for n, what in sizes.items():
        if n < 2:
            continue
        for value, label, meaning in (
            (1 / n, f"1/{n}", f"{n} is {what}; {mean}"),
            (float(n), f"{n}", f"{n} is {what}; {total}"),
            (n**-0.5, f"1/√{n}", f"{n} is {what}; divided by its root once too often?"),
            (n**0.5, f"√{n}", f"{n} is {what}; not divided by its root?"),
            (n / (n - 1), f"{n}/{n - 1}", f"{n} is {what}; divided by n - 1 in place of n"),
            ((n - 1) / n, f"{n - 1}/{n}", f"{n} is {what}; divided by n in place of n - 1"),
            (((n - 1) / n) ** 0.5, f"√({n - 1}/{n})", f"{n} is {what}; a variance divided by n - 1 in place of n"),
            ((n / (n - 1)) ** 0.5, f"√({n}/{n - 1})", f"{n} is {what}; a variance divided by n in place of n - 1"),
        ):
            if near(value):
                guess = {mean: f" ({mean})", total: f" ({total})"}.get(meaning.partition("; ")[2], "")
                yield label, meaning.rstrip("?"), hidden + guess


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
            text = f"{w.name} is the transpose of what is expected"
            return Cause("transpose", f"{text}{f' (axes {perm})' if e.ndim > 2 else ''}.", f"{text}.")
    for axis in axes:
        if w.same(g, np.flip(e, axis)):
            text = f"{w.name} is in reversed order along axis {axis}."
            return Cause("order", text, text)
        for shift in (1, -1):
            moved = np.roll(e, shift, axis)
            inner = [slice(None)] * e.ndim
            inner[axis] = slice(1, None) if shift == 1 else slice(None, -1)
            if e.shape[axis] > 2 and w.same(g[tuple(inner)], moved[tuple(inner)]):
                text = f"{w.name} is shifted by one along axis {axis}."
                return Cause("shift", text, text)
    if w.same(np.sort(g.ravel()), np.sort(e.ravel())) and e.size > 3 and e.dtype.kind != "b":
        text = f"{w.name} holds the right numbers in another order: a reshape where axes must be transposed?"
        return Cause("order", text, text)
    return None


def signs(w: Wrong) -> Cause | None:
    """Right but for the signs of some entries."""
    if w.expected.dtype.kind == "f" and w.expected.size > 2 and w.same(np.abs(w.got), np.abs(w.expected)):
        text = f"{w.name} has the right absolute values, and some of the signs are wrong."
        return Cause("sign", text, text)
    return None


def factor_of_an_input(w: Wrong) -> Cause | None:
    """Multiplied by an input once too often, or not at all; the same for division."""
    e, g = w.expected, w.got
    if e.size < 3:
        return None
    for name, x in w.inputs():
        if x.size < 2 or float(np.ptp(x)) == 0.0 or x.ndim > e.ndim:
            continue
        try:
            k = np.broadcast_to(x, e.shape)
        except ValueError:
            continue
        if w.same(g * k, e):
            text = f"{w.name} lacks the factor {name}."
        elif w.same(g, e * k):
            text = f"{w.name} has the factor {name} once too often."
        elif w.same(g * k * k, e):
            text = f"{w.name} is divided by {name} where it must be multiplied."
        elif w.same(g, e * k * k):
            text = f"{w.name} is multiplied by {name} where it must be divided."
        else:
            continue
        return Cause("factor of an input", text, text)
    return None


def term(w: Wrong) -> Cause | None:
    """A term that is missing or too much: the difference is a multiple of something that is known."""
    d = w.got - w.expected
    if d.size < 3 or not d.any() or not np.isfinite(d).all():
        return None
    known = [*w.inputs(), *w.others()]
    if w.expected.ndim >= 2 and min(w.expected.shape) > 1:  # a vector's transpose is itself
        known.append(("the transpose of what is expected", w.expected.T))
    for name, x in known:
        if x.ndim > d.ndim or x.size < 2 or float(np.ptp(x)) == 0.0:
            continue
        try:
            k = np.broadcast_to(x, d.shape)
        except ValueError:
            continue
        c = float(multiple(d, k))
        if not w_close(d, c * k, w):
            continue
        if abs(c + 1) < 1e-4:
            text = f"{w.name} lacks the term {name}."
        elif abs(c - 1) < 1e-4:
            text = f"{w.name} has the term {name} once too often."
        else:
            text = f"{w.name} differs from what is expected by a multiple of {name}."
        return Cause("term", text, text)
    if float(np.ptp(d)) <= 1e-3 * np.abs(d).max():
        text = f"{w.name} is off by the same amount in every entry."
        return Cause("term", text, text)
    for axis in range(d.ndim):
        if d.shape[axis] > 2 and float(np.ptp(d, axis=axis).max()) <= 1e-6 * np.abs(d).max() + rounding(w):
            text = f"{w.name} is off by an amount that is the same all along axis {axis}"
            return Cause("term along an axis", f"{text}: a sum or a mean over it is missing?", f"{text}.")
    return None


def rounding(w: Wrong) -> float:
    """How far apart two equal results may be for the rounding of their types."""
    size = min(w.expected.dtype.itemsize, w.got.dtype.itemsize)
    return (1e-12 if size == 8 else 1e-5) * float(np.abs(w.expected).max())


def w_close(a: np.ndarray, b: np.ndarray, w: Wrong) -> bool:
    """Equal relative to their own size, rounding of the larger arrays they came from allowed."""
    return bool(np.abs(a - b).max() <= 1e-6 * np.abs(a).max() + rounding(w) < np.inf)


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
        text = f"{w.name} is right up to rounding, and must be equal to the bit."
        return Cause("accuracy", text, text)
    about = f"{w.name} is right to about {max(1, int(-np.log10(error)))} digits"
    if half:
        return Cause("accuracy", f"{about}: its entries are float16 numbers.", f"{w.name} has float16's accuracy.")
    if single and w.got.dtype.itemsize == 8 and error < 1e-4:
        return Cause("accuracy", f"{about}: its entries are float32 numbers.", f"{w.name} has float32's accuracy.")
    shorter = "computed in float32?" if error < 1e-5 else "another ε, an approximation, or computed in float16?"
    return Cause("accuracy", f"{about}: {shorter}", f"{w.name} is nearly right: {shorter}")


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


def sums(w: Wrong) -> Cause | None:
    """Sums along an axis that are right along another, or that must be 0 and are not."""
    e, g = w.expected, w.got
    if e.dtype.kind != "f" or e.ndim < 1 or e.size < 4:
        return None

    def unit(x: np.ndarray) -> list[int]:
        return [a for a in range(x.ndim) if x.shape[a] > 1 and np.allclose(x.sum(axis=a), 1.0, rtol=0, atol=1e-5)]

    right, came = unit(e), unit(g)
    if right and came and right != came:
        text = f"{w.name} sums to 1 along axis {came[0]}; it must along axis {right[0]}."
        return Cause("axis", text, text)
    if right and right[0] not in came:
        text = f"{w.name} must sum to 1 along axis {right[0]}, and does not."
        return Cause("sum", text, text)
    scale = float(np.abs(e).max())
    for axis in range(e.ndim):
        if e.shape[axis] < 2 or np.abs(e.sum(axis=axis)).max() > 1e-9 * scale:
            continue
        if np.abs(g.sum(axis=axis)).max() > 1e-6 * scale:
            text = f"The right {w.name} sums to 0 along axis {axis}; this one does not, so a term is missing."
            return Cause("sum", text, text)
    return None


def factor_along_an_axis(w: Wrong) -> Cause | None:
    """A factor of its own for each row."""
    e, g = w.expected, w.got
    for axis in range(e.ndim):
        if e.shape[axis] < 3 or e.ndim < 2:
            continue
        if w.same(g, multiple(g, e, axis) * e) and g.any():
            text = f"{w.name} is off by a factor that is the same all along axis {axis} and differs between its slices."
            return Cause("factor along an axis", text, text)
    return None


def another_function(w: Wrong) -> Cause | None:
    """A known function of what is expected."""
    e, g = w.expected, w.got
    if e.size < 3:
        return None
    for what, value in (
        ("the square of what is expected", e * e),
        ("the square root of what is expected", np.sqrt(e)),
        ("the inverse of what is expected, entry by entry", 1.0 / e),
        ("the exponential of what is expected", np.exp(e)),
        ("the logarithm of what is expected", np.log(e)),
    ):
        if w.same(g, value):
            text = f"{w.name} is {what}."
            return Cause("another function", text, text)
    return None


FAMILIES: tuple[Callable[[Wrong], Cause | None], ...] = (
    nothing, complement, factor, unchanged, reordered, signs, factor_of_an_input, term, region, accuracy, sums,
    unnamed_factor, factor_along_an_axis, another_function,
)  # fmt: skip


EQUALS = {"cotangent", "an input", "another output"}
WHOLE = EQUALS | {"zero", "sign", "factor", "transpose", "order", "shift", "factor of an input", "term"}


def causes(w: Wrong) -> list[Cause]:
    """What the numbers say about a wrong array of the right shape, all finite where it must be: the surest first."""
    if w.expected.size == 0:
        return []
    if w.expected.dtype.kind == "f":
        if not np.isfinite(w.expected).all():
            return [c for f in (region, accuracy) if (c := f(w)) is not None]
        w = replace(w, expected=w.expected.astype(np.float64), got=w.got.astype(np.float64))
        families = (accuracy,) if w.same(w.got, w.expected) else FAMILIES
        found = list(islice(filter(None, (f(w) for f in families)), 2))
        whole = found and found[0].kind in WHOLE  # says all there is; what it equals besides may still be told
        return found[:1] if whole and found[1:] and found[1].kind not in EQUALS else found
    simple = [c for f in (nothing, complement) if (c := f(w)) is not None]
    real = replace(w, expected=w.expected.astype(np.float64), got=w.got.astype(np.float64))  # integers wrap around
    return simple or list(filter(None, (reordered(real), region(w))))


def not_finite(w: Wrong) -> list[Cause]:
    """Where NaN or infinite entries came."""
    bad = ~np.isfinite(w.got) & np.isfinite(w.expected)
    what = "NaN" if np.isnan(w.got[bad]).all() else "infinite" if np.isinf(w.got[bad]).all() else "NaN or infinite"
    if bad.all():
        text = f"{w.name} is {what} everywhere."
        return [Cause("not finite", text, text)]
    where = place(bad, w)
    if where is None:
        text = f"{w.name} is {what} in some entries."
        return [Cause("not finite", f"{w.name} is {what} in {int(bad.sum())} of {bad.size} entries.", text)]
    return [Cause("not finite", f"{w.name} is {what}, {where[0]}.", f"{w.name} is {what}, {where[1]}.")]


def wrong_shape(w: Wrong) -> list[Cause]:
    """Why the shape is another: a transpose, a missing or unwanted sum, an axis too many."""
    e, g = w.expected, w.got
    surely = g.dtype.kind in "fiu" and np.isfinite(g).all()
    if surely:
        e, g = e.astype(np.float64), g.astype(np.float64)  # integers wrap around

    def told(kind: str, text: str, public: str = "", guess: bool = False) -> list[Cause]:
        mark = "?" if guess else "."
        return [Cause(kind, f"{w.name} {text}{public}{mark}", f"{w.name} {text}{mark}")]

    if e.ndim == g.ndim and sorted(e.shape) == sorted(g.shape) and e.ndim <= 4:
        for perm in permutations(range(e.ndim)):
            if tuple(e.shape[p] for p in perm) == g.shape and surely and w.same(g, e.transpose(perm)):
                return told("transpose", "is the transpose of what is expected")
        return told("transpose", "has the shape of the transpose of what is expected")
    extra = g.ndim - e.ndim
    if extra >= 0 and surely and g.size and e.size:
        for k in range(1, g.ndim + 1):
            for axes in combinations(range(g.ndim), k):
                left = [n for axis, n in enumerate(g.shape) if axis not in axes]
                if [n for n in left if n > 1] != [n for n in e.shape if n > 1]:
                    continue
                if w.same(g.sum(axis=axes).reshape(e.shape), e):
                    which = ", ".join(map(str, axes))
                    text = f"is not summed over the axes along which the input was broadcast or {BATCH}"
                    return told("missing sum", text, f": axis {which} of what came")
    if not e.size or not g.size:
        return told("shape", "has a wrong shape")
    if g.size == e.size:
        return told("axis", "has the right number of entries in another shape: an axis too many, too few, or a reshape")
    if e.ndim > g.ndim and surely:
        for k in range(1, e.ndim + 1):
            for axes in combinations(range(e.ndim), k):
                for reduced, word in ((e.sum(axis=axes), "summed"), (e.mean(axis=axes), "averaged")):
                    if w.same(g, reduced):
                        return told("summed", f"is {word} over an axis that must stay", f", axis {axes[-1]}")
    for name, x in w.case.arrays.items():
        if x.shape == g.shape and x.ndim:
            return told("shape", f"has the shape of {name}", ", with something not summed" if g.size > e.size else "")
    if extra > 0 or (extra == 0 and all(a in (1, b) for a, b in zip(e.shape, g.shape))):
        return told("missing sum", f"has axes that must be summed: over a broadcast axis, or {BATCH}", guess=True)
    return told("shape", "has a wrong shape")
