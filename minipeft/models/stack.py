"""The layers of a Transformer, what goes into them and what becomes of their output."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, device_of, to_device
from minipeft.nn.attention import Angles
from minipeft.nn.checkpoint import checkpoint
from minipeft.nn.layers import Linear
from minipeft.nn.module import Module
from minipeft.nn.transformer import NORMS, Cache, TransformerLayer


class TransformerStack(Module):
    """Transformer layers on top of each other, and the normalization after the last (none for post-norm)."""

    def __init__(self, config: Any, causal: bool, cross: bool, rng: np.random.Generator):
        self.layers = [
            TransformerLayer(
                config.d_model,
                config.n_heads,
                config.d_ff,
                n_kv_heads=getattr(config, "n_kv_heads", None),
                causal=causal,
                cross=cross,
                norm=config.norm,
                eps=config.eps,
                norm_first=config.norm_first,
                activation=config.activation,
                gated=getattr(config, "gated", False),
                bias=getattr(config, "bias", True),
                dropout=config.dropout,
                rng=rng,
            )
            for _ in range(config.n_layers)
        ]
        self.recompute = False
        self.norm: Module | None = NORMS[config.norm](config.d_model, config.eps) if config.norm_first else None

    def forward(
        self,
        x: Tensor,
        mask: Array | None = None,
        memory: Tensor | None = None,
        memory_mask: Array | None = None,
        angles: Angles | None = None,
        cache: list[Cache] | None = None,
    ) -> Tensor:
        """Return the output (B, T, d) of the last layer, normalized if the layers are not.

        Args:
            x: (B, T, d).
            mask: (B, T), True for real tokens.
            memory: (B, S, d), the encoder's output, for cross-attention.
            memory_mask: (B, S), True for real rows of the memory.
            angles: cos and sin of rotary positions.
            cache: keys and values of earlier tokens, one entry a layer, which is extended.
        """
        for i, layer in enumerate(self.layers):
            if self.recompute and cache is None:
                x = checkpoint(layer, x, mask, memory, memory_mask, angles)
            else:
                x = layer(x, mask, memory, memory_mask, angles, None if cache is None else cache[i])
        return x if self.norm is None else self.norm(x)


def rotary_tables(positions: np.ndarray, head_dim: int, theta: float, like: Array) -> Angles:
    """Return cos and sin of rotary positions.

    Args:
        positions: (T,) or (B, T).
        head_dim: the width D of a head.
        theta: the base of the frequencies.
        like: gives the device and dtype.

    Returns:
        Two arrays (T, D/2) or (B, 1, T, D/2).
    """
    cos, sin = ops.rotary_angles(positions, head_dim, theta)
    if positions.ndim == 2:
        cos, sin = cos[:, None], sin[:, None]  # (B, 1, T, D/2)
    return to_device(cos.astype(like.dtype), device_of(like)), to_device(sin.astype(like.dtype), device_of(like))


def last_rows(x: Tensor, T: int) -> Tensor:
    """Return the last T rows of x (B, P + T, d), which drops the rows of a prompt."""
    return x if x.shape[1] == T else x[:, x.shape[1] - T :]


def head_loss(x: Tensor, head: Any, labels: np.ndarray) -> Tensor:
    """Return the cross-entropy of ``head(x)``, by blocks of rows if the head is a plain linear layer."""
    if type(head) is Linear:
        return ops.linear_cross_entropy(x, head.weight, labels, head.bias)
    return ops.cross_entropy(head(x), labels)
