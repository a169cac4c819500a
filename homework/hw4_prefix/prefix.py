"""Prefix tuning: trainable keys and values in front of every attention (Li & Liang 2021, arXiv:2101.00190).

    Z = softmax(s Q K'ᵀ + M) V',  K' = [P_k; K],  V' = [P_v; V],  s = 1 / √D;   P_k, P_v (P, Hk, D) are trained

N queries look at P + S keys: the score matrix is not square any more. Every query sees the whole prefix; the
causal mask holds for the text alone, whose positions start at P. With A = softmax(...), (N, P + S):

    dV' = Aᵀ dZ,   dA = dZ V'ᵀ,   dS = A ∘ (dA - Σ_row dA ∘ A),   dQ = s dS K',   dK' = dSᵀ (s Q)
    dP_k = Σ_batch dK'[:P],   dK = dK'[P:],   dP_v = Σ_batch dV'[:P],   dV = dV'[P:]

and dK' and dV' are summed over the query heads that share a key head.

Reparametrization: P_θ[i] = MLP(E_θ[i]), a network with one tanh layer that all layers share but for its last matrix;
training the smaller E_θ through it is more stable. ``collapse`` replaces it by the flat prefix that it computes. The
three prefixes of an encoder-decoder have an E_θ and a network each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft import ops
from minipeft.autograd import Context, Function, Tensor, no_grad
from minipeft.backend import Array, array_module, matmul
from minipeft.nn.attention import MultiHeadAttention, ScaledDotProduct
from minipeft.nn.module import Module, find
from minipeft.nn.transformer import SequenceInput
from minipeft.ops.attention import mask_bias
from minipeft.ops.softmax import stable_softmax
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, check_fields, method, trainable
from minipeft.peft.prompt import check_context
from minipeft.peft.select import match_modules, on_sides, side_of

SIDES = ("encoder", "decoder", "cross")


class PrefixAttention(Function):
    """Attention behind a prefix: q (B, H, N, D), k and v (B, Hk, S, D), prefix (2, P, Hk, D) -> (B, H, N, D).

    mask: boolean (B, 1, 1 or N, S) over the text, or None: True where a query may look; the prefix is seen by all.
    causal: query i of the N sees the prefix and the keys of the text up to position S - N + i. G = H / Hk query heads
    share a key head: heads 0 … G - 1 the first, and so on. scale: s. prefix[0] holds the keys, prefix[1] the values.
    """

    @staticmethod
    def forward(
        ctx: Context, q: Array, k: Array, v: Array, prefix: Array, mask: Array | None, causal: bool, scale: float
    ) -> Array:
        """Z (B, H, N, D). Kept in ``ctx`` is what the wanted gradients will use, and no array that only others would.

        dV' needs A. dQ and dK' need A and V'; dQ also needs K', and dK' needs s Q.
        """
        raise NotImplementedError("hw4.5: PrefixAttention.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        """dq, dk, dv, dprefix (2, P, Hk, D), each None where it is not wanted, and None for mask, causal and scale."""
        raise NotImplementedError("hw4.6: PrefixAttention.backward")


def _behind(prefix: Array, x: Array) -> Array:
    """[prefix; x] for every example: prefix (P, Hk, D), x (B, Hk, S, D) -> (B, Hk, 1, P + S, D)."""
    raise NotImplementedError("hw4.4: _behind")


class FlatPrefix(Module):
    """The prefix of one layer itself, (2, P, Hk, D)."""

    def __init__(self, values: Tensor):
        self.values = values

    def forward(self) -> Tensor:
        return self.values


class SharedHidden(Module):
    """tanh(E_θ W₁ᵀ + b₁), (P, m): the part of the reparametrization that all layers share."""

    def __init__(self, like: Tensor, P: int, d: int, m: int, rng: np.random.Generator):
        self.embedding = trainable(rng.standard_normal((P, d)), like)  # E_θ
        self.weight = trainable(rng.uniform(-(d**-0.5), d**-0.5, (m, d)), like)
        self.bias = trainable(np.zeros(m), like)

    def forward(self) -> Tensor:
        """The hidden layer, (P, m), through which gradients flow to E_θ, W₁ and b₁."""
        raise NotImplementedError("hw4.7: SharedHidden.forward")


class ProjectedPrefix(Module):
    """The prefix of one layer out of the shared hidden layer, (P, m) -> (2, P, Hk, D)."""

    def __init__(self, shared: SharedHidden, Hk: int, D: int, m: int, rng: np.random.Generator):
        self.shared = shared
        self.weight = trainable(rng.uniform(-(m**-0.5), m**-0.5, (2 * Hk * D, m)), shared.weight)
        self.bias = trainable(np.zeros(2 * Hk * D), shared.weight)
        self.shape = (2, Hk, D)

    def forward(self) -> Tensor:
        """The shared hidden layer times ``weight``ᵀ plus ``bias``, (P, 2 Hk D) = (P, 2, Hk, D), as (2, P, Hk, D)."""
        raise NotImplementedError("hw4.7: ProjectedPrefix.forward")


class PrefixedCore(Module):
    """Stands where an attention's softmax core stood, and puts the prefix before its keys and values."""

    def __init__(self, base: ScaledDotProduct, prefix: FlatPrefix | ProjectedPrefix):
        self.base = base
        self.prefix = prefix

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Array | None = None) -> Tensor:
        if self.base.block is not None:
            return self._blockwise(q, k, v, mask)
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None]
        return PrefixAttention.apply(q, k, v, self.prefix(), mask, self.base.causal, q.shape[-1] ** -0.5)

    def _blockwise(self, q: Tensor, k: Tensor, v: Tensor, mask: Array | None) -> Tensor:
        """The same without the (N, P + S) matrix: the prefix in front of the keys and values, as tensors."""
        prefix = ops.transpose(self.prefix(), 0, 2, 1, 3)  # (2, Hk, P, D)
        B, P = k.shape[0], prefix.shape[2]
        k, v = (
            ops.concatenate([ops.broadcast_to(prefix[i : i + 1], (B, *prefix.shape[1:])), x], axis=2)
            for i, x in enumerate((k, v))
        )
        if mask is not None:
            front = array_module(mask).ones((*mask.shape[:-1], P), dtype=bool)
            mask = array_module(mask).concatenate([front, mask], axis=-1)
        return ops.attention(q, k, v, mask=mask, causal=self.base.causal, block=self.base.block)


