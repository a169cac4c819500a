"""Mutants: mistakes that students make, as patches of the library. They test the grader, and they explain failures.

One file a homework, with the list ``MUTANTS``; most of it is a text for `mistakes`. If the output of a submission
equals that of a mutant, the student is shown the mutant's hint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from autograder.homeworks.homework import Homework, HomeworkError
from autograder.homeworks.patch import PatchError, check_names, parts, replace
from autograder.homeworks.strip import replace_bodies, source_path


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


def mistakes(text: str, plain: Mapping[str, str] | None = None) -> list[Mutant]:
    """Return the mutants that a text describes, each as a diff.

    A heading names the target and the problem of the entries below it. An entry is the mutant's id, its hint, the lines
    that go and the lines that come; a blank line ends it::

        == minipeft.ops.softmax:Softmax.backward 2.1 with Softmax.forward

        softmax-backward-axis (also 2.7: attention is made of it)
        The sum in the backward runs along the last axis, not along the softmax's own.
        - (dz * p).sum(axis=axis, keepdims=True)
        + (dz * p).sum(axis=-1, keepdims=True)

    If no line goes, the others are the whole body. If none comes before the next part goes, a lone + ends the part.
    "with" lists the functions of `Mutant.along`.

    Args:
        text: headings and entries.
        plain: bodies by target, from which `Mutant.along` is read, too. If the target has one, what goes is text of it,
            in one part or several. Otherwise it is an expression or statements of the library's function.

    Raises:
        HomeworkError: a heading or an entry does not have this form.
    """
    found: list[Mutant] = []
    heading: re.Match[str] | None = None
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("=="):
            heading = re.fullmatch(r"== (\S+):(\S+) ([\d.]+)(?: with (.+))?", block)
            if heading is None:
                raise HomeworkError(f"expected a heading '== module:function problem', got {block!r}")
        elif heading is None:
            raise HomeworkError(f"expected a heading before the mutant {block!r}")
        else:
            found.append(_mistake(heading, block, plain or {}))
    return found


def _mistake(heading: re.Match[str], block: str, plain: Mapping[str, str]) -> Mutant:
    module, function, problem, others = heading.groups()
    first, _, rest = block.partition("\n")
    name = re.fullmatch(r"([\w-]+)(?: \(also ([\d., ]+): .+\))?", first)
    hint, *lines = rest.split("\n")
    if name is None or not lines or not all(re.match(r"[-+]( |$)", line) for line in lines):
        raise HomeworkError(f"expected a mutant's id, its hint and lines that begin with - or +, got {block!r}")
    along = {other: plain[f"{module}:{other}"] for other in (others or "").split()}
    also = tuple((name[2] or "").replace(",", " ").split())
    target = f"{module}:{function}"
    changes = list(parts(lines))
    old, new = changes[0]
    if len(changes) > 1 and (old is None or target not in plain):
        raise HomeworkError(f"{name[1]}: expected one part that is replaced, got {len(changes)}")
    if old is None:
        return Mutant(name[1], target, problem, hint, body=new, also=also, along=along)
    if target not in plain:
        return Mutant(name[1], target, problem, hint, old, new, also=also, along=along)
    body = plain[target]
    for old, new in changes:
        if old is None or body.count(old) != 1:
            raise HomeworkError(f"{name[1]}: expected {old!r} once in the plain body of {target}")
        body = body.replace(old, new)
    return Mutant(name[1], target, problem, hint, body=body, also=also, along=along)


def mutants(homework: str) -> list[Mutant]:
    """The mutants of a homework."""
    found: list[Mutant] = import_module(f"autograder.homeworks.{homework}.mutants").MUTANTS
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
