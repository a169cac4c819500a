"""The homework of a folder: its ``homework.toml``, read and checked.

    name = "hw6_lora"                             the folder's name
    title = "Low-rank adaptation"
    points = 30                                   the sum over the problems; checked
    hide = ["minipeft.peft.lnlora:LNLoRALinear"]  what else would give the answer away: stripped in the handout library

    [instead]
    "minipeft.ops.attention:attention" = "return ..."  functions that have another body in a handout

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
from pathlib import Path

from autograder.homeworks.homework import HOMEWORK, Homework, HomeworkError, from_raw


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
        homework, total = from_raw(raw, folder), raw["points"]
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
