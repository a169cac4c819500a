"""Make the zip to hand in, with exactly the homework's files, and list what is not written yet.

First the files are imported as the grader will import them: a file that cannot be imported would get no points.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autograder.grading.decide import load
from autograder.grading.imports import unloaded
from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import functions, handout
from autograder.sandbox.session import Session
from autograder.submission.intake import IntakeError, Submission, take
from autograder.submission.lint import lint, warnings
from autograder.submission.syntax import too_new_files
from minipeft.files.atomic import atomic_path

STAMP = (1980, 1, 1, 0, 0, 0)  # the date of every entry, so that the same files give the same zip


@dataclass(frozen=True)
class Packed:
    """What `submit` made: the zip, by problem the functions that still raise NotImplementedError, and warnings."""

    path: Path
    unwritten: Mapping[str, list[str]]
    warnings: list[str] = field(default_factory=list)


def read_own(homework: Homework, folder: Path) -> Submission:
    """Read a student's own files, to be packed or run. Raises IntakeError if one is missing or cannot be parsed."""
    missing = [f.stub for f in homework.files if not (folder / f.stub).exists()]
    if missing:
        raise IntakeError(f"{folder} has no {' and no '.join(missing)}; take the stub from the handout again")
    taken = take(folder, homework)
    for module, (text, line) in taken.errors.items():
        stub = next(f.stub for f in homework.files if f.module == module)
        raise IntakeError(f"{stub}, line {line}: {text}")
    return taken


def unwritten(homework: Homework, sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Return by problem the functions that are missing, or whose body is still the stub's NotImplementedError.

    Optional functions are left out.
    """
    found: dict[str, list[str]] = {}
    for problem in homework.problems:
        for t in (t for t in problem.targets if t not in problem.optional):
            nodes = functions(sources[t.module])
            names = [t.name] if t.name in nodes else [n for n in nodes if n.startswith(f"{t.name}.")] or [t.name]
            found.setdefault(problem.id, []).extend(n for n in names if n not in nodes or _raises(nodes[n]))
    return {problem: names for problem, names in found.items() if names}


def _raises(node: ast.FunctionDef) -> bool:
    """Return whether a function does nothing but raise NotImplementedError."""
    body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(body) != 1 or not isinstance(body[0], ast.Raise):
        return False
    raised = body[0].exc
    name = raised.func if isinstance(raised, ast.Call) else raised
    return isinstance(name, ast.Name) and name.id == "NotImplementedError"


def pack(homework: Homework, folder: Path, out: Path) -> Packed:
    """Write the zip of the homework's files in ``folder``. The same files give the same bytes.

    Raises IntakeError, and writes nothing, if a file is missing, cannot be parsed or cannot be imported.
    """
    taken = read_own(homework, folder)
    with Session(handout(homework)) as session:
        _, failed = load(session, taken.sources)
    if failed:
        reasons = dict.fromkeys(one.text(hidden=False) for one in unloaded(homework, taken.sources, failed))
        raise IntakeError(f"no zip was made. {' '.join(reasons)}")
    said = [*warnings(lint(homework, taken.sources)), *too_new_files(homework, taken.sources)]
    with atomic_path(out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for f in sorted(homework.files, key=lambda f: f.stub):
            entry = zipfile.ZipInfo(f.stub, STAMP)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, taken.sources[f.module].encode("utf-8"))
    return Packed(out, unwritten(homework, taken.sources), said)
