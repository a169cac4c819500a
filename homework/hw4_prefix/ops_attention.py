"""Attention with N queries and S keys, square or not, and what surrounds it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, device_of, is_array, matmul, to_device
from minipeft.ops.blockwise import BlockwiseAttention
from minipeft.ops.softmax import stable_softmax


def mask_bias(like: Array, N: int, S: int, causal: bool, mask: Array | None) -> Array | None:
    """The lecture's M: 0 where a query may look, -inf where not, broadcastable to (B, H, N, S); None for no mask.

    mask: booleans broadcastable to (B, H, N, S), True where a query may look, or None. Causal: query i stands at
    position S - N + i, so it sees the S - N keys before the first query (a prefix, a cache) and the keys of positions
    up to its own. With both, it sees what both allow. In the dtype of ``like``.
    """
    raise NotImplementedError("hw4.3: mask_bias")


class Attention(Function):
    """Z = P V, P = softmax(s Q Kᵀ + M) for each head: q (B, H, N, D), k and v (B, Hk, S, D), Z (B, H, N, D).

    The scores are (N, S), not square if keys precede the queries (prefix tuning, a cache) or come from elsewhere
    (cross-attention). G = H / Hk query heads share one key head (grouped-query attention): heads 0 … G - 1 the first.
        dV = Pᵀ dZ,   dP = dZ Vᵀ,   dS = P ∘ (dP - Σ_row dP ∘ P),   dQ = s dS K,   dK = s dSᵀ Q
    dK and dV are summed over the heads that share them. A query whose keys are all masked outputs zeros and has zero
    gradient. M is `mask_bias`. dV needs only P. dQ and dK need P and V; dQ also needs K, and dK also needs Q.
    """

    @staticmethod
    def forward(ctx: Context, q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float) -> Array:
        raise NotImplementedError("not part of this handout")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("not part of this handout")


class SplitHeads(Function):
    """(B, N, H D) -> (B, H, N, D), a view;  the backward merges."""

    @staticmethod
    def forward(ctx: Context, x: Array, n_heads: int) -> Array:
        B, N, d = x.shape
        return x.reshape(B, N, n_heads, d // n_heads).transpose(0, 2, 1, 3)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        return _merged(dz), None


class MergeHeads(Function):
    """(B, H, N, D) -> (B, N, H D), the lecture's concat;  the backward splits."""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        ctx.save(x.shape[1])
        return _merged(x)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        B, N, d = dz.shape
        (H,) = ctx.saved
        return dz.reshape(B, N, H, d // H).transpose(0, 2, 1, 3)


def _merged(x: Array) -> Array:
    """(B, H, N, D) -> (B, N, H D): of each position, head after head."""
    B, H, N, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, N, H * D)


class Rotary(Function):
    """Rotary positions (Su et al. 2021): the halves (x₁, x₂) of each head turned by an angle that grows with position.

    z = (x₁ cos - x₂ sin, x₂ cos + x₁ sin);  dx turns back: (dz₁ cos + dz₂ sin, dz₂ cos - dz₁ sin).
    x (B, H, T, D); cos and sin broadcastable to (B, H, T, D/2).
    """

    @staticmethod
    def forward(ctx: Context, x: Array, cos: Array, sin: Array) -> Array:
        ctx.save(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        cos, sin = ctx.saved
        return _turn(dz, cos, -sin), None, None


def _turn(x: Array, cos: Array, sin: Array) -> Array:
    """The halves of x's last axis, turned: (x₁ cos - x₂ sin, x₂ cos + x₁ sin)."""
    half = x.shape[-1] // 2
    x1, x2 = x[..., :half], x[..., half:]
    return array_module(x).concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
    block: int | None = None,
) -> Tensor:
    """Return softmax(s Q Kᵀ + M) V. A query that may look nowhere gets zeros, and no gradient.

    Args:
        q: (B, H, N, D).
        k: (B, Hk, S, D), Hk a divisor of H.
        v: (B, Hk, S, D').
        mask: boolean, True where a query may look: (B, S) for padding, or broadcastable to (B, H, N, S).
        causal: query i sees keys 0 … S - N + i.
        scale: s, 1/√D by default.
        block: work by so many keys at a time and keep no (N, S) matrix.

    Returns:
        (B, H, N, D').

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not boolean.
    """
    # In steps of the engine, since the Function with its backward is what 4.5 and 4.6 ask for.
    from minipeft import ops

    B, H, N, D = q.shape
    Hk, S = k.shape[1:3]
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None]
    Q = ops.reshape(q * (D**-0.5 if scale is None else float(scale)), B, Hk, H // Hk, N, D)
    scores = ops.reshape(ops.matmul(Q, ops.swapaxes(ops.reshape(k, B, Hk, 1, S, D), -1, -2)), B, H, N, S)
    M = mask_bias(scores.data, N, S, causal, mask)
    P = ops.softmax(scores if M is None else scores + Tensor(M))
    Z = ops.matmul(ops.reshape(P, B, Hk, H // Hk, N, S), ops.reshape(v, B, Hk, 1, S, -1))
    return ops.reshape(Z, B, H, N, -1)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, N, H D) -> (B, H, N, D) for H = n_heads; ValueError where the width does not divide."""
    if len(x.shape) != 3 or n_heads < 1 or x.shape[-1] % n_heads:
        raise ValueError(f"split_heads: x (B, N, d) with d a multiple of {n_heads} heads is expected, got {x.shape}")
    return SplitHeads.apply(x, n_heads)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D) -> (B, N, H D); ValueError for other than four axes."""
    if len(x.shape) != 4:
        raise ValueError(f"merge_heads takes (B, H, N, D), got {x.shape}")
    return MergeHeads.apply(x)


def rotary(x: Tensor, cos: Array, sin: Array) -> Tensor:
    """x (B, H, T, D) turned by the angles whose cos and sin (T, D/2) or (B, 1, T, D/2) are given.

    Raises ValueError where the shapes do not fit.
    """
    T, D = x.shape[-2:]
    if len(x.shape) != 4 or D % 2 or cos.shape != sin.shape or cos.shape[-2:] != (T, D // 2):
        raise ValueError(
            f"rotary: x (B, H, T, D) with D even goes with cos and sin (T, D/2) or (B, 1, T, D/2); "
            f"got x {x.shape}, cos {cos.shape}, sin {sin.shape}"
        )
    return Rotary.apply(x, cos, sin)


def rotary_angles(positions: np.ndarray, head_dim: int, theta: float = 10000.0) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of position · theta^(-2i / D), i < D / 2, D = head_dim, float64: positions (...) -> (..., D/2)."""
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head size, got {head_dim}")
    angles = positions[..., None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    return np.cos(angles), np.sin(angles)
