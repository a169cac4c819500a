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
        needs_x, needs_W, _, needs_U, needs_V, needs_S, _ = ctx.needs_grad
        d = U.shape[1]
        X = rows(x)
        Xb = _blocks(X, d)  # (m or 1, R, d)
        H = matmul(Xb, U.T)  # (m or 1, R, r)
        G = matmul(H, sigma.swapaxes(-1, -2))  # (m, R, r)
        if X.shape[1] != d:
            G = G.sum(axis=0, keepdims=True)  # (1, R, r)
        z = matmul(X, weight.T)  # (R, D)
        z += _joined(matmul(G, V.T)) * scale
        if bias is not None:
            z += bias
        low = needs_x or needs_U or needs_S
        ctx.save(
            x if needs_W or needs_U else None,
            H if needs_S else None,
            G if needs_V else None,
            weight if needs_x else None,
            U if needs_x else None,
            V if low else None,
            sigma if needs_x or needs_U else None,
            (scale, d, x.shape),
        )
        return z.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x, H, G, weight, U, V, sigma, (scale, d, x_shape) = ctx.saved
        needs_x, needs_W, needs_b, needs_U, needs_V, needs_S, _ = ctx.needs_grad
        dZ = rows(dz)
        dY = _blocks(dZ, d) * scale  # (m or 1, R, d)
        dx = dU = dS = None
        dV = matmul(dY.swapaxes(-1, -2), G).sum(axis=0) if needs_V else None  # (d, r)
        if V is not None:
            dG = matmul(dY, V)  # (m or 1, R, r)
        if needs_S:
            dS = matmul(dG.swapaxes(-1, -2), H)  # (m, r, r)
        if sigma is not None:
            dH = matmul(dG, sigma)  # (m, R, r)
            if x_shape[-1] == d:
                dH = dH.sum(axis=0, keepdims=True)  # (1, R, r)
            if needs_U:
                dU = matmul(dH.swapaxes(-1, -2), _blocks(rows(x), d)).sum(axis=0)  # (r, d)
            if needs_x:
                dX = matmul(dZ, weight)
                dX += _joined(matmul(dH, U))
                dx = dX.reshape(x_shape)
        dW = matmul(dZ.T, rows(x)) if needs_W else None
        return dx, dW, column_sum(dZ) if needs_b else None, dU, dV, dS, None


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
        if self.sigma is not None:
            return self.sigma
        assert self.C is not None
        assert self.P is not None
        r = self.C.shape[0]
        columns = ops.transpose(self.P[:, self.first : self.first + self.m])  # (m, r)
        return ops.reshape(ops.matmul(columns, ops.reshape(self.C, r, r * r)), self.m, r, r)


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
        with no_grad():
            sigma = self.core().data
        blocks = matmul(matmul(self.fact_V.data, sigma), self.fact_U.data) * self.scale  # (m, d, d)
        axis = 0 if self.base.out_features > self.base.in_features else 1
        return array_module(blocks).concatenate([blocks[b] for b in range(blocks.shape[0])], axis=axis)

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
        check_fields(self, r=1)
        check_not_zero(self, "scale")
        if self.factorization not in ("tt", "tk"):
            raise PeftError(f"FacT: factorization is 'tt' or 'tk', got {self.factorization!r}")
        model, r = peft.base_model, self.r
        paths = match_modules(model, self.target_modules)
        sizes = {path: (find(model, path).out_features, find(model, path).in_features) for path in paths}
        d = min(min(s) for s in sizes.values())
        for path, (D, k) in sizes.items():
            if d not in (D, k) or D % d or k % d:
                raise PeftError(
                    f"FacT cuts matrices into blocks of d x d, d = {d} here; {path}, {D} x {k}, does not divide: "
                    "choose target_modules"
                )
        if r > d:
            raise PeftError(f"FacT: rank r={r} exceeds d={d}; choose a smaller r")
        counts = {path: D * k // d**2 for path, (D, k) in sizes.items()}
        like = find(model, paths[0]).weight
        bound = d**-0.5
        U, V = trainable(rng.uniform(-bound, bound, (r, d)), like), trainable(np.zeros((d, r)), like)
        C = P = None
        if self.factorization == "tk":
            n = sum(counts.values())
            xavier = (6 / (r + n)) ** 0.5
            C = trainable(rng.uniform(-1, 1, (r, r, r)) * (6 / (r * r + r * r)) ** 0.5, like)
            P = trainable(rng.uniform(-xavier, xavier, (r, n)), like)
        first = 0
        for path in paths:
            m = counts[path]
            own = trainable(rng.uniform(-(r**-0.5), r**-0.5, (m, r, r)), like) if C is None else None
            peft.swap(path, FacTLayer(find(model, path), U, V, Core(own, C, P, first, m), self.scale))
            first += m
