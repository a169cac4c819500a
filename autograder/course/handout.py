"""Write what students get: a folder with one homework, the library without its answers, and the commands to check it.

    python -m autograder handout hw6_lora --out hw6

The answers of the public cases are stored as arrays. Formulas, mutants, variants, other homeworks and other cases are
left out.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from string import Template

from autograder.course.trials import TRIALS
from autograder.grading.answers import FOLDER, frame
from autograder.homeworks.homework import INSTALL, ROOT, Homework
from autograder.homeworks.strip import handed_out, stubs

SIZES = {False: 200, True: 400}  # megabytes of an environment for a handout; with scikit-learn, which brings SciPy
NO_MUTANTS = '"""Known mistakes stay with the course staff."""\n\nMUTANTS: list[object] = []\n'
PYPROJECT = """\
[build-system]
requires = {requires}
build-backend = {backend}

[project]
name = {name}
version = {version}
description = {description}
readme = "README.md"
license = {license}
license-files = ["LICENSE"]
requires-python = {python}
dependencies = {dependencies}

[project.optional-dependencies]
homework = {homework}

[tool.hatch.build.targets.wheel]
packages = ["minipeft"]

[tool.pytest.ini_options]
testpaths = ["homework"]
addopts = "-q"
"""


def build(homework: Homework, out: Path) -> None:
    """Write the handout of a homework into the folder ``out``. Everything is computed before anything is written."""
    answers = {problem.id: frame(homework, problem.id) for problem in homework.problems}
    texts = {"pyproject.toml": pyproject(homework), "README.md": readme(homework)}
    for path, text in handed_out(homework).items():
        _write(out / path, text)
    _write_autograder(homework, out)
    home = out / "homework" / homework.name
    home.mkdir(parents=True)
    for file in sorted(p for p in homework.folder.iterdir() if p.is_file() and p.name != ".DS_Store"):
        shutil.copyfile(file, home / file.name)
    for name, text in stubs(homework).items():
        _write(home / name, text)
    _copy(homework.folder.parent / "conftest.py", out)
    (home / FOLDER).mkdir()
    for problem, data in answers.items():
        (home / FOLDER / f"{problem}.frame").write_bytes(data)
    _copy(ROOT / "LICENSE", out)
    for name, text in texts.items():
        _write(out / name, text)


def _write_autograder(homework: Homework, out: Path) -> None:
    ours = ROOT / "autograder"
    own = ours / "homeworks" / homework.name
    for source in sorted(ours.rglob("*.py")):
        staff = source in (ours / "course" / "handout.py", ours / "homeworks" / "variant.py")
        if not staff and source.parent not in (own, *_others(own)) and "selftest" not in source.parts:
            _copy(source, out)
    for file in sorted(own.glob("*.py")):
        if file.stem not in ("formulas", "mutants", "variants"):
            _copy(file, out)
    _write(out / own.relative_to(ROOT) / "mutants.py", NO_MUTANTS)


def _others(own: Path) -> list[Path]:
    """Return the folders of the other homeworks."""
    return [p for p in own.parent.iterdir() if p.is_dir() and p != own]


def _copy(source: Path, out: Path) -> None:
    _write(out / source.relative_to(ROOT), source.read_text("utf-8"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", newline="\n")


def pyproject(homework: Homework) -> str:
    """Return the pyproject.toml of a handout: the library's, with only the extra ``homework``, and only what it needs.

    The command ``minipeft`` is left out: most of what it runs needs functions that are still to be written. The name
    stays the library's, so that a second handout in the same environment replaces the first.
    """
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = whole["project"]
    spared = {name for trial in TRIALS.values() for name in trial.packages} - set(TRIALS[homework.name].packages)
    values = {
        "requires": whole["build-system"]["requires"],
        "backend": whole["build-system"]["build-backend"],
        "name": project["name"],
        "version": project["version"],
        "description": f"Homework {homework.name} with the library that it is written for",
        "license": project["license"],
        "python": project["requires-python"],
        "dependencies": project["dependencies"],
        "homework": [r for r in project["optional-dependencies"]["homework"] if _name(r) not in spared],
    }
    return PYPROJECT.format(**{key: json.dumps(value) for key, value in values.items()})  # JSON's strings are TOML's


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0]


def readme(homework: Homework) -> str:
    """Return the README.md of a handout."""
    trial = TRIALS[homework.name]
    files = [f"`{f.stub}`" for f in homework.files]
    text = (ROOT / "autograder" / "course" / "handout.md").read_text("utf-8")
    return Template(text).substitute(
        number=homework.name.partition("_")[0].removeprefix("hw"),
        name=homework.name,
        title=homework.title,
        files=_listed(files),
        your_files="your file" if len(files) == 1 else "your files",
        size=SIZES["scikit-learn" in trial.packages],
        install=INSTALL,
        first=homework.problems[0].id,
        story=trial.story,
        module=homework.files[0].stub.removesuffix(".py"),
        prerequisites=_prerequisites(homework),
        optional=_optional(homework),
    )


def _prerequisites(homework: Homework) -> str:
    builds = [f"{p.id} builds on {_listed(p.prerequisites)}" for p in homework.problems if p.prerequisites]
    return f"  {'; '.join(builds)}." if builds else "  In this homework no problem builds on another."


def _optional(homework: Homework) -> str:
    names = [f"`{t.name}`" for p in homework.problems for t in p.optional]
    if not names:
        return ""
    it = "it is a helper" if len(names) == 1 else "they are helpers"
    return f"- **{_listed(names)} may stay unwritten**: {it} of the library's own solution.\n"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
