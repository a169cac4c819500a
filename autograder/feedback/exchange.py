"""What the process that explains reads and answers: one problem's failures (see `grading.packed`), their diagnoses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autograder.feedback.reasons import MAP_CELLS, Diagnosis, Picture, hints
from autograder.feedback.words import Cause, Part
from autograder.grading.check import Failure, Raised, Result, Verdict
from autograder.grading.packed import TEXTS
from autograder.homeworks.case import from_data
from autograder.sandbox.frames import DTYPES, FrameError, encode


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
    case = from_data(one["case"])
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
