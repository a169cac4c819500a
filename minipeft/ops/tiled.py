"""Causal attention that leaves out what the mask hides: by tiles of queries, each with the keys that it sees.

A tile of N' queries ends at some key n: later keys are hidden from all of them, and earlier ones, but for a triangle at
the end, from none. Of an (N, N) matrix little more than half is computed, kept, and turned into probabilities.
"""

from __future__ import annotations

import math
from typing import Any

from minipeft.array import Array, array_module, empty, matmul, rows
from minipeft.autograd import Context, Function
from minipeft.ops.activation import softmax_rows, softmax_rows_backward

TILE = 64  # queries


def tiles(N: int, S: int, tile: int = TILE) -> list[tuple[slice, int]]:
    """The N queries in groups, each with the number of the S keys that its last one sees."""
    ends = [min(start + tile, N) for start in range(0, N, tile)]
    return [(slice(start, end), S - N + end) for start, end in zip(range(0, N, tile), ends, strict=True)]


class TiledAttention(Function):
    """Z = P V, P = softmax(s Q Kᵀ + M) under a causal mask: q (B, H, N, D), k and v (B, Hk, S, D), Z (B, H, N, D).

    For each tile, with its P and the keys and values that it sees, as in `Attention`:
        dV += Pᵀ dZ,   dP = dZ Vᵀ,   dS = P ∘ (dP - Σ_row dP ∘ P),   dQ = s dS K,   dK += s dSᵀ Q
    The queries of the G heads that share a key head stand below each other, (B, Hk, G N', D): one product for all of
    them, whose transpose also sums dV and dK over the heads.
    """

    @staticmethod
    def forward(ctx: Context, q: Array, k: Array, v: Array, mask: Array | None, scale: float, tile: int) -> Array:
        Hk, S = k.shape[1:3]
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        z = _empty_heads(q, (*q.shape[:3], v.shape[-1]))
        saved: list[Array | None] = []
        for queries, n in tiles(q.shape[2], S, tile):
            Q = _stacked(q[:, :, queries] * scale, Hk)  # (B, Hk, G N', D)
            P = empty(q, (*Q.shape[:3], n))
            matmul(Q, k[:, :, :n].swapaxes(-1, -2), out=P)
            _softmax(P.reshape(*q.shape[:2], -1, n), _seen(mask, queries, n))
            _product(P, v[:, :, :n], z[:, :, queries])
            saved += [P if needs_q or needs_k or needs_v else None, Q if needs_k else None]
        settings = (q.shape, k.shape, scale, tile)
        ctx.save(k if needs_q else None, v if needs_q or needs_k else None, settings, *saved)
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        k, v, (q_shape, k_shape, scale, tile), *saved = ctx.saved
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        dq: Any = _empty_heads(dz, q_shape) if needs_q else None
        dk = dv = None
        steps = zip(tiles(q_shape[2], k_shape[2], tile), saved[::2], saved[1::2], strict=True)
        for (queries, n), P, Q in reversed(list(steps)):  # the last queries see all keys; the others add to their part
            dZ = _stacked(dz[:, :, queries], k_shape[1])  # (B, Hk, G N', D)
            if needs_v:
                dv = _added(dv, matmul(P.swapaxes(-1, -2), dZ))
            if needs_q or needs_k:
                dS = empty(dz, P.shape)
                matmul(dZ, v[:, :, :n].swapaxes(-1, -2), out=dS)
                softmax_rows_backward(rows(P), rows(dS))
                if needs_q:
                    _product(dS, k[:, :, :n], dq[:, :, queries])
                if needs_k:
                    dk = _added(dk, matmul(dS.swapaxes(-1, -2), Q))
        if needs_q:
            dq *= scale
        return dq, dk, dv, None, None, None


def _empty_heads(like: Array, shape: tuple[int, ...]) -> Array:
    """An empty (B, H, N, D) that lies in memory as (B, N, H, D), so that merging the heads copies nothing."""
    B, H, N, D = shape
    return empty(like, (B, N, H, D)).transpose(0, 2, 1, 3)


def _stacked(x: Array, n_kv_heads: int) -> Array:
    """(B, H, N, D) as (B, Hk, G N, D), a copy where G is above 1."""
    B, H, N, D = x.shape
    return x if n_kv_heads == H else x.reshape(B, n_kv_heads, H // n_kv_heads * N, D)


def _seen(mask: Array | None, queries: slice, n_keys: int) -> Array | None:
    """The part of a mask, broadcastable to (B, H, N, S), for some queries and the first keys."""
    if mask is None:
        return None
    part = mask[..., :n_keys] if mask.shape[3] > 1 else mask
    return part[:, :, queries] if mask.shape[2] > 1 else part


def _softmax(s: Array, mask: Array | None) -> None:
    """softmax(s + M) along the keys in place, for the contiguous scores (B, H, N', n) of a tile."""
    xp, N = array_module(s), s.shape[2]
    s[..., -N:] += xp.triu(xp.full((N, N), -math.inf, dtype=s.dtype), k=1)
    if mask is not None:
        s += xp.where(mask, 0.0, -math.inf).astype(s.dtype)
    softmax_rows(rows(s))


def _product(P: Array, x: Array, out: Array) -> None:
    """P x for P (B, Hk, G N, S), x (B, Hk, S, D), into out (B, H, N, D)."""
    if P.shape[1] == out.shape[1]:
        matmul(P, x, out=out)
    else:
        out[...] = matmul(P, x).reshape(out.shape)


def _added(total: Array | None, part: Array) -> Array:
    """``part``, or ``total`` with it added to its first keys in place."""
    if total is None:
        return part
    total[:, :, : part.shape[2]] += part
    return total
