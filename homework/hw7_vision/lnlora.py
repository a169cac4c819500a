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
        raise NotImplementedError("hw7.1: LNLoRALinear.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw7.2: LNLoRALinear.backward")


class LNLoraLayer(Module):
    """A frozen linear layer, and beside it a normalization and a low-rank change."""

    def __init__(self, base: Linear, config: LNLoraConfig, rng: np.random.Generator):
        """base (its weight (d, k)), scale = lora_alpha / r, and four trainable tensors of the base's dtype.

        norm_weight (k,) of ones, norm_bias (k,) of zeros, lora_A (r, k) uniform in ±1/√k drawn from rng, lora_B (d, r)
        of zeros. Raises PeftError where r exceeds min(d, k).
        """
        raise NotImplementedError("hw7.3: LNLoraLayer.__init__")

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
