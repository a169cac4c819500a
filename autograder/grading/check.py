"""Compare outputs with the reference: the pass rule, aspects, and the score of a problem.

An array passes if it has the right shape and kind, if its entries are finite where the reference is and equal to it
where it is not, and if max |a - ref| ≤ tol · max |ref|, or below what rounding leaves of a zero. If the reference is
float32, tol is at least what two float32 programs may differ by. A NaN fails every comparison. Any other value must be
equal to the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework, Problem
from autograder.sandbox.frames import Opaque

Outputs = Mapping[str, Any]

FLOAT32 = 1e-5  # the least tolerance for a float32 reference
ROUNDING = {8: 1e-12, 4: 1e-7, 2: 1e-3}  # by bytes of a number: an absolute error that is no mistake
LONGEST = 100  # characters of a value in a reason
NEARLY = 0.25  # an aspect that is wrong in at most this share of its cases counts half


@dataclass(frozen=True)
class Failure:
    """One wrong output of one case. reason: a sentence that shows no value of a hidden case."""

    case: str
    aspect: str
    output: str
    kind: str  # raised, missing, type, shape, dtype, finite, value, timeout, crash
    reason: str
    expected: Any = None
    got: Any = None
    key: str = ""  # the output's own name, where ``output`` is what it is called in feedback


@dataclass(frozen=True)
class Raised:
    """A call without outputs: it raised, ran out of time or crashed. line: of the student's file, or 0."""

    kind: str  # raised, timeout, crash
    error: str
    message: str = ""
    file: str = ""
    line: int = 0


Result = tuple[Case, Outputs, Outputs | Raised]  # a case, the reference, what came
Run = Callable[[Mapping[str, str], Sequence[tuple[Case, Outputs]], Sequence[str]], list[Outputs | Raised]]
OWN, SUPPLIED = "own", "supplied"  # whose prerequisites


@dataclass
class Verdict:
    """A problem graded: which aspects passed, what failed, the share of its points, and what that was judged from.

    credit: what each aspect counts: 1 if it passed, 1/2 if few of its cases are wrong, else 0; an aspect without
    evidence that much of ``right``.
    right: the mean credit of the aspects with evidence. bound: those without. not_run: why no case was run, "" if they
    were. inputs, outputs: the names in its cases. frame: the failures for the process that explains them; b"" if
    ``results`` are at hand.
    """

    problem: str
    passed: dict[str, bool] = field(default_factory=dict)
    credit: dict[str, float] = field(default_factory=dict)
    right: float = 0.0
    bound: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    share: float = 0.0
    results: list[Result] = field(default_factory=list)
    not_run: str = ""
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    frame: bytes = b""


def compare(case: Case, output: str, expected: Any, got: Any) -> tuple[str, str] | None:
    """Return None if ``got`` is right, else (kind, reason)."""
    if expected is None:
        return None if got is None else ("value", f"expected None, got {described(got)}")
    if isinstance(expected, np.ndarray):
        return compare_arrays(expected, got, case.tol, output in case.exact)
    if isinstance(expected, float):
        number = isinstance(got, (int, float)) and not isinstance(got, bool)
        if isinstance(got, np.ndarray) and got.size == 1 and got.dtype.kind in "fiu":
            number, got = True, float(got.reshape(()))
        if not number:
            return "type", f"expected a number, got {described(got)}"
        close = got == expected or abs(got - expected) <= max(case.tol * abs(expected), ROUNDING[8])
        return None if close or (expected != expected and got != got) else ("value", "the number is not right")
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(expected):
            return "type", f"expected {described(expected)}, got {described(got)}"
        for i, (e, g) in enumerate(zip(expected, got, strict=True)):
            wrong = compare(case, output, e, g)
            if wrong is not None:
                return wrong[0], f"entry {i}: {wrong[1]}"
        return None
    return None if identical(expected, got) else ("value", f"expected {shown(expected)}, got {shown(got)}")


