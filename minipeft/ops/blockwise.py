"""Attention that never holds the (N, S) matrix: exact, by blocks of keys (Milakov & Gimelshein 2018; Dao et al. 2022).

The softmax of a row needs its largest score and its sum, which are known only at the end. Kept as running values m and
l, they are put right whenever a block of keys brings a larger score:

    m' = max(m, max_j s_j),   l' = l e^(m - m') + Σ_j e^(s_j - m'),   z' = z e^(m - m') + Σ_j e^(s_j - m') v_j

and at the end Z = z / l. The backward keeps Z and Λ = m + log l alone, and computes each block of P = e^(S - Λ) anew.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minipeft.autograd import Context, Function
from minipeft.backend import Array, array_module, matmul


class BlockwiseAttention(Function):
    """Z = softmax(s Q Kᵀ + M) V by blocks of keys: q (B, H, N, D), k and v (B, Hk, S, D), Z (B, H, N, D).

    With Δ = Σ dZ ∘ Z by row, for each block J of keys:
        P_J = e^(S_J - Λ),   dV_J = P_Jᵀ dZ,   dS_J = P_J ∘ (dZ V_Jᵀ - Δ),   dQ += s dS_J K_J,   dK_J = s dS_Jᵀ Q
    Memory: N · block scores at a time. FLOPs: one product more than `Attention` in the backward.
    """

    @staticmethod
    def forward(
        ctx: Context, q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float, block: int
    ) -> Array:
        xp = array_module(q)
        B, H, N, D = q.shape
        Hk, S = k.shape[1:3]
        lowest, tiny = float(np.finfo(q.dtype).min), float(np.finfo(q.dtype).tiny)
        Q = (q * scale).reshape(B, Hk, H // Hk, N, D)
        m = xp.full((*Q.shape[:4], 1), lowest, dtype=q.dtype)
        total = xp.zeros_like(m)
        z = xp.zeros((*Q.shape[:4], v.shape[-1]), dtype=q.dtype)
        for keys, first in _blocks(N, S, block, causal):
            s = _scores(Q, k, keys, first, mask, causal, S)  # (B, Hk, G, N - first, J)
            new = xp.maximum(m[..., first:, :], s.max(axis=-1, keepdims=True))
            s -= new
            xp.exp(s, out=s)
            shrink = xp.exp(m[..., first:, :] - new)
            total[..., first:, :] = total[..., first:, :] * shrink + s.sum(axis=-1, keepdims=True)
            z[..., first:, :] = z[..., first:, :] * shrink + matmul(s, v[:, :, None, keys])
            m[..., first:, :] = new
        total = xp.maximum(total, tiny)
        z /= total
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        scored = needs_q or needs_k
        if scored or needs_v:
            settings = (causal, scale, block, q.shape, v.shape)
            ctx.save(Q, k, v if scored else None, mask, z if scored else None, m + xp.log(total), settings)
        return z.reshape(B, H, N, -1)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        Q, k, v, mask, z, log_sum, (causal, scale, block, q_shape, v_shape) = ctx.saved
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        xp = array_module(dz)
        S = k.shape[2]
        dZ = dz.reshape(*Q.shape[:4], v_shape[-1])
        delta: Any = (dZ * z).sum(axis=-1, keepdims=True) if needs_q or needs_k else None
        dQ: Any = xp.zeros_like(Q) if needs_q else None
        dk: Any = xp.empty_like(k) if needs_k else None
        dv: Any = xp.empty(v_shape, dtype=dz.dtype) if needs_v else None
        for keys, first in _blocks(Q.shape[3], S, block, causal):
            p = _scores(Q, k, keys, first, mask, causal, S)
            p -= log_sum[..., first:, :]
            xp.exp(p, out=p)
            own = dZ[..., first:, :]
            if needs_v:
                dv[:, :, keys] = matmul(p.swapaxes(-1, -2), own).sum(axis=2)
            if needs_q or needs_k:
                ds = matmul(own, v[:, :, None, keys].swapaxes(-1, -2))
                ds -= delta[..., first:, :]
                ds *= p
                if needs_q:
                    dQ[..., first:, :] += matmul(ds, k[:, :, None, keys])
                if needs_k:
                    dk[:, :, keys] = matmul(ds.swapaxes(-1, -2), Q[..., first:, :]).sum(axis=2)
        if needs_q:
            dQ *= scale
        return None if dQ is None else dQ.reshape(q_shape), dk, dv, None, None, None, None


def _blocks(N: int, S: int, block: int, causal: bool) -> list[tuple[slice, int]]:
    """The blocks of keys, each with the first query that may see any of them."""
    starts = range(0, S, block)
    return [(slice(a, min(a + block, S)), max(0, a - (S - N)) if causal else 0) for a in starts]


def _scores(Q: Array, k: Array, keys: slice, first: int, mask: Array | None, causal: bool, S: int) -> Array:
    """Masked scores of the queries from ``first`` on against a block of keys, (B, Hk, G, N - first, J)."""
    xp = array_module(Q)
    Hk, G, N = Q.shape[1:4]
    s = matmul(Q[..., first:, :], k[:, :, None, keys].swapaxes(-1, -2))
    visible = None
    if causal and keys.stop > S - N + first + 1:  # else the first of them sees the whole block
        visible = xp.arange(keys.start, keys.stop)[None] <= xp.arange(S - N + first, S)[:, None]
    if mask is not None:
        part = mask[..., keys] if mask.shape[-1] > 1 else mask
        part = part[..., first:, :] if mask.shape[2] > 1 else part
        part = part[:, :, None] if mask.shape[1] == 1 else part.reshape(len(part), Hk, G, *part.shape[2:])
        visible = part if visible is None else visible & part
    if visible is not None:
        s += xp.where(visible, 0.0, -math.inf).astype(s.dtype)
    return s
