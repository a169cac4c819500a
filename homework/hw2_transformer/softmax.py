"""Softmax and its logarithm."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.array import Array, array_module, row_blocks, row_dot, row_max, row_sum
from minipeft.autograd import Context, Function, Tensor
from minipeft.ops.checks import check_floats


def stable_softmax(s: Array, axis: int = -1) -> Array:
    """Return eˢ / Σ eˢ along ``axis``, without overflow; zeros where all entries along the axis are -inf."""
    raise NotImplementedError("hw2.1: stable_softmax")


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


class Softmax(Function):
    """p = eˢ / Σ eˢ along ``axis``, zeros where all is -inf;  ds = p ∘ (dp - Σ dp ∘ p)."""

    @staticmethod
    def forward(ctx: Context, s: Array, axis: int) -> Array:
        raise NotImplementedError("hw2.1: Softmax.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw2.1: Softmax.backward")


class LogSoftmax(Function):
    """z = s - log Σ eˢ along ``axis``;  ds = dz - eᶻ Σ dz."""

    @staticmethod
    def forward(ctx: Context, s: Array, axis: int) -> Array:
        xp = array_module(s)
        shifted = s - s.max(axis=axis, keepdims=True)
        z = shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))
        ctx.save(z, axis)
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        z, axis = ctx.saved
        return dz - array_module(z).exp(z) * dz.sum(axis=axis, keepdims=True), None


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ along ``axis``, shifted by the maximum; a row of -inf alone gives zeros."""
    check_floats("softmax", x)
    return Softmax.apply(x, axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """x - log Σ eˣ along ``axis``, without overflow."""
    check_floats("log_softmax", x)
    return LogSoftmax.apply(x, axis)
