"""The formulas of hw2_transformer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from autograder.homeworks.formula import formulas


def _cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _hidden(scores: Any, causal: Any, mask: Any) -> Any:
    """0 where a query may look, -inf elsewhere."""
    N, S = scores.shape[-2:]
    seen = np.ones((N, S), bool)
    if causal and N > 1:
        seen = np.tril(seen, k=S - N)
    if isinstance(mask, np.ndarray):
        seen = seen & (mask[:, None, None, :] if mask.ndim == 2 else mask)
    return np.where(seen, 0.0, -np.inf)


def _heads(x: Any, q: Any) -> Any:
    """Keys or values, repeated for the query heads that share them."""
    return np.repeat(x, q.shape[1] // x.shape[1], axis=1)


def _grouped(x: Any, k: Any) -> Any:
    """The sum over the query heads that share a key head."""
    return x.reshape(x.shape[0], k.shape[1], -1, *x.shape[2:]).sum(axis=2)


def _split(x: Any, part: float) -> Any:
    half = x.shape[-1] // 2
    return x[..., :half] if part == 1 else x[..., half:]


def _last(x: Any, axis: float) -> Any:
    """x with an axis moved to the end."""
    return np.moveaxis(x, int(axis), -1)


def _back(x: Any, axis: float) -> Any:
    """x with its last axis moved back."""
    return np.moveaxis(x, -1, int(axis))


def _onehot(labels: Any, s: Any) -> Any:
    return np.eye(s.shape[-1])[labels]


def _spread(x: Any, s: Any, kept: Any) -> Any:
    """The rows of x at their places among zeros."""
    out = np.zeros(s.shape)
    out[kept] = x
    return out


HELPERS: dict[str, Callable[..., Any]] = {
    "last": _last, "back": _back, "onehot": _onehot, "spread": _spread,
    "everything": lambda x: x.sum(), "count": lambda x: float(len(x)),
    "bell": lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi), "cdf": np.vectorize(_cdf, otypes=[float]),
    "hidden": _hidden, "heads": _heads, "grouped": _grouped, "part": _split,
    "first_grouped": lambda x, k: x.reshape(x.shape[0], k.shape[1], -1, *x.shape[2:])[:, :, 0],
    "mean_grouped": lambda x, k: x.reshape(x.shape[0], k.shape[1], -1, *x.shape[2:]).mean(axis=2),
    "joined": lambda a, b: np.concatenate([a, b], axis=-1),
}  # fmt: skip

FORMULAS = formulas(
    """
== Softmax stable_softmax
S = last(s, axis)
D = last(dz, axis)
P = softmax(S)
p = back(P, axis)
z = back(P, axis)
ds = back(P * (D - total(D * P)), axis)
! ds = back(D * P * (1 - P), axis) | ds takes only the diagonal of the softmax's Jacobian.

== Activation:gelu
Phi = cdf(x)
phi = bell(x)
z = x * Phi
dx = dz * (Phi + x * phi)
! z = x / (1 + exp(-1.702 * x)) | This is the approximation with a sigmoid.
! z = 0.5 * x * (1 + tanh((2 / pi) ** 0.5 * (x + 0.044715 * x ** 3))) | This is the approximation with tanh.

== Activation:gelu_tanh
u = (2 / pi) ** 0.5 * (x + 0.044715 * x ** 3)
t = (1 + tanh(u)) / 2
z = x * t
du = (2 / pi) ** 0.5 * (1 + 3 * 0.044715 * x ** 2)
dx = dz * (t + 2 * x * t * (1 - t) * du)
! z = x * cdf(x) | This is the exact GELU, not the approximation with tanh.

== CrossEntropy
n = count(labels)
S = s[kept] - amax(s[kept])
E = total(exp(S))
P = exp(S) / E
Y = onehot(labels, s)
z = everything(Y * (log(E) - S)) / n
ds = spread(dz * (P - Y) / n, s, kept)

== LayerNorm
C = x - mean(x)
sigma = sqrt(mean(C * C) + eps)
Xhat = C / sigma
z = gamma * Xhat + beta
dXhat = gamma * dz
dx = (dXhat - mean(dXhat) - Xhat * mean(dXhat * Xhat)) / sigma
dgamma = batch(dz * Xhat)
dbeta = batch(dz)
! dx = (dXhat - mean(dXhat) - gamma * Xhat * mean(dz * Xhat)) / sigma | In dx, γ must be inside the means.
! dx = dXhat / sigma | dx lacks both mean terms: mean and variance depend on x.
! dx = gamma * (dz - mean(dz) - Xhat * mean(dz * Xhat)) / sigma | In dx, γ is multiplied in after the means.

== RMSNorm
sigma = sqrt(mean(x * x) + eps)
Xhat = x / sigma
z = gamma * Xhat
dXhat = gamma * dz
dx = (dXhat - Xhat * mean(dXhat * Xhat)) / sigma
dgamma = batch(dz * Xhat)
! dx = (dXhat - mean(dXhat) - Xhat * mean(dXhat * Xhat)) / sigma | dx has a term mean(dx̂), which belongs to LayerNorm.
! Xhat = (x - mean(x)) / sqrt(mean((x - mean(x)) * (x - mean(x))) + eps) | The mean is subtracted; that is LayerNorm.

== Attention
K = heads(k, q)
V = heads(v, q)
scores = scale * (q @ K.T)
M = hidden(scores, causal, mask)
P = softmax(scores + M)
z = P @ V
dP = dz @ V.T
dS = P * (dP - total(dP * P))
dq = scale * (dS @ K)
dk = scale * grouped(dS.T @ q, k)
dv = grouped(P.T @ dz, k)
! dS = dP * P * (1 - P) | dS takes only the diagonal of the softmax's Jacobian.
! P = softmax(scores) * (M == 0) | The mask is applied after the softmax: the weights no longer sum to 1.

== Rotary
x1 = part(x, 1)
x2 = part(x, 2)
dz1 = part(dz, 1)
dz2 = part(dz, 2)
z = joined(x1 * cos - x2 * sin, x2 * cos + x1 * sin)
dx = joined(dz1 * cos + dz2 * sin, dz2 * cos - dz1 * sin)
! z = joined(x1 * cos + x2 * sin, x2 * cos - x1 * sin) | It turns in the other direction: sin has the wrong sign.
! dx = joined(dz1 * cos - dz2 * sin, dz2 * cos + dz1 * sin) | The backward turns on: sin has the wrong sign.
""",
    HELPERS,
)
