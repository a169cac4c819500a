"""Variants: correct programs that look different. Each must keep every point over many seeds.

One file a homework, with ``VARIANTS = [Variant(…), …]``.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib import import_module

from autograder.homework import HomeworkError
from autograder.patch import PatchError, check_names
from autograder.strip import replace_bodies, source_path


@dataclass(frozen=True)
class Variant:
    """A different way to be right.

    bodies: by target, what stands behind the docstring, without indentation. header: imports and helpers, put after the
    imports of the first target's module.
    """

    id: str
    bodies: dict[str, str]
    header: str = ""


def variants(homework: str) -> list[Variant]:
    """The variants of a homework."""
    found: list[Variant] = import_module(f"autograder.variants.{homework}").VARIANTS
    return found


def varied(variant: Variant) -> dict[str, str]:
    """Return the modules of a variant, name -> source; HomeworkError if a body uses a name that its module lacks."""
    by_module: dict[str, dict[str, str]] = {}
    for target, body in variant.bodies.items():
        module, _, name = target.partition(":")
        by_module.setdefault(module, {})[name] = body
    sources = {m: replace_bodies(source_path(m).read_text("utf-8"), bodies) for m, bodies in by_module.items()}
    if variant.header:
        first = next(iter(sources))
        lines = sources[first].splitlines(keepends=True)
        tree = ast.parse(sources[first])
        last = max((n.end_lineno or 0) for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)))
        sources[first] = "".join([*lines[:last], "\n", variant.header.strip("\n"), "\n", *lines[last:]])
    try:
        for module, bodies in by_module.items():
            for name in bodies:
                check_names(sources[module], name)
    except PatchError as error:
        raise HomeworkError(f"variant {variant.id}: {error}") from error
    return sources
