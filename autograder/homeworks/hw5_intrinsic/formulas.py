"""The formulas of hw5_intrinsic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from autograder.homeworks.formula import formulas


def _hadamard(x: Any) -> Any:
    """H x by its matrix."""
    H = np.ones((1, 1))
    while len(H) < len(x):
        H = np.block([[H, H], [H, -H]])
    return H @ x


def _parts(p: Any, name: str) -> Any:
    """B, the permutation, G, S or L of a fastfood projection, as its docstring says."""
    L = 1 << max(int(p["size"]) - 1, int(p["d"]) - 1, 0).bit_length()
    rng = np.random.default_rng(tuple(p["seed"]))
    B = rng.integers(0, 2, L) * 2.0 - 1.0
    order = rng.permutation(L)
    G = rng.standard_normal(L)
    return {"B": B, "order": order, "G": G, "S": ((G * G).sum() * p["total"]) ** -0.5, "L": L}[name]


def _filled(x: Any, L: Any) -> Any:
    """x with zeros behind it."""
    return np.concatenate([x, np.zeros(int(L) - len(x))])


def _scattered(x: Any, order: Any) -> Any:
    out = np.zeros(len(x))
    out[order] = x
    return out


HELPERS: dict[str, Callable[..., Any]] = {
    "hadamard": _hadamard, "filled": _filled, "scattered": _scattered, "cut": lambda x, n: x[: int(n)],
    "taken": lambda x, order: x[order], "like": lambda x, y: x.reshape(y.shape), "flat": lambda x: x.reshape(-1),
    "parts": _parts, "given": lambda x: x if x else 1.0, "everything": lambda x: x.sum(),
}  # fmt: skip

FORMULAS = formulas(
    """
== hadamard
z = hadamard(x)

== project:fastfood
B = parts(params, "B")
order = parts(params, "order")
G = parts(params, "G")
S = parts(params, "S")
L = parts(params, "L")
Px = S * cut(hadamard(G * taken(hadamard(B * filled(x, L)), order)), size)
Pty = S * cut(B * hadamard(scattered(G * hadamard(filled(y, L)), order)), d)

== subspace
lam = given(scale)
step = like(P @ theta, theta0)
z = theta0 + lam * step
dtheta = lam * (P.T @ flat(dz))
dtheta0 = dz
dscale = everything(dz * step)
""",
    HELPERS,
)
