"""Start a worker process: this runs before NumPy and the submission are imported.

    python -I -S -B entry.py LIBRARY PACKAGES MODULE

LIBRARY is a folder for ``sys.path``; of the folder PACKAGES only NumPy can be imported. MODULE has the function that
serves requests. Requests come from standard input and replies go to standard output. Both are moved to other
descriptors here, so what a submission prints goes to standard error and is never read as a reply.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

if sys.platform == "win32":
    import msvcrt


class NumPy(importlib.abc.MetaPathFinder):
    """Finds NumPy in the folder where it is installed, and none of the packages next to it."""

    def __init__(self, packages: str):
        self.packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.PathFinder.find_spec(fullname, [self.packages]) if fullname == "numpy" else None


def take_pipes() -> tuple[int, int]:
    """Move requests and replies to new descriptors and return these. Printing then goes to standard error."""
    requests, replies = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        for fd in (requests, replies):
            msvcrt.setmode(fd, os.O_BINARY)  # else "\n" would become two bytes
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


if __name__ == "__main__":
    pipes = take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the grader, which ends this process
    warnings.simplefilter("ignore")
    sys.path.insert(0, sys.argv[1])
    sys.meta_path.append(NumPy(sys.argv[2]))

    importlib.import_module(sys.argv[3]).serve(*pipes)
