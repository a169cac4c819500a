"""Write Gradescope's results.json: valid from the first second, and rewritten atomically after every problem.

not_run(homework)       before anything ran: every problem with no points
results(graded)         what is known by now
write(path, document)   checked, then renamed to its place, so that nobody sees half of it
validate(path)          what is wrong with any results.json
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from autograder.feedback.reasons import Diagnosis, reasons
from autograder.grading.check import Verdict
from autograder.grading.grade import Graded
from autograder.homeworks.homework import Homework, Problem
from minipeft.files.atomic import atomic_path

OUTPUT_LIMIT = 4000  # characters of one text of ours
FORMATS = ("text", "html", "simple_format", "md", "ansi")
VISIBILITY = ("hidden", "after_due_date", "after_published", "visible")
TRUNCATED = 100_000  # characters after which Gradescope cuts a text
FILE_LIMIT = 1024 * 1024  # bytes
SETTINGS = {  # of every results.json: students see their tests and nothing that was printed
    **dict.fromkeys(("output_format", "test_output_format", "test_name_format"), "text"),
    "visibility": "visible",
    "stdout_visibility": "hidden",
}
NOT_RUN = "not run"
FAILED_TEXT = (
    "The grader failed on this submission. This costs no points and no attempt: the course staff is told and will "
    "grade it again."
)
FULL, PART, NONE = "full", "part", "none"
MARKS = {FULL: "ok  ", PART: "half", NONE: "FAIL"}  # of an aspect
PLACES = 3  # so many places are listed for one reason


def clean(text: str, limit: int = OUTPUT_LIMIT) -> str:
    """Return text without control characters (except \n, \t), direction marks and half surrogates, cut at a limit."""
    text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8")
    kept = "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else "�" for c in text
    )
    if len(kept) <= limit:
        return kept
    note = f"\n... {len(kept) - limit} characters left out ..."
    return kept[: limit - len(note)] + note


def points(x: float) -> float:
    """Return points as they are written, with two decimals."""
    return round(float(x), 2) + 0.0


def earned(problem: Problem, verdict: Verdict | None) -> float:
    """Return the points of a problem, rounded; never all of them if something is wrong."""
    if verdict is None:
        return 0.0
    most = points(problem.points)
    got = points(problem.points * verdict.share)
    return got if verdict.share >= 1.0 else max(0.0, min(got, points(most - 0.01)))


def not_run(homework: Homework, why: str = NOT_RUN) -> dict[str, Any]:
    """Return the results before anything ran: no points, every problem "not run"."""
    return document(homework, why, {})


def refused(homework: Homework, why: str) -> dict[str, Any]:
    """Return the results of a refused submission: no points, and no attempt used."""
    text = f"{why}\nNothing was graded, and this does not count as an attempt."
    return document(homework, text, {"attempt": False})


def failed_results() -> dict[str, Any]:
    """Return the results of a submission on which the grader failed: no points yet, and no attempt used."""
    return {**SETTINGS, "score": 0.0, "output": FAILED_TEXT, "tests": [], "extra_data": {"attempt": False}}


def results(graded: Graded, *, hidden: bool = True, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the results so far. hidden: the cases are secret, so only the category of a mistake is named."""
    homework = graded.homework
    lines = notes(graded, hidden)
    if graded.remarks:
        lines.append("Worth a look (no points depend on it):")
        lines += [f"  {r.file}, line {r.line}: {r.text}" for r in graded.remarks]
    information = {"attempt": True, "layers": dict(graded.layers), **(extra or {})}
    told = {p: explanation(v, graded.words.get(p, ()), hidden) for p, v in graded.verdicts.items()}
    made = document(homework, "\n".join(lines), information, graded.verdicts, told)
    made["execution_time"] = round(graded.seconds, 3)
    return made


def notes(graded: Graded, hidden: bool) -> list[str]:
    """Return what is said of a submission as a whole, such as files that are missing or cannot be imported."""
    return [*graded.notes, *(one.text(hidden) for one in graded.unloaded)]


