"""The linear layer: where nearly all FLOPs of a Transformer are."""

from __future__ import annotations

from typing import Any

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, column_sum, matmul, rows


class Linear(Function):
    """z = x Wᵀ + b for x (..., k), W (d, k), b (d,) or None, z (..., d).

    With X and dZ as matrices of rows:  dx = dZ W,  dW = dZᵀ X,  db = Σ_rows dZ.
    x is saved only for dW, and W only for dx: with W frozen, x is not kept and dZᵀ X is not computed.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array | None) -> Array:
        raise NotImplementedError("hw3.1: Linear.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw3.1: Linear.backward")


def check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """ValueError where x (..., k), weight (d, k) and bias (d,) do not fit."""
    if len(weight.shape) != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"linear: x (..., k) takes a weight (d, k), got x {x.shape} and weight {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: the bias has shape {bias.shape}, the weight {weight.shape} needs {weight.shape[:1]}")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b: x (..., k), weight (d, k), bias (d,) -> (..., d); ValueError where the sizes differ."""
    check_linear(x, weight, bias)
    return Linear.apply(x, weight, bias)
