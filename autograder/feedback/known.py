"""Recognize known mistakes: run the mutants of a homework on the cases, and compare their outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from autograder.feedback.words import NOT_WRITTEN, QUESTION, question, sentence
from autograder.grading.check import Outputs, Raised, Result, Verdict, identical
from autograder.grading.library import Library, Patched
from autograder.grading.packed import CASES, nbytes, size
from autograder.grading.reference import library_with, run_case
from autograder.homeworks.case import Case
from autograder.homeworks.mutant import Mutant, mutants, mutated
from autograder.sandbox.frames import encode

PATIENCE = 2.0  # seconds of processor time that a mutant may take for a case: who is slower is not asked
MOST_KEPT = 64 * 1024 * 1024  # bytes of mutants' outputs, for the next submission


def known_mistakes(homework: str, verdict: Verdict, without: Collection[str] = ()) -> dict[tuple[str, str], str]:
    """Return, by (case, output), for what is wrong, the hint of a mutant that explains it.

    A hint is given if the mutant's outputs are what came wherever it was tried: in all that is wrong, and in all that
    is right. If only some of what is wrong fits, or nothing but yes and no, the hint is a question. A mutant that is
    wrong where the student is right gives none.

    Args:
        homework: its name.
        verdict: the problem's.
        without: ids of mutants that are not known.
    """
    wrong: dict[str, set[str]] = {}
    for f in verdict.failures:
        wrong.setdefault(f.case, set()).add(f.key)
    chosen = sorted(filter(is_written, verdict.results), key=lambda r: (r[0].name not in wrong, size(r[0])))[:CASES]
    found: list[tuple[str, Places]] = []
    if any(case.name in wrong for case, _, _ in chosen):
        for m in mutants(homework):
            if verdict.problem in (m.problem, *m.also) and not m.equivalent and m.id not in without:
                fits, misses, evidence = compared(m, homework, chosen, wrong)
                if evidence and not misses:
                    found.append((sentence(m.hint), fits))
                elif len(fits) > len(misses):
                    found.append((question(m.hint), fits))
    found.sort(key=lambda pair: (pair[0].startswith(QUESTION), -len(pair[1])))
    hints: dict[tuple[str, str], str] = {}
    for hint, places in found:
        for place in places:
            hints.setdefault(place, hint)
    tried = {case.name for case, _, _ in chosen}
    for f in verdict.failures:  # the same output of a case that was not tried
        same = {hints.get((case, f.key), "") for case in tried if f.key in wrong.get(case, ())}
        if f.case not in tried and len(same) == 1 and (hint := same.pop()):
            hints[f.case, f.key] = hint
    return hints


Places = set[tuple[str, str]]  # cases and outputs


def compared(
    mutant: Mutant, homework: str, results: list[Result], wrong: Mapping[str, set[str]]
) -> tuple[Places, Places, bool]:
    """Return where what is wrong is what the mutant gives, where it is not, and whether what fits is evidence.

    Nothing fits if the mutant is wrong where the student is right.
    """
    fits: Places = set()
    misses: Places = set()
    evidence = False
    for case, _, got in results:
        bad = wrong.get(case.name, set())
        its = mutant_outputs(mutant, homework, case, _digest(homework, case))
        if isinstance(got, Raised) or isinstance(its, Raised):
            same = isinstance(got, Raised) and isinstance(its, Raised) and same_exception(its, got)
            if not same and not bad:
                return set(), set(), False
            (fits if same else misses).update((case.name, key) for key in bad)
            evidence = evidence or same
            continue
        for key in case.checks:
            same = (key in its) == (key in got) and (key not in its or alike(its[key], got[key], 0.1 * case.tol))
            if key in bad:
                (fits if same else misses).add((case.name, key))
                evidence = evidence or (same and is_evidence(got.get(key)))
            elif not same:
                return set(), set(), False
    return fits, misses, evidence


def is_evidence(x: Any) -> bool:
    """Return whether another mistake can hardly give the same: not for yes and no, None, and the name of an error."""
    if isinstance(x, np.ndarray):
        return x.size > 1 and x.dtype.kind == "f" and bool(x.any())
    return (isinstance(x, float) and x not in (0.0, 1.0)) or (isinstance(x, (list, tuple)) and len(x) > 1)


def is_written(result: Result) -> bool:
    """Return whether a call came to an end, other than by what a stub raises, and can be made again."""
    case, _, got = result
    if not case.driver:  # its inputs were too large to be sent
        return False
    return not isinstance(got, Raised) or (got.kind == "raised" and got.error != NOT_WRITTEN)


@lru_cache(maxsize=1024)
def _mutant_library(mutant: Mutant) -> Library | Patched:
    return library_with(mutated(mutant))


_outputs: dict[tuple[str, bytes], tuple[Outputs | Raised, int]] = {}  # the oldest first, each with its bytes


def mutant_outputs(mutant: Mutant, homework: str, case: Case, digest: bytes) -> Outputs | Raised:
    """Return what a mutant returns for a case, computed once for all submissions that are graded on it."""
    key = (mutant.id, digest)
    if key not in _outputs:
        its = run_case(_mutant_library(mutant), homework, replace(case, seconds=min(case.seconds, PATIENCE)))
        _outputs[key] = its, nbytes(its)
        kept = sum(size for _, size in _outputs.values())
        while kept > MOST_KEPT:
            kept -= _outputs.pop(next(iter(_outputs)))[1]
        return its
    return _outputs[key][0]


def _digest(homework: str, case: Case) -> bytes:
    asked = [homework, case.driver, dict(case.arrays), dict(case.params), dict(case.layouts)]
    return hashlib.blake2b(encode(asked)).digest()


def same_exception(a: Raised, b: Raised) -> bool:
    """Return whether two calls failed in the same way."""
    return (a.kind, a.error) == (b.kind, b.error) and (a.kind != "raised" or a.message == b.message)


def alike(a: Any, b: Any, tol: float) -> bool:
    """Return whether two outputs are the same up to rounding."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(alike(x, y, tol) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        a, b = np.asarray(a), np.asarray(b)
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return identical(a, b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return False
    if not finite.any():
        return True
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    return bool(np.abs(x - y).max() <= tol * np.abs(x).max())
