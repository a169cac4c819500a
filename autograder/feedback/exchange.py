"""What goes between the grader and the process that explains: one problem's failures there, their diagnoses back.

All of it fits into one frame, whatever a submission returned. An array of another shape than the right one goes without
its values if it is large; a case that does not fit is left out, and its failures are told by their kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autograder.feedback.reasons import MAP_CELLS, Diagnosis, Picture, hints
from autograder.feedback.words import Cause, Part
from autograder.grading.check import Failure, Raised, Result, Verdict
from autograder.homeworks.case import Case
from autograder.sandbox.frames import DTYPES, NAMES, FrameError, encode

CASES = 8  # so many are compared with known mistakes: the failing ones first, and of them the smallest
SEARCHED = 1 << 16  # entries of an array of another shape whose values are looked at
MOST_BYTES = 16 * 1024 * 1024  # of one problem's cases
MOST_INPUT = 4 * 1024 * 1024  # bytes of one input; a case with a larger one goes without it and without its driver
MOST_LISTED = 100  # entries of a list or a dictionary that came
LONGEST = 200  # characters of a text that came
TEXTS = (1000, 100)  # characters of a sentence for public cases; fewer if not all of them fit into a frame


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
    failures = [[f.case, f.aspect, f.output, f.kind, f.reason[: TEXTS[0]], f.key] for f in verdict.failures]
    cases = list(_chosen(verdict))
    while True:
        message = {"homework": homework, "problem": verdict.problem, "cases": cases, "failures": failures}
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
        one = {
            "name": case.name,
            "driver": case.driver if len(arrays) == len(case.arrays) else "",
            "arrays": arrays,
            "checks": dict(case.checks),
            "params": dict(case.params),
            "layouts": dict(case.layouts),
            "shown": dict(case.shown),
            "tol": case.tol,
            "exact": sorted(case.exact),
            "seconds": case.seconds,
            "memory": case.memory,
            "right": dict(right),
        }
        if isinstance(got, Raised):
            one["raised"] = [got.kind, got.error[:LONGEST], got.message[: TEXTS[0]], got.file[:LONGEST], got.line]
        else:
            one["got"] = {name: _output(got[name], right.get(name)) for name in case.checks if name in got}
        total += nbytes(one)
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


def unpacked(message: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a frame, as far as `diagnose` needs it."""
    results = [_result(one) for one in message["cases"]]
    by_name = {case.name: (right, got) for case, right, got in results}
    verdict = Verdict(message["problem"], results=results)
    for case, aspect, output, kind, reason, key in message["failures"]:
        right, got = by_name.get(case, ({}, {}))
        came = None if isinstance(got, Raised) else got.get(key)
        verdict.failures.append(Failure(case, aspect, output, kind, reason, right.get(key), came, key))
    return verdict


def _result(one: Mapping[str, Any]) -> Result:
    names = ("name", "driver", "arrays", "checks", "params", "layouts", "shown", "tol", "seconds", "memory")
    case = Case(**{name: one[name] for name in names}, exact=frozenset(one["exact"]))
    if "raised" in one:
        return case, one["right"], Raised(*one["raised"])
    return case, one["right"], {name: _came(x) for name, x in one["got"].items()}


def _came(x: Mapping[str, Any]) -> Any:
    if "value" in x:
        return x["value"]
    return np.broadcast_to(np.zeros((), DTYPES[x["dtype"]]), x["shape"])  # of that shape, without its memory


def answer(found: Sequence[Diagnosis]) -> bytes:
    """Return diagnoses as a frame."""
    for longest in TEXTS:
        listed = [
            {
                "causes": [[c.kind, [p.name for p in c.parts], list(c.names), c.text[:longest]] for c in d.causes],
                "hint": d.hint,
                "entries": d.entries[:longest],
                "picture": None if d.picture is None else [d.picture.errors, d.picture.caption[:longest]],
                "trouble": d.trouble[:longest],
            }
            for d in found
        ]
        try:
            return encode({"id": 0, "found": listed})
        except FrameError:
            pass
    return encode({"id": 0, "found": None})


def read(reply: Any, homework: str, verdict: Verdict) -> list[Diagnosis]:
    """Return the diagnoses of a reply. Raises ValueError if it is none: the sentences and the hints must be ours."""
    ours = hints(homework)
    try:
        listed = [_diagnosis(f, one, ours) for f, one in zip(verdict.failures, reply["found"], strict=True)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"expected a diagnosis for each failure, got {type(error).__name__}: {error}") from None
    return listed


def _diagnosis(f: Failure, one: Mapping[str, Any], ours: frozenset[str]) -> Diagnosis:
    causes = tuple(
        Cause(str(kind), tuple(Part[p] for p in parts), tuple(map(str, names)), str(text))
        for kind, parts, names, text in one["causes"][:2]
    )
    if one["hint"] and one["hint"] not in ours:
        raise ValueError("a hint that no known mistake has")
    picture = None
    if one["picture"] is not None:
        errors, caption = one["picture"]
        if errors.ndim != 2 or errors.dtype != np.float64 or max(errors.shape) > MAP_CELLS:
            raise ValueError(f"a map of shape {errors.shape}: at most {MAP_CELLS} squares a side")
        picture = Picture(errors, caption)
    return Diagnosis(f, causes, one["hint"], one["entries"], picture, one["trouble"])
