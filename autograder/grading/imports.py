"""Say which files of a submission cannot be imported, and why.

A file that cannot be imported has no function to call, so the problems of that file get no points. This is said once,
and not as an exception of every problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autograder.feedback.words import KNOWN_ERRORS, hidden_text, raised
from autograder.grading.check import Raised
from autograder.homeworks.homework import Homework
from autograder.submission.lint import AVAILABLE, THERE, imported


@dataclass(frozen=True)
class Unloaded:
    """A file that cannot be imported.

    Args:
        stub: the file's name, "" if no file could be blamed.
        failure: what the import raised, as a worker told it.
        package: what the file imports and the grader does not have, if that is why; read in the file's text.
        line: of that import.
    """

    stub: str
    failure: Raised
    package: str = ""
    line: int = 0

    def text(self, hidden: bool) -> str:
        """Say why it cannot be imported and what that costs. hidden: without anything that a worker told."""
        if self.package:
            return (
                f"{self.stub}, line {self.line}: imports {self.package}, which the grader does not have. "
                f"So {self.stub} cannot be imported, and its problems get no points. {THERE}"
            )
        who = self.stub or "The submission"
        return f"{who} cannot be imported, so its problems get no points. {self._cause(hidden)}"

    def _cause(self, hidden: bool) -> str:
        if self.failure.kind == "timeout":
            return "Its import takes longer than it may."
        if self.failure.kind == "crash":
            return "Its import ends the process."
        cause = raised(self.failure)
        return hidden_text(cause.parts, cause.names, KNOWN_ERRORS) if hidden else cause.text


def unloaded(homework: Homework, sources: Mapping[str, str], failed: Mapping[str, Raised]) -> list[Unloaded]:
    """Return the files that cannot be imported, and why; see `decide.load`."""
    names = {f.module: f.stub for f in homework.files}
    found = [
        Unloaded(names[m], failure, *absent(failure, sources[m])) if m else Unloaded("", failure)
        for m, failure in failed.items()
    ]
    return list(dict.fromkeys(found))


def absent(failure: Raised, source: str) -> tuple[str, int]:
    """Return the package that an import needs and the grader lacks, and its line; ("", 0) if that is not the reason.

    Both are read in the text: the first import outside functions and ``try``. A worker's message may say anything.
    """
    if failure.error != "ModuleNotFoundError":
        return "", 0
    found = [(line, name) for name, line, inside in imported(source) if not inside and name not in AVAILABLE]
    line, name = min(found, default=(0, ""))
    return ascii(name[:40])[1:-1], line
