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
        needs_E, _, needs_A, needs_B, _ = ctx.needs_grad
        H = lora_A.T[ids]  # (..., r)
        z = table[ids]
        z += (matmul(rows(H), lora_B.T) * scale).reshape(z.shape)
        ctx.save(
            ids if needs_E or needs_A else None, H if needs_B else None, lora_B if needs_A else None, scale,
            (table.shape, lora_A.shape),
        )  # fmt: skip
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        """dE (V, d), None for the ids, dA (r, V), dB (d, r) and None for s; None for what wants no gradient."""
        ids, H, lora_B, scale, (table_shape, A_shape) = ctx.saved
        needs_E, _, needs_A, needs_B, _ = ctx.needs_grad
        xp, dZ = array_module(dz), rows(dz)
        dE = dA = dB = None
        if needs_E:
            dE = xp.zeros(table_shape, dtype=dz.dtype)
            scatter_add(dE, ids.reshape(-1), dZ)
        if needs_A:
            by_token = xp.zeros((A_shape[1], A_shape[0]), dtype=dz.dtype)
            scatter_add(by_token, ids.reshape(-1), matmul(dZ, lora_B) * scale)
            dA = by_token.T.copy()
        if needs_B:
            dB = matmul(dZ.T, rows(H)) * scale
        return dE, None, dA, dB, None


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
        self.lora_embedding_B = trainable(rng.standard_normal(self.lora_embedding_B.shape), self.lora_embedding_B)
        if init is False:
            self.lora_embedding_A = trainable(rng.standard_normal(self.lora_embedding_A.shape), self.lora_embedding_A)

    @property
    def weight(self) -> Tensor:
        """The frozen table."""
        return self.base.weight

    def forward(self, ids: Array) -> Tensor:
        ids = checked_ids(self.weight, ids)
        return LoRAEmbedding.apply(self.weight, ids, self.lora_embedding_A, self.lora_embedding_B, self.scale)

    def delta(self) -> Array:
        """ΔE = s (B A)ᵀ, (V, d)."""
        return matmul(self.lora_embedding_A.data.T, self.lora_embedding_B.data.T) * self.scale

    def merged(self) -> Embedding:
        """A plain `Embedding` with the new table E₀ + ΔE. E₀ is not written."""
        return Embedding.from_weight(Tensor(self.weight.data + self.delta(), requires_grad=True))
