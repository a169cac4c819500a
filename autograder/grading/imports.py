"""Find out which files of a submission can be imported, and why the others cannot.

A file that cannot be imported has no function to call, so the problems of that file get no points. This is said once,
and not as an exception of every problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autograder.feedback.diagnose import raised
from autograder.grading.check import Raised
from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import stubs
from autograder.sandbox.session import Session
from autograder.submission.lint import AVAILABLE, THERE, imported


@dataclass(frozen=True)
class Unloaded:
    """A file that cannot be imported.

    stub: the file's name, "" if no file could be blamed. failure: what the import raised. package: what the file
    imports and the grader does not have, if that is why.
    """

    stub: str
    failure: Raised
    package: str = ""

    def text(self, hidden: bool) -> str:
        """Say why it cannot be imported and what that costs. hidden: without the exception's message."""
        if self.package:
            return (
                f"{self.stub}, line {self.failure.line}: imports {self.package}, which the grader does not have. "
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
        return cause.hidden if hidden else cause.text


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
            broken[m] = Unloaded(names[m], failure, absent(failure, sources[m]))
            sources[m] = by_module[m]
    return sources, broken


def absent(failure: Raised, source: str) -> str:
    """Return the package that an import needs and the grader lacks; "" if the import failed for another reason.

    Only a package that the text itself imports in that line is named: an exception's message may say anything.
    """
    if failure.error != "ModuleNotFoundError":
        return ""
    return next((n for n, line, _ in imported(source) if line == failure.line and n not in AVAILABLE), "")
