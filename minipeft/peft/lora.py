"""LoRA: learn the change of a weight as a product of two thin matrices (Hu et al. 2021, arXiv:2106.09685).

    z = W₀ x + s B A x + b,      W₀ (d, k) frozen,  A (r, k),  B (d, r),  s = α / r

B starts at zero, so training starts from the pretrained layer exactly; A starts random, or no gradient would ever
reach B. W₀ + s B A is never formed in training: the change costs r (d + k) numbers in place of d k.

With X and dZ as matrices of rows, and H = X Aᵀ, dH = s dZ B:

    dB = s dZᵀ H          dA = dHᵀ X = s Bᵀ dZᵀ X          dX = dZ W₀ + dH A

No gradient of W₀ is computed, but dX still flows through W₀, to whatever is trained below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minipeft import ops
from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, column_sum, matmul, rows
from minipeft.nn.layers import Dropout, Embedding, Linear
from minipeft.nn.module import find
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, check_not_zero, method, trainable
from minipeft.peft.lora_embedding import LoraEmbedding
from minipeft.peft.merge import Mergeable
from minipeft.peft.select import ends_in, match_modules


class LoRALinear(Function):
    """z = x W₀ᵀ + b + s (x Aᵀ) Bᵀ: x (..., k), W₀ (d, k), b (d,) or None, A (r, k), B (d, r) -> (..., d)."""

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, lora_A: Array, lora_B: Array, scale: float
    ) -> Array:
        """z (..., d). No (d, k) array is made, here or in the backward, but for dW where it is wanted.

        Kept in ``ctx`` is what the wanted gradients will use, and no array that only others would: W₀ is for dx alone.
        """
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
        """dx, dW, db, dA, dB and None for s; None for every input that wants no gradient.

        The formulas are above; dW = dZᵀ X and db = Σ_rows dZ, as of any linear layer, where W₀ or b are trained, too.
        """
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

    def __init__(self, base: Linear, r: int, scale: float, dropout: float = 0.0):
        self.base = base
        self.scale = scale
        self.dropout = Dropout(dropout)
        self.lora_A = trainable(np.zeros((r, base.in_features)), base.weight)
        self.lora_B = trainable(np.zeros((base.out_features, r)), base.weight)

    def draw(self, rng: np.random.Generator, init: bool | str) -> None:
        """A (r, k) drawn out of ``rng``, anew; B (d, r) stays 0, unless ``init`` is False.

        init True or False: A uniform in ±1/√k; "gaussian": A ~ N(0, 1/r²). False: then B, too, uniform in ±1/√r.
        ``lora_A`` and ``lora_B`` stay trainable and keep their dtype; they may be new tensors.
        """
        r, k = self.lora_A.shape
        bound = k**-0.5
        A = rng.standard_normal((r, k)) / r if init == "gaussian" else rng.uniform(-bound, bound, (r, k))
        self.lora_A = trainable(A, self.lora_A)
        if init is False:
            self.lora_B = trainable(rng.uniform(-(r**-0.5), r**-0.5, self.lora_B.shape), self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., k) -> (..., d): `LoRALinear` in one step where it can be, else the base's output plus `change`.

        It can be where no dropout acts (it acts in training mode, with p above 0, and on the input of A alone) and the
        base is of the very class `Linear`: a subclass may compute something else.
        """
        base = self.base
        if (self.training and self.dropout.p) or type(base) is not Linear:
            return base(x) + self.change(x)
        return LoRALinear.apply(x, base.weight, base.bias, self.lora_A, self.lora_B, self.scale)

    def change(self, x: Tensor) -> Tensor:
        """s B A x alone, (..., d), with dropout on x."""
        return ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B) * self.scale

    def delta(self) -> Array:
        """ΔW = s B A, (d, k)."""
        return matmul(self.lora_B.data, self.lora_A.data) * self.scale

    def merged(self) -> Linear:
        """A plain `Linear` of the same sizes: a new weight W₀ + s B A, and the base's own bias, its tensor or None.

        W₀ is not written.
        """
        return Linear.from_weight(Tensor(self.base.weight.data + self.delta(), requires_grad=True), self.base.bias)


