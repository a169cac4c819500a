"""LoRA: learn the change of a weight as a product of two thin matrices (Hu et al. 2021, arXiv:2106.09685).

    z = W₀ x + s B A x + b,      W₀ (d, k) frozen,  A (r, k),  B (d, r),  s = α / r

B starts at zero, so training starts from the pretrained layer exactly; A starts random, or no gradient would ever
reach B. W₀ + s B A is never formed in training: the change costs r (d + k) numbers in place of d k.

With X and dZ as matrices of rows, and H = X Aᵀ, dH = s dZ B:

    dB = s dZᵀ H          dA = dHᵀ X = s Bᵀ dZᵀ X          dX = dZ W₀ + dH A

No gradient of W₀ is computed, but dX still flows through W₀, to whatever is trained below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft import ops
from minipeft.array import Array, column_sum, matmul, rows
from minipeft.autograd import Context, Function, Tensor
from minipeft.nn.layers import Dropout, Linear
from minipeft.nn.module import find
from minipeft.peft.base import (
    Mergeable,
    PeftConfig,
    PeftError,
    PeftModel,
    check_fields,
    match_modules,
    method,
    trainable,
)


class LoRALinear(Function):
    """z = x W₀ᵀ + b + s (x Aᵀ) Bᵀ: x (..., k), W₀ (d, k), b (d,) or None, A (r, k), B (d, r) -> (..., d)."""

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, lora_A: Array, lora_B: Array, scale: float
    ) -> Array:
        needs_x, needs_W, _, needs_A, needs_B, _ = ctx.needs_grad
        X = rows(x)  # (R, k)
        H = matmul(X, lora_A.T)  # (R, r)
        z = matmul(X, weight.T)  # (R, d)
        z += matmul(H * scale, lora_B.T)
        if bias is not None:
            z += bias
        ctx.save(
            x if needs_A or needs_W else None,
            H if needs_B else None,
            weight if needs_x else None,
            lora_A if needs_x else None,
            lora_B if needs_x or needs_A else None,
            (scale, x.shape),
        )
        return z.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x, H, weight, lora_A, lora_B, (scale, x_shape) = ctx.saved
        needs_x, needs_W, needs_b, needs_A, needs_B, _ = ctx.needs_grad
        dZ = rows(dz)  # (R, d)
        dx = dW = db = dA = dB = None
        if needs_x or needs_A:
            dH = matmul(dZ, lora_B) * scale  # (R, r)
        if needs_x:
            dX = matmul(dZ, weight)  # (R, k)
            dX += matmul(dH, lora_A)
            dx = dX.reshape(x_shape)
        if needs_W:
            dW = matmul(dZ.T, rows(x))  # (d, k)
        if needs_b:
            db = column_sum(dZ)  # (d,)
        if needs_A:
            dA = matmul(dH.T, rows(x))  # (r, k)
        if needs_B:
            dB = matmul(dZ.T, H) * scale  # (d, r)
        return dx, dW, db, dA, dB, None


class LoraLayer(Mergeable):
    """A frozen linear layer with its low-rank change beside it."""

    def __init__(self, base: Linear, config: LoraConfig, rng: np.random.Generator):
        r, k, d = config.r, base.in_features, base.out_features
        if r > min(d, k):
            raise PeftError(
                f"LoRA: rank r={r} exceeds min(d, k) = {min(d, k)} of a layer {d} x {k}; choose a smaller r"
            )
        self.base = base
        self.scale = config.lora_alpha / (r**0.5 if config.use_rslora else r)
        self.dropout = Dropout(config.lora_dropout)
        if config.init_lora_weights == "gaussian":
            A = rng.standard_normal((r, k)) / r
        else:
            A = rng.uniform(-(k**-0.5), k**-0.5, (r, k))
        self.lora_A = trainable(A, base.weight)
        self.lora_B = trainable(np.zeros((d, r)), base.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.dropout.p:  # on the low-rank path alone
            change = ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B)
            return self.base(x) + change * self.scale
        base = self.base
        return LoRALinear.apply(x, base.weight, base.bias, self.lora_A, self.lora_B, self.scale)

    def delta(self) -> Array:
        """ΔW = s B A, (d, k)."""
        return matmul(self.lora_B.data, self.lora_A.data) * self.scale

    def merged(self) -> Linear:
        """A plain layer with W₀ + s B A; the base's own array is not written."""
        layer = Linear(self.base.in_features, self.base.out_features, bias=False, rng=0)
        layer.weight = Tensor(self.base.weight.data + self.delta(), requires_grad=True)
        layer.bias = self.base.bias
        return layer


@method
@dataclass
class LoraConfig(PeftConfig):
    """Options, with the names and meanings of Hugging Face PEFT.

    r: the rank. lora_alpha: α; the change is scaled by α / r, with use_rslora by α / √r. lora_dropout: on the
    input of A alone. target_modules: ends of paths, a regular expression, or "all-linear". layers_to_transform:
    only these layers. init_lora_weights: True for A uniform in ±1/√k, "gaussian" for A ~ N(0, 1/r²).
    """

    peft_type: ClassVar[str] = "LORA"
    r: int = 8
    lora_alpha: float = 8
    target_modules: list[str] | str | None = None
    lora_dropout: float = 0.0
    layers_to_transform: list[int] | None = None
    init_lora_weights: bool | str = True
    use_rslora: bool = False

    def apply(self, peft: PeftModel, rng: np.random.Generator) -> None:
        check_fields(self, r=1)
        if self.init_lora_weights not in (True, "gaussian"):
            raise PeftError(f"LoRA: init_lora_weights is True or 'gaussian', got {self.init_lora_weights!r}")
        targets = ["q_proj", "v_proj"] if self.target_modules is None else self.target_modules
        model = peft.base_model
        for path in match_modules(model, targets, layers=self.layers_to_transform):
            peft.swap(path, LoraLayer(find(model, path), self, rng))
