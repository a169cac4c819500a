"""A case: one call of a driver with drawn inputs. As data it goes from one process of ours to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

PUBLIC_SEED = "public"  # of the cases that students have


@dataclass(frozen=True)
class Case:
    """One call of a driver with drawn inputs.

    name: for people ("grouped heads, x strided"). driver: the function of ``<homework>/drivers.py`` that calls.
    arrays: its inputs; layouts: how the worker lays an input out in memory ("strided", "fortran", "negative",
    "readonly"; plain otherwise). params: plain JSON values. checks: which output counts for which aspect of the problem
    (aspects with the same name across cases are one item of the score; outputs that are not named do not count).
    shown: what an output is called in feedback, where that is not its own name. tol: the largest error relative to the
    largest entry of the reference; exact: outputs that must agree to the bit. seconds: of processor time. memory: the
    bytes that the call may take besides its inputs; 0 for any number. facts: outputs that can be right without being
    computed, see `autograder.grading.reference.facts`; set when the reference is computed.
    """

    name: str
    driver: str
    arrays: Mapping[str, np.ndarray]
    checks: Mapping[str, str]
    params: Mapping[str, Any] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    tol: float = 1e-10
    exact: frozenset[str] = frozenset()
    seconds: float = 5.0
    facts: frozenset[str] = frozenset()
    memory: int = 0


def request_of(case: Case) -> dict[str, Any]:
    """Return what a driver is called with."""
    plain = {"driver": case.driver, "arrays": dict(case.arrays), "layouts": dict(case.layouts)}
    return {**plain, "params": dict(case.params), "memory": case.memory}


def as_data(case: Case) -> dict[str, Any]:
    """Return a case as plain values, for a frame."""
    changed = {"exact": sorted(case.exact), "facts": sorted(case.facts)}
    arrays = {name: np.asarray(x) for name, x in case.arrays.items()}  # a NumPy scalar would become a number
    return {f.name: getattr(case, f.name) for f in fields(case)} | changed | {"arrays": arrays}


def from_data(data: Mapping[str, Any]) -> Case:
    """Return the case that `as_data` made plain."""
    return Case(**{**data, "exact": frozenset(data["exact"]), "facts": frozenset(data["facts"])})
