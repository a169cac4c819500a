"""Grade one submission, whatever it is, and serve as the process that grades one submission after another.

grade_one(entry, rules)    a dictionary of plain values: record, results, report, staff, failure. It never raises.

`supervisor.py` starts the process and ends it at its limit. Requests and replies are lines of JSON on pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autograder.course.entries import Entry
from autograder.course.export import Student
from autograder.course.gradebook import FAILED, GRADED, REFUSED
from autograder.feedback import report
from autograder.feedback.explain import prints
from autograder.feedback.results import clean, failed_results, notes, refused, results
from autograder.grading import decide
from autograder.grading.grade import Graded, grade
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT, Homework
from autograder.sandbox.parent_limits import GRADESCOPE, LOCAL
from autograder.sandbox.session import Stalled
from autograder.submission.intake import IntakeError, take

DEADLINE = 300.0  # seconds for one submission
REASONS = 20  # kept for one problem
LONGEST = 20_000  # characters of a traceback
FIRST_TO_END = 300  # of 1000: how much rather than its parent a grader is ended when memory runs out
UNFINISHED = "Grading was stopped at its time limit: a problem that was not run until then has no points."


@dataclass(frozen=True)
class Rules:
    """Settings that are the same for all submissions.

    homework: its name or its folder.
    seed: of the cases.
    trust: True to leave programs unconfined.
    deadline: seconds by the clock for one submission, with its reports.
    gradescope: True to confine programs as on Gradescope, where the grader is in a closed folder.
    """

    homework: str
    seed: str
    trust: bool = False
    deadline: float = DEADLINE
    gradescope: bool = False


def grade_one(entry: Entry, rules: Rules, progress: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Grade a submission in this process. Never raises: a failure of the grader is a result too.

    progress: called after every problem with the result so far, and with "counts", see `Graded`.

    Returns {"record": …, "results": …, "report": …, "staff": …, "failure": why the grader failed, or ""}.
    """
    until = time.monotonic() + rules.deadline
    homework = load_homework(rules.homework)
    try:
        return _graded(entry, homework, rules, until, progress)
    except Stalled as error:
        return failed(entry, homework, str(error))
    except Exception:
        return failed(entry, homework, traceback.format_exc())


def _graded(
    entry: Entry,
    homework: Homework,
    rules: Rules,
    until: float,
    progress: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    try:
        submission = take(entry.path, homework)
    except IntakeError as error:
        text = clean(str(error))
        return result(entry, homework, refused(homework, text), status=REFUSED, score=0.0, note=text)

    def so_far(done: Graded) -> None:
        if progress is not None:
            made = results(done, hidden=True)
            made["output"] = clean(f"{UNFINISHED}\n{made['output']}".strip())
            progress({**result(entry, homework, made, **_record(done, made, UNFINISHED)), "counts": done.counts})

    closed = {"must": GRADESCOPE} if rules.gradescope else {"must": LOCAL, "private": (ROOT, entry.path.parent)}
    confinement = None if rules.trust else closed
    left = until - time.monotonic()
    done = grade(homework, submission, rules.seed, confinement=confinement, deadline=left, progress=so_far)
    made = results(done, hidden=True)
    if not rules.gradescope:
        made.pop("execution_time", None)  # the same grade has the same bytes
    record = _record(done, made, " ".join(notes(done, hidden=True)))
    told = {part.problem.id: [r.text for r in part.reasons[:REASONS]] for part in report.parts(done, True)}
    record["reasons"] = {problem: texts for problem, texts in told.items() if texts}
    record["prints"] = prints(homework, submission.sources)
    title = f"{homework.title}: {entry.name}"
    pages = {"report": report.html(done, True), "staff": report.html(done, False, title)}
    return {**result(entry, homework, made, **record), **pages}


def _record(done: Graded, made: dict[str, Any], note: str) -> dict[str, Any]:
    scores = {t["number"]: t["score"] for t in made["tests"]}
    facts = {"status": GRADED, "score": made["score"], "problems": scores, "layers": dict(done.layers)}
    return {**facts, "note": clean(note)}


def result(entry: Entry, homework: Homework, made: dict[str, Any], failure: str = "", **record: Any) -> dict[str, Any]:
    """Return what `grade_one` returns, with pages that show the results and no more."""
    whose = {"file": entry.file, "name": entry.name, "students": [asdict(s) for s in entry.students]}
    known = {"id": entry.id, "homework": homework.name, **whose, "problems": {}, "reasons": {}}
    return {
        "record": {**known, "layers": {}, "prints": [], **record},
        "results": made,
        "report": report.plain(homework.title, made),
        "staff": report.plain(f"{homework.title}: {entry.name}", made),
        "failure": failure[-LONGEST:],
    }


def failed(entry: Entry, homework: Homework, why: str) -> dict[str, Any]:
    """Return the result of a submission on which the grader failed. why: for staff only."""
    made = failed_results()
    return result(entry, homework, made, why, status=FAILED, score=None, note=made["output"])


def end_with(parent: int) -> None:
    """End this process, a grader, when its parent ends, however that happens.

    If memory runs out, the system ends this process or its workers rather than the parent.
    """
    with contextlib.suppress(OSError):  # only Linux has this file
        place = Path("/proc/self/oom_score_adj")
        place.write_text(str(min(int(place.read_text("ascii")) + FIRST_TO_END, 1000)), "ascii")
    decide.end_with(parent)


def main(parent: int) -> None:
    """Answer requests until standard input ends. What libraries print goes to standard error."""
    end_with(parent)
    with os.fdopen(os.dup(1), "wb", buffering=0) as replies:
        os.dup2(2, 1)

        def send(kind: str, done: dict[str, Any] | None = None) -> None:
            replies.write(json.dumps([kind, done]).encode() + b"\n")

        send("ready")
        for line in sys.stdin.buffer:
            folder, who, students, rules = json.loads(line)
            entry = Entry(who, Path(folder), tuple(Student(*s) for s in students))
            send("done", grade_one(entry, Rules(**rules), lambda done: send("so far", done)))
