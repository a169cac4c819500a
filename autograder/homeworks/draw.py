"""Draw the cases of a problem from a seed. One file for each homework, which only the key process and students import.

Each problem has a function, marked ``@problem("6.1")``, from a `Draw` to its cases.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from autograder.homeworks.case import Case

UNTOUCHED = {"changed": "inputs untouched"}
FORWARD = {"z": "forward", **UNTOUCHED}
SMALL = "float32 stays float32"
LARGE = "large input in time"
FROZEN = "frozen costs nothing"
AGAIN = "several calls"


class Draw:
    """Random inputs of one problem: every value depends on the seed, the homework and the problem alone."""

    def __init__(self, seed: str | int, homework: str, problem: str):
        self.homework = homework
        key = f"{seed}|{homework}|{problem}".encode()
        self.rng = np.random.default_rng(list(hashlib.sha256(key).digest()))

    def normal(self, *shape: int, scale: float = 1.0, dtype: str = "float64") -> np.ndarray:
        """Gaussian entries with standard deviation ``scale``."""
        return (scale * self.rng.standard_normal(shape)).astype(dtype)

    def away(self, *shape: int, margin: float = 0.05, scale: float = 1.0, dtype: str = "float64") -> np.ndarray:
        """Gaussian entries pushed away from 0 by ``margin``: for functions with a kink there."""
        x = self.rng.standard_normal(shape) * scale
        return (x + np.sign(x) * margin).astype(dtype)

    def positive(self, *shape: int, low: float = 0.5, high: float = 2.0, dtype: str = "float64") -> np.ndarray:
        """Uniform entries between ``low`` and ``high``: gains that are not 1, denominators."""
        return self.rng.uniform(low, high, shape).astype(dtype)

    def integers(self, high: int, *shape: int, low: int = 0) -> np.ndarray:
        """Integers from ``low`` to ``high`` - 1."""
        return self.rng.integers(low, high, shape)

    def mask(self, *shape: int, p: float = 0.7) -> np.ndarray:
        """Booleans, True with probability ``p``, at least one True in each row."""
        m = self.rng.random(shape) < p
        m[..., 0] |= ~m.any(axis=-1)
        return m

    def sizes(self, n: int, low: int = 2, high: int = 9) -> list[int]:
        """n pairwise distinct sizes from ``low`` to ``high``."""
        return [int(x) for x in self.rng.permutation(np.arange(low, high + 1))[:n]]

    def shuffled(self, listed: Sequence[Any]) -> list[Any]:
        """The entries in another order."""
        return [listed[i] for i in self.rng.permutation(len(listed))]

    def seed(self) -> int:
        """A seed for a generator of the driver."""
        return int(self.integers(10**6))

    def number(self, low: float, high: float) -> float:
        """A Python number between ``low`` and ``high``."""
        return float(self.rng.uniform(low, high))

    def again(self, case: Case) -> Case:
        """Return the case with more calls: in between, and with arrays that were changed; see `driver.twice`."""
        outputs = [n for n, aspect in case.checks.items() if aspect not in (FROZEN, *UNTOUCHED.values())]
        when = {"": "", "second ": " of a second input", "again ": " of a changed input"}
        shown = {
            w + n: case.shown.get(n, n) + words for w, words in when.items() for n in outputs if w or n in case.shown
        }
        return replace(
            case,
            name=f"{case.name}, several calls",
            driver="twice",
            checks={w + n: AGAIN for w in when for n in outputs},
            params={**case.params, "of": case.driver, "homework": self.homework},
            layouts={},
            shown=shown,
            exact=frozenset(w + n for w in when for n in case.exact),
        )


def as_float32(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in float32; integers and masks stay."""
    return {n: x.astype("float32") if x.dtype.kind == "f" else x for n, x in arrays.items()}


def by_hand(
    name: str,
    function: str,
    names: str,
    arrays: Mapping[str, np.ndarray],
    checks: Mapping[str, str],
    needs: str = "",
    constants: Mapping[str, Any] | None = None,
    *,
    module: str,
    unneeded: str = "",
    at_most: int = 0,
    driver: str = "by_hand",
    **settings: Any,
) -> Case:
    """Return a case that calls one Function by hand; its forward alone if there is no "dz" among the arrays.

    Args:
        name: of the case.
        function: class of the library, in ``module``.
        names: of its arguments in order, separated by spaces.
        arrays: the arguments that are arrays, and "dz".
        checks: as in `Case`.
        needs: names of the arguments that require a gradient.
        constants: the other arguments.
        module: without ``minipeft.``, such as "ops.linear".
        unneeded: names of arguments that must not be kept.
        at_most: bytes of other arrays that may be kept.
        driver: as in `Case`.
        settings: further fields of `Case`.
    """
    params = {
        "module": module,
        "function": function,
        "names": names,
        "needs": needs.split(),
        "constants": constants or {},
        "unneeded": unneeded.split(),
        "at_most": at_most,
    }
    return Case(name, driver, arrays, checks, params, **settings)


def calls(function: str, names: str, module: str) -> Callable[..., Case]:
    """Return what makes cases of one Function: `by_hand` from its arrays on, after the case's name."""

    def case(name: str, *args: Any, **settings: Any) -> Case:
        return by_hand(name, function, names, *args, module=module, **settings)

    return case


CaseSource = Callable[[Draw], Iterator[Case]]
_sources: dict[str, dict[str, CaseSource]] = defaultdict(dict)  # by module and problem


def problem(id: str, again: str = "") -> Callable[[CaseSource], CaseSource]:
    """Mark the function that draws the cases of a problem. again: names of cases that `Draw.again` repeats, by "; "."""

    def mark(source: CaseSource) -> CaseSource:
        def drawn(draw: Draw) -> Iterator[Case]:
            repeated = set(again.split("; ")) if again else set()
            for case in source(draw):
                yield case
                if case.name in repeated:
                    repeated.remove(case.name)
                    yield draw.again(case)
            assert not repeated, f"{id}: no cases {sorted(repeated)}"

        _sources[source.__module__][id] = drawn
        return source

    return mark


def cases(homework: str, problem: str, seed: str | int) -> list[Case]:
    """The cases of a problem for a seed."""
    module = import_module(f"autograder.homeworks.{homework}.cases")
    drawn = list(_sources[module.__name__][problem](Draw(seed, homework, problem)))
    names = [c.name for c in drawn]
    assert len(set(names)) == len(names), f"{homework} {problem}: two cases have one name: {names}"
    return drawn
