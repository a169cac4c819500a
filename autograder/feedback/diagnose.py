"""Explain why an output is wrong, in at most two sentences, if the cause can be recognized.

For a public case a student reads everything: the cause with sizes and parameters, the worst entry, both values. For a
hidden case the sentence is chosen here and written by `words`. No explanation changes a score. If an explanation raises
an exception, the student reads that there is none, and `trouble` tells the staff what was raised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

import numpy as np

from autograder.feedback.causes import Wrong, causes, not_finite, wrong_entries, wrong_shape
from autograder.feedback.details import details, entries, picture
from autograder.feedback.fits import formula_hints
from autograder.feedback.known import known_mistakes
from autograder.feedback.reasons import Diagnosis
from autograder.feedback.words import QUESTION, Cause, Part, entry_of, raised
from autograder.grading.check import Failure, Outputs, Raised, Result, Verdict
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework

CALLS = {"none", "not none", "raised", "not written", "timeout", "crash", "memory", "written", "kept", "promoted"}
LOG = logging.getLogger("autograder")
T = TypeVar("T")


def attempt(what: str, work: Callable[[], T], otherwise: T) -> tuple[T, str]:
    """Return what `work` returns and "", or `otherwise` and what was raised, which is logged with its traceback.

    For explanations only: a submission may return anything, and its points must not depend on the words.
    """
    try:
        with np.errstate(all="ignore"):
            return work(), ""
    except Exception as error:
        LOG.exception("%s: no explanation", what)
        return otherwise, f"{type(error).__name__}: {error}"


def diagnose(
    homework: Homework, verdict: Verdict, known: bool = True, without: Collection[str] = ()
) -> list[Diagnosis]:
    """Return a diagnosis for each failure of a verdict.

    Args:
        homework: the homework.
        verdict: a problem's.
        known: compare with the mutants and with the formulas; otherwise only the numbers are looked at.
        without: ids of mutants that are taken for unknown.
    """
    return diagnoses(homework.name, verdict, known, without)


def diagnoses(homework: str, verdict: Verdict, known: bool = True, without: Collection[str] = ()) -> list[Diagnosis]:
    """Return the same for a homework's name."""
    what = f"{homework} {verdict.problem}"
    nothing: dict[tuple[str, str], str] = {}
    mutant, trouble = attempt(what, partial(known_mistakes, homework, verdict, without), nothing) if known else ({}, "")
    formula, more = attempt(what, partial(formula_hints, homework, verdict), nothing) if known else ({}, "")
    sure = {place: hint for place, hint in mutant.items() if not hint.startswith(QUESTION)}
    told = {**mutant, **formula, **sure}
    results = {result[0].name: result for result in verdict.results}
    found = []
    for f in verdict.failures:
        hint = told.get((f.case, f.key), "")
        work = partial(diagnosed, f, results.get(f.case), hint)
        d, raised_here = attempt(f"{what}, {f.case}: {f.output}", work, Diagnosis(f, hint=hint))
        found.append(Diagnosis(f, d.causes, d.hint, d.entries, d.picture, raised_here or trouble or more))
    return found


def diagnosed(f: Failure, result: Result | None, hint: str) -> Diagnosis:
    """Return the diagnosis of one failure."""
    if result is None:  # it was too large to be looked at
        return Diagnosis(f, hint=hint)
    case, right, got = result
    seen, found = explained(f, case, right, got), details(f, case)
    if hint and not hint.startswith(QUESTION):
        seen = [c for c in seen if c.kind in CALLS]  # what the numbers look like says less
    return Diagnosis(f, tuple(seen), hint, entries(f, found), picture(f, found, bool(seen or hint)))


@np.errstate(all="ignore")
def explained(f: Failure, case: Case, right: Outputs, got: Outputs | Raised) -> list[Cause]:
    """Return what can be said of a failure without the known mistakes: at most two causes."""
    if isinstance(got, Raised):
        return [raised(got, case.memory > 0)]
    e, g = f.expected, f.got
    if f.kind == "missing":
        return []
    if e is None or g is None:
        return [none_or_array(f)]
    if isinstance(e, (list, tuple)) and isinstance(g, (list, tuple)):
        return lists(f, case, right)
    if isinstance(e, float) and f.kind == "value":
        e, g = np.asarray(e), np.asarray(float(np.asarray(g).reshape(())))
    if not isinstance(e, np.ndarray) or not isinstance(g, np.ndarray):
        return []
    tol = max(case.tol, 1e-4 if min(e.dtype.itemsize, g.dtype.itemsize) < 8 and e.dtype.kind == "f" else 1e-6)
    w = Wrong(f.output, e, g, case, right, 0.0 if f.key in case.exact else case.tol, tol)
    if f.kind == "shape":
        return wrong_shape(w)
    if f.kind == "dtype":
        return [dtype(w)]
    if f.kind == "finite":
        return not_finite(w)
    return causes(w)


def none_or_array(f: Failure) -> Cause:
    """None where an array belongs, or the other way round."""
    gradient = f.key.startswith("d")
    if f.got is None:
        return Cause("none", (Part.NO_GRADIENT if gradient else Part.NO_RESULT,), (f.output,))
    return Cause("not none", (Part.GRADIENT_TOO_MUCH if gradient else Part.RESULT_TOO_MUCH,), (f.output,))


def dtype(w: Wrong) -> Cause:
    """Another type of numbers."""
    e, g = w.expected.dtype, w.got.dtype
    if e.kind == "f" and g.kind == "f":
        text = f"{w.name} is {g} where {e} must stay: a NumPy scalar, such as np.sqrt(n), promotes what it touches."
        return w.cause("promoted", Part.PROMOTED, public=text)
    return w.cause("dtype", Part.PLAIN_DTYPE, public=f"{w.name} is an array of {g}, expected {e}.")


def lists(f: Failure, case: Case, right: Outputs) -> list[Cause]:
    """Lists: of names, what is missing and what is too much; of arrays, what is wrong with the first that is."""
    e, g = list(f.expected), list(f.got)
    if all(isinstance(x, str) for x in [*e, *g]):
        more, less = [x for x in g if x not in e], [x for x in e if x not in g]
        if f.key == "changed" and more:
            return [Cause("written", (Part.WRITES,), public=f"The call writes into {', '.join(more)}.")]
        if f.key == "kept" and more:
            text = f"{', '.join(more)} is kept for the backward, though no gradient that is wanted uses it."
            return [Cause("kept", (Part.KEEPS,), public=text)]
        if not more and not less and len(e) != len(g):
            text = f"{f.output} has {len(g)} entries, expected {len(e)}."
            return [Cause("list", (Part.OTHER_LIST,), (f.output,), text)]
        parts = [f"without {', '.join(less)}"] * bool(less) + [f"with {', '.join(more)} too much"] * bool(more)
        text = f"{f.output} comes {' and '.join(parts) if parts else 'in another order'}."
        return [Cause("list", (Part.OTHER_LIST,), (f.output,), text)]
    for i, (x, y) in enumerate(zip(e, g)):
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
            w = Wrong(entry_of(f.output), x, y, case, right, case.tol, max(case.tol, 1e-6))
            alike = x.shape == y.shape
            if alike and (x.dtype.kind != y.dtype.kind or not wrong_entries(x, y, case.tol).any()):
                continue
            name = f"entry {i} of {f.output}"
            found = causes(w) if alike else wrong_shape(w)
            return [Cause(c.kind, c.parts, c.names, c.text.replace(w.name, name, 1)) for c in found]
    return []
