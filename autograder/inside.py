"""Grading inside this process: the reference, and our own mutants and variants. Never a submission.

grade_sources(homework, mutated(mutant), seed)   {problem: Verdict}
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from types import FrameType
from typing import Any

import numpy as np

from autograder.cases import Case, cases, laid_out
from autograder.check import Outputs, Raised, Verdict, judge
from autograder.homework import Homework, Problem
from autograder.library import Library
from autograder.strip import put_back, source_path


@lru_cache(maxsize=1)
def reference_library() -> Library:
    """The library as it is."""
    return Library()


@lru_cache(maxsize=64)
def _copy(sources: tuple[tuple[str, str], ...]) -> Library:
    return Library(dict(sources))


def library_with(sources: Mapping[str, str]) -> Library:
    """A copy of the library with these modules (kept for the next call); the library itself where none differs."""
    own = {module: text for module, text in sources.items() if text != source_path(module).read_text("utf-8")}
    return _copy(tuple(sorted(own.items()))) if own else reference_library()


class OutOfTime(BaseException):
    """A case took more processor time than it may. No Exception, so that what is graded does not catch it by chance."""


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside after that many seconds of this process (in the main thread, where the platform can)."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def run_case(library: Library, homework: str, case: Case) -> Outputs | Raised:
    """What the case's driver returns with this copy of the library, or what it raised."""
    driver = getattr(import_module(f"autograder.drivers.{homework}"), case.driver)
    arrays = {name: laid_out(x, case.layouts.get(name, "plain")) for name, x in case.arrays.items()}
    with library.active() as mp, np.errstate(all="ignore"):
        try:
            with processor_time(case.seconds):
                return normalized(driver(mp, arrays, dict(case.params)))
        except OutOfTime:
            return Raised("timeout", f"took more than {case.seconds:g} s of processor time")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return Raised("raised", type(error).__name__, str(error), last.filename, last.lineno or 0)


def normalized(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as they come out of the worker: arrays copied, NumPy scalars as 0-d arrays, tuples as lists."""

    def plain(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return np.array(x, order="C", subok=False)
        if isinstance(x, np.floating):
            return np.asarray(x)
        if isinstance(x, np.generic):
            return x.item()
        if isinstance(x, (list, tuple)):
            return [plain(v) for v in x]
        return x

    return {name: plain(x) for name, x in outputs.items()}


def reference(homework: str, case: Case) -> Outputs:
    """The library's answer. RuntimeError where it has none: then the case is wrong, not the submission."""
    got = run_case(reference_library(), homework, case)
    if isinstance(got, Raised):
        raise RuntimeError(f"{homework}, case {case.name!r}: the library itself raised {got.error}: {got.message}")
    missing = [name for name in case.checks if name not in got]
    if missing:
        raise RuntimeError(f"{homework}, case {case.name!r}: the driver {case.driver} returns no {missing}")
    return got


@lru_cache(maxsize=512)
def drawn(homework: str, problem: str, seed: str | int) -> tuple[tuple[Case, Outputs], ...]:
    """The cases of a problem for a seed, each with the library's answer (kept for the next call)."""
    return tuple((case, reference(homework, case)) for case in cases(homework, problem, seed))


def with_prerequisites(homework: Homework, problem: str, sources: Mapping[str, str]) -> dict[str, str]:
    """``sources`` with the bodies of the problem's prerequisites out of the library."""
    names = homework.supplied(homework.problem(problem))
    done = dict(sources)
    for module, text in sources.items():
        supplied = [t.name for t in names if t.module == module]
        if supplied:
            done[module] = put_back(text, source_path(module).read_text("utf-8"), supplied)
    return done


def grade_sources(
    homework: Homework, sources: Mapping[str, str], seed: str | int, problems: Iterable[str] | None = None
) -> dict[str, Verdict]:
    """The verdict on each problem for modules of ours (a mutant's, a variant's, the stubs).

    A problem is graded with the sources as they are and, where that falls short, once more with its prerequisites out
    of the library: the better counts, so that one mistake is not punished twice.
    """
    verdicts = {}
    for problem in homework.problems:
        if problems is not None and problem.id not in problems:
            continue

        def attempt(own: Mapping[str, str], problem: Problem = problem) -> Verdict:
            copy = library_with(own)
            given = drawn(homework.name, problem.id, seed)
            return judge(problem, [(case, right, run_case(copy, homework.name, case)) for case, right in given])

        verdict = attempt(sources)
        if verdict.share < 1.0 and problem.prerequisites:
            other = attempt(with_prerequisites(homework, problem.id, sources))
            verdict = other if other.share > verdict.share else verdict
        verdicts[problem.id] = verdict
    return verdicts
