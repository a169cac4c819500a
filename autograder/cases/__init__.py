"""Cases: what a problem is graded on, drawn anew from a seed. One file a homework, on the trusted side alone.

Each file has ``PROBLEMS = {"6.1": forward_cases, …}``: a function from a `Draw` to the cases of that problem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from autograder.layouts import LAYOUTS, laid_out

__all__ = ["LAYOUTS", "Case", "CaseSource", "Draw", "cases", "laid_out"]


@dataclass(frozen=True)
class Case:
    """One call of a driver with drawn inputs.

    name: for people ("grouped heads, x strided"). driver: the function of ``drivers/<homework>.py`` that calls.
    arrays: its inputs; layouts: how the worker lays an input out in memory ("strided", "fortran", "negative",
    "readonly"; plain otherwise). params: plain JSON values. checks: which output counts for which aspect of the problem
    (aspects with the same name across cases are one item of the score; outputs that are not named do not count).
    shown: what an output is called in feedback, where that is not its own name. tol: the largest error relative to the
    largest entry of the reference; exact: outputs that must agree to the bit. seconds: of processor time.
    """

    name: str
    driver: str
    arrays: Mapping[str, np.ndarray]
    checks: Mapping[str, str]
    params: Mapping[str, Any] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    tol: float = 1e-6
    exact: frozenset[str] = frozenset()
    seconds: float = 5.0


class Draw:
    """Random inputs of one problem: every value depends on the seed, the homework and the problem alone."""

    def __init__(self, seed: str | int, homework: str, problem: str):
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

    def number(self, low: float, high: float) -> float:
        """A Python number between ``low`` and ``high``."""
        return float(self.rng.uniform(low, high))


CaseSource = Callable[[Draw], Iterator[Case]]


def cases(homework: str, problem: str, seed: str | int) -> list[Case]:
    """The cases of a problem for a seed."""
    module = import_module(f"autograder.cases.{homework}")
    drawn = list(module.PROBLEMS[problem](Draw(seed, homework, problem)))
    names = [c.name for c in drawn]
    assert len(set(names)) == len(names), f"{homework} {problem}: two cases have one name: {names}"
    return drawn
