"""Load copies of the library with some modules replaced, several in one process, each with its own modules.

Only for the trusted side: the reference, and our own mutants and variants. A submission is never loaded here.

A copy takes some 0.1 s. Modules that differ from the library's in the bodies of functions alone, as a mutant's do, need
none: `Patched` gives one shared copy those bodies while it is active.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from autograder.homeworks.homework import ROOT
from autograder.homeworks.strip import FAST, NO_FAST, functions, source_path

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
    """Finds ``minipeft`` below ``root``, the modules in ``sources`` out of their text, and no specializations."""

    def __init__(self, root: Path, sources: Mapping[str, str]):
        self.root, self.sources = root, {FAST: NO_FAST, **sources}

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
        """Swap this copy in for the time inside (one copy at a time in a process; again inside itself it stays)."""
        with _swapping:
            if PACKAGE in self._modules and sys.modules.get(PACKAGE) is self._modules[PACKAGE]:
                yield self._modules[PACKAGE]
                return
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


class Patched:
    """A library whose functions have other bodies while it is active."""

    def __init__(self, base: Library, codes: Sequence[tuple[FunctionType, CodeType]]):
        self.base, self.codes = base, codes
        self.minipeft = base.minipeft

    @contextmanager
    def active(self) -> Iterator[Any]:
        """As `Library.active`, with the bodies in place for the time inside."""
        with self.base.active() as mp:
            before = [(function, function.__code__) for function, _ in self.codes]
            try:
                for function, code in self.codes:
                    function.__code__ = code
                yield mp
            finally:
                for function, code in before:
                    function.__code__ = code


def patched(base: Library, sources: Mapping[str, str]) -> Patched | None:
    """``base`` with the bodies of ``sources``; None where these differ from the library in more than bodies."""
    codes: list[tuple[FunctionType, CodeType]] = []
    with base.active():
        for module, text in sources.items():
            changed = changed_bodies(source_path(module).read_text("utf-8"), text)
            if changed is None:
                return None
            compiled = _codes(compile(text, f"<{module}>", "exec", dont_inherit=True))
            for name in changed:
                function = _function(importlib.import_module(module), name)
                found = compiled.get(name, [])
                if function is None or len(found) != 1 or found[0].co_freevars != function.__code__.co_freevars:
                    return None
                codes.append((function, found[0]))
    return Patched(base, codes)


def changed_bodies(original: str, text: str) -> list[str] | None:
    """The qualified names of the functions whose bodies differ; None where anything else does (docstrings aside)."""
    old, new = ast.parse(original), ast.parse(text)
    mine, theirs = functions(original), functions(text)
    if list(mine) != list(theirs):
        return None
    changed = [name for name in mine if ast.dump(mine[name]) != ast.dump(theirs[name])]
    for tree in (old, new):
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.body = []
    return changed if ast.dump(old) == ast.dump(new) else None


def _codes(code: CodeType) -> dict[str, list[CodeType]]:
    """The code objects inside one, by qualified name."""
    found: dict[str, list[CodeType]] = {}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.setdefault(constant.co_qualname, []).append(constant)
            for name, codes in _codes(constant).items():
                found.setdefault(name, []).extend(codes)
    return found


def _function(module: ModuleType, name: str) -> FunctionType | None:
    """The function of that qualified name, out of its decorators."""
    place: Any = module
    for part in name.split("."):
        place = vars(place).get(part)
        if place is None:
            return None
    while not isinstance(place, FunctionType):
        inner = [getattr(place, a, None) for a in ("__func__", "fget", "__wrapped__")]
        place = next((x for x in inner if x is not None), None)
        if place is None:
            return None
    return getattr(place, "__wrapped__", place)
