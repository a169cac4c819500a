"""LNLoRA: LoRA with a LayerNorm inside the layer.

The lecture names it as a variant that includes LayerNorm in the LoRALinear module; no paper was found that defines
it, so this is our reading of that sentence:

    z = W₀ x + b + s B A LN(x),      LN(x) = γ ∘ x̂ + β,  γ = 1 and β = 0 at the start, both trained

The low-rank path sees inputs of one scale, whatever the layer below does. B = 0 makes the start the base model; the
normalization is no matrix, so there is nothing to merge. With N = LN(X), H = N Aᵀ, dH = s dZ B and dN = dH A:

    dB = s dZᵀ H,   dA = dHᵀ N,   (dX_LN, dγ, dβ) = the LayerNorm's backward of dN,   dX = dZ W₀ + dX_LN
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, column_sum, matmul, rows
from minipeft.nn.layers import Linear
from minipeft.nn.module import Module, find
from minipeft.ops.normalize import LayerNorm
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, check_not_zero, method, trainable
from minipeft.peft.select import match_modules

EPS = 1e-5


class LNLoRALinear(Function):
    """z = x W₀ᵀ + b + s (LN(x) Aᵀ) Bᵀ: x (..., k), W₀ (d, k), γ and β (k,), A (r, k), B (d, r) -> (..., d)."""

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        weight: Array,
        bias: Array | None,
        gamma: Array,
        beta: Array,
        lora_A: Array,
        lora_B: Array,
        scale: float,
    ) -> Array:
        needs_x, needs_W, _, needs_g, needs_beta, needs_A, needs_B, _ = ctx.needs_grad
        inner = Context(needs_x, needs_g, needs_beta, False)
        X = rows(x)
        N = LayerNorm.forward(inner, X, gamma, beta, EPS)  # (R, k)
        H = matmul(N, lora_A.T)  # (R, r)
        z = matmul(X, weight.T)  # (R, d)
        z += matmul(H, lora_B.T) * scale
        if bias is not None:
            z += bias
        to_norm = needs_x or needs_g or needs_beta
        ctx.save(
            x if needs_W else None,
            N if needs_A else None,
            H if needs_B else None,
            weight if needs_x else None,
            lora_A if to_norm else None,
            lora_B if to_norm or needs_A else None,
            (scale, x.shape),
            *inner.saved,
        )
        return z.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x, N, H, weight, lora_A, lora_B, (scale, x_shape), *norm_saved = ctx.saved
        needs_x, needs_W, needs_b, needs_g, needs_beta, needs_A, needs_B, _ = ctx.needs_grad
        dZ = rows(dz)
        dx = dgamma = dbeta = dA = None
        if lora_B is not None:
            dH = matmul(dZ, lora_B) * scale  # (R, r)
        if needs_A:
            dA = matmul(dH.T, N)  # (r, k)
        if lora_A is not None:
            inner = Context(needs_x, needs_g, needs_beta, False)
            inner.save(*norm_saved)
            dX, dgamma, dbeta, _ = LayerNorm.backward(inner, matmul(dH, lora_A))
            if needs_x:
                dX += matmul(dZ, weight)
                dx = dX.reshape(x_shape)
        dB = matmul(dZ.T, H) * scale if needs_B else None  # (d, r)
        dW = matmul(dZ.T, rows(x)) if needs_W else None
        return dx, dW, column_sum(dZ) if needs_b else None, dgamma, dbeta, dA, dB, None


class LNLoraLayer(Module):
    """A frozen linear layer, and beside it a normalization and a low-rank change."""

    def __init__(self, base: Linear, config: LNLoraConfig, rng: np.random.Generator):
        """base (its weight (d, k)), scale = lora_alpha / r, and four trainable tensors of the base's dtype.

        norm_weight (k,) of ones, norm_bias (k,) of zeros, lora_A (r, k) uniform in ±1/√k drawn from rng, lora_B (d, r)
        of zeros. Raises PeftError where r exceeds min(d, k).
        """
        r, k, d = config.r, base.in_features, base.out_features
        if r > min(d, k):
            raise PeftError(
                f"LNLoRA: rank r={r} exceeds min(d, k) = {min(d, k)} of a layer {d} x {k}; choose a smaller r"
            )
        self.base = base
        self.scale = config.lora_alpha / r
        self.norm_weight = trainable(np.ones(k), base.weight)
        self.norm_bias = trainable(np.zeros(k), base.weight)
        self.lora_A = trainable(rng.uniform(-(k**-0.5), k**-0.5, (r, k)), base.weight)
        self.lora_B = trainable(np.zeros((d, r)), base.weight)

    def forward(self, x: Tensor) -> Tensor:
        return LNLoRALinear.apply(
            x, self.base.weight, self.base.bias, self.norm_weight, self.norm_bias, self.lora_A, self.lora_B, self.scale
        )


@method
@dataclass
class LNLoraConfig(PeftConfig):
    """r, lora_alpha, target_modules and layers_to_transform: as in `LoraConfig`."""

    peft_type: ClassVar[str] = "LNLORA"
    r: int = 8
    lora_alpha: float = 8
    target_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        check_fields(self, r=1)
        check_not_zero(self, "lora_alpha")
        targets = ["q_proj", "v_proj"] if self.target_modules is None else self.target_modules
        for path in match_modules(peft.base_model, targets, layers=self.layers_to_transform):
            peft.swap(path, LNLoraLayer(find(peft.base_model, path), self, rng))
