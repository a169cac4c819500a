"""Where an attack is tried: a folder with what it would like to reach, a homework cut to its problem, submissions."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

assert sys.platform == "linux"

from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import HOMEWORK, ROOT, Homework, Target
from autograder.homeworks.strip import body_span, functions, replace_bodies, source_path, stubs
from autograder.selftest.attacks import Attack, Place, indented
from autograder.selftest.attacks.replay import KEY, recorded

HONEST = "an-honest-one"  # the submission next to an attack
PROLOGUE = """
import sys, numpy as np
arrays = [v for v in given if hasattr(v, "shape")]
won = bool(globals().get("WON"))
"""


@dataclass(frozen=True)
class Scene:
    """An attempt's folder. homework: cut to the problems that matter. secret: the seed of its cases."""

    place: Place
    folder: Path
    homework: Homework
    secret: str

    @property
    def handed(self) -> Path:
        """Return the folder of submissions."""
        return self.folder / "handed"

    @property
    def target(self) -> Target:
        """Return the last function of the attacked problem; all of them are replaced."""
        return self.homework.problem(self.place.problem).targets[-1]

    @property
    def needed(self) -> Target:
        """Return a function of the first prerequisite; the target itself if there is none in its file."""
        first = self.homework.problem(self.place.problem).prerequisites[:1]
        found = [t for p in first for t in self.homework.problem(p).targets if t.module == self.target.module]
        return found[0] if found else self.target

    def at(self) -> dict[str, Any]:
        """Return what a program finds in ``AT``."""
        paths = {"results": "results/results.json", "seed": "seed", "open": "open", "tmp": "tmp", "handed": "handed"}
        return {
            **{name: str(self.folder / path) for name, path in paths.items()},
            "sibling": str(self.handed / HONEST / self.homework.files[0].stub),
            "pid": os.getpid(),
            "root": os.geteuid() == 0,
            "source": str(ROOT / "autograder"),
            "answer": str(source_path(self.target.module)),
            "secret": self.secret.encode().hex(),
            "needed": self.needed.name,
        }


def scene(place: Place, folder: Path, whole: bool, closed: bool) -> Scene:
    """Lay out an attempt's folder.

    Args:
        place: the problem that is attacked.
        folder: an empty one.
        whole: with all problems of the homework.
        closed: submissions are where no other user can read, as they must be without Landlock.
    """
    for name, mode in (("open", 0o777), ("tmp", 0o1777), ("results", 0o755), ("handed", 0o700 if closed else 0o755)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    secret = os.urandom(16).hex()
    (folder / "seed").write_text(secret, "utf-8")
    (folder / "seed").chmod(0o600)
    own = folder / "homework" / place.homework
    shutil.copytree(HOMEWORK / place.homework, own, ignore=shutil.ignore_patterns("__pycache__"))
    if not whole:
        (own / "homework.toml").write_text(cut(load_homework(own), place), "utf-8")
    return Scene(place, folder, load_homework(own), secret)


def cut(homework: Homework, place: Place) -> str:
    """Return a homework.toml with the attacked problem, last, what it needs, and the problems beside it."""
    head, *blocks = (homework.folder / "homework.toml").read_text("utf-8").split("[[problems]]")
    by_id = dict(zip((p.id for p in homework.problems), blocks, strict=True))
    wanted: set[str] = set()
    todo = [place.problem, *place.others, *place.same_file]
    while todo:
        name = todo.pop()
        wanted.add(name)
        todo += [p for p in homework.problem(name).prerequisites if p not in wanted]
    chosen = sorted((p for p in by_id if p in wanted), key=lambda p: p == place.problem)
    total = sum(homework.problem(p).points for p in chosen)
    head = re.sub(r"^points = .*$", f"points = {total:g}", head, flags=re.M)
    return head + "".join(f"[[problems]]{by_id[p].rstrip()}\n\n" for p in chosen)


def honest(homework: Homework) -> dict[str, str]:
    """Return the files of a program that has all points."""
    return {f.stub: source_path(f.module).read_text("utf-8") for f in homework.files}


def program(attack: Attack, scene: Scene) -> dict[str, str]:
    """Return the files of an attack."""
    homework, target = scene.homework, scene.target
    attacked = homework.targets if attack.everywhere else homework.problem(scene.place.problem).targets
    found, empty, table = dict(attack.more), stubs(homework), ""
    if "TABLE" in attack.body:
        table = f"{KEY}\nTABLE = dict([\n{recorded(homework, scene.folder)}])\n"
    for f in homework.files:
        library = source_path(f.module).read_text("utf-8")
        text = empty[f.stub] if attack.everywhere or attack.stubs else library
        targets = [t.name for t in attacked if t.module == f.module]
        if attack.everywhere or (attack.most < 1.0 and attack.hand_in is None):
            names = [n for n in functions(text) for t in targets if n == t or n.startswith(f"{t}.")]
            text = replace_bodies(text, {n: body(attack, scene, library, n) for n in names})
        if f.module == target.module or attack.everywhere:
            text += f"\n\nAT = {scene.at()!r}\n{table}" + (attack.top if f.module == target.module else "")
        found[f.stub] = text
    return found


def body(attack: Attack, scene: Scene, library: str, name: str) -> str:
    """Return the body of an attacked function: what was won is answered rightly, so the points tell."""
    lines = f"given = list(locals().values())\nNAME = {name!r}{PROLOGUE}{attack.body}\n"
    if attack.everywhere:
        return lines
    node = functions(library)[name]
    start, end = body_span(node)
    right = "\n".join(line[node.col_offset + 4 :] for line in library.splitlines()[start:end])
    return f"{lines}if won:\n{indented(right)}\nreturn {scene.place.nonsense}"


def write(files: dict[str, str], folder: Path) -> Path:
    """Write a submission."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return folder


def hand_in(attack: Attack, scene: Scene) -> Path:
    """Write an attack's submission, next to an honest one; its path."""
    if not (scene.handed / HONEST).is_dir():
        write(honest(scene.homework), scene.handed / HONEST)
    make = attack.hand_in or (lambda place, files: write(files, place))
    return make(scene.handed / attack.id, program(attack, scene))
