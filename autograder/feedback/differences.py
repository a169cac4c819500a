"""Compare a student's gradients with central differences of the student's own forward.

This needs no reference, so it tells two mistakes apart: a backward that does not fit its forward, and a backward that
fits a wrong forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autograder.grading.check import Outputs, Raised, Run, Verdict
from autograder.grading.reference import reference_library, run_case
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework

DISAGREES = 1e-5  # relative to the largest gradient; central differences are good to some 1e-9
MOST_ENTRIES = 5000  # of all inputs of a case: larger ones take too long


@dataclass(frozen=True)
class Comparison:
    """A gradient compared with differences: the worst entry and its values. error: relative to the largest gradient."""

    case: str
    argument: str
    at: tuple[int, ...]
    backward: float
    differences: float
    error: float

    @property
    def agrees(self) -> bool:
        """Return whether backward and differences agree as far as differences are accurate (NaN does not)."""
        return self.error <= DISAGREES

    def __str__(self) -> str:
        place = f" at [{', '.join(map(str, self.at))}]" if self.at else ""
        ratio = f", a ratio of {self.backward / self.differences:.4g}" if self.differences else ""
        return (
            f"d{self.argument} ({self.case}): your backward gives {self.backward:.6g}{place}, central differences of "
            f"your own forward {self.differences:.6g}{ratio}."
        )


def comparisons(homework: Homework, verdict: Verdict, sources: Mapping[str, str], run: Run) -> list[Comparison]:
    """Return the comparisons of a problem: of each wrong gradient, on the smallest case where it is wrong, in float64.

    ``run``: what cases return with some modules (`Session.run`). A gradient of the library's own that differs from
    differences (at a kink, say) is left out; a handout's library has none, and nothing is left out.
    """
    wrong = {(f.case, f.key) for f in verdict.failures if f.kind in ("value", "finite") and f.key.startswith("d")}
    small = sorted((case for case, _, _ in verdict.results if differentiable(case)), key=size)
    chosen: list[Case] = []
    for output in dict.fromkeys(f.key for f in verdict.failures):
        first = next((case for case in small if (case.name, output) in wrong), None)
        if first is not None and all(first is not case for case in chosen):
            chosen.append(first)
    asked = [asking(homework.name, case) for case in chosen]
    found = []
    for case, came in zip(asked, run(sources, [(case, {}) for case in asked], ()) if asked else [], strict=True):
        library = run_case(reference_library(), homework.name, case)
        right = {c.argument: c for c in read(case.name, library)}
        silent = isinstance(library, Raised) and library.error == "NotImplementedError"  # a handout's
        for c in read(case.name, came):
            asked_for = (case.name, f"d{c.argument}") in wrong  # what is right needs no second opinion
            if asked_for and (silent or (c.argument in right and right[c.argument].agrees)):
                found.append(c)
    return found


def differentiable(case: Case) -> bool:
    """Return whether a case gives a cotangent in float64 and is small enough."""
    dz = case.arrays.get("dz")
    return dz is not None and dz.dtype == np.float64 and size(case) <= MOST_ENTRIES


def size(case: Case) -> int:
    """Return the number of entries of a case's inputs."""
    return sum(x.size for x in case.arrays.values())


def asking(homework: str, case: Case) -> Case:
    """Return the case that asks for differences."""
    params = {"homework": homework, "driver": case.driver, "params": dict(case.params)}
    return replace(case, driver="finite_differences", params=params, checks={}, seconds=20.0)


def read(case: str, came: Outputs | Raised) -> Iterator[Comparison]:
    """Return the comparisons in a worker's reply; none if it sent something else."""
    listed = [] if isinstance(came, Raised) else came.get("compared")
    for one in listed if isinstance(listed, list) else []:
        if not isinstance(one, Mapping):
            continue
        at, g, n, error = (one.get(key) for key in ("at", "backward", "differences", "error"))
        if isinstance(g, float) and isinstance(n, float) and isinstance(error, float) and isinstance(at, list):
            yield Comparison(case, str(one.get("argument"))[:40], tuple(i for i in at if type(i) is int), g, n, error)


def sentences(found: Sequence[Comparison]) -> list[str]:
    """Return the sentences about a problem."""
    if not found:
        return []
    wrong = [str(c) for c in found if not c.agrees]
    if wrong:
        return wrong
    names = ", ".join(dict.fromkeys(f"d{c.argument}" for c in found))
    return [f"{names}: your backward agrees with central differences of your own forward; look at the forward."]
