"""Mutants: mistakes that students make, as patches of the library. They test the grader, and they explain failures.

One file a homework, with ``MUTANTS = [Mutant(…), …]``. A submission whose output equals a mutant's is told its hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from autograder.homework import Homework, HomeworkError
from autograder.strip import functions, replace_bodies, source_path


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    id: short and unique in its homework. target: ``module:function``. Either ``old`` and ``new``: a piece of text of
    that function, which occurs there exactly once, and what stands there instead; or ``body``: the whole body behind
    the docstring, without indentation. problem: the one that must lose points. hint: what to tell, one sentence, true
    of this mistake and not its solution. also: other problems that may lose points, with a reason in a comment beside
    it.
    equivalent: a reason why no test can tell it from the reference ("" for a real mutant).
    along: with a ``body``, whole bodies of other functions of the same module by qualified name: a backward's body
    reads what its forward saved, and so brings a plain forward along.
    """

    id: str
    target: str
    problem: str
    hint: str
    old: str = ""
    new: str = ""
    body: str = ""
    also: tuple[str, ...] = ()
    equivalent: str = ""
    along: Mapping[str, str] = field(default_factory=dict, hash=False)


def mutants(homework: str) -> list[Mutant]:
    """The mutants of a homework."""
    found: list[Mutant] = import_module(f"autograder.mutants.{homework}").MUTANTS
    names = [m.id for m in found]
    if len(set(names)) != len(names):
        raise HomeworkError(f"{homework}: a mutant's id comes twice")
    return found


def mutated(mutant: Mutant) -> dict[str, str]:
    """The mutated module, name -> source; HomeworkError where the patch does not fit the library."""
    module, _, name = mutant.target.partition(":")
    source = source_path(module).read_text("utf-8")
    if mutant.body:
        return {module: replace_bodies(source, {**mutant.along, name: mutant.body})}
    node = functions(source).get(name)
    if node is None:
        raise HomeworkError(f"mutant {mutant.id}: {module} has no function {name}")
    lines = source.splitlines(keepends=True)
    start, end = node.lineno - 1, int(node.end_lineno or 0)
    text = "".join(lines[start:end])
    if text.count(mutant.old) != 1:
        raise HomeworkError(
            f"mutant {mutant.id}: {mutant.old!r} occurs {text.count(mutant.old)} times in {name}, expected once"
        )
    return {module: "".join([*lines[:start], text.replace(mutant.old, mutant.new), *lines[end:]])}


def check_mutants(homework: Homework) -> None:
    """HomeworkError where a mutant names a problem or a target that its homework lacks."""
    for m in mutants(homework.name):
        homework.problem(m.problem)
        if m.target not in {str(t) for t in homework.targets}:
            raise HomeworkError(f"mutant {m.id}: {m.target} is no target of {homework.name}")
        mutated(m)
