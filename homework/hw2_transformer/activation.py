"""Activations, softmax and dropout, worked in blocks of rows that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft import fused
from minipeft.array import (
    Array,
    array_module,
    device_of,
    empty,
    has_kernels,
    row_blocks,
    row_dot,
    row_max,
    row_sum,
    rows,
    times,
    to_device,
)
from minipeft.autograd import Context, Function, Tensor

# Our fits of Φ(-x) e^{x²/2} / t for x ≥ 0 with t = 1 / (1 + p x), by rising powers of t: errors 2e-8 and 6e-16.
_TAIL_32 = """0.1396296372103752 0.13965593740559643 0.12181900489117618 0.09571962452134476 0.004336217208972162
0.11362298541646199 -0.21144630066539194 0.12070096730462038 -0.024038060174881214"""
_TAIL_64 = """0.0598413420602149 0.05984134206021507 0.058494911863821664 0.05580205147458173 0.051853644757484184
0.04683146504107638 0.040997832060317416 0.03467697844944613 0.02820504598207298 0.022083299074922923
0.015605606343626522 0.014537573204471934 -0.005380743035498026 0.04464284214926059 -0.10277864570173444
0.22290830403193182 -0.38349466722065545 0.5373616689641563 -0.6067346402895822 0.543123958250575
-0.3783805438542206 0.19843135812867554 -0.07464844730555102 0.018809710506924926 -0.0028198082856322154
0.0001885612890978492"""
_NORMAL_TAIL = {  # dtype -> (p, coefficients)
    "float32": (0.35, tuple(map(float, _TAIL_32.split()))),
    "float64": (0.15, tuple(map(float, _TAIL_64.split()))),
}


def normal_cdf(x: Array) -> tuple[Array, Array]:
    """Φ(x) and e^{-x²/2} of the standard normal: no array library has erf everywhere, so one exp serves both."""
    xp = array_module(x)
    p, coefficients = _NORMAL_TAIL[x.dtype.name]
    bell = xp.exp(-0.5 * (x * x))
    t = 1.0 / (1.0 + p * xp.abs(x))
    tail = coefficients[-1] * t
    for c in coefficients[-2::-1]:
        tail += c
        tail *= t
    tail *= bell
    return 0.5 + xp.copysign(0.5 - tail, x), bell


Curve = Callable[[Array, Array, Array | None], None]  # (x, z, slope): f(x) into z, and f'(x) into slope where wanted


def _gelu(x: Array, z: Array, slope: Array | None) -> None:
    """z = x Φ(x); its derivative, Φ(x) + x φ(x), φ the normal density, goes into ``slope`` where that is an array."""
    raise NotImplementedError("hw2.2: _gelu")


def _gelu_tanh(x: Array, z: Array, slope: Array | None) -> None:
    """z = x h with h = (1 + tanh u) / 2, u = x v, v = √(2/π) (1 + 0.044715 x²).

    Its derivative is h + 2 h (1 - h) x du/dx with du/dx = 3 v - 2 √(2/π): v and h are worked over in place.
    """
    raise NotImplementedError("hw2.2: _gelu_tanh")


def _silu(x: Array, z: Array, slope: Array | None) -> None:
    """z = x σ(x); its derivative is σ (1 + x (1 - σ)) = σ + z (1 - σ)."""
    xp = array_module(x)
    s = 0.5 * x  # σ(x) = (1 + tanh(x / 2)) / 2 never overflows
    xp.tanh(s, out=s)
    s += 1.0
    s *= 0.5
    xp.multiply(x, s, out=z)
    if slope is not None:
        xp.subtract(1.0, s, out=slope)
        slope *= z
        slope += s


def _relu(x: Array, z: Array, slope: Array | None) -> None:
    """z = max(x, 0); its derivative is 0 at 0."""
    array_module(x).maximum(x, 0.0, out=z)
    if slope is not None:
        slope[...] = x > 0


def _tanh(x: Array, z: Array, slope: Array | None) -> None:
    """z = tanh x; its derivative is 1 - z²."""
    xp = array_module(x)
    xp.tanh(x, out=z)
    if slope is not None:
        xp.multiply(z, z, out=slope)
        xp.subtract(1.0, slope, out=slope)


CURVES: dict[str, Curve] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "relu": _relu,
    "tanh": _tanh,
}


def _named(name: str) -> Curve:
    if name not in CURVES:
        raise ValueError(f"unknown activation {name!r}; expected one of {sorted(CURVES)}")
    return CURVES[name]


def curve(name: str) -> Callable[[Array], tuple[Array, Array]]:
    """The activation ``name`` as a function x -> (z, dz/dx); ValueError naming the known ones."""
    write = _named(name)

    def both(x: Array) -> tuple[Array, Array]:
        z, slope = (array_module(x).empty(x.shape, dtype=x.dtype) for _ in range(2))
        write(x, z, slope)
        return z, slope

    return both


def _check_floats(name: str, *xs: Tensor) -> None:
    """Buffers take the dtype of the input: integers would be cut off, and float16 is never computed in."""
    for x in xs:
        if x.dtype.name not in ("float32", "float64"):
            raise TypeError(f"{name} takes float32 or float64, got {x.dtype}")


class Activation(Function):
    """z = f(x) entry by entry;  dx = dz f'(x), with f'(x) computed beside f(x) and saved in place of x."""

    @staticmethod
    def forward(ctx: Context, x: Array, name: str) -> Array:
        f = _named(name)
        if has_kernels(x):
            z, slope = fused.activation(x, name, ctx.needs_grad[0])
            ctx.save(slope)
            return z
        x2 = rows(x)
        z = empty(x2)
        slope = empty(x2) if ctx.needs_grad[0] else None
        for block in row_blocks(x2):
            f(x2[block], z[block], None if slope is None else slope[block])
        if slope is not None:
            ctx.save(slope.reshape(x.shape))
        return z.reshape(x.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (slope,) = ctx.saved
        return times(dz, slope), None


class Gate(Function):
    """z = f(g) ∘ u, the gated feed-forward (SwiGLU for f = SiLU; Shazeer 2020).

    dg = dz ∘ u ∘ f'(g),  du = dz ∘ f(g).
    """

    @staticmethod
    def forward(ctx: Context, g: Array, u: Array, name: str) -> Array:
        f = _named(name)
        if has_kernels(g):
            z, to_g, to_u = fused.gate(g, u, name, *ctx.needs_grad[:2])
            ctx.save(to_g, to_u)
            return z
        xp = array_module(g)
        g2, u2 = rows(g), rows(u)
        z = empty(g2)
        to_g = empty(g2) if ctx.needs_grad[0] else None
        to_u = empty(g2) if ctx.needs_grad[1] else None
        for block in row_blocks(g2):
            value = z[block] if to_u is None else to_u[block]
            f(g2[block], value, None if to_g is None else to_g[block])
            if to_g is not None:
                to_g[block] *= u2[block]
            xp.multiply(value, u2[block], out=z[block])
        ctx.save(None if to_g is None else to_g.reshape(g.shape), None if to_u is None else to_u.reshape(g.shape))
        return z.reshape(g.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        return *(None if slope is None else times(dz, slope) for slope in ctx.saved), None


def softmax_rows(s: Array) -> None:
    """Softmax of each row of s (R, S), in place, for entries of any size; a row of -inf alone becomes zeros."""
    raise NotImplementedError("hw2.1: softmax_rows")


def softmax_rows_backward(p: Array, dp: Array) -> None:
    """ds = p ∘ (dp - Σ_row dp ∘ p), written into dp; p, dp (R, S)."""
    raise NotImplementedError("hw2.1: softmax_rows_backward")


def _last_axis(x: Array, axis: int) -> tuple[Array, Array]:
    """x with ``axis`` last, and a fresh contiguous copy of that as rows (R, S)."""
    moved = x.swapaxes(axis, -1)
    return moved, rows(moved.copy())


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


class Dropout(Function):
    """z = x ∘ keep / (1 - p) for a boolean ``keep`` of x's shape;  dx = dz ∘ keep / (1 - p)."""

    @staticmethod
    def forward(ctx: Context, x: Array, keep: Array, p: float) -> Array:
        scaled = keep.astype(x.dtype) * (1.0 / (1.0 - p))
        ctx.save(scaled)
        return times(x, scaled)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (scaled,) = ctx.saved
        return times(dz, scaled), None, None


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU, x Φ(x); with ``approximate="tanh"`` GPT-2's approximation (Hendrycks & Gimpel 2016)."""
    names = {"none": "gelu", "tanh": "gelu_tanh"}
    if approximate not in names:
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}")
    return activation(x, names[approximate])


