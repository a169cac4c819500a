"""What must hold of a results.json and of all that can be read after an attack."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

assert sys.platform == "linux"

from autograder.feedback.results import complaints
from autograder.selftest.attacks import LINE, MARK, Attack
from autograder.selftest.attacks.scene import Scene

NOTHING = 0.01  # the share of a homework's points that a program may have that computes nothing
CONTROLS = ("\x1b", "\u202e")
SHOWN = ("<script", "<b>", *CONTROLS)  # in no page


def look(attack: Attack, where: Scene, document: dict[str, Any], wrong: list[str]) -> None:
    """Check a results.json: it is valid, and the points are those that there may be."""
    wrong += [f"results.json: {c.text}" for c in complaints(document) if c.error]
    if not document["tests"]:
        wrong.append("the grader failed")
        return
    share = {t["number"]: t["score"] / t["max_score"] for t in document["tests"]}
    if attack.everywhere:
        if document["score"] > NOTHING * where.homework.points:
            wrong.append(f"{document['score']:g} of {where.homework.points:g} points for nothing")
        return
    if attack.hand_in is not None:
        return
    if where.place.problem not in share:
        wrong.append(f"it was not graded: {document['output'][:200]}")
        return
    if (had := share[where.place.problem]) > attack.most:
        wrong.append(f"the attacked part got {had:.2f} of its points")
    others, same = where.place.others, where.place.same_file
    beside = {"all": (*others, *same), "other files": others, "nothing": ()}[
        "nothing" if attack.stubs else attack.spares
    ]
    if lost := [p for p in beside if share[p] < 1.0]:
        wrong.append(f"other parts lost points: {', '.join(lost)}")


def read(texts: Sequence[str], where: Scene, wrong: list[str], student: bool = True) -> None:
    """Check what can be read. student: by the one who handed it in; staff read markup as text, but in a page."""
    pages = texts if student else [t for t in texts if t.lstrip().lower().startswith("<!doctype")]
    marks = dict.fromkeys(SHOWN, "markup") | {where.secret: "the seed"}
    if student:
        marks |= {MARK: "a text of the submission's", str(LINE): "a line of the submission's choice"}
    reader = "students" if student else "staff"
    for mark, what in marks.items():
        if any(mark in t for t in (pages if mark in SHOWN else texts)):
            wrong.append(f"{reader} read {what} ({mark!r})")
    if (most := max(map(len, texts))) > 1 << 20:
        wrong.append(f"{reader} read {most >> 10} KiB")
