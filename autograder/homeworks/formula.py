"""Formulas of a homework in a few lines each, and what they become with one mistake in them.

    == LoRALinear thin
    H = rows(x) @ A.T
    z = rows(x) @ W.T + b + s * (H @ B.T)

A heading names the Functions and the drivers whose cases the lines below it compute. A line assigns a name: an output
of the case, or a step on the way. An array that a case does not have counts as 0. `alterations` leaves out a factor or
a term, doubles it, changes its sign, transposes a matrix, takes a sum for a mean or another array of the same shape:
one at a time, each with the sentence that says so. If an output equals that of an altered formula, this is what is
wrong with it. A line `! name = expression | Sentence.` is a mistake that no single change makes.

The sentences are known before anything is graded, as hints are. `feedback.fits` computes and compares.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import import_module, util
from typing import Any

SHOWN = {"Xhat": "x̂", "gamma": "γ", "beta": "β", "eps": "ε", "mu": "μ", "lam": "λ", "lr": "the rate", "theta0": "θ₀",
         "beta1": "β₁", "beta2": "β₂", "W_down": "W_d", "W_up": "W_u", "b_down": "b_d", "b_up": "b_u", "table": "E₀",
         "slope": "f'(G)", "sigma": "the standard deviation", "scale": "the scale", "mhat": "m̂", "vhat": "v̂",
         "dXhat": "dx̂", "S": "Σ", "dS": "dS", "half": "1/2", "Phi": "Φ(x)", "phi": "φ(x)", "Y": "the one-hot labels",
         "du": "du/dx, the derivative inside tanh",
         "theta": "θ_d", "prefix": "the prefix"}  # fmt: skip
PLAIN = {  # functions that are not shown
    *("rows", "turned", "blocks", "joined", "joint", "shared", "over_blocks", "heads", "grouped", "last", "back"),
    *("spread", "everything", "part", "over_batch"),
}
FUNCTIONS = {"sqrt": "√", "total": "Σ", "batch": "Σ"}
SCALARS = {"s", "scale", "lam"}
SUMS, MEANS = {"total": "mean", "batch": "batchmean"}, {"mean": "total", "batchmean": "batch"}


@dataclass(frozen=True)
class Altered:
    """A formula with one mistake: statement ``index`` is replaced by ``code``; sentence: what is said of it."""

    index: int
    code: str
    sentence: str


@dataclass(frozen=True)
class Formula:
    """The lines of a formula, and its mistakes.

    keys: the Functions and drivers that it belongs to. helpers: functions that the lines call, besides those of `fits`.
    """

    keys: tuple[str, ...]
    lines: tuple[str, ...]
    mistakes: tuple[Altered, ...]
    helpers: Mapping[str, Callable[..., Any]] = field(default_factory=dict, hash=False)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The names that are assigned, in order."""
        return tuple(line.partition(" = ")[0] for line in self.lines)

    @cached_property
    def later(self) -> tuple[tuple[int, ...], ...]:
        """Of each line, the indices of the lines that a change of it changes, its own first."""
        used = [{n.id for n in ast.walk(ast.parse(line)) if isinstance(n, ast.Name)} for line in self.lines]
        found = []
        for index in range(len(self.lines)):
            names, lines = {self.targets[index]}, [index]
            for i in range(index + 1, len(self.lines)):
                if names & used[i]:
                    names.add(self.targets[i])
                    lines.append(i)
            found.append(tuple(lines))
        return tuple(found)


def formulas(text: str, helpers: Mapping[str, Callable[..., Any]] | None = None) -> list[Formula]:
    """Return the formulas of a text, see above. helpers: functions that it calls."""
    found = []
    for block in re.split(r"^== ", text.strip(), flags=re.MULTILINE)[1:]:
        head, *rest = [line.strip() for line in block.strip().splitlines() if line.strip()]
        lines = tuple(line for line in rest if not line.startswith("!"))
        targets = [line.partition(" = ")[0] for line in lines]
        named = []
        for line in rest:
            if line.startswith("!"):
                code, _, sentence = line[1:].partition("|")
                index = targets.index(code.strip().partition(" = ")[0])
                named.append(Altered(index, code.strip(), sentence.strip()))
        found.append(Formula(tuple(head.split()), lines, (*named, *alterations(lines)), helpers or {}))
    return found


