"""Variants: correct programs that look different. Each must keep every point over many seeds.

One file a homework, with the list ``VARIANTS``, written as a text for `programs`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib import import_module

from autograder.homeworks.homework import HomeworkError
from autograder.homeworks.patch import PatchError, check_names, parts, replace
from autograder.homeworks.strip import replace_bodies, source_path


@dataclass(frozen=True)
class Variant:
    """A different way to be right.

    Args:
        id: unique in its homework.
        bodies: by target, the body after the docstring, without indentation; or a diff of the library's, each line
            with - or + in front, for `patch.replace`.
        header: imports and helpers, put after the imports of the first target's module.
    """

    id: str
    bodies: dict[str, str]
    header: str = ""


def programs(text: str) -> list[Variant]:
    """Return the variants that a text describes.

    A line "===" begins a variant, a line "==" the body of a target or the variant's header::

        === root-mean-square
        == minipeft.ops.normalize:RMSNorm.forward
        return gamma * x / root(x, eps)

        == header
        def root(x, eps):
            return np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)

    Raises:
        HomeworkError: text comes before the first variant or target, or a target comes twice in one variant.
    """
    found: list[Variant] = []
    for name, rest in _blocks("===", text):
        bodies = dict(blocks := _blocks("==", rest))
        if len(bodies) != len(blocks):
            raise HomeworkError(f"variant {name}: a target comes twice")
        header = bodies.pop("header", "")
        found.append(Variant(name, bodies, header))
    return found


def _blocks(mark: str, text: str) -> list[tuple[str, str]]:
    """The name after each mark and the text below it."""
    first, *parts = re.split(rf"^{mark} (.+)\n", text, flags=re.MULTILINE)
    if first.strip():
        raise HomeworkError(f"expected a line that begins with {mark!r}, got {first.strip().splitlines()[0]!r}")
    return [(name, part.strip("\n")) for name, part in zip(parts[::2], parts[1::2])]


def variants(homework: str) -> list[Variant]:
    """The variants of a homework."""
    found: list[Variant] = import_module(f"autograder.homeworks.{homework}.variants").VARIANTS
    return found


def varied(variant: Variant) -> dict[str, str]:
    """Return the modules of a variant, name -> source; HomeworkError if a body uses a name that its module lacks."""
    names: dict[str, list[str]] = {}
    for target in variant.bodies:
        module, _, name = target.partition(":")
        names.setdefault(module, []).append(name)
    sources = {module: source_path(module).read_text("utf-8") for module in names}
    if variant.header:
        first = next(iter(sources))
        lines = sources[first].splitlines(keepends=True)
        tree = ast.parse(sources[first])
        last = max((n.end_lineno or 0) for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)))
        sources[first] = "".join([*lines[:last], "\n", variant.header.strip("\n"), "\n", *lines[last:]])
    try:
        for module, changed in names.items():
            for name in changed:
                sources[module] = _changed(sources[module], name, variant.bodies[f"{module}:{name}"])
            for name in changed:
                check_names(sources[module], name)
    except PatchError as error:
        raise HomeworkError(f"variant {variant.id}: {error}") from error
    return sources


def _changed(source: str, name: str, body: str) -> str:
    """Return a module with another body of a function, or with a diff applied to it."""
    lines = [line for line in body.split("\n") if line]
    if not all(line.startswith(("- ", "+ ")) for line in lines):
        return replace_bodies(source, {name: body})
    for old, new in parts(lines):
        if old is None:
            raise PatchError(f"{name}: expected lines that go before those that come")
        source = replace(source, name, old, new)
    return source
