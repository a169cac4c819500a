"""Points without a solution: what a program gets that only guesses.

    for row in guessed(load_homework("hw6_lora"), seed=0): ...

Three guessers are graded on the cases of a seed, all in this process, since the programs are our own:

- *replay* answers with the right values of the public cases, which a handout holds: those of the case of the same name,
  or of the first after it, the second, and so on; the best of these counts;
- *bodies* returns a constant, an argument, zeros or an error, in one target or in all of a problem, while every other
  target is the stub; the best of them counts;
- *both* picks for each output whatever fits among the public case of the same name, all bodies, and the inputs. It
  knows which guess is right, which no submission does: it is an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autograder.grading.check import Outputs, Raised, Result, compare, judge
from autograder.grading.reference import drawn, library_with, run_case, with_targets
from autograder.homeworks.case import PUBLIC_SEED, Case
from autograder.homeworks.homework import Homework, Problem
from autograder.homeworks.strip import functions, replace_bodies, stubs, targeted
from minipeft.files.table import columns

GOAL = 0.01  # of a homework's points, at most

Given = Sequence[tuple[Case, Outputs]]
CONSTANTS: tuple[Any, ...] = (None, False, True, 0, 1, 1.0, "", [], {})
Answer = Callable[[Sequence[Any], int], Any]  # from a function's arguments and its number of gradients


@dataclass(frozen=True)
class Guess:
    """The points of one problem that each guesser gets, and the best body."""

    problem: str
    replay: float
    bodies: float
    both: float
    best: str


def _constant(x: Any) -> Answer:
    return lambda args, n: x


def _raising(error: type[Exception]) -> Answer:
    def fail(args: Sequence[Any], n: int) -> Any:
        raise error("a guess")

    return fail


def _of(make: Callable[[Any], Any], i: int) -> Answer:
    return lambda args, n: make(args[i])


BODIES: dict[str, Answer] = {
    **{f"return {x!r}": _constant(x) for x in CONSTANTS},
    "return np.empty(0)": lambda args, n: np.empty(0),
    **{f"raise {error.__name__}": _raising(error) for error in (ValueError, TypeError, KeyError, RuntimeError)},
    **{f"return argument {i}": _of(lambda x: x, i) for i in (0, 1, 2, 3, -1)},
    **{f"return a copy of argument {i}": _of(np.array, i) for i in (0, 1)},
    **{f"return zeros like argument {i}": _of(np.zeros_like, i) for i in (0, 1, 2, 3, -1)},
    **{f"return ones like argument {i}": _of(np.ones_like, i) for i in (0, 1, -1)},
    "return (None, …)": lambda args, n: (None,) * n,
    "return (dz, …)": lambda args, n: (args[0],) * n,
    "return (zeros like dz, …)": lambda args, n: (np.zeros_like(args[0]),) * n,
    "return (0.0, …)": lambda args, n: (0.0,) * n,
}

NO_ARGUMENTS = ("self", "ctx", "cls", "answer")  # among the names of a function that calls `answer`
FIRST = "return argument 0"

_chosen: Mapping[str, Answer] = {}  # by function, while a program runs


def answer(function: str, n: int, arguments: Mapping[str, Any]) -> Any:
    """Return what the chosen body of a function returns; without one raise NotImplementedError, as a stub does."""
    if function not in _chosen:
        raise NotImplementedError(function)
    return _chosen[function]([x for name, x in arguments.items() if name not in NO_ARGUMENTS], n)


def guessing(homework: Homework, problem: Problem) -> tuple[dict[str, str], list[str]]:
    """Return the modules of stubs in which the problem's functions call `answer`, and the names of these functions."""
    by_file = stubs(homework)
    sources = {f.module: by_file[f.stub] for f in homework.files}
    names = []
    for target in problem.targets:
        text = sources[target.module]
        bodies = {}
        for name in targeted(text, target.name):
            forward = functions(text).get(name.replace(".backward", ".forward"))
            n = len(forward.args.args) - 1 if forward is not None else 1  # without ctx
            call = f"return answer({name!r}, {n}, locals())"
            bodies[name] = f"from autograder.selftest.guesses import answer\n{call}"
            names.append(name)
        sources[target.module] = replace_bodies(text, bodies)
    return with_targets(sources, [str(t) for t in homework.supplied(problem)]), names


