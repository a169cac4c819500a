"""Adapters: a small bottleneck after a sublayer, everything else frozen (Houlsby et al. 2019, arXiv:1902.00751).

    a(h) = h + f(h W_dᵀ + b_d) W_uᵀ + b_u,      W_d (r, d),  W_u (d, r),  r ≪ d

One hidden layer of width r and a residual connection. AdapterH has two in each layer, after the attention's output
projection and after the feed-forward, both before the residual is added: 2 d r + r + d parameters each.

With H and dZ as matrices of rows, U = f(G), G = H W_dᵀ + b_d:

    dW_u = dZᵀ U    db_u = Σ dZ    dG = (dZ W_u) ∘ f'(G)    dW_d = dGᵀ H    db_d = Σ dG    dH = dZ + dG W_d
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minipeft.array import Array, column_sum, matmul, rows
from minipeft.autograd import Context, Function, Tensor
from minipeft.nn.module import Module, find
from minipeft.nn.transformer import TransformerLayer
from minipeft.ops.activation import CURVES, curve
from minipeft.peft.base import PeftModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, method, trainable
from minipeft.peft.select import match_modules

SUBLAYERS = ("attention", "feed_forward")


class Bottleneck(Function):
    """z = h + f(h W_dᵀ + b_d) W_uᵀ + b_u: h (..., d), W_d (r, d), b_d (r,), W_u (d, r), b_u (d,) -> (..., d)."""

    @staticmethod
    def forward(
        ctx: Context, h: Array, W_down: Array, b_down: Array, W_up: Array, b_up: Array, activation: str
    ) -> Array:
        needs_h, needs_Wd, needs_bd, needs_Wu, _, _ = ctx.needs_grad
        H = rows(h)  # (R, d)
        G = matmul(H, W_down.T)  # (R, r)
        G += b_down
        U, slope = curve(activation)(G)  # (R, r)
        z = matmul(U, W_up.T)  # (R, d)
        z += b_up
        z += H
        to_bottleneck = needs_h or needs_Wd or needs_bd
        ctx.save(
            h if needs_Wd else None,
            U if needs_Wu else None,
            slope if to_bottleneck else None,
            W_up if to_bottleneck else None,
            W_down if needs_h else None,
        )
        return z.reshape(h.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        h, U, slope, W_up, W_down = ctx.saved
        needs_h, needs_Wd, needs_bd, needs_Wu, needs_bu, _ = ctx.needs_grad
        dZ = rows(dz)  # (R, d)
        dh = dWd = dbd = None
        dWu = matmul(dZ.T, U) if needs_Wu else None  # (d, r)
        dbu = column_sum(dZ) if needs_bu else None  # (d,)
        if W_up is not None:
            dG = matmul(dZ, W_up)  # (R, r)
            dG *= slope
            if needs_Wd:
                dWd = matmul(dG.T, rows(h))  # (r, d)
            if needs_bd:
                dbd = column_sum(dG)  # (r,)
            if needs_h:
                dH = matmul(dG, W_down)  # (R, d)
                dH += dZ
                dh = dH.reshape(dz.shape)
        return dh, dWd, dbd, dWu, dbu, None


class Adapter(Module):
    """One bottleneck; W_d and W_u start small, so that it starts near the identity."""

    def __init__(self, like: Tensor, d: int, config: AdapterConfig, rng: np.random.Generator):
        r = config.r
        self.activation = config.activation
        # Houlsby et al. cut the normal at two standard deviations; redrawing is what that means.
        self.down = trainable(truncated_normal(rng, (r, d)) * config.init_std, like)
        self.down_bias = trainable(np.zeros(r), like)
        self.up = trainable(truncated_normal(rng, (d, r)) * config.init_std, like)
        self.up_bias = trainable(np.zeros(d), like)

    def forward(self, h: Tensor) -> Tensor:
        return Bottleneck.apply(h, self.down, self.down_bias, self.up, self.up_bias, self.activation)


class Adapted(Module):
    """A frozen sublayer and the adapter behind it."""

    def __init__(self, base: Module, adapter: Adapter):
        self.base = base
        self.adapter = adapter

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.adapter(self.base(x, *args, **kwargs))


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal draws, those beyond two standard deviations drawn again."""
    x = rng.standard_normal(shape)
    while (far := np.abs(x) > 2).any():
        x[far] = rng.standard_normal(int(far.sum()))
    return x


@method
@dataclass
class AdapterConfig(PeftConfig):
    """r: the width of the bottleneck. activation: f. init_std: of W_d and W_u. after: the sublayers that get one.

    ``after=["attention", "feed_forward"]`` is AdapterH; one of them alone halves the parameters.
    layers_to_transform: only these layers.
    """

    peft_type: ClassVar[str] = "ADAPTER"
    r: int = 8
    activation: str = "gelu"
    init_std: float = 0.01
    after: list[str] = field(default_factory=lambda: list(SUBLAYERS))
    layers_to_transform: list[int] | None = None

    def apply(self, peft: PeftModel, rng: np.random.Generator) -> None:
        check_fields(self, r=1)
        if self.activation not in CURVES:
            raise PeftError(f"adapters: unknown activation {self.activation!r}; expected one of {sorted(CURVES)}")
        if not self.after or set(self.after) - set(SUBLAYERS):
            raise PeftError(f"adapters: after names sublayers out of {SUBLAYERS}, got {self.after!r}")
        model = peft.base_model
        layers = match_modules(model, ".*", TransformerLayer, "layers", self.layers_to_transform)
        for path in layers:
            layer = find(model, path)
            like = layer.attention.out_proj.weight
            d = like.shape[0]
            if self.r > d:
                raise PeftError(f"adapters: a bottleneck of r={self.r} is no bottleneck for d={d}; choose r below d")
            for name in SUBLAYERS:
                if name in self.after:
                    peft.swap(f"{path}.{name}", Adapted(getattr(layer, name), Adapter(like, d, self, rng)))
