"""Activations, alone and as a gate, and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, device_of, to_device
from minipeft.ops.checks import check_floats
from minipeft.ops.normal import normal_cdf

Curve = Callable[[Array], tuple[Array, Array]]  # x -> f(x), f'(x)


def _gelu(x: Array) -> tuple[Array, Array]:
    """f = x Φ(x);  f' = Φ(x) + x φ(x), φ the density of the standard normal distribution."""
    cdf, bell = normal_cdf(x)
    return x * cdf, cdf + x * bell * (1.0 / math.sqrt(2.0 * math.pi))


def _gelu_tanh(x: Array) -> tuple[Array, Array]:
    """f = x h, h = (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³);  f' = h + 2 x h (1 - h) du/dx."""
    c = math.sqrt(2.0 / math.pi)
    h = 0.5 * (1.0 + array_module(x).tanh(c * (x + 0.044715 * x * x * x)))
    du = c * (1.0 + 3.0 * 0.044715 * x * x)
    return x * h, h + 2.0 * x * h * (1.0 - h) * du


def _silu(x: Array) -> tuple[Array, Array]:
    """f = x σ(x);  f' = σ (1 + x (1 - σ)), where σ(x) = (1 + tanh(x / 2)) / 2 never overflows."""
    s = 0.5 * (1.0 + array_module(x).tanh(0.5 * x))
    return x * s, s * (1.0 + x * (1.0 - s))


def _relu(x: Array) -> tuple[Array, Array]:
    """f = max(x, 0);  f' = 1 for x > 0, otherwise 0."""
    return array_module(x).maximum(x, 0.0), (x > 0).astype(x.dtype)


def _tanh(x: Array) -> tuple[Array, Array]:
    """f = tanh x;  f' = 1 - f²."""
    z = array_module(x).tanh(x)
    return z, 1.0 - z * z


CURVES: dict[str, Curve] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "relu": _relu,
    "tanh": _tanh,
}


def curve(name: str) -> Curve:
    """Return the activation ``name`` as a function x -> (f(x), f'(x)); ValueError for an unknown name."""
    if name not in CURVES:
        raise ValueError(f"unknown activation {name!r}; expected one of {sorted(CURVES)}")
    return CURVES[name]


class Activation(Function):
    """z = f(x) entry by entry;  dx = dz f'(x), with f'(x) computed next to f(x) and saved instead of x."""

    @staticmethod
    def forward(ctx: Context, x: Array, name: str) -> Array:
        z, slope = curve(name)(x)
        ctx.save(slope if ctx.needs_grad[0] else None)
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (slope,) = ctx.saved
        return dz * slope, None


class Gate(Function):
    """z = f(g) ∘ u, the gated feed-forward (SwiGLU for f = SiLU; Shazeer 2020).

    dg = dz ∘ u ∘ f'(g),  du = dz ∘ f(g).
    """

    @staticmethod
    def forward(ctx: Context, g: Array, u: Array, name: str) -> Array:
        value, slope = curve(name)(g)
        ctx.save(u * slope if ctx.needs_grad[0] else None, value if ctx.needs_grad[1] else None)
        return value * u

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        to_g, to_u = ctx.saved
        return None if to_g is None else dz * to_g, None if to_u is None else dz * to_u, None


class Dropout(Function):
    """z = x ∘ keep / (1 - p) for a boolean ``keep`` of x's shape;  dx = dz ∘ keep / (1 - p)."""

    @staticmethod
    def forward(ctx: Context, x: Array, keep: Array, p: float) -> Array:
        scaled = keep.astype(x.dtype) * (1.0 / (1.0 - p))
        ctx.save(scaled)
        return x * scaled

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (scaled,) = ctx.saved
        return dz * scaled, None, None


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
    check_floats(name, x)
    return Activation.apply(x, name)


def gate(g: Tensor, u: Tensor, name: str = "silu") -> Tensor:
    """f(g) ∘ u for two tensors of one shape (..., C)."""
    if g.shape != u.shape:
        raise ValueError(f"gate: the shapes {g.shape} and {u.shape} differ")
    check_floats("gate", g, u)
    return Gate.apply(g, u, name)


def dropout(x: Tensor, p: float, generator: np.random.Generator) -> Tensor:
    """x with each entry zeroed with probability p, the rest divided by 1 - p; the mask is drawn from ``generator``.

    Raises ValueError for p outside [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout: p must lie in [0, 1), got {p}")
    if p == 0.0:
        return x
    check_floats("dropout", x)
    p = float(p)  # NumPy's float64 would promote the mask
    keep = generator.random(x.shape, dtype=np.float32) >= p
    return Dropout.apply(x, to_device(keep, device_of(x.data)), p)
