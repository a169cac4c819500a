"""Copies of the library with some modules replaced, side by side in one process, each with its own modules.

For the trusted side alone: the reference, and our own mutants and variants. A submission is never loaded here.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from autograder.homework import ROOT

PACKAGE = "minipeft"
_swapping = threading.RLock()


class _Source(importlib.abc.InspectLoader):
    """A module out of a text."""

    def __init__(self, text: str, filename: str):
        self.text, self.filename = text, filename

    def get_source(self, fullname: str) -> str:
        return self.text

    def get_filename(self, fullname: str) -> str:
        return self.filename

    def get_code(self, fullname: str) -> Any:
        return compile(self.text, self.filename, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)


class Finder(importlib.abc.MetaPathFinder):
    """Finds ``minipeft`` below ``root``, the modules in ``sources`` out of their text."""

    def __init__(self, root: Path, sources: Mapping[str, str]):
        self.root, self.sources = root, sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        place = self.root.joinpath(*fullname.split("."))
        package = place.is_dir()
        file = place / "__init__.py" if package else place.with_suffix(".py")
        where = [str(place)] if package else None
        if fullname in self.sources:
            loader = _Source(self.sources[fullname], f"<{fullname}>")
            return importlib.util.spec_from_loader(fullname, loader, is_package=package)
        if not file.is_file():
            return None
        return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=where)


class Library:
    """One copy of the library; inside ``active()`` its ``minipeft`` is the one that imports find."""

    def __init__(self, sources: Mapping[str, str] | None = None, root: Path = ROOT):
        self._finder = Finder(root, sources or {})
        self._modules: dict[str, ModuleType] = {}
        with self.active():
            self.minipeft: Any = importlib.import_module(PACKAGE)
            for name in sources or {}:
                importlib.import_module(name)

    @contextmanager
    def active(self) -> Iterator[Any]:
        """Swap this copy in for the time inside (one copy at a time in a process)."""
        with _swapping:
            others = {n: sys.modules.pop(n) for n in list(sys.modules) if n.partition(".")[0] == PACKAGE}
            sys.modules.update(self._modules)
            sys.meta_path.insert(0, self._finder)
            try:
                yield self._modules.get(PACKAGE)
            finally:
                sys.meta_path.remove(self._finder)
                mine = {n: sys.modules.pop(n) for n in list(sys.modules) if n.partition(".")[0] == PACKAGE}
                self._modules.update(mine)
                sys.modules.update(others)
