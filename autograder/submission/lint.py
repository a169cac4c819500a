"""Remarks on a submission's text, for people: imports that the grader lacks, reaching around, numbers written out.

Nothing here keeps a submission from doing anything; confinement does.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import stubs

PLAIN_MODULES = {"numpy", "math", "typing", "dataclasses", "functools", "itertools", "collections", "__future__"}
PLAIN_MODULES |= {"minipeft", "abc", "contextlib", "enum", "operator", "warnings"}
AVAILABLE = sys.stdlib_module_names | {"numpy", "minipeft"}
THERE = "The grader has NumPy, minipeft and Python's standard library."
SUSPECT_CALLS = {"exec", "eval", "compile", "__import__", "open", "globals", "locals", "vars", "breakpoint", "input"}
LONGEST_LITERAL = 2000  # characters of one string or entries of one list


@dataclass(frozen=True)
class Remark:
    """Something that a reader should look at, with its file and line. costs: if this line runs, points are lost."""

    file: str
    line: int
    text: str
    costs: bool = False


def lint(homework: Homework, sources: Mapping[str, str]) -> list[Remark]:
    """Return at most 50 remarks on what a submission has and its stub has not."""
    blank = stubs(homework)
    remarks = []
    for f in homework.files:
        known = {text for text, _, _ in _striking(blank[f.stub])}
        for text, line, costs in _striking(sources.get(f.module, blank[f.stub])):
            if text not in known:
                remarks.append(Remark(f.stub, line, text, costs))
    return remarks[:50]


def warnings(remarks: Iterable[Remark]) -> list[str]:
    """Return the remarks that cost points as sentences, followed by what the grader has."""
    found = [f"{r.file}, line {r.line}: {r.text}." for r in remarks if r.costs]
    return [*found, THERE] if found else []


def imported(source: str) -> Iterator[tuple[str, int, str]]:
    """Yield the packages that a program imports: (name, line, what is around it: "function", "try" or "").

    An import inside ``try`` may fail without harm. If one at the top of the file fails, nothing of the file runs.
    """
    for node, inside in _nodes(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            yield name.partition(".")[0], node.lineno, inside


def _nodes(tree: ast.AST, inside: str = "") -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield every statement and expression, and whether a function or a ``try`` is the innermost around it."""
    todo = [(tree, inside)]
    while todo:
        node, inside = todo.pop()
        if isinstance(node, (ast.stmt, ast.expr)):
            yield node, inside
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside = "function"
        elif isinstance(node, (ast.Try, ast.TryStar)):
            inside = "try"
        todo += [(child, inside) for child in ast.iter_child_nodes(node)]


def _striking(source: str) -> Iterator[tuple[str, int, bool]]:
    for name, line, inside in imported(source):
        needed = inside == "function"
        shown = ascii(name[:40])[1:-1]
        if name not in AVAILABLE:
            end = ": a call that comes to this line fails" if needed else ""
            yield f"imports {shown}, which the grader does not have{end}", line, needed
        elif name not in PLAIN_MODULES:
            yield f"imports {shown}, which no problem needs", line, False
    for node, _ in _nodes(ast.parse(source)):
        for text in _remarks(node):
            yield text, node.lineno, False


def _remarks(node: ast.stmt | ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SUSPECT_CALLS:
        yield f"calls {node.func.id}, which no problem needs"
    if isinstance(node, ast.Attribute) and node.attr in ("_getframe", "__globals__", "__subclasses__", "ctypeslib"):
        yield f"reaches for {node.attr}, which no problem needs"
    if isinstance(node, ast.Constant) and isinstance(node.value, complex):
        yield "has a complex number: a derivative is to be derived here, not stepped"
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and len(node.value) > LONGEST_LITERAL:
        yield f"has a text of {len(node.value)} characters"
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)) and len(node.elts) > LONGEST_LITERAL // 10:
        yield f"has a list of {len(node.elts)} entries written out"
