"""How the cases of hw1_autograd call what was written."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograder.homeworks.driver import by_hand, module
from autograder.homeworks.hw1_autograd.inside import again, apply, apply_twice, broken, deep, emptied, leaf, walk

INSIDE = ("again", "apply", "apply_twice", "broken", "deep", "emptied", "leaf", "walk")
__all__ = ["again", "apply", "apply_twice", "broken", "by_hand", "deep", "emptied", "leaf", "unbroadcast", "walk"]


def unbroadcast(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """unbroadcast(dz, shape)."""
    before = a["dz"].copy()
    dx = module(mp, "ops.arithmetic").unbroadcast(a["dz"], tuple(p["shape"]))
    return {"dx": dx, "changed": [] if np.array_equal(before, a["dz"]) else ["dz"]}