def relu(x: Tensor) -> Tensor:
    """max(x, 0); its derivative at 0 is taken as 0."""
    return activation(x, "relu")


def silu(x: Tensor) -> Tensor:
    """x σ(x), also called swish."""
    return activation(x, "silu")


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return activation(x, "tanh")


def activation(x: Tensor, name: str) -> Tensor:
    """The activation ``name``: gelu, gelu_tanh, silu, relu or tanh; ValueError for another, TypeError for integers."""
    _check_floats(name, x)
    return Activation.apply(x, name)


def gate(g: Tensor, u: Tensor, name: str = "silu") -> Tensor:
    """f(g) ∘ u for two tensors of one shape (..., C)."""
    if g.shape != u.shape:
        raise ValueError(f"gate: the shapes {g.shape} and {u.shape} differ")
    _check_floats("gate", g, u)
    return Gate.apply(g, u, name)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ along ``axis``, shifted by the maximum; a row of -inf alone gives zeros."""
    _check_floats("softmax", x)
    return Softmax.apply(x, axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """x - log Σ eˣ along ``axis``, without overflow."""
    _check_floats("log_softmax", x)
    return LogSoftmax.apply(x, axis)


def dropout(x: Tensor, p: float, generator: np.random.Generator) -> Tensor:
    """x with each entry zeroed with probability p, the rest divided by 1 - p; the mask is drawn from ``generator``.

    Raises ValueError for p outside [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout: p must lie in [0, 1), got {p}")
    if p == 0.0:
        return x
    _check_floats("dropout", x)
    p = float(p)  # NumPy's float64 would promote the mask
    keep = generator.random(x.shape, dtype=np.float32) >= p
    return Dropout.apply(x, to_device(keep, device_of(x.data)), p)
