"""Find out which files of a submission can be imported, and why the others cannot.

A file that cannot be imported has no function to call, so the problems of that file get no points. This is said once,
and not as an exception of every problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autograder.feedback.words import KNOWN_ERRORS, hidden_text, raised
from autograder.grading.check import Raised
from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import stubs
from autograder.sandbox.session import Session
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


def load(
    session: Session, homework: Homework, sources: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Unloaded]]:
    """Import the submission in a worker.

    Returns the sources, with the stub instead of each file that cannot be imported; and what went wrong by module,
    under "" if no file could be blamed.
    """
    blank = stubs(homework)
    by_module = {f.module: blank[f.stub] for f in homework.files}
    names = {f.module: f.stub for f in homework.files}
    sources = dict(sources)
    broken: dict[str, Unloaded] = {}
    while (failure := session.probe(sources)) is not None:
        left = [m for m in sources if m not in broken and sources[m] != by_module[m]]
        named = [m for m in left if names[m] == failure.file]
        guilty = named or [m for m in left if session.probe({**by_module, m: sources[m]}) is not None]
        if not guilty:
            return sources, {**broken, "": Unloaded("", failure)}
        for m in guilty:
            broken[m] = Unloaded(names[m], failure, *absent(failure, sources[m]))
            sources[m] = by_module[m]
    return sources, broken


def absent(failure: Raised, source: str) -> tuple[str, int]:
    """Return the package that an import needs and the grader lacks, and its line; ("", 0) if that is not the reason.

    Both are read in the text: the first import outside functions and ``try``. A worker's message may say anything.
    """
    if failure.error != "ModuleNotFoundError":
        return "", 0
    found = [(line, name) for name, line, inside in imported(source) if not inside and name not in AVAILABLE]
    line, name = min(found, default=(0, ""))
    return ascii(name[:40])[1:-1], line