def document(
    homework: Homework,
    output: str,
    extra: Mapping[str, Any],
    verdicts: Mapping[str, Verdict] | None = None,
    said: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a results.json with one test for each problem, in order; a problem without a verdict is "not run"."""
    tests = [_test(p, (verdicts or {}).get(p.id), (said or {}).get(p.id, NOT_RUN)) for p in homework.problems]
    return {
        **SETTINGS,
        "score": points(sum(t["score"] for t in tests)),
        "output": clean(output),
        "tests": tests,
        "extra_data": {"homework": homework.name, **extra},
    }


def _test(problem: Problem, verdict: Verdict | None, said: str) -> dict[str, Any]:
    return {
        "number": problem.id,
        "name": clean(f"{problem.id} {problem.title}", 200),
        "score": earned(problem, verdict),
        "max_score": points(problem.points),
        "status": "passed" if verdict is not None and verdict.share == 1.0 else "failed",
        "output": clean(said),
    }


def explanation(verdict: Verdict, found: Sequence[Diagnosis], hidden: bool) -> str:
    """Return the text about a problem: its aspects, and why some failed."""
    if verdict.share == 1.0:
        return "All right."
    if verdict.not_run:
        return verdict.not_run
    lines = [f"{MARKS[state]}  {text}" for state, text in aspects(verdict)]
    return "\n".join([*lines, "", *said(verdict, found, hidden)]).rstrip()


def aspects(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the state of each aspect, and its name with what it counts if that is less than it seems."""
    found = []
    for aspect, credit in verdict.credit.items():
        seems, text = credit, aspect
        if aspect in verdict.bound and verdict.right < 1.0 and (credit > 0.0 or verdict.passed[aspect]):
            seems = credit / verdict.right if verdict.right else 1.0
            rest = f"the other parts of this problem count {verdict.right:.0%}"
            text = f"{aspect} (counts {credit:.0%}, because {rest})".replace("%", " %")
        found.append((state(seems, 1.0), text))
    return found


def state(got: float, most: float) -> str:
    """Return whether this is all, some or none of ``most``."""
    return FULL if got >= most else PART if got > 0 else NONE


def said(verdict: Verdict, found: Sequence[Diagnosis], hidden: bool) -> Iterator[str]:
    """Yield why points are lost: each reason once, after the aspects where it was seen."""
    for reason in reasons(verdict, found, hidden):
        if hidden:
            yield f"{', '.join(reason.aspects)}: {reason.text}"
            continue
        yield reason.text
        yield from (f"    {place}" for place in reason.places[:PLACES])
        if len(reason.places) > PLACES:
            yield f"    and {len(reason.places) - PLACES} more"


def write(path: str | Path, made: Mapping[str, Any]) -> None:
    """Write the results atomically. Raises ValueError, and writes nothing, if they are not valid."""
    wrong = [c for c in complaints(made) if c.error]
    if wrong:
        raise ValueError(f"these are no results: {wrong[0].text}")
    data = json.dumps(made, allow_nan=False, indent=1).encode()
    with atomic_path(path) as part:
        part.write_bytes(data)


@dataclass(frozen=True)
class Complaint:
    """Something about a results.json. error: it breaks the contract; otherwise Gradescope takes it, and ignores it."""

    text: str
    error: bool = True


def validate(path: str | Path) -> list[Complaint]:
    """Return what is wrong with the results.json at ``path``. Raises OSError if there is none."""
    data = Path(path).read_bytes()
    if len(data) > FILE_LIMIT:
        return [Complaint(f"the file has {len(data)} bytes: at most {FILE_LIMIT}")]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return [Complaint(f"the file is not UTF-8: {error.reason} at byte {error.start}")]
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [k for k, _ in found]
        twice.extend(sorted({n for n in names if names.count(n) > 1}))
        return dict(found)

    def constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON")

    try:
        made = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        return [Complaint(f"the file is no JSON: {error}")]
    return [*(Complaint(f"the key {name!r} comes twice") for name in twice), *complaints(made)]


_NUMBER = (int, float)
TOP: dict[str, Any] = {
    "score": _NUMBER,
    "tests": list,
    "execution_time": _NUMBER,
    "output": str,
    "output_format": FORMATS,
    "test_output_format": FORMATS,
    "test_name_format": FORMATS,
    "visibility": VISIBILITY,
    "stdout_visibility": VISIBILITY,
    "extra_data": dict,
    "leaderboard": list,
}
TEST: dict[str, Any] = {
    "score": _NUMBER,
    "max_score": _NUMBER,
    "status": ("passed", "failed"),
    "name": str,
    "name_format": FORMATS,
    "number": str,
    "output": str,
    "output_format": FORMATS,
    "tags": list,
    "visibility": VISIBILITY,
    "extra_data": dict,
}
ENTRY: dict[str, Any] = {"name": str, "value": (int, float, str), "order": ("asc", "desc")}


def complaints(made: Any) -> Iterator[Complaint]:
    """Yield what is wrong with results that were read or made."""
    if not isinstance(made, Mapping):
        yield Complaint(f"expected an object, got {type(made).__name__}")
        return
    yield from _fields("", made, TOP)
    tests = made.get("tests", [])
    tests = tests if isinstance(tests, list) else []
    if not _is_number(made.get("score")) and not any(isinstance(t, Mapping) and "score" in t for t in tests):
        yield Complaint('neither "score" nor a test with a "score"')
    if _is_number(made.get("execution_time")) and made["execution_time"] < 0:
        yield Complaint("execution_time is negative")
    numbers: list[str] = []
    for i, test in enumerate(tests):
        where = f"tests[{i}]"
        if not isinstance(test, Mapping):
            yield Complaint(f"{where}: expected an object, got {type(test).__name__}")
            continue
        yield from _fields(f"{where}.", test, TEST)
        score, most = test.get("score"), test.get("max_score")
        if _is_number(most) and most < 0:
            yield Complaint(f"{where}.max_score is negative")
        if _is_number(score) and score < 0:
            yield Complaint(f"{where}.score is negative", error=False)
        if _is_number(score) and _is_number(most) and score > most:
            yield Complaint(f"{where}.score is {score}, above max_score {most}: extra credit?", error=False)
        if not all(isinstance(tag, str) for tag in _list(test.get("tags"))):
            yield Complaint(f"{where}.tags: expected strings")
        if isinstance(test.get("number"), str):
            numbers.append(test["number"])
        if test.get("visibility") not in (None, "visible"):
            yield Complaint(f"{where} is not visible: then students do not see their total either", error=False)
    for number in sorted({n for n in numbers if numbers.count(n) > 1}):
        yield Complaint(f"the number {number!r} comes twice")
    scores = [t["score"] for t in tests if isinstance(t, Mapping) and _is_number(t.get("score"))]
    if _is_number(made.get("score")) and scores and abs(sum(scores) - made["score"]) > 0.005 * (len(scores) + 1):
        yield Complaint(f"score is {made['score']}, the tests add up to {sum(scores):g}: score counts", error=False)
    for i, entry in enumerate(_list(made.get("leaderboard"))):
        if not isinstance(entry, Mapping) or "name" not in entry or "value" not in entry:
            yield Complaint(f'leaderboard[{i}]: expected an object with "name" and "value"')
        else:
            yield from _fields(f"leaderboard[{i}].", entry, ENTRY)
    yield from _values("", made)


def _list(x: Any) -> list[Any]:
    return x if isinstance(x, list) else []


def _is_number(x: Any) -> TypeGuard[float]:
    return isinstance(x, _NUMBER) and not isinstance(x, bool) and math.isfinite(x)


def _fields(where: str, found: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Complaint]:
    for name, value in found.items():
        rule = known.get(name)
        if rule is None:
            yield Complaint(f"{where}{name}: Gradescope knows no such key", error=False)
        elif isinstance(rule, tuple) and isinstance(rule[0], str):
            if value not in rule:
                yield Complaint(f"{where}{name}: expected one of {', '.join(rule)}, got {str(value)[:40]!r}")
        elif not isinstance(value, rule) or isinstance(value, bool):
            names = " or ".join(t.__name__ for t in (rule if isinstance(rule, tuple) else (rule,)))
            yield Complaint(f"{where}{name}: expected {names}, got {type(value).__name__}")


def _values(where: str, x: Any) -> Iterator[Complaint]:
    """Yield complaints about numbers that are not finite and texts that are long or harmful, at any depth."""
    if isinstance(x, float) and not math.isfinite(x):
        yield Complaint(f"{where} is {x}: JSON has no such number")
    elif isinstance(x, str):
        if len(x) > TRUNCATED:
            yield Complaint(f"{where} has {len(x)} characters: Gradescope cuts it at {TRUNCATED}")
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", x):
            yield Complaint(f"{where} has control characters")
        if any(0xD800 <= ord(c) < 0xE000 for c in x):
            yield Complaint(f"{where} has half a surrogate pair")
    elif isinstance(x, Mapping):
        for name, value in x.items():
            yield from _values(f"{where}.{name}" if where else str(name), value)
    elif isinstance(x, list):
        for i, value in enumerate(x):
            yield from _values(f"{where}[{i}]", value)
