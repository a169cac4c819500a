"""Keep the grades of a class in a folder.

    OUT/graded.jsonl              a line that names the homework; then one for each finished submission
    OUT/students/ID/              results.json and report.html, as the student may see them
    OUT/staff/ID.html             the same with everything told
    OUT/staff/ID.txt              why the grader failed on this submission, if it did
    OUT/grades.csv, index.html    the class, written at the end

Only files that were written here are ever removed: those of submissions that have a line.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autograder.course.export import ClassError
from autograder.feedback.results import clean, points, write
from autograder.homeworks.homework import Homework
from minipeft.files.atomic import atomic_path, remove_all_abandoned

LOG, SEED, TABLE, INDEX = "graded.jsonl", "seed", "grades.csv", "index.html"
GRADED, REFUSED, FAILED = "graded", "refused", "failed"  # failed: the grader, not the student
LONGEST, MOST = 1000, 4000  # characters of a text that is kept, and entries of a list
FORMULA = re.compile(r'(^|[;,|"])(\s*)(?=[=+\-@＝＋－＠﹦﹢﹣−])')


class Book:
    """The grades in a folder. Only one process may write."""

    def __init__(self, out: Path):
        self.out = out
        self.log = out / LOG
        self.records: dict[str, dict[str, Any]] = {}
        self.homeworks: set[str] = set()  # of all lines; "" for grades that do not say
        self._ends_well = True
        if self.log.is_file():
            text = self.log.read_text("utf-8")
            self._ends_well = not text or text.endswith("\n")
            for line in text.splitlines():
                try:
                    record = json.loads(line)
                    self.homeworks.add(record.get("homework", ""))
                    if "id" in record:
                        self.records[record["id"]] = record
                except (ValueError, AttributeError, TypeError, RecursionError):
                    continue  # the line that was being written when it ended

    def begin(self, homework: Homework) -> None:
        """Write the homework's name into a new folder, before anything else is written there."""
        if not self.homeworks:
            write_text(self.log, json.dumps({"homework": homework.name}) + "\n")
            self._ends_well = True

    def check(self, homework: Homework, resume: bool) -> None:
        """Raise ClassError if grades would be lost, or if the folder has files of other origin."""
        if not self.log.is_file():
            taken = [name for name in ("students", "staff", TABLE, INDEX) if (self.out / name).exists()]
            if taken:
                raise ClassError(
                    f"{self.out} has {' and '.join(taken)}, but no {LOG}: these are not grades of grade-all. "
                    "Choose another --out"
                )
            return
        other = sorted(self.homeworks - {homework.name})
        if other:
            held = " and ".join(filter(None, other)) or "an older version, which do not name their homework"
            raise ClassError(
                f"{self.out} holds grades of {held}; asked for was {homework.name}. Choose another --out "
                f"(--seed-file {self.out / SEED} keeps the cases), or --fresh forgets these grades"
            )
        if not resume:
            raise ClassError(
                f"{self.out} holds grades of {homework.name} already: --resume goes on with them, --fresh forgets them"
            )

    def files(self, name: str) -> list[Path]:
        """Return the paths of a submission's files."""
        student = self.out / "students" / name
        staff = self.out / "staff"
        return [student / "results.json", student / "report.html", staff / f"{name}.html", staff / f"{name}.txt"]

    def has(self, name: str, key: dict[str, Any]) -> bool:
        """Return whether a submission was graded with this key and its files exist."""
        record = self.records.get(name)
        if record is None or record.get("status") == FAILED or any(record.get(k) != value for k, value in key.items()):
            return False
        return all(path.is_file() for path in self.files(name)[:-1])

    def keep(self, done: dict[str, Any], key: dict[str, Any]) -> None:
        """Save a finished submission: first its files, then its line."""
        record = {**bounded(done["record"]), **key}
        results, student, staff, failure = self.files(record["id"])
        write(results, done["results"])
        write_text(student, done["report"])
        write_text(staff, done["staff"])
        if done["failure"]:
            write_text(failure, done["failure"])
        else:
            failure.unlink(missing_ok=True)
        line = json.dumps(record, sort_keys=True) + "\n"
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line if self._ends_well else "\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._ends_well = True
        self.records[record["id"]] = record

    def drop(self, names: Iterable[str]) -> None:
        """Remove the files of these submissions, and their folders if nothing else is in them."""
        for name in names:
            for path in self.files(name):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is gone, or someone keeps other files there
                (self.out / "students" / name).rmdir()

    def forget(self) -> None:
        """Remove everything that was written here."""
        self.drop(self.records)
        for name in (SEED, TABLE, INDEX, LOG):
            (self.out / name).unlink(missing_ok=True)
        for name in ("students", "staff"):
            with contextlib.suppress(OSError):
                (self.out / name).rmdir()

    def stale(self, current: Iterable[str]) -> list[str]:
        """Return the submissions that have files here and are no longer handed in."""
        present = {name.casefold() for name in current}  # some file systems take anna and Anna for one
        gone = (name for name in self.records if name.casefold() not in present)
        return sorted(name for name in gone if any(path.exists() for path in self.files(name)))


def tidy(out: Path) -> None:
    """Remove files that a killed grade-all left half written."""
    for folder in (out, out / "staff", *(out / "students").glob("*")):
        remove_all_abandoned(folder)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file atomically."""
    with atomic_path(path, mode) as part:
        part.write_bytes(text.encode("utf-8", "replace"))


def bounded(value: Any) -> Any:
    """Return a record with its texts cut and cleaned and its lists cut, so that no submission decides its size."""
    if isinstance(value, str):
        return clean(value[: 2 * LONGEST], LONGEST)
    if isinstance(value, (list, tuple)):
        return [bounded(item) for item in value[:MOST]]
    return {name: bounded(item) for name, item in value.items()} if isinstance(value, dict) else value


def table(homework: Homework, records: Sequence[dict[str, Any]]) -> str:
    """Return grades.csv: a row for each student of each submission, in the order of the ids.

    The text begins with a byte order mark: without it Excel reads UTF-8 as another encoding. No cell is a formula.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    problems = [p.id for p in homework.problems]
    writer.writerow(["id", "name", "sid", "email", "file", "status", "score", "of", *problems, "note"])
    for r in sorted(records, key=lambda r: r["id"]):
        got = [r["score"], *(r["problems"].get(p, 0.0) for p in problems)]
        total, *scores = ["" if r["status"] == FAILED else f"{score:g}" for score in got]
        for student in r["students"]:
            whose = [r["id"], student["name"], student["sid"], student["email"], r["file"]]
            row = [*whose, r["status"], total, f"{points(homework.points):g}", *scores, r["note"]]
            writer.writerow([harmless(str(cell)) for cell in row])
    return "\N{ZERO WIDTH NO-BREAK SPACE}" + text.getvalue()


def harmless(cell: str) -> str:
    """Return a cell as one line that no spreadsheet takes for a formula.

    An apostrophe is put in front of each sign that begins a formula: at the start, and after every character that
    separates cells in some country's settings.
    """
    cell = " ".join(clean(cell).split())
    return cell if re.fullmatch(r"-?[0-9.]+", cell) else FORMULA.sub(r"\1\2'", cell)
