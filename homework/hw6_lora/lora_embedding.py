"""LoRA of an embedding: the change of the table as a product of two thin matrices.

    z = E₀[ids] + s H Bᵀ,      H = Aᵀ[ids],      E₀ (V, d) frozen,  A (r, V),  B (d, r)

An id looks up a column of A, so A starts at zero and B random, as at Hugging Face: ΔE = s (B A)ᵀ is zero at first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, matmul, rows, scatter_add
from minipeft.nn.layers import Embedding
from minipeft.ops.embedding import checked_ids
from minipeft.peft.config import trainable
from minipeft.peft.merge import Mergeable


class LoRAEmbedding(Function):
    """z = E₀[ids] + s H Bᵀ, H (..., r) the columns of A at ids (...): E₀ (V, d), A (r, V), B (d, r) -> (..., d).

    With dH = s dZ B and rows as above:  dB = s dZᵀ H,  dA[:, v] = Σ of dH where ids = v,  dE₀[v] = Σ of dZ there.
    """

    @staticmethod
    def forward(ctx: Context, table: Array, ids: Array, lora_A: Array, lora_B: Array, scale: float) -> Array:
        """z (..., d), for ids of any number of axes. E₀ is not written, and not kept: no gradient needs it."""
        raise NotImplementedError("hw6.3: LoRAEmbedding.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        """dE (V, d), None for the ids, dA (r, V), dB (d, r) and None for s; None for what wants no gradient."""
        raise NotImplementedError("hw6.4: LoRAEmbedding.backward")


class LoraEmbedding(Mergeable):
    """A frozen embedding with a low-rank change: A (r, V) starts at 0 and B (d, r) random, roles as at Hugging Face.

    ``dropout`` is taken as a `LoraLayer` takes it and does not act: ids have no entries that could be zeroed.
    """

    def __init__(self, base: Embedding, r: int, scale: float, dropout: float = 0.0):
        self.base = base
        self.scale = scale
        V, d = base.weight.shape
        self.lora_embedding_A = trainable(np.zeros((r, V)), base.weight)
        self.lora_embedding_B = trainable(np.zeros((d, r)), base.weight)

    def draw(self, rng: np.random.Generator, init: bool | str) -> None:
        """B ~ N(0, 1) out of ``rng``, anew; A stays 0, unless ``init`` is False: then A ~ N(0, 1), too.

        Both stay trainable and keep their dtype; they may be new tensors.
        """
        raise NotImplementedError("hw6.5: LoraEmbedding.draw")

    @property
    def weight(self) -> Tensor:
        """The frozen table."""
        return self.base.weight

    def forward(self, ids: Array) -> Tensor:
        ids = checked_ids(self.weight, ids)
        return LoRAEmbedding.apply(self.weight, ids, self.lora_embedding_A, self.lora_embedding_B, self.scale)

    def delta(self) -> Array:
        """ΔE = s (B A)ᵀ, (V, d)."""
        raise NotImplementedError("hw6.8: LoraEmbedding.delta")

    def merged(self) -> Embedding:
        """A plain `Embedding` with the new table E₀ + ΔE. E₀ is not written."""
        raise NotImplementedError("hw6.8: LoraEmbedding.merged")