def collapse(peft: AdaptedModel) -> None:
    """Replace the reparametrization by the flat prefixes that it computes: same outputs, and only they are saved.

    The prefix of every `PrefixedCore` that has a `ProjectedPrefix` becomes a `FlatPrefix`, a leaf that can be trained
    on; prefix_projection of the configuration ``peft.peft_config`` becomes False.
    """
    raise NotImplementedError("hw4.8: collapse")


@method
@dataclass
class PrefixTuningConfig(PeftConfig):
    """num_virtual_tokens: P. prefix_projection: the reparametrization, with a hidden layer of encoder_hidden_size
    (the model's width by default). init_std: of a flat prefix (Hugging Face PEFT draws with 1.0).
    sides: of an encoder-decoder, prefixes before the source ("encoder"), the target ("decoder"), and in the attention
    from target to source ("cross"); None for all three, each with its own.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"
    num_virtual_tokens: int = 10
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None
    init_std: float = 0.02
    sides: list[str] | None = None

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        """Swap the core of every attention for a `PrefixedCore`, and let the text begin at position P.

        Each attention has a prefix of its own: a `FlatPrefix` of values N(0, init_std²), or with prefix_projection a
        `ProjectedPrefix` out of a `SharedHidden` that all attentions of one side share; its d, and m by default, is the
        width of what ``k_proj`` takes. The ``position_offset`` of each `SequenceInput` on those sides becomes P. Raises
        PeftError where P leaves no room for text (`check_context`).
        """
        raise NotImplementedError("hw4.9: PrefixTuningConfig.apply")
