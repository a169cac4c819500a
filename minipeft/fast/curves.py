"""Activations in place, for blocks that stay in the cache: f(x) into one array and f'(x) into another."""

from __future__ import annotations

import math
from collections.abc import Callable

from minipeft.backend import Array, array_module, empty
from minipeft.ops.normal import normal_cdf

InPlace = Callable[[Array, Array, Array | None], None]  # (x, z, slope): f(x) into z, f'(x) into slope unless it is None


def _gelu(x: Array, z: Array, slope: Array | None) -> None:
    """z = x Φ(x); its derivative, Φ(x) + x φ(x), φ the normal density, goes into ``slope`` where that is an array."""
    xp = array_module(x)
    cdf, bell = normal_cdf(x)
    xp.multiply(x, cdf, out=z)
    if slope is not None:
        bell *= x
        bell *= 1.0 / math.sqrt(2.0 * math.pi)
        xp.add(cdf, bell, out=slope)


def _gelu_tanh(x: Array, z: Array, slope: Array | None) -> None:
    """z = x h with h = (1 + tanh u) / 2, u = x v, v = √(2/π) (1 + 0.044715 x²).

    Its derivative is h + 2 h (1 - h) x du/dx with du/dx = 3 v - 2 √(2/π): v and h are worked over in place.
    """
    xp, c = array_module(x), math.sqrt(2.0 / math.pi)
    v = xp.multiply(x, x, out=empty(x) if slope is None else slope)
    v *= 0.044715 * c
    v += c
    h = x * v
    xp.tanh(h, out=h)
    h += 1.0
    h *= 0.5
    xp.multiply(x, h, out=z)
    if slope is not None:
        slope *= 6.0
        slope -= 4.0 * c
        slope *= z
        xp.subtract(1.0, h, out=(rest := empty(h)))
        slope *= rest
        slope += h


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


IN_PLACE: dict[str, InPlace] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "relu": _relu,
    "tanh": _tanh,
}