def alterations(lines: tuple[str, ...]) -> Iterator[Altered]:
    """Yield every mistake of these lines that is made by one change, each once."""
    names = {n.id for line in lines for n in ast.walk(ast.parse(line)) if isinstance(n, ast.Name)}
    called = {n.func.id for line in lines for n in ast.walk(ast.parse(line))
              if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
    seen = set()
    for index, line in enumerate(lines):
        statement = ast.parse(line).body[0]
        assert isinstance(statement, ast.Assign)
        target = shown(statement.targets[0])
        before = {n.partition(" = ")[0] for n in lines[:index]} | (names - {n.partition(" = ")[0] for n in lines})
        for path, node in _nodes(statement.value):
            inner = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            for new, sentence in _changes(node, target, sorted(before - called), sorted(names & SCALARS), inner):
                code = f"{line.partition(' = ')[0]} = {ast.unparse(_replaced(statement.value, path, new))}"
                if code not in seen:
                    seen.add(code)
                    yield Altered(index, code, sentence)


Path = tuple[str | int, ...]


def _nodes(node: ast.expr, path: Path = ()) -> Iterator[tuple[Path, ast.expr]]:
    """Yield the expressions inside an expression with the way to them, the outer ones first."""
    yield path, node
    for name, value in ast.iter_fields(node):
        if name == "func":
            continue
        for i, one in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(one, ast.expr):
                yield from _nodes(one, (*path, name, i) if isinstance(value, list) else (*path, name))


def _replaced(root: ast.expr, path: Path, new: ast.expr) -> ast.expr:
    """Return a copy of an expression with another one in a place."""
    if not path:
        return new
    root = copy.deepcopy(root)
    at = root
    for step in path[:-1]:
        at = at[step] if isinstance(step, int) else getattr(at, step)  # type: ignore[index]
    last = path[-1]
    if isinstance(last, int):
        at[last] = new  # type: ignore[index]
    else:
        setattr(at, last, new)
    return root


def _changes(
    node: ast.expr, target: str, names: list[str], scalars: list[str], inner: set[str]
) -> Iterator[tuple[ast.expr, str]]:
    """Yield expressions that may be written instead of this one by mistake, each with its sentence."""
    if isinstance(node, ast.BinOp):
        yield from _of_operation(node, target)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield from _scaled(node, target, scalars)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        yield from _of_call(node, node.func.id, target)
    elif isinstance(node, ast.Attribute):
        yield node.value, f"In {target}, {shown(node.value)} is not transposed."
    elif isinstance(node, ast.UnaryOp):
        yield node.operand, f"{target} lacks a minus sign: -{shown(node.operand)}."
    if isinstance(node, (ast.Name, ast.BinOp)):
        for other in names:
            if other not in inner:
                name = ast.Name(other, ast.Load())
                yield name, f"{target} is made with {shown(name)} where {shown(node)} belongs."


def _scaled(node: ast.BinOp, target: str, scalars: list[str]) -> Iterator[tuple[ast.expr, str]]:
    for s in scalars:
        factor = ast.Name(s, ast.Load())
        for new, term in (
            (_binary(node.left, node.op, _binary(factor, ast.Mult(), node.right)), node.right),
            (_binary(_binary(factor, ast.Mult(), node.left), node.op, node.right), node.left),
        ):
            yield new, f"In {target}, the term {shown(term)} is multiplied by {shown(factor)}; it must not be."


def _of_operation(node: ast.BinOp, target: str) -> Iterator[tuple[ast.expr, str]]:
    left, right, op = node.left, node.right, type(node.op)
    a, b = shown(left), shown(right)
    if op is ast.Mult:
        yield left, f"{target} lacks the factor {b}."
        yield right, f"{target} lacks the factor {a}."
        for factor, name in ((left, a), (right, b)):
            yield _binary(node, ast.Mult(), factor), f"{target} has the factor {name} twice."
            yield (
                _binary(_binary(node, ast.Div(), factor), ast.Div(), factor),
                (f"{target} is divided by {name}; it must be multiplied by it."),
            )
    elif op is ast.Div:
        yield left, f"{target} is not divided by {b}."
        yield _binary(left, ast.Mult(), right), f"{target} is multiplied by {b}; it must be divided by it."
        yield _binary(node, ast.Div(), right), f"{target} is divided by {b} twice."
    elif op in (ast.Add, ast.Sub):
        sign: ast.operator = ast.Add() if op is ast.Sub else ast.Sub()
        yield left, f"{target} lacks the term {b}."
        yield right if op is ast.Add else ast.UnaryOp(ast.USub(), right), f"{target} lacks the term {a}."
        yield _binary(left, sign, right), f"In {target}, the term {b} has the wrong sign."
        yield _binary(node, node.op, right), f"{target} has the term {b} twice."
        yield _binary(node, ast.Add(), left), f"{target} has the term {a} twice."
    elif op is ast.MatMult:
        for new, name in (
            (_binary(_transposed(left), node.op, right), a),
            (_binary(left, node.op, _transposed(right)), b),
        ):
            yield new, f"In {target}, {name} is transposed."
        if isinstance(left, ast.Attribute):
            for call, what in (("first", "row"), ("top", "example")):
                cut = _binary(_transposed(_call(call, left.value)), node.op, _call(call, right))
                yield cut, f"{target} is made of the first {what} only; it is the sum of all."
    elif op is ast.Pow:
        yield left, f"{target} lacks the exponent of {a}: it must be {shown(node)}."


def _of_call(node: ast.Call, name: str, target: str) -> Iterator[tuple[ast.expr, str]]:
    inner = node.args[0]
    text = shown(inner)
    if name in MEANS:
        yield _call(MEANS[name], inner), f"In {target}, the mean of {text} is a sum; divide by the number of entries."
    if name in SUMS:
        yield _call(SUMS[name], inner), f"In {target}, the sum of {text} is a mean; sums are not divided."
    if name in ("mean", "total", "softmax", "amax"):
        yield _call(f"first_{name}", inner), f"In {target}, {name}({text}) runs along another axis than it must."
        yield _call(f"all_{name}", inner), f"In {target}, {name}({text}) runs over all entries, not along its axis."
    if name == "batch":
        for call, what in (("first", "row"), ("top", "example")):
            yield _call(name, _call(call, inner)), f"{target} is made of the first {what} only; it is the sum of all."
    if name == "sqrt":
        yield inner, f"{target} lacks the root: it must be √({text})."
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Add):
            outside = _binary(_call("sqrt", inner.left), ast.Add(), inner.right)
            yield outside, f"In {target}, {shown(inner.right)} is added to the root; it belongs under the root."
    if name in ("joint", "shared", "over_blocks", "grouped", "over_batch"):
        for other, what in (("first", "made of the first block only"), ("mean", "a mean over the blocks")):
            summed = ast.Call(ast.Name(f"{other}_{name}", ast.Load()), node.args, [])
            yield summed, f"In {target}, {text} is {what}; it must be the sum over the blocks."
        yield inner, f"In {target}, {text} is not summed over the blocks."
    if name in ("f", "tanh", "exp", "log", "sign"):
        yield inner, f"In {target}, {name} is not applied to {text}."


