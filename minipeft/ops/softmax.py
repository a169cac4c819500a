"""Softmax and its logarithm."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module
from minipeft.ops.checks import check_floats


def stable_softmax(s: Array, axis: int = -1) -> Array:
    """Return eˢ / Σ eˢ along ``axis``, without overflow; zeros where all entries along the axis are -inf."""
    if s.shape[axis] == 0:
        return s.copy()
    xp, limits = array_module(s), np.finfo(s.dtype)
    e = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(limits.min)))
    return e / xp.maximum(e.sum(axis=axis, keepdims=True), float(limits.tiny))


class Softmax(Function):
    """p = eˢ / Σ eˢ along ``axis``, zeros where all is -inf;  ds = p ∘ (dp - Σ dp ∘ p)."""

    @staticmethod
    def forward(ctx: Context, s: Array, axis: int) -> Array:
        p = stable_softmax(s, axis)
        ctx.save(p, axis)
        return p

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        p, axis = ctx.saved
        return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None


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