def programs(names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Answer]]]:
    """Every body in every function alone, in all, and in a backward whose forward returns its first argument."""
    for body, returned in BODIES.items():
        for name in names:
            yield f"{name}: {body}", {name: returned}
        if len(names) > 1:
            yield f"all: {body}", dict.fromkeys(names, returned)
        for name in names:
            if name.endswith(".backward"):
                others = {other: BODIES[FIRST] for other in names if other != name}
                yield f"{name}: {body}; the others: {FIRST}", {**others, name: returned}


def guessed(homework: Homework, seed: str | int, problems: Iterable[str] | None = None) -> Iterator[Guess]:
    """Return what can be had of each problem without a solution."""
    for problem in homework.problems:
        if problems is not None and problem.id not in problems:
            continue
        hidden = drawn(homework.name, problem.id, seed)
        public = drawn(homework.name, problem.id, PUBLIC_SEED)
        replays = [replay(hidden, public, shift) for shift in range(len(public))]
        bodies = list(tried(homework, problem, hidden))
        best, most = max(((title, judge(problem, results).share) for title, results in bodies), key=lambda one: one[1])
        every = [replays[0], *(results for _, results in bodies)]
        yield Guess(
            problem.id,
            problem.points * max(judge(problem, results).share for results in replays),
            problem.points * most,
            problem.points * judge(problem, picked(every)).share,
            best if most else "",
        )


def replay(hidden: Given, public: Given, shift: int) -> list[Result]:
    """Return the results if each case is answered with the right values of a public case of its driver.

    shift: 0 for the public case of the same name, or else of the same place; n for the n-th after it.
    """
    results: list[Result] = []
    for i, (case, right) in enumerate(hidden):
        same = [(other, values) for other, values in public if other.driver == case.driver]
        named = [k for k, (other, _) in enumerate(same) if other.name == case.name]
        start = named[0] if named else i
        results.append((case, right, same[(start + shift) % len(same)][1] if same else {}))
    return results


def tried(homework: Homework, problem: Problem, hidden: Given) -> Iterator[tuple[str, list[Result]]]:
    """Return the results of every program that `programs` gives, with its title."""
    global _chosen
    sources, names = guessing(homework, problem)
    library = library_with(sources)
    try:
        with library.active():
            for title, _chosen in programs(names):
                yield title, [(case, right, run_case(library, homework.name, case)) for case, right in hidden]
    finally:
        _chosen = {}


def picked(guesses: Sequence[Sequence[Result]]) -> list[Result]:
    """Return the results in which each output is right if it is in any of the guesses, or equals an input."""
    results: list[Result] = []
    for tries in zip(*guesses, strict=True):
        case, right, _ = tries[0]
        got = {}
        for output in case.checks:
            known = [came[output] for _, _, came in tries if not isinstance(came, Raised) and output in came]
            for guess in (*known, *case.arrays.values()):
                if compare(case, output, right[output], guess) is None:
                    got[output] = guess
                    break
        results.append((case, right, got))
    return results


def totals(rows: Sequence[Guess]) -> tuple[float, float, float]:
    """Return the points of a homework that each guesser gets."""
    return sum(r.replay for r in rows), sum(r.bodies for r in rows), sum(r.both for r in rows)


def missed(homework: Homework, rows: Sequence[Guess]) -> list[str]:
    """Return a line for each guesser that gets more than its share."""
    return [
        f"{homework.name}: {name} gets {points:.2f} of {homework.points} points without a solution, at most {GOAL:.0%}"
        for name, points in zip(("replay", "bodies", "both"), totals(rows), strict=True)
        if points > GOAL * homework.points
    ]


def table(homework: Homework, rows: Sequence[Guess]) -> str:
    """Return what each guesser gets of each problem, for the terminal."""
    lines = [
        [r.problem, f"{homework.problem(r.problem).points:g}", *_shown(r.replay, r.bodies, r.both), r.best]
        for r in rows
    ]
    lines.append(["all", f"{homework.points:g}", *_shown(*totals(rows)), ""])
    heads = (homework.name, "points", "replay", "bodies", "both", "best body")
    return columns(heads, lines, [False, True, True, True, True, False])


def _shown(*points: float) -> list[str]:
    return [f"{x:.2f}" for x in points]
