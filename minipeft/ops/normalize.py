"""Layer normalization, with and without the mean."""

from __future__ import annotations

from typing import Any

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, rows


class LayerNorm(Function):
    """z = γ ∘ x̂ + β, x̂ = (x - mean) / √(var + ε), var = mean((x - mean)²) over the last axis (Ba et al. 2016).

    x (..., d), γ and β (d,), ε a number. The mean is subtracted before squaring: mean(x²) - mean² loses more digits.
    With dx̂ = γ ∘ dz:  dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ ∘ x̂)) / √(var + ε),  dγ = Σ_rows dz ∘ x̂,  dβ = Σ_rows dz.
    Of arrays as large as x, only x̂ is saved, and only if dx or dγ is needed.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, beta: Array, eps: float) -> Array:
        needs_x, needs_gamma, _, _ = ctx.needs_grad
        centred = x - x.mean(axis=-1, keepdims=True)  # (..., d)
        # 1 / √(var + ε)
        rstd = 1.0 / array_module(x).sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)  # (..., 1)
        x_hat = centred * rstd  # (..., d)
        ctx.save(x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None)
        return gamma * x_hat + beta

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_hat, rstd, gamma = ctx.saved
        needs_x, needs_gamma, needs_beta, _ = ctx.needs_grad
        dx = dgamma = dbeta = None
        if needs_x:
            g = gamma * dz  # dx̂, (..., d)
            inner = (g * x_hat).mean(axis=-1, keepdims=True)  # (..., 1)
            dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd
        if needs_gamma:
            dgamma = rows(dz * x_hat).sum(axis=0)  # (d,)
        if needs_beta:
            dbeta = rows(dz).sum(axis=0)  # (d,)
        return dx, dgamma, dbeta, None


class RMSNorm(Function):
    """z = γ ∘ x̂, x̂ = x / √(mean(x²) + ε) over the last axis (Zhang & Sennrich 2019): x (..., d), γ (d,), ε a number.

    With dx̂ = γ ∘ dz:  dx = (dx̂ - x̂ mean(dx̂ ∘ x̂)) / √(mean(x²) + ε),  dγ = Σ_rows dz ∘ x̂. Saved as in `LayerNorm`.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, eps: float) -> Array:
        needs_x, needs_gamma, _ = ctx.needs_grad
        rstd = 1.0 / array_module(x).sqrt((x * x).mean(axis=-1, keepdims=True) + eps)  # (..., 1)
        x_hat = x * rstd  # (..., d)
        ctx.save(x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None)
        return gamma * x_hat

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_hat, rstd, gamma = ctx.saved
        needs_x, needs_gamma, _ = ctx.needs_grad
        dx = dgamma = None
        if needs_x:
            g = gamma * dz  # dx̂, (..., d)
            dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * rstd
        if needs_gamma:
            dgamma = rows(dz * x_hat).sum(axis=0)  # (d,)
        return dx, dgamma, None


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
