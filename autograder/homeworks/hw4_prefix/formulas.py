"""The formulas of hw4_prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from autograder.homeworks.formula import formulas
from autograder.homeworks.hw2_transformer.formulas import HELPERS as ATTENTION


def _behind(prefix: Any, x: Any) -> Any:
    """The prefix (P, Hk, D) in front of keys or values (B, Hk, S, D)."""
    shape = (len(x), *prefix.swapaxes(0, 1).shape)
    return np.concatenate([np.broadcast_to(prefix.swapaxes(0, 1), shape), x], axis=2)


def _front(x: Any, prefix: Any) -> Any:
    """The part of the prefix, (P, Hk, D), summed over the batch."""
    return x[:, :, : prefix.shape[1]].sum(axis=0).swapaxes(0, 1)


def _shown_prefix(mask: Any, prefix: Any) -> Any:
    """The mask with columns of the prefix, which every query sees."""
    if not isinstance(mask, np.ndarray):
        return mask
    return np.concatenate([np.ones((*mask.shape[:-1], prefix.shape[1]), bool), mask], axis=-1)


HELPERS: dict[str, Callable[..., Any]] = {
    **ATTENTION, "behind": _behind, "front": _front, "rest": lambda x, prefix: x[:, :, prefix.shape[1] :],
    "shown": _shown_prefix, "repeated": lambda p, x: np.broadcast_to(p, (len(x), *p.shape)),
    "stacked": lambda p, x: np.concatenate([p, x], axis=1), "over_batch": lambda x: x.sum(axis=0),
    "first_over_batch": lambda x: x[0], "mean_over_batch": lambda x: x.mean(axis=0),
}  # fmt: skip

FORMULAS = formulas(
    """
== prepend
z = stacked(repeated(p, x), x)
dp = over_batch(dz[:, :p.shape[0]])
dx = dz[:, p.shape[0]:]

== attend
K = behind(prefix[0], k)
V = behind(prefix[1], v)
Kq = heads(K, q)
Vq = heads(V, q)
scores = scale * (q @ Kq.T)
M = hidden(scores, causal, shown(mask, prefix))
P = softmax(scores + M)
z = P @ Vq
dP = dz @ Vq.T
dS = P * (dP - total(dP * P))
dq = scale * (dS @ Kq)
dK = scale * grouped(dS.T @ q, k)
dV = grouped(P.T @ dz, k)
dk = rest(dK, prefix)
dv = rest(dV, prefix)
dP_k = front(dK, prefix)
dP_v = front(dV, prefix)
! dS = dP * P * (1 - P) | dS takes only the diagonal of the softmax's Jacobian.
! V = behind(prefix[0], v) | The values get the prefix's first half, which belongs to the keys.
! M = hidden(scores, 0, shown(mask, prefix)) | The causal mask is missing.
! dk = dK[:, :, :k.shape[2]] | dk is made of the first columns; the text's stand behind the prefix.
! dv = dV[:, :, :v.shape[2]] | dv is made of the first columns; the text's stand behind the prefix.
""",
    HELPERS,
)
