"""Operations that move entries and compute none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, scatter_add
from minipeft.ops.arithmetic import unbroadcast


class Reshape(Function):
    """z has the entries of x in another shape;  dx = dz in the shape of x."""

    @staticmethod
    def forward(ctx: Context, x: Array, shape: tuple[int, ...]) -> Array:
        ctx.save(x.shape)
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (shape,) = ctx.saved
        return dz.reshape(shape), None


class Transpose(Function):
    """z has the axes of x in the order ``axes``;  dx = dz in the inverse order."""

    @staticmethod
    def forward(ctx: Context, x: Array, axes: tuple[int, ...]) -> Array:
        ctx.save(axes)
        return x.transpose(axes)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (axes,) = ctx.saved
        return dz.transpose(tuple(sorted(range(len(axes)), key=lambda i: axes[i]))), None


def _is_basic(key: Any) -> bool:
    """Whether ``key`` picks every entry at most once, so that its gradient needs no scatter-add."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts)


class Index(Function):
    """z = x[key];  dx is zero but for dx[key] = dz, summed where an integer array repeats a row."""

    @staticmethod
    def forward(ctx: Context, x: Array, key: Any) -> Array:
        ctx.save(x.shape, key)
        return x[key]

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        shape, key = ctx.saved
        xp = array_module(dz)
        dx = xp.zeros(shape, dtype=dz.dtype)
        if _is_basic(key):
            dx[key] = dz
            return dx, None
        # Fancy keys: number the entries of x, look up which numbers were taken, and add each dz to its number.
        size = dx.size
        taken = xp.arange(size).reshape(shape)[key]
        flat = dx.reshape(-1)
        scatter_add(flat, taken.reshape(-1), dz.reshape(-1))
        return dx, None


class Concatenate(Function):
    """z = [x₁; x₂; …] along ``axis``;  dxᵢ is the part of dz that came from xᵢ."""

    @staticmethod
    def forward(ctx: Context, axis: int, *xs: Array) -> Array:
        ctx.save(axis, tuple(x.shape[axis] for x in xs))
        return array_module(xs[0]).concatenate(xs, axis=axis)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        axis, sizes = ctx.saved
        grads, start = [], 0
        for needed, n in zip(ctx.needs_grad[1:], sizes, strict=True):
            key = (slice(None),) * (axis % dz.ndim) + (slice(start, start + n),)
            grads.append(dz[key] if needed else None)
            start += n
        return None, *grads


class BroadcastTo(Function):
    """z repeats x along new or stretched axes;  dx sums dz over them."""

    @staticmethod
    def forward(ctx: Context, x: Array, shape: tuple[int, ...]) -> Array:
        ctx.save(x.shape)
        return array_module(x).broadcast_to(x, shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (shape,) = ctx.saved
        return unbroadcast(dz, shape), None


def reshape(x: Tensor, *shape: int | tuple[int, ...]) -> Tensor:
    """x with another shape, one size may be -1: ``reshape(x, 2, -1)`` or ``reshape(x, (2, -1))``."""
    return Reshape.apply(x, _flat(shape))


def transpose(x: Tensor, *axes: int | tuple[int, ...]) -> Tensor:
    """x with its axes in the order given; reversed where none is given."""
    order = _flat(axes) or tuple(reversed(range(len(x.shape))))
    if sorted(a % len(x.shape) for a in order) != list(range(len(x.shape))):
        raise ValueError(f"transpose: {order} does not order the axes of shape {x.shape}")
    return Transpose.apply(x, tuple(a % len(x.shape) for a in order))


def swapaxes(x: Tensor, a: int, b: int) -> Tensor:
    """x with axes a and b exchanged."""
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return Transpose.apply(x, tuple(order))


def index(x: Tensor, key: Any) -> Tensor:
    """x[key] for integers, slices, None, ..., and integer or boolean arrays or tensors (of x's device)."""
    return Index.apply(x, tuple(map(_plain, key)) if isinstance(key, tuple) else _plain(key))


def concatenate(xs: Sequence[Tensor | Array], axis: int = 0) -> Tensor:
    """The tensors ``xs`` one after the other along ``axis``."""
    if not xs:
        raise ValueError("concatenate needs at least one tensor")
    return Concatenate.apply(axis, *xs)


def split(x: Tensor, sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """x cut along ``axis`` into equal ``sections``, or into pieces of the sizes given.

    Raises ValueError where the sizes do not add up.
    """
    n = x.shape[axis]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ValueError(f"split: axis {axis} of shape {x.shape} does not divide into {sections} equal parts")
        sizes = [n // sections] * sections
    else:
        sizes = list(sections)
        if sum(sizes) != n:
            raise ValueError(f"split: the sizes {sizes} sum to {sum(sizes)}, but axis {axis} of {x.shape} has {n}")
    pieces, start = [], 0
    for size in sizes:
        key = (slice(None),) * (axis % len(x.shape)) + (slice(start, start + size),)
        pieces.append(Index.apply(x, key))
        start += size
    return pieces


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x repeated to ``shape`` by the rules of broadcasting."""
    return BroadcastTo.apply(x, tuple(shape))


def _plain(key: Any) -> Any:
    if isinstance(key, np.integer):  # a NumPy integer is as basic as Python's
        return int(key)
    return key.data if isinstance(key, Tensor) else key


def _flat(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(sizes)
