"""What a homework is: its files, its problems, their targets and points. `folder` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HOMEWORK = ROOT / "homework"
INSTALL = 'pip install -e ".[homework]"'  # in ROOT, the checkout or a handout: what a student needs, and no more


class HomeworkError(ValueError):
    """A homework.toml is wrong, or a homework is unknown; the message says what was expected and what came."""


@dataclass(frozen=True)
class Target:
    """A function or method that a student writes: its module and its qualified name there."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    @staticmethod
    def parse(text: str) -> Target:
        """``module:qualified.name``; HomeworkError for anything else."""
        module, colon, name = text.partition(":")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            raise HomeworkError(f"a target is written module:Class.method or module:function, got {text!r}")
        return Target(module, name)


@dataclass(frozen=True)
class StubFile:
    """A file of the handout and the module of the library that it replaces."""

    stub: str
    module: str


@dataclass(frozen=True)
class Problem:
    """One problem: what is to be written, what it is worth, what it stands on."""

    id: str
    title: str
    targets: tuple[Target, ...]
    points: float
    prerequisites: tuple[str, ...] = ()
    optional: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Homework:
    """A homework: its folder, the files of its handout, its problems.

    hide: what the handout's library lacks besides the targets, since it answers them. instead: functions that have
    another body there.
    """

    name: str
    title: str
    folder: Path
    files: tuple[StubFile, ...]
    problems: tuple[Problem, ...]
    hide: tuple[Target, ...] = ()
    instead: tuple[tuple[Target, str], ...] = ()

    @property
    def points(self) -> float:
        """The points of all problems."""
        return sum(p.points for p in self.problems)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be written, over all problems."""
        return tuple(t for p in self.problems for t in p.targets)

    def problem(self, name: str) -> Problem:
        """The problem with that id; HomeworkError naming those that there are."""
        for p in self.problems:
            if p.id == name:
                return p
        raise HomeworkError(f"{self.name} has no problem {name!r}; it has {', '.join(p.id for p in self.problems)}")

    def supplied(self, problem: Problem) -> set[Target]:
        """The targets whose reference may stand in while ``problem`` is graded: its prerequisites', and theirs."""
        found: set[Target] = set()
        todo, seen = list(problem.prerequisites), {problem.id}
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                found.update(self.problem(name).targets)
                todo.extend(self.problem(name).prerequisites)
        return found - set(problem.targets)


def from_raw(raw: Mapping[str, Any], folder: Path) -> Homework:
    """Return the homework of a folder from what its ``homework.toml`` says. KeyError, TypeError: an entry is wrong."""
    problems = tuple(
        Problem(
            id=p["id"],
            title=p["title"],
            targets=tuple(map(Target.parse, p["targets"])),
            points=p["points"],
            prerequisites=tuple(p.get("prerequisites", ())),
            optional=tuple(map(Target.parse, p.get("optional", ()))),
        )
        for p in raw["problems"]
    )
    files = tuple(StubFile(**f) for f in raw["files"])
    hide = tuple(map(Target.parse, raw.get("hide", ())))
    instead = tuple((Target.parse(t), body) for t, body in raw.get("instead", {}).items())
    return Homework(raw["name"], raw["title"], folder, files, problems, hide, instead)


@dataclass(frozen=True)
class Handout:
    """What the processes of a submission read: the library without the answers, by path, and the stubs, by module.

    backward: files of the library that are others where only backwards run. needed: returns what a process imports
    ahead that cannot read the folders of Python.
    """

    homework: Homework
    library: Mapping[str, str]
    stubs: Mapping[str, str]
    backward: Mapping[str, str]
    needed: Callable[[], Sequence[str]]
