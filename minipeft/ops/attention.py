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
    xp = array_module(like)
    visible = None
    if causal and N > 1:
        visible = xp.tril(xp.ones((N, S), dtype=bool), k=S - N)
    if mask is not None:
        visible = mask if visible is None else mask & visible
    if visible is None:
        return None
    return xp.where(visible, 0.0, -math.inf).astype(like.dtype)


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
        B, H, N, D = q.shape
        Hk, S = k.shape[1:3]
        G = H // Hk
        # scores
        Q, K, V = q.reshape(B, Hk, G, N, D), k[:, :, None], v[:, :, None]  # K and V (B, Hk, 1, S, ·)
        scores = scale * matmul(Q, K.swapaxes(-1, -2)).reshape(B, H, N, S)
        # mask
        M = mask_bias(scores, N, S, causal, mask)
        P = stable_softmax(scores if M is None else scores + M)  # (B, H, N, S)
        # weighted sum of the values
        Z = matmul(P.reshape(B, Hk, G, N, S), V)  # (B, Hk, G, N, D')
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        ctx.save(
            P if needs_q or needs_k or needs_v else None,
            q if needs_k else None,
            k if needs_q else None,
            v if needs_q or needs_k else None,
            (q.shape, Hk, scale),
        )
        return Z.reshape(B, H, N, v.shape[-1])

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        P, q, k, v, (q_shape, Hk, scale) = ctx.saved
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        B, H, N, S = P.shape
        G = H // Hk
        P = P.reshape(B, Hk, G, N, S)
        dZ = dz.reshape(B, Hk, G, N, dz.shape[-1])
        dq = dk = dv = None
        if needs_v:
            dv = matmul(P.swapaxes(-1, -2), dZ).sum(axis=2)  # (B, Hk, S, D')
        if needs_q or needs_k:
            dP = matmul(dZ, v[:, :, None].swapaxes(-1, -2))  # (B, Hk, G, N, S)
            dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True))
            if needs_q:
                dq = scale * matmul(dS, k[:, :, None]).reshape(q_shape)
            if needs_k:
                Q = q.reshape(B, Hk, G, N, q_shape[-1])
                dk = scale * matmul(dS.swapaxes(-1, -2), Q).sum(axis=2)  # (B, Hk, S, D)
        return dq, dk, dv, None, None, None


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
    if len(q.shape) != 4 or len(k.shape) != 4 or len(v.shape) != 4:
        raise ValueError(f"attention takes (B, H, N, D) arrays, got q {q.shape}, k {k.shape}, v {v.shape}")
    B, H, N, D = q.shape
    S = k.shape[2]
    if k.shape[0] != B or k.shape[3] != D or v.shape[:3] != k.shape[:3] or H % k.shape[1]:
        raise ValueError(
            f"attention: q {q.shape} goes with k (B, Hk, S, D) and v (B, Hk, S, D'), Hk a divisor of H; "
            f"got k {k.shape}, v {v.shape}"
        )
    if causal and S < N:
        raise ValueError(f"causal attention needs at least as many keys as queries, got {S} keys for {N} queries")
    if mask is not None:
        if not is_array(mask) or mask.dtype != np.bool_:
            got = mask.dtype if is_array(mask) else type(mask).__name__
            raise TypeError(f"attention: the mask must be a boolean array, True where a query may look; got {got}")
        mask = to_device(mask, device_of(q.data))
        if mask.ndim == 2:
            mask = mask[:, None, None, :]
        if mask.ndim != 4 or any(m not in (1, n) for m, n in zip(mask.shape, (B, H, N, S), strict=True)):
            raise ValueError(f"attention: the mask {mask.shape} does not broadcast to (B, H, N, S) = {(B, H, N, S)}")
    scale = D**-0.5 if scale is None else float(scale)
    if block is None:
        return Attention.apply(q, k, v, mask, causal, scale)
    if block < 1:
        raise ValueError(f"attention: a block must have at least 1 key, got {block}")
    return BlockwiseAttention.apply(q, k, v, mask, causal, scale, block)


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
