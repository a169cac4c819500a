"""Mutants: mistakes that students make, as patches of the library. They test the grader, and they explain failures.

One file a homework, with ``MUTANTS = [Mutant(…), …]``. A submission whose output equals a mutant's is told its hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from autograder.homework import Homework, HomeworkError
from autograder.patch import PatchError, check_names, replace
from autograder.strip import replace_bodies, source_path


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    id: short and unique in its homework.
    target: ``module:function``.
    problem: the one that must lose points.
    hint: one sentence for the student, true of this mistake, that does not give the solution away.
    old, new: an expression or statements that occur once in the function, and their replacement; see `patch.replace`.
    body: instead of old and new, the whole body after the docstring, without indentation.
    also: other problems that may lose points, with a reason in a comment.
    equivalent: a reason why no test can tell it from the reference ("" for a real mutant).
    along: with a body, the bodies of other functions of the module by qualified name. A backward's body reads what its
        forward saved, so it brings a plain forward along.
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
    """Return the mutated module, name -> source; HomeworkError if the patch does not fit the library."""
    module, _, name = mutant.target.partition(":")
    source = source_path(module).read_text("utf-8")
    try:
        if not mutant.body:
            return {module: replace(source, name, mutant.old, mutant.new)}
        bodies = {**mutant.along, name: mutant.body}
        source = replace_bodies(source, bodies)
        for function in bodies:
            check_names(source, function)
    except PatchError as error:
        raise HomeworkError(f"mutant {mutant.id}: {error}") from error
    return {module: source}


def check_mutants(homework: Homework) -> None:
    """HomeworkError where a mutant names a problem or a target that its homework lacks."""
    for m in mutants(homework.name):
        homework.problem(m.problem)
        if m.target not in {str(t) for t in homework.targets}:
            raise HomeworkError(f"mutant {m.id}: {m.target} is no target of {homework.name}")
        mutated(m)
