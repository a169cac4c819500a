"""FacT: all weight changes of a Transformer as one tensor, in factors (Jie & Deng 2023, arXiv:2212.03145).

The matrices of all layers, W_q, W_k, W_v, W_o and the feed-forward's two cut into d × d blocks, are stacked to a
tensor of shape (12 L, d, d) (for d_ff = 4 d). Its change is factored, U (r, d) and V (d, r) shared by all matrices:

    FacT-TT (tensor train):   ΔW_j = s V Σ_j U,   Σ_j (r, r) for each matrix          2 d r + 12 L r²  parameters
    FacT-TK (Tucker):         Σ_j = Σ_p P[p, j] C[p],   C (r, r, r),   P (r, 12 L)    2 d r + 12 L r + r³

V starts at zero, so training starts from the base model. For m blocks side by side in the output (as in up_proj), with
H = X Uᵀ, G_b = H Σ_bᵀ, Y_b = s G_b Vᵀ:

    dG_b = s dY_b V,   dV = s Σ_b dY_bᵀ G_b,   dΣ_b = dG_bᵀ H,   dH = Σ_b dG_b Σ_b
    dU = dHᵀ X,   dX = dZ W₀ + dH U

and for m blocks of the input (down_proj), H_b = X_b Uᵀ, G = Σ_b H_b Σ_bᵀ, Y = s G Vᵀ, the same the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft import ops
from minipeft.autograd import Context, Function, Tensor, no_grad
from minipeft.backend import Array, array_module, column_sum, matmul, rows
from minipeft.nn.layers import Linear
from minipeft.nn.module import Module, find
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, check_not_zero, method, trainable
from minipeft.peft.merge import Mergeable
from minipeft.peft.select import match_modules


class FactorizedLinear(Function):
    """z = x W₀ᵀ + b + s × the blocks' V Σ_b U x: x (..., k), W₀ (D, k), U (r, d), V (d, r), Σ (m, r, r) -> (..., D).

    D = m d and k = d (blocks in the output: y_b = V Σ_b U x beside each other), or D = d and k = m d (blocks of the
    input: y = Σ_b V Σ_b U x_b). For a square matrix m = 1 and both are the same.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, U: Array, V: Array, sigma: Array, scale: float
    ) -> Array:
        raise NotImplementedError("hw7.4: FactorizedLinear.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw7.5: FactorizedLinear.backward")


def _blocks(x: Array, d: int) -> Array:
    """(R, m d) -> (m, R, d)."""
    return x.reshape(x.shape[0], -1, d).swapaxes(0, 1)


def _joined(x: Array) -> Array:
    """(m, R, d) -> (R, m d)."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


class Core(Module):
    """The r × r matrices of the blocks j … j + m - 1: FacT-TT's own, or FacT-TK's out of the shared C and P."""

    def __init__(self, sigma: Tensor | None, C: Tensor | None, P: Tensor | None, first: int, m: int):
        self.sigma = sigma
        self.C = C
        self.P = P
        self.first = first
        self.m = m

    def forward(self) -> Tensor:
        """Σ (m, r, r), a tensor through which gradients flow: ``sigma`` itself, or Σ_b = Σ_p P[p, first + b] C[p]."""
        raise NotImplementedError("hw7.6: Core.forward")


class FacTLayer(Mergeable):
    """A frozen linear layer and its blocks of the factored tensor."""

    def __init__(self, base: Linear, U: Tensor, V: Tensor, core: Core, scale: float):
        self.base = base
        self.fact_U = U
        self.fact_V = V
        self.core = core
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        base = self.base
        return FactorizedLinear.apply(x, base.weight, base.bias, self.fact_U, self.fact_V, self.core(), self.scale)

    def delta(self) -> Array:
        """ΔW, (D, k): the blocks s V Σ_b U, (d, d) each, below each other for D > k, else beside each other."""
        raise NotImplementedError("hw7.7: FacTLayer.delta")

    def merged(self) -> Linear:
        return Linear.from_weight(Tensor(self.base.weight.data + self.delta(), requires_grad=True), self.base.bias)


@method
@dataclass
class FacTConfig(PeftConfig):
    """r: the rank. factorization: "tt" or "tk". scale: s, which the paper tunes between 0.01 and 100.

    target_modules: linear layers inside the Transformer layers, whose sizes are d or multiples of d.
    """

    peft_type: ClassVar[str] = "FACT"
    r: int = 8
    factorization: str = "tt"
    scale: float = 1.0
    target_modules: list[str] | str = "all-linear"

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        """Swap each target for a `FacTLayer`: U and V, one of each for all; V zero, so that nothing changes yet.

        d is the smallest side of all targets; a matrix (D, k) takes D k / d² consecutive blocks, in the order of
        `match_modules`. "tt": a Σ (m, r, r) of its own for each; "tk": one C (r, r, r) and one P (r, number of all
        blocks) for all. Raises PeftError for another factorization, a matrix that does not divide, or r > d.
        """
        raise NotImplementedError("hw7.8: FacTConfig.apply")
