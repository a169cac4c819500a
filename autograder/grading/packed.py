"""What leaves the process that decides: a verdict as plain values, and its failures for the process that explains.

Each fits into one frame, whatever a submission returned. An array of another shape than the right one goes without its
values if it is large; of a case that does not fit, only the kind of its failures is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from autograder.grading.check import Raised, Verdict
from autograder.homeworks.case import Case, as_data
from autograder.sandbox.frames import NAMES, FrameError, encode

CASES = 8  # so many are compared with known mistakes: the failing ones first, and of them the smallest
SEARCHED = 1 << 16  # entries of an array of another shape whose values are looked at
MOST_BYTES = 16 * 1024 * 1024  # of one problem's cases
MOST_INPUT = 4 * 1024 * 1024  # bytes of one input; a case with a larger one goes without it and without its driver
MOST_LISTED = 100  # entries of a list or a dictionary that came
LONGEST = 200  # characters of a text that came
TEXTS = (1000, 100)  # characters of a sentence for public cases; fewer if not all of them fit into a frame


def told(failure: Raised) -> list[Any]:
    """Return as plain values what a worker told of an exception, cut."""
    return [failure.kind, failure.error[:LONGEST], failure.message[: TEXTS[0]], failure.file[:LONGEST], failure.line]


def plain(verdict: Verdict, longest: int) -> dict[str, Any]:
    """Return a verdict as plain values, without what a submission returned. longest: of a reason in it."""
    values = {name: getattr(verdict, name) for name in ("passed", "credit", "right", "bound", "share", "not_run")}
    names = {"inputs": sorted(verdict.inputs), "outputs": sorted(verdict.outputs)}
    return {**values, **names, "failures": listed(verdict, longest)}


def listed(verdict: Verdict, longest: int) -> list[list[str]]:
    """Return the failures without values, their reasons cut."""
    return [[f.case, f.aspect, f.output, f.kind, f.reason[:longest], f.key] for f in verdict.failures]


def size_of(x: Any) -> int:
    """Return the bytes of an output: those of an array, or of a frame."""
    return x.nbytes if isinstance(x, np.ndarray) else len(encode(x))


def size(case: Case) -> int:
    """Return the number of entries of a case's inputs."""
    return sum(map(np.size, case.arrays.values()))


def nbytes(x: Any) -> int:
    """Return about how many bytes a value takes."""
    if isinstance(x, Mapping):
        x = list(x.values())
    return sum(map(nbytes, x)) if isinstance(x, (list, tuple)) else getattr(x, "nbytes", 0) + 64


def packed(homework: str, verdict: Verdict) -> bytes:
    """Return the failures of a problem as a frame. Raises FrameError if a problem does not fit into one."""
    cases = list(_chosen(verdict))
    fixed = {"homework": homework, "problem": verdict.problem, "failures": listed(verdict, TEXTS[0])}
    while True:
        message = {**fixed, "cases": cases}
        try:
            return encode({"id": 0, "explain": message})
        except FrameError:
            if not cases:
                raise
            cases = cases[: len(cases) // 2]


def _chosen(verdict: Verdict) -> Iterator[dict[str, Any]]:
    """Yield the cases that fit: those that are wrong, then some others, the smallest first."""
    wrong = {f.case for f in verdict.failures}
    total = 0
    others = 0
    for case, right, got in sorted(verdict.results, key=lambda r: (r[0].name not in wrong, size(r[0]))):
        others += case.name not in wrong
        if others > CASES:
            break
        arrays = {name: x for name, x in case.arrays.items() if x.nbytes <= MOST_INPUT}
        driver = case.driver if len(arrays) == len(case.arrays) else ""
        one: dict[str, Any] = {"case": as_data(replace(case, arrays=arrays, driver=driver)), "right": dict(right)}
        if isinstance(got, Raised):
            one["raised"] = told(got)
        else:
            one["got"] = {name: _output(got[name], right.get(name)) for name in case.checks if name in got}
        total += nbytes([arrays, right, one.get("got", {})])
        if total <= MOST_BYTES:
            yield one


def _output(x: Any, right: Any) -> dict[str, Any]:
    """Return an output that came: its value, or the shape and type of an array that is too large to be searched."""
    if isinstance(x, np.ndarray) and not _of_a_size(x, right):
        return {"shape": list(x.shape), "dtype": NAMES.get(x.dtype.newbyteorder("<"), "f8")}
    return {"value": _cut(x, right)}


def _of_a_size(x: np.ndarray, right: Any) -> bool:
    most = right.size if isinstance(right, np.ndarray) else 0
    return x.size <= max(SEARCHED, most)


def _cut(x: Any, right: Any, depth: int = 0) -> Any:
    """Return a value with its texts and lists shortened; None for what lies too deep or is too large."""
    if isinstance(x, str):
        return x[:LONGEST]
    if isinstance(x, np.ndarray):
        return x if _of_a_size(x, right) else None
    if depth > 4:
        return None
    if isinstance(x, (list, tuple)):
        pairs = list(right) if isinstance(right, (list, tuple)) else []
        pairs += [None] * (len(x) - len(pairs))
        return [_cut(v, r, depth + 1) for v, r in zip(x[: max(MOST_LISTED, len(pairs))], pairs, strict=False)]
    if isinstance(x, Mapping):
        rights = right if isinstance(right, Mapping) else {}
        return {str(k)[:LONGEST]: _cut(v, rights.get(k), depth + 1) for k, v in list(x.items())[:MOST_LISTED]}
    return x