def identical(a: Any, b: Any) -> bool:
    """Return whether two values of a frame are equal, of one type and, if they hold arrays, to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    return bool(a == b)


@np.errstate(all="ignore")
def compare_arrays(expected: np.ndarray, got: Any, tol: float, exact: bool) -> tuple[str, str] | None:
    """Return None if the arrays agree, else (kind, reason)."""
    if isinstance(got, (int, float)) and not isinstance(got, bool) and expected.shape == ():
        got = np.asarray(got, expected.dtype) if expected.dtype.kind == "f" else np.asarray(got)
    if not isinstance(got, np.ndarray):
        return "type", f"expected an array of shape {expected.shape}, got {described(got)}"
    if got.shape != expected.shape:
        return "shape", f"expected shape {expected.shape}, got {got.shape}"
    floating = expected.dtype.kind == "f"
    if (got.dtype.kind == "f") != floating or (not floating and got.dtype.kind not in "iub"):
        return "dtype", f"expected {expected.dtype}, got {got.dtype}"
    if not floating or exact:
        same = np.array_equal(got, expected, equal_nan=floating)
        return None if same else ("value", "the entries must be equal exactly")
    if expected.dtype.itemsize < got.dtype.itemsize:
        return "dtype", f"expected {expected.dtype}: {got.dtype} came, something was promoted on the way"
    finite = np.isfinite(expected)
    if not np.isfinite(got[finite]).all():
        return "finite", "some entries are NaN or infinite"
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True):
        return "value", "entries that must be infinite are not, or not in the same way"
    if not finite.any():
        return None
    e, g = expected[finite].astype(np.float64), got[finite].astype(np.float64)
    worst = float(np.abs(g - e).max())
    return None if worst <= allowance(expected, tol) else ("value", "the entries are not right")


def allowance(expected: np.ndarray, tol: float) -> float:
    """Return the largest absolute error that passes, for a reference of floating-point numbers."""
    finite = np.isfinite(expected)
    scale = float(np.abs(expected[finite].astype(np.float64)).max()) if finite.any() else 0.0
    size = expected.dtype.itemsize
    return max((tol if size >= 8 else max(tol, FLOAT32)) * scale, ROUNDING.get(size, ROUNDING[8]))


def shown(x: Any) -> str:
    """Return a short text of a value: a name or a number itself, anything else by what it is."""
    return repr(x)[:LONGEST] if isinstance(x, (str, int, float)) else described(x)


def described(x: Any) -> str:
    """Return what a value is, in a few words, without its numbers."""
    if isinstance(x, np.ndarray):
        return f"an array of shape {x.shape}"
    if isinstance(x, (list, tuple)):
        return f"{len(x)} values"
    if isinstance(x, Opaque):
        return x.type
    return "None" if x is None else f"{type(x).__name__}"


def judge(problem: Problem, results: Sequence[Result]) -> Verdict:
    """Return the verdict of a problem from (case, reference, result) of every case.

    An aspect passes if every output that counts for it is right in every case. It counts half if it is wrong in at most
    a quarter of its cases, and of those with evidence: an edge that was not thought of. An output is evidence if it is
    not a fact (see `facts`). An aspect without evidence counts only as much as the others do on average, because a
    program that does nothing leaves the inputs untouched too.
    """
    verdict = Verdict(problem.id, results=list(results))
    verdict.inputs = frozenset(name for case, _, _ in results for name in (*case.arrays, *case.params))
    verdict.outputs = frozenset(c.shown.get(name, name) for c, right, _ in results for name in (*c.checks, *right))
    cases: dict[str, set[str]] = {}
    evident: dict[str, set[str]] = {}
    wrong_cases: dict[str, set[str]] = {}
    for case, reference, got in results:
        for output, aspect in case.checks.items():
            verdict.passed.setdefault(aspect, True)
            cases.setdefault(aspect, set()).add(case.name)
            if output not in case.facts:
                evident.setdefault(aspect, set()).add(case.name)
            name = case.shown.get(output, output)
            if isinstance(got, Raised):
                text = f"{got.error}: {got.message}" if got.message else got.error
                wrong: tuple[str, str] | None = (got.kind, text)
            elif output not in got:
                wrong = ("missing", "the call returned nothing of that name")
            else:
                wrong = compare(case, output, reference[output], got[output])
            if wrong is not None:
                verdict.passed[aspect] = False
                wrong_cases.setdefault(aspect, set()).add(case.name)
                came = None if isinstance(got, Raised) else got.get(output)
                expected = reference.get(output)
                verdict.failures.append(Failure(case.name, aspect, name, *wrong, expected, came, output))
    for aspect, ok in verdict.passed.items():
        wrong_in, own = wrong_cases.get(aspect, set()), evident.get(aspect, set())
        few = len(wrong_in) <= NEARLY * len(cases[aspect]) and len(wrong_in & own) <= NEARLY * len(own)
        verdict.credit[aspect] = 1.0 if ok else 0.5 if few else 0.0
    if evident:
        verdict.right = sum(verdict.credit[aspect] for aspect in evident) / len(evident)
    verdict.bound = [aspect for aspect in verdict.credit if aspect not in evident]
    for aspect in verdict.bound:
        verdict.credit[aspect] *= verdict.right
    if verdict.credit:
        verdict.share = sum(verdict.credit.values()) / len(verdict.credit)
    return verdict


def graded(
    homework: Homework,
    problem: Problem,
    sources: Mapping[str, str],
    given: Sequence[tuple[Case, Outputs]],
    run: Run,
    attempts: Sequence[str] = (OWN, SUPPLIED),
) -> Verdict:
    """The verdict on one problem from its cases and the references.

    The problem is graded with the sources as they are, and with its prerequisites out of the library: the better
    counts, so that one mistake is not punished twice. The second attempt is made where the first falls short.

    Args:
        homework: its problem's homework.
        problem: what is graded.
        sources: the submission, by module.
        given: cases, each with what is right.
        run: returns what each case returns with some modules and targets that the library computes.
        attempts: in their order; a handout's library has nothing to supply.
    """

    def attempt(supplied: Sequence[str]) -> Verdict:
        came = run(sources, given, supplied)
        return judge(problem, [(case, right, got) for (case, right), got in zip(given, came, strict=True)])

    supplied = sorted(map(str, homework.supplied(problem)))
    made: dict[str, Verdict] = {}
    for name in attempts if supplied else (OWN,):
        made[name] = attempt(supplied if name == SUPPLIED else ())
        if made[name].share >= 1.0:
            return made[name]
    # As good: then what is wrong is its own, unless its backward reads what its own forward saved, and now raises.
    return max(made.values(), key=lambda v: (v.share, -raises(v), v is made.get(SUPPLIED)))


def raises(verdict: Verdict) -> int:
    """The number of cases that raised something."""
    return sum(isinstance(got, Raised) for _, _, got in verdict.results)
