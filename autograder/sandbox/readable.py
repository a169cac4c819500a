"""List what workers may read of Python and NumPy, and search it for answers.

They may read the standard library without the packages installed in it, and of the packages only NumPy. The name of a
folder does not say what it holds: any environment may have a wheel of the library. So each one is searched.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from autograder.homeworks.homework import ROOT

PACKAGES = {"site-packages", "dist-packages"}
OURS = ("minipeft", "autograder", "homework")  # the names of what holds answers begin so
SMALLEST = 200  # bytes of a file that could be an answer


@cache
def standard() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the folders of the standard library and NumPy, and the folders in them that are left out."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # of a virtual environment, what it is made from
    package = Path(np.__file__).parent
    python = {Path(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    found = {*python, package, package.parent / "numpy.libs"}
    read = {p for folder in found if folder.is_dir() for p in (folder, folder.resolve())}
    return tuple(sorted(read)), tuple(sorted(p for folder in read for p in folder.iterdir() if p.name in PACKAGES))


@cache
def complaint() -> str:
    """Return a sentence about a file that should not be in the readable folders; "" if there is none."""
    read, hidden = standard()
    answers = {p.stat().st_size: p for p in (ROOT / "minipeft").rglob("*.py") if p.stat().st_size >= SMALLEST}
    for entry in _files({p.resolve() for p in read}, hidden):
        if entry.name in PACKAGES or entry.name.startswith(OURS):
            return f"submissions could read {entry.path}: remove it, or grade from an environment without it"
        if entry.name.endswith(".py") and (size := entry.stat().st_size) in answers:
            same = answers[size]
            if Path(entry).read_bytes() == same.read_bytes():
                return f"submissions could read {entry.path}, which is a copy of {same}: remove it"
    return ""


def _files(folders: Iterable[Path], hidden: tuple[Path, ...]) -> Iterator[os.DirEntry[str]]:
    """Yield all that is below the folders and not below a hidden one."""
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if Path(entry) not in hidden:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        yield from _files([Path(entry)], hidden)


def exposed(private: Iterable[Path], read: Iterable[Path]) -> Path | None:
    """Return the first private folder or file that is in one of the readable folders."""
    hidden = {p.resolve() for p in standard()[1]}
    for path in (p.resolve() for p in private):
        up = {path, *path.parents}
        if any(p.resolve() in up for p in read) and not hidden & up:
            return path
    return None


def installed() -> list[Path]:
    """Return the copies of the library among the packages that this Python finds."""
    places = {Path(p) for p in sys.path if p} | {Path(sysconfig.get_path(n)) for n in ("purelib", "platlib")}
    return sorted(p / "minipeft" for p in places if (p / "minipeft").is_dir())
