"""What students get: a homework beside the library without its answers, and the commands `check`, `submit` and `try`.

    python -m autograder handout hw6_lora --out hw6

The right answers of the public cases lie in the homework's folder ``public/``, as frames: the library there has none.
Mutants, variants, other homeworks and other cases stay behind.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autograder.cases import Case, cases
from autograder.check import Outputs
from autograder.frames import FrameError, decode, encode
from autograder.grade import PUBLIC_SEED
from autograder.homework import ROOT, Homework, HomeworkError
from autograder.inside import drawn
from autograder.strip import handout, stubs

LEFT_OUT = ("selftest.py",)
BESIDE = ("pyproject.toml", "LICENSE")


def build(homework: Homework, out: Path) -> None:
    """Write the handout of a homework into the folder ``out``."""
    stripped = handout(homework)
    for source in sorted((ROOT / "minipeft").rglob("*.py")):
        parts = source.relative_to(ROOT).with_suffix("").parts
        text = stripped.get(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        _write(out / source.relative_to(ROOT), text or source.read_text("utf-8"))
    ours = ROOT / "autograder"
    for source in sorted(p for p in ours.glob("*.py") if p.name not in LEFT_OUT):
        _copy(source, out)
    for name in ("cases", "drivers"):
        for file in (*sorted((ours / name).glob("__init__.py")), ours / name / f"{homework.name}.py"):
            _copy(file, out)
    _copy(ours / "drivers" / "common.py", out)
    _copy(ours / "mutants" / "__init__.py", out)
    nothing = '"""Known mistakes stay with the course staff."""\n\nMUTANTS: list[object] = []\n'
    _write(out / "autograder" / "mutants" / f"{homework.name}.py", nothing)
    home = out / "homework" / homework.name
    for file in sorted(p for p in homework.folder.iterdir() if p.is_file() and p.name != ".DS_Store"):
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, home / file.name)
    for name, text in stubs(homework).items():
        _write(home / name, text)
    _copy(homework.folder.parent / "conftest.py", out, ROOT)
    for name in BESIDE:
        _copy(ROOT / name, out)
    (home / "public").mkdir()
    for problem in homework.problems:
        right = [
            {"case": case.name, "inputs": fingerprint(case), "outputs": {k: answer[k] for k in case.checks}}
            for case, answer in drawn(homework.name, problem.id, PUBLIC_SEED)
        ]
        (home / "public" / f"{problem.id}.frame").write_bytes(encode(right))


def _copy(source: Path, out: Path, root: Path = ROOT) -> None:
    _write(out / source.relative_to(root), source.read_text("utf-8"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def fingerprint(case: Case) -> str:
    """A checksum of a case's inputs: whether the same numbers were drawn here as where the answers were made."""
    digest = hashlib.sha256(repr(sorted(case.params.items())).encode())
    for name, x in sorted(case.arrays.items()):
        digest.update(f"{name} {x.dtype.str} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def is_handout(homework: Homework) -> bool:
    """Whether the homework's folder brings the answers of the public cases along."""
    return (homework.folder / "public").is_dir()


def stored(homework: Homework, problem: str) -> Sequence[tuple[Case, Outputs]]:
    """The public cases of a problem with their answers out of the handout; HomeworkError where they do not fit."""
    path = homework.folder / "public" / f"{problem}.frame"
    try:
        right = {one["case"]: one for one in decode(path.read_bytes())}
    except (OSError, FrameError) as error:
        raise HomeworkError(f"{path} cannot be read ({error}): take the handout's files anew") from None
    given = []
    for case in cases(homework.name, problem, PUBLIC_SEED):
        one = right.get(case.name)
        if one is None or one["inputs"] != fingerprint(case):
            raise HomeworkError(
                f"{path.name} has other numbers than are drawn here for {case.name!r}: take the handout's files anew, "
                "and NumPy of the same generation"
            )
        given.append((case, one["outputs"]))
    return given