@method
@dataclass
class LoraConfig(PeftConfig):
    """Options, with the names and meanings of Hugging Face PEFT.

    r: the rank. lora_alpha: α; the change is scaled by α / r, with use_rslora by α / √r. lora_dropout: on the
    input of A alone. target_modules: ends of paths, a regular expression, or "all-linear"; embeddings by their name
    ("tokens"). exclude_modules: the same, left out. layers_to_transform: only these layers. init_lora_weights: True for
    A uniform in ±1/√k (of an embedding: B ~ N(0, 1)), "gaussian" for A ~ N(0, 1/r²), False for a random B as well.
    bias: "none", "lora_only" (of the wrapped layers) or "all"; trained as copies, so that the base keeps its own.
    rank_pattern and alpha_pattern: other r and α for modules whose path ends in a regular expression, the first that
    fits (`ends_in`).
    """

    peft_type: ClassVar[str] = "LORA"
    r: int = 8
    lora_alpha: float = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    lora_dropout: float = 0.0
    layers_to_transform: list[int] | int | None = None
    init_lora_weights: bool | str = True
    use_rslora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def rank(self, path: str) -> int:
        """r of the module at ``path``."""
        return next((v for p, v in self.rank_pattern.items() if ends_in(p, path)), self.r)

    def rank_and_scale(self, path: str) -> tuple[int, float]:
        """r and s = α / r (α / √r with use_rslora) of the module at ``path``, both by its own r and α."""
        r = self.rank(path)
        alpha = next((v for p, v in self.alpha_pattern.items() if ends_in(p, path)), self.lora_alpha)
        return r, alpha / (r**0.5 if self.use_rslora else r)

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        """Swap a `LoraLayer`, or for an embedding a `LoraEmbedding`, in for every target; then train the biases.

        The targets are q_proj and v_proj where nothing is said; "all-linear" means linear layers, a name or a pattern
        embeddings as well. They are drawn out of ``rng`` one after the other, in the order of `match_modules`.
        Raises PeftError for r below 1, a lora_alpha of 0, an unknown init_lora_weights or bias, a rank (of a pattern,
        too) beyond min(d, k) of its module, and a pattern, for r or for α, that matches none of the targets.
        """
        check_fields(self, r=1)
        check_not_zero(self, "lora_alpha")
        if self.init_lora_weights not in (True, False, "gaussian"):
            raise PeftError(f"LoRA: init_lora_weights is True, False or 'gaussian', got {self.init_lora_weights!r}")
        if self.bias not in ("none", "all", "lora_only"):
            raise PeftError(f"LoRA: bias is 'none', 'all' or 'lora_only', got {self.bias!r}")
        targets = ["q_proj", "v_proj"] if self.target_modules is None else self.target_modules
        model = peft.base_model
        kinds = Linear if targets == "all-linear" else (Linear, Embedding)
        paths = match_modules(model, targets, kinds, layers=self.layers_to_transform, exclude=self.exclude_modules)
        for pattern in (*self.rank_pattern, *self.alpha_pattern):
            if not any(ends_in(pattern, path) for path in paths):
                raise PeftError(f"LoRA: the pattern {pattern!r} matches none of the target modules")
        for path in paths:
            base = find(model, path)
            d, k = base.weight.shape
            if not 1 <= self.rank(path) <= min(d, k):
                raise PeftError(
                    f"LoRA: rank r={self.rank(path)} of {path} must lie between 1 and min(d, k) = {min(d, k)}, "
                    f"it is {d} x {k}"
                )
            r, scale = self.rank_and_scale(path)
            kind = LoraEmbedding if isinstance(base, Embedding) else LoraLayer
            layer = kind(base, r, scale, self.lora_dropout)
            layer.draw(rng, self.init_lora_weights)
            peft.swap(path, layer)
        self.train_biases(peft, paths)

    def train_biases(self, peft: AdaptedModel, paths: Sequence[str]) -> None:
        """Copies to train of the biases that the option names; ``paths``: of the wrapped layers.

        A bias is a parameter whose name ends in ".bias"; a wrapped layer's is at ``path``.base.bias now. Those that are
        trained already (`peft.trained`) stay as they are.
        """
        taken = peft.trained()
        wrapped = tuple(f"{path}.base." for path in paths)
        for name in [n for n, _ in peft.base_model.named_parameters() if n.endswith(".bias") and n not in taken]:
            if self.bias == "all" or (self.bias == "lora_only" and name.startswith(wrapped)):
                peft.train_copy(name)
