"""Grade inside this process: the reference, and our own mutants and variants. Never a submission.

grade_sources(homework, mutated(mutant), seed)   {problem: Verdict}
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from types import FrameType
from typing import Any

import numpy as np

from autograder.grading.check import Outputs, Raised, Verdict, compare, graded
from autograder.grading.library import Library, Patched, patched
from autograder.homeworks import driver
from autograder.homeworks.case import PUBLIC_SEED, Case, request_of
from autograder.homeworks.draw import cases
from autograder.homeworks.homework import Homework, Target
from autograder.homeworks.strip import put_back, source_path

OTHER_SEED = "another"  # what public cases are compared with


@lru_cache(maxsize=1)
def reference_library() -> Library:
    """Return the unchanged library."""
    return Library()


@lru_cache(maxsize=1)
def _to_patch() -> Library:
    """The copy that takes other bodies for a while."""
    return Library()


@lru_cache(maxsize=256)
def _with(sources: tuple[tuple[str, str], ...]) -> Library | Patched:
    return patched(_to_patch(), dict(sources)) or Library(dict(sources))


def library_with(sources: Mapping[str, str]) -> Library | Patched:
    """The library with these modules (kept for the next call); the library itself where none differs."""
    own = {module: text for module, text in sources.items() if text != source_path(module).read_text("utf-8")}
    return _with(tuple(sorted(own.items()))) if own else reference_library()


class OutOfTime(BaseException):
    """A case took too much processor time. It is not an Exception, so that graded code does not catch it by chance."""


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside after that many seconds of this process (in the main thread, where the platform can)."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
    else:

        def stop(number: int, frame: FrameType | None) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            signal.signal(signal.SIGPROF, before)


def run_case(library: Library | Patched, homework: str, case: Case) -> Outputs | Raised:
    """Return what the case's driver returns with this copy of the library, or what it raised."""
    drivers = import_module(f"autograder.homeworks.{homework}.drivers")
    with library.active() as mp, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning is no mistake
        try:
            with processor_time(case.seconds):
                return driver.run(mp, drivers, request_of(case))
        except OutOfTime:
            return Raised("timeout", f"took more than {case.seconds:g} s of processor time")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return Raised("raised", type(error).__name__, str(error), last.filename, last.lineno or 0)


def reference(homework: str, case: Case) -> Outputs:
    """Return the library's answer. Raises RuntimeError if it has none: then the case is wrong, not the submission."""
    got = run_case(reference_library(), homework, case)
    if isinstance(got, Raised):
        raise RuntimeError(f"{homework}, case {case.name!r}: the library itself raised {got.error}: {got.message}")
    missing = [name for name in case.checks if name not in got]
    if missing:
        raise RuntimeError(f"{homework}, case {case.name!r}: the driver {case.driver} returns no {missing}")
    return got


@lru_cache(maxsize=512)
def answered(homework: str, problem: str, seed: str | int) -> tuple[tuple[Case, Outputs], ...]:
    """Return the cases of a problem for a seed, each with the library's answer (cached)."""
    return tuple((case, reference(homework, case)) for case in cases(homework, problem, seed))


def facts(case: Case, right: Outputs, public: Outputs) -> frozenset[str]:
    """Return the outputs of a case that can be right without being computed: they are no evidence of a solution.

    An output is a fact if another value that everybody has would pass for it: an input of the case, or the right value
    of the same output under another seed. Arrays of one value count as equal whatever their shapes are.

    Args:
        case: the case.
        right: its reference.
        public: the reference of the case of this name under another seed; empty if there is none.
    """
    return frozenset(
        output
        for output in case.checks
        if (output in public and _alike(case, output, right[output], public[output]))
        or any(_alike(case, output, right[output], x) for x in case.arrays.values())
    )


def _alike(case: Case, output: str, right: Any, other: Any) -> bool:
    """Return whether ``other`` would pass, or is as easily given."""
    if isinstance(right, np.ndarray) and isinstance(other, np.ndarray) and _constant(right) and _constant(other):
        return not right.size or not other.size or bool(right.flat[0] == other.flat[0])
    if isinstance(right, (list, tuple)) and isinstance(other, (list, tuple)) and len(right) == len(other):
        return all(_alike(case, output, r, o) for r, o in zip(right, other, strict=True))
    return compare(case, output, right, other) is None


def _constant(x: np.ndarray) -> bool:
    return not x.size or bool((x == x.flat[0]).all())


@lru_cache(maxsize=512)
def drawn(homework: str, problem: str, seed: str | int) -> tuple[tuple[Case, Outputs], ...]:
    """Return the same as `answered`, each case with its facts."""
    other = answered(homework, problem, OTHER_SEED if seed == PUBLIC_SEED else PUBLIC_SEED)
    public = {case.name: right for case, right in other}
    return tuple(
        (replace(case, facts=facts(case, right, public.get(case.name, {}))), right)
        for case, right in answered(homework, problem, seed)
    )


def with_targets(sources: Mapping[str, str], supplied: Sequence[str]) -> dict[str, str]:
    """``sources`` with the bodies of these targets out of the library; HomeworkError if a function is not there."""
    targets = [Target.parse(name) for name in supplied]
    done = dict(sources)
    for module, text in sources.items():
        names = [t.name for t in targets if t.module == module]
        if names:
            done[module] = put_back(text, source_path(module).read_text("utf-8"), names)
    return done


def grade_sources(
    homework: Homework, sources: Mapping[str, str], seed: str | int, problems: Iterable[str] | None = None
) -> dict[str, Verdict]:
    """Return the verdict on each problem for our own modules (a mutant's, a variant's, the stubs)."""

    def run(
        own: Mapping[str, str], given: Sequence[tuple[Case, Outputs]], supplied: Sequence[str]
    ) -> list[Outputs | Raised]:
        copy = library_with(with_targets(own, supplied))
        with copy.active():  # swapped in once for all cases
            return [run_case(copy, homework.name, case) for case, _ in given]

    return {
        problem.id: graded(homework, problem, sources, drawn(homework.name, problem.id, seed), run)
        for problem in homework.problems
        if problems is None or problem.id in problems
    }
