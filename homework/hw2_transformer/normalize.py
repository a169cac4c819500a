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
        raise NotImplementedError("hw2.3: LayerNorm.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw2.4: LayerNorm.backward")


class RMSNorm(Function):
    """z = γ ∘ x̂, x̂ = x / √(mean(x²) + ε) over the last axis (Zhang & Sennrich 2019): x (..., d), γ (d,), ε a number.

    With dx̂ = γ ∘ dz:  dx = (dx̂ - x̂ mean(dx̂ ∘ x̂)) / √(mean(x²) + ε),  dγ = Σ_rows dz ∘ x̂. Saved as in `LayerNorm`.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, eps: float) -> Array:
        raise NotImplementedError("hw2.5: RMSNorm.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw2.5: RMSNorm.backward")


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
