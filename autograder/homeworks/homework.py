"""What a homework is: its folder's ``homework.toml``, read and checked.

    name = "hw6_lora"                             the folder's name
    title = "Low-rank adaptation"
    points = 30                                   the sum over the problems; checked
    hide = ["minipeft.peft.lnlora:LNLoRALinear"]  what else would give the answer away: stripped in the handout library

    [[files]]
    stub = "lora.py"                              the file that a student fills in
    module = "minipeft.peft.lora"                 the module of the library that it stands for

    [[problems]]
    id = "6.1"
    title = "LoRALinear.forward"
    targets = ["minipeft.peft.lora:LoRALinear.forward"]
    optional = []                                 targets that a solution may do without: only other targets call them
    points = 5
    prerequisites = []                            ids of problems whose reference may stand in while this one is graded

A target is ``module:function`` or ``module:Class.method``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def required(self) -> tuple[Target, ...]:
        """The targets that every solution needs."""
        return tuple(t for t in self.targets if t not in self.optional)


@dataclass(frozen=True)
class Homework:
    """A homework: its folder, the files of its handout, its problems."""

    name: str
    title: str
    folder: Path
    files: tuple[StubFile, ...]
    problems: tuple[Problem, ...]
    hide: tuple[Target, ...] = ()

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


def homeworks() -> list[str]:
    """The names of all homeworks, in order."""
    return sorted(path.parent.name for path in HOMEWORK.glob("*/homework.toml"))


def load_homework(name_or_folder: str | Path) -> Homework:
    """The homework of that name, or in that folder; HomeworkError where there is none or its file is wrong."""
    folder = Path(name_or_folder)
    if not (folder / "homework.toml").is_file():
        folder = HOMEWORK / str(name_or_folder)
    if not (folder / "homework.toml").is_file():
        raise HomeworkError(
            f"no homework {str(name_or_folder)!r} in {Path.cwd()}; expected a folder with a homework.toml, "
            f"or a name: {', '.join(homeworks())}"
        )
    folder = folder.resolve()
    with open(folder / "homework.toml", "rb") as file:
        try:
            raw = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise HomeworkError(f"{folder.name}/homework.toml is no TOML: {error}") from None
    try:
        files = tuple(StubFile(**f) for f in raw["files"])
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
        hide = tuple(map(Target.parse, raw.get("hide", ())))
        homework = Homework(raw["name"], raw["title"], folder, files, problems, hide)
        total = raw["points"]
    except (KeyError, TypeError) as error:
        raise HomeworkError(f"{folder.name}/homework.toml: missing or unknown entry {error}") from None
    _check(homework, total)
    return homework


def _check(homework: Homework, total: float) -> None:
    """HomeworkError where the parts do not fit together."""
    where = f"{homework.folder.name}/homework.toml"
    if homework.name != homework.folder.name:
        raise HomeworkError(f"{where}: the name is {homework.name!r}, the folder's is {homework.folder.name!r}")
    ids = [p.id for p in homework.problems]
    if len(set(ids)) != len(ids):
        raise HomeworkError(f"{where}: a problem's id comes twice: {ids}")
    if homework.points != total:
        raise HomeworkError(f"{where}: the problems have {homework.points} points, but points = {total}")
    targets = [str(t) for t in homework.targets]
    if len(set(targets)) != len(targets):
        raise HomeworkError(f"{where}: a target belongs to two problems: {sorted(targets)}")
    modules = {f.module for f in homework.files}
    for t in homework.targets:
        if t.module not in modules:
            raise HomeworkError(f"{where}: the target {t} lies in no file of the homework ({sorted(modules)})")
    for p in homework.problems:
        for name in p.prerequisites:
            homework.problem(name)
        for t in p.optional:
            if t not in p.targets:
                raise HomeworkError(f"{where}: the optional target {t} of {p.id} is not one of its targets")
