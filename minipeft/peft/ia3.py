"""IA3: rescale activations by learnt vectors (Liu et al. 2022, arXiv:2205.05638).

    z = l ∘ (x W₀ᵀ + b)      keys and values: l (d,)
    z = (l ∘ x) W₀ᵀ + b      the second matrix of the feed-forward: l (k,)

l starts at one, so training starts from the base model exactly. With U = x W₀ᵀ + b and dH = dZ W₀:

    dl = Σ_rows dZ ∘ U,   dx = (l ∘ dZ) W₀          or          dl = Σ_rows dH ∘ x,   dx = l ∘ dH
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, column_sum, matmul, rows
from minipeft.nn.layers import Linear
from minipeft.nn.module import find
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, method, trainable
from minipeft.peft.merge import Mergeable
from minipeft.peft.select import match_modules


class ScaledLinear(Function):
    """z = l ∘ (x W₀ᵀ + b), or with ``inside`` z = (l ∘ x) W₀ᵀ + b: x (..., k), W₀ (d, k), l (d,) or (k,)."""

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array | None, scale: Array, inside: bool) -> Array:
        needs_x, needs_W, needs_b, needs_l, _ = ctx.needs_grad
        X = rows(x)
        u = matmul(X * scale if inside else X, weight.T)  # (R, d)
        if bias is not None:
            u += bias
        keeps_x = needs_W or (needs_l and inside)
        ctx.save(
            x if keeps_x else None,
            u if needs_l and not inside else None,
            weight if needs_x or (needs_l and inside) else None,
            scale if needs_x or needs_W or (needs_b and not inside) else None,
            (inside, x.shape),
        )
        return (u if inside else u * scale).reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x, u, weight, scale, (inside, x_shape) = ctx.saved
        needs_x, needs_W, needs_b, needs_l, _ = ctx.needs_grad
        dZ = rows(dz)
        dU = dZ if inside or scale is None else dZ * scale  # (R, d)
        dx = dW = db = dl = None
        if needs_x or (needs_l and inside):
            dH = matmul(dU, weight)  # (R, k)
            if needs_x:
                dx = (dH * scale if inside else dH).reshape(x_shape)
            if needs_l and inside:
                dl = column_sum(dH * rows(x))
        if needs_l and not inside:
            dl = column_sum(dZ * u)
        if needs_W:
            dW = matmul(dU.T, rows(x) * scale if inside else rows(x))
        if needs_b:
            db = column_sum(dU)
        return dx, dW, db, dl, None


class IA3Layer(Mergeable):
    """A frozen linear layer and the vector that rescales its output, or its input in the feed-forward."""

    def __init__(self, base: Linear, inside: bool):
        self.base = base
        self.inside = inside
        self.ia3_l = trainable(np.ones(base.in_features if inside else base.out_features), base.weight)

    def forward(self, x: Tensor) -> Tensor:
        return ScaledLinear.apply(x, self.base.weight, self.base.bias, self.ia3_l, self.inside)

    def merged(self) -> Linear:
        base, scale = self.base, self.ia3_l.data
        weight = Tensor(base.weight.data * (scale if self.inside else scale[:, None]), requires_grad=True)
        if base.bias is None:
            return Linear.from_weight(weight)
        bias = base.bias.data.copy() if self.inside else base.bias.data * scale
        return Linear.from_weight(weight, Tensor(bias, requires_grad=True))


@method
@dataclass
class IA3Config(PeftConfig):
    """target_modules: what is rescaled; feedforward_modules: those of them that are rescaled at their input.

    None for feedforward_modules stands for every down_proj among the targets, an empty list for none of them.
    """

    peft_type: ClassVar[str] = "IA3"
    target_modules: list[str] | str | None = None
    feedforward_modules: list[str] | str | None = None

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        model = peft.base_model
        targets = ["k_proj", "v_proj", "down_proj"] if self.target_modules is None else self.target_modules
        paths = match_modules(model, targets)
        if self.feedforward_modules is None:
            inside = [p for p in paths if p.endswith("down_proj")]
        elif not self.feedforward_modules:
            inside = []
        else:
            inside = match_modules(model, self.feedforward_modules, option="feedforward_modules")
        if stray := sorted(set(inside) - set(paths)):
            raise PeftError(f"IA3: feedforward_modules names {stray[0]!r}, which is not among the target modules")
        for path in paths:
            peft.swap(path, IA3Layer(find(model, path), path in inside))
