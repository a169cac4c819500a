"""The formulas of hw7_vision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from autograder.homeworks.formula import formulas


def _blocks(x: Any, U: Any) -> Any:
    return x.reshape(len(x), -1, U.shape[1]).swapaxes(0, 1)


def _joined(x: Any) -> Any:
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


SUMS: dict[str, Callable[[Any], Any]] = {
    "": lambda x: x.sum(axis=0, keepdims=True),
    "first_": lambda x: x[:1],
    "mean_": lambda x: x.mean(axis=0, keepdims=True),
}


def _joint(work: Callable[[Any], Any], x: Any, inner: Any, U: Any) -> Any:
    """The sum over the blocks of the input, where these are blocks of the input."""
    return work(x) if inner.shape[-1] != U.shape[1] else x


def _shared(work: Callable[[Any], Any], x: Any, inner: Any, U: Any) -> Any:
    """The sum over the blocks of the output, where these are blocks of the output."""
    return work(x) if inner.shape[-1] == U.shape[1] else x


HELPERS: dict[str, Callable[..., Any]] = {"blocks": _blocks, "joined": _joined}
for name, work in SUMS.items():
    HELPERS[f"{name}joint"], HELPERS[f"{name}shared"] = partial(_joint, work), partial(_shared, work)
    HELPERS[f"{name}over_blocks"] = work

FORMULAS = formulas(
    """
== lnlora_linear
X = rows(x)
Z = rows(dz)
C = X - mean(X)
sigma = sqrt(mean(C * C) + 1e-5)
Xhat = C / sigma
N = gamma * Xhat + beta
H = N @ A.T
z = X @ W.T + b + scale * (H @ B.T)
dH = scale * (Z @ B)
dN = dH @ A
dXhat = gamma * dN
dx = Z @ W + (dXhat - mean(dXhat) - Xhat * mean(dXhat * Xhat)) / sigma
dgamma = batch(dN * Xhat)
dbeta = batch(dN)
dA = dH.T @ N
dB = scale * (Z.T @ H)
dW = Z.T @ X
db = batch(Z)

== factorized_linear
X = rows(x)
Z = rows(dz)
Xb = blocks(X, U)
H = Xb @ U.T
G = joint(H @ S.T, x, U)
z = X @ W.T + b + scale * joined(G @ V.T)
dY = scale * blocks(Z, U)
dG = dY @ V
dS = dG.T @ H
dV = over_blocks(dY.T @ G)
dH = shared(dG @ S, x, U)
dU = over_blocks(dH.T @ Xb)
dx = Z @ W + joined(dH @ U)
dW = Z.T @ X
db = batch(Z)
""",
    HELPERS,
)
