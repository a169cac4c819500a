"""Arithmetic with broadcasting, reductions, and the batched matrix product."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

from minipeft import backend as arr
from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module

Axes = int | tuple[int, ...] | None


def unbroadcast(dz: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``dz`` over the axes along which an input of ``shape`` was broadcast: the transpose of broadcasting.

    Those are the axes that the input lacks in front, and those where it has size 1 and ``dz`` another size. The result
    has ``shape``; where nothing was stretched it is ``dz`` itself.
    """
    raise NotImplementedError("hw1.1: unbroadcast")


class Add(Function):
    """z = x + y;  dx = dz,  dy = dz, each summed to its input's shape."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x.shape if ctx.needs_grad[0] else None, y.shape if ctx.needs_grad[1] else None)
        return x + y

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_shape, y_shape = ctx.saved
        dx = None if x_shape is None else unbroadcast(dz, x_shape)
        dy = None if y_shape is None else unbroadcast(dz, y_shape)
        return dx, dy


class Subtract(Function):
    """z = x - y;  dx = dz,  dy = -dz."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x.shape if ctx.needs_grad[0] else None, y.shape if ctx.needs_grad[1] else None)
        return x - y

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_shape, y_shape = ctx.saved
        dx = None if x_shape is None else unbroadcast(dz, x_shape)
        return dx, None if y_shape is None else -unbroadcast(dz, y_shape)


class Multiply(Function):
    """z = x y;  dx = dz y,  dy = dz x, each summed to its input's shape. x is saved for dy alone, y for dx alone."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        raise NotImplementedError("hw1.2: Multiply.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw1.2: Multiply.backward")


class Divide(Function):
    """z = x / y;  dx = dz / y,  dy = -dz x / y², each summed to its input's shape. x is saved for dy alone."""

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        raise NotImplementedError("hw1.2: Divide.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw1.2: Divide.backward")


class Scale(Function):
    """z = c x for a Python number c;  dx = c dz."""

    @staticmethod
    def forward(ctx: Context, x: Array, c: float) -> Array:
        ctx.save(c)
        return x * c

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (c,) = ctx.saved
        return dz * c, None


class Shift(Function):
    """z = x + c for a Python number c;  dx = dz."""

    @staticmethod
    def forward(ctx: Context, x: Array, c: float) -> Array:
        return x + c

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        return dz, None


class Power(Function):
    """z = xᵖ for a Python number p;  dx = dz p xᵖ⁻¹."""

    @staticmethod
    def forward(ctx: Context, x: Array, p: float) -> Array:
        ctx.save(None if p == 0 else x, p)
        return x**p

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x, p = ctx.saved
        if x is None:  # and not 0 · x⁻¹, which is no number at x = 0
            return array_module(dz).zeros_like(dz), None
        return dz * (p * x ** (p - 1)), None


class Exp(Function):
    """z = exp x;  dx = dz z."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        z = array_module(x).exp(x)
        ctx.save(z)
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (z,) = ctx.saved
        return dz * z


class Log(Function):
    """z = log x;  dx = dz / x."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        ctx.save(x)
        return array_module(x).log(x)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (x,) = ctx.saved
        return dz / x


class Sqrt(Function):
    """z = √x;  dx = dz / (2 z)."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        z = array_module(x).sqrt(x)
        ctx.save(z)
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (z,) = ctx.saved
        return dz / (2 * z)


def _kept_axes(shape: tuple[int, ...], axis: Axes) -> tuple[int, ...]:
    """The shape after a reduction over ``axis``, with the reduced axes kept as 1."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    reduced = {a % len(shape) for a in axes} if shape else set()
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


class Sum(Function):
    """z = Σ x over ``axis`` (all axes for None);  dx = dz, spread back."""

    @staticmethod
    def forward(ctx: Context, x: Array, axis: Axes, keepdims: bool) -> Array:
        raise NotImplementedError("hw1.3: Sum.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw1.3: Sum.backward")


class Mean(Function):
    """z = Σ x / n over ``axis``;  dx = dz / n, spread back."""

    @staticmethod
    def forward(ctx: Context, x: Array, axis: Axes, keepdims: bool) -> Array:
        raise NotImplementedError("hw1.3: Mean.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw1.3: Mean.backward")


class Max(Function):
    """z = max x over ``axis``;  dx = dz at the largest entry, shared evenly where several are equal."""

    @staticmethod
    def forward(ctx: Context, x: Array, axis: Axes, keepdims: bool) -> Array:
        raise NotImplementedError("hw1.4: Max.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw1.4: Max.backward")


