"""Adapters: a small bottleneck beside the frozen layers (Houlsby et al. 2019, arXiv:1902.00751).

    b(h) = s (f(h W_dᵀ + b_d) W_uᵀ + b_u),      W_d (r, d),  W_u (d, r),  r ≪ d

One hidden layer of width r. Where it stands makes the variants:

    AdapterH (Houlsby)    h + b(h)        after the attention's projection and the feed-forward, before the residual
    AdapterL (Lin)        h + b(LN(h))    after the feed-forward alone, with a LayerNorm of its own
    parallel (He et al.)  F(x) + b(x)     beside the sublayer F, on its input

2 d r + r + d parameters each, and 2 d more for a LayerNorm. With U = f(G), G = H W_dᵀ + b_d:

    dW_u = s dZᵀ U    db_u = s Σ dZ    dG = s (dZ W_u) ∘ f'(G)    dW_d = dGᵀ H    db_d = Σ dG    dH = dG W_d (+ dZ)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, column_sum, matmul, rows
from minipeft.nn.layers import LayerNorm
from minipeft.nn.module import Module, find
from minipeft.nn.transformer import TransformerLayer
from minipeft.ops.activation import CURVES, curve
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, check_not_zero, method, trainable
from minipeft.peft.select import match_modules

SUBLAYERS = ("attention", "feed_forward")


class Bottleneck(Function):
    """z = s (f(h W_dᵀ + b_d) W_uᵀ + b_u), plus h with ``residual``: h (..., d), W_d (r, d), W_u (d, r) -> (..., d).

    ``curve(activation)`` is f, as a function G -> (f(G), f'(G)). Saved is only what a wanted gradient uses: h for dW_d,
    f(G) for dW_u, W_d for dh, and f'(G) and W_u for the three that lie before f. The gradients stand above.
    """

    @staticmethod
    def forward(
        ctx: Context, h: Array, W_down: Array, b_down: Array, W_up: Array, b_up: Array, activation: str,
        scale: float = 1.0, residual: bool = True,
    ) -> Array:  # fmt: skip
        raise NotImplementedError("hw3.9: Bottleneck.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw3.10: Bottleneck.backward")


class Adapter(Module):
    """One bottleneck. W_d and W_u start small, so that it starts near the identity; with zero_up, exactly there."""

    def __init__(self, like: Tensor, d: int, config: AdapterConfig, rng: np.random.Generator):
        """An adapter of width ``config.r`` for states of width d, its parameters trainable and in the type of ``like``.

        Attributes: ``down`` W_d and ``up`` W_u, drawn from ``rng`` as `truncated_normal` times ``init_std`` (W_u zeros
        with ``zero_up``); ``down_bias`` and ``up_bias``, zeros; ``activation`` and ``scale`` from ``config``; ``norm``
        a LayerNorm of width d with gains 1 and shifts 0 where ``config.layer_norm`` asks for it, else None.
        ``trainable(values, like)`` makes a parameter.
        """
        raise NotImplementedError("hw3.11: Adapter.__init__")

    def branch(self, h: Tensor, residual: bool) -> Tensor:
        """b(h), plus h with ``residual``."""
        weights = (self.down, self.down_bias, self.up, self.up_bias)
        return Bottleneck.apply(h, *weights, self.activation, self.scale, residual)

    def forward(self, h: Tensor) -> Tensor:
        """h + b(h), or h + b(LN(h))."""
        raise NotImplementedError("hw3.11: Adapter.forward")


class Adapted(Module):
    """A frozen sublayer F and the adapter behind it: h + b(h) for h = F(x), F called with all arguments."""

    def __init__(self, base: Module, adapter: Adapter):
        self.base = base
        self.adapter = adapter

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError("hw3.12: Adapted.forward")


class AdaptedInParallel(Module):
    """A frozen sublayer F and the adapter beside it, both on one input: F(x) + b(x), F called with all arguments."""

    def __init__(self, base: Module, adapter: Adapter):
        self.base = base
        self.adapter = adapter

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError("hw3.12: AdaptedInParallel.forward")


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal draws, those beyond two standard deviations drawn again."""
    raise NotImplementedError("hw3.11: truncated_normal")


@method
@dataclass
class AdapterConfig(PeftConfig):
    """r: the width of the bottleneck. activation: f. init_std: of W_d and W_u. after: the sublayers that get one.

    AdapterH is the default; AdapterL is ``after=["feed_forward"], layer_norm=True``. parallel: beside the sublayer and
    not behind it; scale: s (He et al. take 4). zero_up: W_u = 0, an exact identity. layers_to_transform: only these.
    """

    peft_type: ClassVar[str] = "ADAPTER"
    r: int = 8
    activation: str = "gelu"
    init_std: float = 0.01
    after: list[str] = field(default_factory=lambda: list(SUBLAYERS))
    layers_to_transform: list[int] | int | None = None
    layer_norm: bool = False
    parallel: bool = False
    scale: float = 1.0
    zero_up: bool = False

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        check_fields(self, r=1, init_std=0)
        check_not_zero(self, "scale")
        if self.activation not in CURVES:
            raise PeftError(f"adapters: unknown activation {self.activation!r}; expected one of {sorted(CURVES)}")
        if not self.after or set(self.after) - set(SUBLAYERS):
            raise PeftError(f"adapters: after names sublayers out of {SUBLAYERS}, got {self.after!r}")
        if self.parallel and self.layer_norm:
            raise PeftError("adapters: a LayerNorm of its own is for an adapter behind its sublayer, not in parallel")
        kind = AdaptedInParallel if self.parallel else Adapted
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
                    peft.swap(f"{path}.{name}", kind(getattr(layer, name), Adapter(like, d, self, rng)))
