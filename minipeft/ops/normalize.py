"""Layer normalization, with and without the mean."""

from __future__ import annotations

from typing import Any

from minipeft import fused
from minipeft.array import (
    Array,
    array_module,
    column_sum,
    empty,
    has_kernels,
    row_blocks,
    row_dot,
    row_sum,
    rows,
    times,
)
from minipeft.autograd import Context, Function, Tensor


class LayerNorm(Function):
    """z = γ ∘ x̂ + β, x̂ = (x - mean) / √(var + ε), var = mean((x - mean)²) over the last axis (Ba et al. 2016).

    x (..., d), γ and β (d,), ε a number; in float32 as exact where the mean is large as where it is 0.
    With dx̂ = γ ∘ dz:  dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ ∘ x̂)) / √(var + ε),  dγ = Σ_rows dz ∘ x̂,  dβ = Σ_rows dz.
    x̂ is saved in place of x, and only where dx or dγ is wanted.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, beta: Array, eps: float) -> Array:
        xp = array_module(x)
        x2 = rows(x)
        d = x2.shape[1]
        keep = ctx.needs_grad[0] or ctx.needs_grad[1]
        if has_kernels(x):
            z, x_hat, rstd = fused.norm(x2, gamma, beta, eps, centre=True, keep=keep)
        else:
            z = empty(x2)
            x_hat = empty(x2) if keep else z
            rstd = xp.empty((x2.shape[0], 1), dtype=x.dtype)
            for block in row_blocks(x2):
                xb, h, zb = x2[block], x_hat[block], z[block]
                xp.subtract(xb, row_sum(xb) * (1.0 / d), out=h)
                rstd[block] = 1.0 / xp.sqrt(row_dot(h, h) * (1.0 / d) + eps)
                h *= rstd[block]
                xp.multiply(h, gamma, out=zb)
                zb += beta
        ctx.save(x_hat if keep else None, *((rstd, gamma) if ctx.needs_grad[0] else (None, None)), x.shape)
        return z.reshape(x.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_hat, rstd, gamma, shape = ctx.saved
        dz2 = rows(dz)
        dx = None
        if ctx.needs_grad[0] and has_kernels(dz):
            dx = fused.norm_backward(dz2, x_hat, rstd, gamma, centre=True).reshape(shape)
        elif ctx.needs_grad[0]:
            xp = array_module(dz)
            d = dz2.shape[1]
            dx = empty(dz2)
            for block in row_blocks(dz2):
                h = x_hat[block]
                g = xp.multiply(dz2[block], gamma, out=dx[block])
                inner = row_dot(g, h) * (1.0 / d)
                g -= row_sum(g) * (1.0 / d)
                g -= times(h, inner)
                g *= rstd[block]
            dx = dx.reshape(shape)
        dgamma = column_sum(times(dz2, x_hat)) if ctx.needs_grad[1] else None
        dbeta = column_sum(dz2) if ctx.needs_grad[2] else None
        return dx, dgamma, dbeta, None


class RMSNorm(Function):
    """z = γ ∘ x̂, x̂ = x / √(mean(x²) + ε) over the last axis (Zhang & Sennrich 2019): x (..., d), γ (d,), ε a number.

    With dx̂ = γ ∘ dz:  dx = (dx̂ - x̂ mean(dx̂ ∘ x̂)) / √(mean(x²) + ε),  dγ = Σ_rows dz ∘ x̂. Saved as in `LayerNorm`.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, eps: float) -> Array:
        xp = array_module(x)
        x2 = rows(x)
        keep = ctx.needs_grad[0] or ctx.needs_grad[1]
        if has_kernels(x):
            z, x_hat, rstd = fused.norm(x2, gamma, None, eps, centre=False, keep=keep)
        else:
            z = empty(x2)
            x_hat = empty(x2) if keep else z
            rstd = xp.empty((x2.shape[0], 1), dtype=x.dtype)
            for block in row_blocks(x2):
                xb = x2[block]
                rstd[block] = 1.0 / xp.sqrt(row_dot(xb, xb) * (1.0 / x2.shape[1]) + eps)
                h = xp.multiply(xb, rstd[block], out=x_hat[block])
                xp.multiply(h, gamma, out=z[block])
        ctx.save(x_hat if keep else None, *((rstd, gamma) if ctx.needs_grad[0] else (None, None)), x.shape)
        return z.reshape(x.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_hat, rstd, gamma, shape = ctx.saved
        dz2 = rows(dz)
        dx = None
        if ctx.needs_grad[0] and has_kernels(dz):
            dx = fused.norm_backward(dz2, x_hat, rstd, gamma, centre=False).reshape(shape)
        elif ctx.needs_grad[0]:
            xp = array_module(dz)
            dx = empty(dz2)
            for block in row_blocks(dz2):
                h = x_hat[block]
                g = xp.multiply(dz2[block], gamma, out=dx[block])
                g -= times(h, row_dot(g, h) * (1.0 / dz2.shape[1]))
                g *= rstd[block]
            dx = dx.reshape(shape)
        return dx, column_sum(times(dz2, x_hat)) if ctx.needs_grad[1] else None, None


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """γ (x - mean) / √(var + ε) + β over the last axis: x (..., d), gamma and beta (d,); ValueError for other sizes."""
    _check("layer_norm", x, gamma, beta)
    return LayerNorm.apply(x, gamma, beta, float(eps))


def rms_norm(x: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    """γ x / √(mean(x²) + ε) over the last axis: x (..., d), gamma (d,); ValueError for other sizes."""
    _check("rms_norm", x, gamma)
    return RMSNorm.apply(x, gamma, float(eps))


def _check(name: str, x: Tensor, *weights: Tensor) -> None:
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: x must be floating-point, got {x.dtype}")
    for w in weights:
        if w.shape != x.shape[-1:]:
            raise ValueError(f"{name}: x {x.shape} needs weights of shape {x.shape[-1:]}, got {w.shape}")