class MatMul(Function):
    """Z = X Y for (..., m, k) and (..., k, n), batch axes broadcast;  dX = dZ Yᵀ,  dY = Xᵀ dZ.

    ᵀ exchanges the last two axes. Each gradient is summed over the batch axes along which its input was broadcast; X is
    saved for dY alone, Y for dX alone.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        raise NotImplementedError("hw1.5: MatMul.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw1.5: MatMul.backward")


class WeightedMean(Function):
    """z = Σ_t w_t x_t for x (B, T, d) and constant w (B, T), z (B, d);  dx_t = w_t dz."""

    @staticmethod
    def forward(ctx: Context, x: Array, w: Array) -> Array:
        ctx.save(w)
        return arr.matmul(w[:, None, :], x)[:, 0]

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (w,) = ctx.saved
        return w[:, :, None] * dz[:, None, :], None


Operand = Tensor | Array | float


def _axes(axis: Any) -> Axes:
    """``axis`` as Python integers."""
    if axis is None:
        return None
    return tuple(map(index, axis)) if isinstance(axis, (tuple, list)) else index(axis)


def number(x: Any) -> float | None:
    """``x`` as a Python number where it is a scalar (so that it never promotes an array), else None."""
    if isinstance(x, np.generic):  # numpy.float64 is a float too, and would promote
        return x.item()
    return x if isinstance(x, (int, float)) else None


def add(x: Operand, y: Operand) -> Tensor:
    """x + y, broadcast."""
    if (c := number(y)) is not None:
        return Shift.apply(x, c)
    return Shift.apply(y, c) if (c := number(x)) is not None else Add.apply(x, y)


def subtract(x: Operand, y: Operand) -> Tensor:
    """x - y, broadcast."""
    if (c := number(y)) is not None:
        return Shift.apply(x, -c)
    return Shift.apply(Scale.apply(y, -1.0), c) if (c := number(x)) is not None else Subtract.apply(x, y)


def multiply(x: Operand, y: Operand) -> Tensor:
    """x y entry by entry, broadcast."""
    if (c := number(y)) is not None:
        return Scale.apply(x, c)
    return Scale.apply(y, c) if (c := number(x)) is not None else Multiply.apply(x, y)


def divide(x: Operand, y: Operand) -> Tensor:
    """x / y entry by entry, broadcast."""
    if (c := number(y)) is not None:
        return Scale.apply(x, 1.0 / c)
    return Scale.apply(Power.apply(y, -1.0), c) if (c := number(x)) is not None else Divide.apply(x, y)


def power(x: Operand, p: float) -> Tensor:
    """xᵖ for a number p."""
    exponent = number(p)
    if exponent is None:
        raise TypeError(f"power takes a number as exponent, got {type(p).__name__}")
    return Power.apply(x, exponent)


def negative(x: Operand) -> Tensor:
    """-x."""
    return Scale.apply(x, -1.0)


def exp(x: Operand) -> Tensor:
    """eˣ."""
    return Exp.apply(x)


def log(x: Operand) -> Tensor:
    """The natural logarithm of x."""
    return Log.apply(x)


def sqrt(x: Operand) -> Tensor:
    """√x."""
    return Sqrt.apply(x)


def sum(x: Operand, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Σ x over ``axis``, all axes for None."""
    return Sum.apply(x, _axes(axis), keepdims)


def mean(x: Operand, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The mean of x over ``axis``, all axes for None."""
    return Mean.apply(x, _axes(axis), keepdims)


def max(x: Operand, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The largest entry of x over ``axis``; the gradient is shared evenly by equal ones."""
    return Max.apply(x, _axes(axis), keepdims)


def matmul(x: Tensor | Array, y: Tensor | Array) -> Tensor:
    """X Y for (..., m, k) and (..., k, n), batch axes broadcast; ValueError for fewer than two axes."""
    if len(x.shape) < 2 or len(y.shape) < 2:
        raise ValueError(f"matmul takes matrices, got shapes {x.shape} and {y.shape}")
    if x.shape[-1] != y.shape[-2]:
        raise ValueError(f"matmul: the inner sizes of {x.shape} and {y.shape} differ")
    return MatMul.apply(x, y)


def weighted_mean(x: Tensor, weights: Array) -> Tensor:
    """Σ_t w_t x_t: x (B, T, d), weights (B, T) on the host, constant and summing to one -> (B, d)."""
    if tuple(weights.shape) != tuple(x.shape[:2]):
        raise ValueError(f"weighted_mean: x {x.shape} needs weights {x.shape[:2]}, got {weights.shape}")
    return WeightedMean.apply(x, arr.to_device(weights.astype(x.dtype), arr.device_of(x.data)))
