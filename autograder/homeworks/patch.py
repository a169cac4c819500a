"""Patches of a function by its syntax tree: what is replaced is an expression or statements, not text.

    replace(source, "LoRALinear.forward", "H * scale", "H")

Comments, line breaks and parentheses of the source do not matter. Neither do the names of helpers and local variables:
a name in the patch that the function does not know stands for one that it does know, the same one everywhere.
"""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Iterator, Sequence
from itertools import groupby

from autograder.homeworks.strip import functions, replace_bodies

Pattern = ast.expr | list[ast.stmt]
Place = tuple[ast.AST, str, int | None]  # owner, field, and index if the field is a list


class PatchError(ValueError):
    """The patch does not fit the source."""


def replace(source: str, function: str, old: str, new: str) -> str:
    """Return ``source`` with ``old`` replaced by ``new`` in one function.

    Args:
        source: a module.
        function: qualified name of the function, such as ``"LoRALinear.forward"``.
        old: an expression, or statements of one block, that occur exactly once in the function.
        new: an expression if ``old`` is one, or else statements; "" deletes the statements.

    Raises:
        PatchError: the function is missing, ``old`` does not occur exactly once, or ``new`` uses an unknown name.
    """
    node = functions(source).get(function)
    if node is None:
        raise PatchError(f"expected a function {function}; the module has {', '.join(functions(source))}")
    node = copy.deepcopy(node)
    known = known_names(source, node)
    pattern, replacement = _parsed(old, new)
    places = _places(node, pattern, None) or _places(node, pattern, known)
    if len(places) != 1:
        raise PatchError(f"expected {old!r} once in {function}, found it {len(places)} times")
    place, renamed = places[0]
    replacement = _rename(replacement, renamed)
    _put(place, pattern, replacement)
    patched = replace_bodies(source, {function: _body(node)})
    check_names(patched, function)
    return patched


def parts(lines: Sequence[str]) -> Iterator[tuple[str | None, str]]:
    """Yield what goes, None if nothing does, and what comes instead, for each part of a diff."""
    runs = [(sign, "\n".join(line[2:] for line in run)) for sign, run in groupby(lines, key=lambda line: line[0])]
    if runs[0][0] == "+":
        yield None, runs.pop(0)[1]
    while runs:
        old = runs.pop(0)[1]
        yield old, runs.pop(0)[1] if runs else ""


def check_names(source: str, function: str) -> None:
    """Raise PatchError if a function of a module reads a name that neither it, the module nor Python has."""
    node = functions(source)[function]
    read = {n.id for s in node.body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    unknown = read - known_names(source, node)
    if unknown:
        raise PatchError(f"{function}: the patch uses unknown names: {', '.join(sorted(unknown))}")


def known_names(source: str, function: ast.FunctionDef) -> set[str]:
    """Return the names that a function can use: its own variables, those of the module, and Python's."""
    own = {a.arg for n in ast.walk(function) if isinstance(n, ast.arguments) for a in _arguments(n)}
    own |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    own |= {n.name for n in ast.walk(function) if isinstance(n, ast.ExceptHandler) and n.name}
    own |= set(_bound(function.body))
    return own | set(_bound(ast.parse(source).body)) | set(dir(builtins)) | {"__class__", "__file__", "__name__"}


def _arguments(a: ast.arguments) -> list[ast.arg]:
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """The names that statements bind by import, definition or assignment, not inside functions and classes."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (a.asname or a.name.partition(".")[0] for a in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        else:
            yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            for block in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, block, []))


def _parsed(old: str, new: str) -> tuple[Pattern, Pattern]:
    """Both as expressions, or else both as statements."""
    try:
        return ast.parse(old.strip(), mode="eval").body, ast.parse(new.strip(), mode="eval").body
    except SyntaxError:
        pass
    try:
        return ast.parse(old.strip("\n")).body, ast.parse(new.strip("\n")).body
    except SyntaxError as error:
        raise PatchError(f"expected Python, got {old!r} and {new!r}: {error.msg}") from error


def _places(node: ast.FunctionDef, pattern: Pattern, known: set[str] | None) -> list[tuple[Place, dict[str, str]]]:
    """Where the pattern occurs, and what its names that are not ``known`` stand for; None: every name for itself."""
    found = []
    inside = (owner for statement in node.body for owner in ast.walk(statement))
    for owner in (node, *inside):
        for name, value in ast.iter_fields(owner) if owner is not node else [("body", node.body)]:
            items = value if isinstance(value, list) else [value]
            for i in range(len(items)):
                renamed: dict[str, str] = {}
                part = items[i : i + len(pattern)] if isinstance(pattern, list) else items[i]
                if _same(pattern, part, known, renamed):
                    found.append(((owner, name, i if isinstance(value, list) else None), renamed))
    return found


def _same(a: object, b: object, known: set[str] | None, renamed: dict[str, str]) -> bool:
    """Whether pattern and code are equal; enters into ``renamed`` what unknown names of the pattern stand for."""
    if isinstance(a, ast.Name) and isinstance(b, ast.Name) and a.id != b.id:
        if known is None or a.id in known or type(a.ctx) is not type(b.ctx):
            return False
        return renamed.setdefault(a.id, b.id) == b.id
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(_same(x, y, known, renamed) for x, y in zip(a, b))
    if isinstance(a, ast.AST):
        return type(a) is type(b) and all(_same(v, getattr(b, k, None), known, renamed) for k, v in ast.iter_fields(a))
    return type(a) is type(b) and a == b


def _rename(part: Pattern, renamed: dict[str, str]) -> Pattern:
    for node in ast.walk(ast.Module(part, []) if isinstance(part, list) else part):
        if isinstance(node, ast.Name):
            node.id = renamed.get(node.id, node.id)
    return part


def _put(place: Place, old: Pattern, new: Pattern) -> None:
    owner, name, index = place
    if index is None:
        setattr(owner, name, new)
    elif isinstance(old, list) and isinstance(new, list):
        block = getattr(owner, name)
        block[index : index + len(old)] = new
        if not block:
            block.append(ast.Pass())
    else:
        getattr(owner, name)[index] = new


def _body(node: ast.FunctionDef) -> str:
    """The text of a function's body without its docstring."""
    statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return "\n".join(ast.unparse(ast.fix_missing_locations(s)) for s in statements or [ast.Pass()])