def _binary(left: ast.expr, op: ast.operator, right: ast.expr) -> ast.BinOp:
    return ast.BinOp(left, op, right)


def _call(name: str, inner: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [inner], [])


def _transposed(node: ast.expr) -> ast.expr:
    return node.value if isinstance(node, ast.Attribute) else ast.Attribute(node, "T", ast.Load())


def shown(node: ast.AST) -> str:
    """Return an expression as a formula is written: X Wᵀ for rows(X) @ W.T."""
    if isinstance(node, ast.Name):
        return SHOWN.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_grouped(node.value)}ᵀ"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        inner = ", ".join(map(shown, node.args))
        if node.func.id in PLAIN:
            return shown(node.args[0])
        return f"{FUNCTIONS.get(node.func.id, node.func.id)}({inner})"
    if isinstance(node, ast.UnaryOp):
        return f"-{_grouped(node.operand)}"
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, (ast.Mult, ast.MatMult)):
            return f"{_grouped(node.left)} {_grouped(node.right)}"
        sign = {ast.Add: " + ", ast.Sub: " - ", ast.Div: " / ", ast.Pow: "^"}[type(node.op)]
        return f"{shown(node.left)}{sign}{_grouped(node.right)}"
    return ast.unparse(node)


def _grouped(node: ast.AST) -> str:
    text = shown(node)
    loose = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Div))
    return f"({text})" if loose else text


@lru_cache(maxsize=16)
def formulas_of(homework: str) -> tuple[Formula, ...]:
    """Return the formulas of a homework; none in a handout, which does not hold them."""
    name = f"autograder.homeworks.{homework}.formulas"
    return tuple(import_module(name).FORMULAS) if util.find_spec(name) else ()


@lru_cache(maxsize=16)
def sentences(homework: str) -> frozenset[str]:
    """Return all that can be said by the formulas of a homework."""
    whole = {m.sentence for f in formulas_of(homework) for m in f.mistakes}
    parts = {alone(f.targets[i], m) for f in formulas_of(homework) for m in f.mistakes for i in f.later[m.index]}
    return frozenset(whole | parts)


def alone(output: str, mistake: Altered) -> str:
    """Return what is said if one output alone is made as if a step had a mistake, and other outputs are right."""
    return f"Only in {output}: {mistake.sentence}"
