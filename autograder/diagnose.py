"""Why is an output wrong? The cause, where it can be recognized, in at most two sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autograder.check import Failure, Outputs, Raised, Result, Verdict
from autograder.homework import Homework
from autograder.inside import library_with, run_case
from autograder.mutants import Mutant, mutants, mutated

CASES = 4  # of the failing cases, the smallest so many are tried with the known mistakes


@dataclass(frozen=True)
class Diagnosis:
    """A failure explained.

    cause: its category, "" where none was recognized. text: what is said of a public case, at most two sentences;
    hidden: what is said of a hidden one, which holds nothing that was drawn. details: "worst" (an index), "expected",
    "got", "wrong", "of".
    """

    failure: Failure
    cause: str
    text: str
    hidden: str
    details: Mapping[str, Any] = field(default_factory=dict)


def diagnose(homework: Homework, verdict: Verdict, known: bool = True) -> list[Diagnosis]:
    """A diagnosis for each failure of a verdict. known False: without comparing with the mutants' outputs."""
    hints = known_mistakes(homework, verdict) if known else {}
    found = []
    for f in verdict.failures:
        hint = hints.get((f.case, f.key), "")
        found.append(Diagnosis(f, "known mistake" if hint else "", f"{f.reason}. {hint}", f"{f.kind}. {hint}"))
    return found


def known_mistakes(homework: Homework, verdict: Verdict) -> dict[tuple[str, str], str]:
    """By (case, output), the hint of the mutant whose output is the same.

    Of several that fit, the one that explains the most of what is wrong.
    """
    wrong: dict[str, list[str]] = {}
    for f in verdict.failures:
        wrong.setdefault(f.case, []).append(f.key)
    results = {case.name: (case, right, got) for case, right, got in verdict.results if case.name in wrong}
    chosen = sorted(results.values(), key=lambda r: sum(x.size for x in r[0].arrays.values()))[:CASES]
    explained: list[tuple[Mutant, set[tuple[str, str]]]] = []
    for m in mutants(homework.name):
        if verdict.problem in (m.problem, *m.also):
            explained.append((m, explains(m, homework.name, chosen, wrong)))
    explained.sort(key=lambda pair: -len(pair[1]))
    hints: dict[tuple[str, str], str] = {}
    for m, places in explained:
        for place in places:
            hints.setdefault(place, m.hint)
    return hints


def explains(
    mutant: Mutant, homework: str, results: list[Result], wrong: Mapping[str, list[str]]
) -> set[tuple[str, str]]:
    """The (case, output) among the wrong ones where the mutant gives what came."""
    library = library_with(mutated(mutant))
    found: set[tuple[str, str]] = set()
    for case, _, got in results:
        if isinstance(got, Raised) and got.error == "NotImplementedError":
            continue
        its = run_case(library, homework, case)
        if isinstance(got, Raised) or isinstance(its, Raised):
            if isinstance(got, Raised) and isinstance(its, Raised) and got.message == its.message:
                found.update((case.name, output) for output in wrong[case.name])
            continue
        found.update((case.name, output) for output in wrong[case.name] if same(its, got, output))
    return found


def same(a: Outputs, b: Outputs, output: str) -> bool:
    """Whether two sets of outputs agree in this one, to the rounding of its type."""
    return output in a and output in b and alike(a[output], b[output])


def alike(a: Any, b: Any) -> bool:
    """Whether two outputs are the same up to rounding."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        a, b = np.asarray(a), np.asarray(b)
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b) and bool(a == b)
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return False
    if not finite.any():
        return True
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    tol = 1e-9 if min(a.dtype.itemsize, b.dtype.itemsize) == 8 else 1e-5
    return bool(np.abs(x - y).max() <= tol * np.abs(x).max())
