"""The softmax of the rows of a matrix and its backward, in place."""

from __future__ import annotations

import numpy as np

from minipeft.backend import Array, array_module, row_blocks, row_dot, row_max, row_sum


def softmax_rows(s: Array) -> None:
    """Turn each row of s (R, S) into its softmax, in place; zeros for a row of -inf."""
    if s.shape[1] == 0:
        return
    xp, limits = array_module(s), np.finfo(s.dtype)
    for block in row_blocks(s):
        p = s[block]
        p -= xp.maximum(row_max(p), float(limits.min))
        xp.exp(p, out=p)
        p *= 1.0 / xp.maximum(row_sum(p), float(limits.tiny))


def softmax_rows_backward(p: Array, dp: Array) -> None:
    """Turn dp (R, S) into ds = p ∘ (dp - Σ_row dp ∘ p), in place; p (R, S) is the softmax."""
    for block in row_blocks(p):
        pb, d = p[block], dp[block]
        d -= row_dot(pb, d)
        d *= pb
