"""Attention for a CPU: in tiles of queries under a causal mask, with the softmax in place.

A tile of N' queries ends at some key n. Later keys are hidden from all of them, and earlier ones, except for a triangle
at the end, from none. So little more than half of an (N, N) matrix is computed, saved and turned into probabilities.
"""

from __future__ import annotations

import math
from typing import Any

from minipeft.autograd import Context
from minipeft.backend import Array, array_module, empty, matmul, rows
from minipeft.fast.softmax_rows import softmax_rows, softmax_rows_backward
from minipeft.ops.attention import Attention, Rotary, mask_bias
from minipeft.specialize import specialize

TILE = 64  # queries


def tiles(N: int, S: int, causal: bool, tile: int = TILE) -> list[tuple[slice, int]]:
    """Return the N queries in groups, each with the number of the S keys that its last query sees."""
    if not causal or S < N:
        return [(slice(0, N), S)]
    ends = [min(start + tile, N) for start in range(0, N, tile)]
    return [(slice(start, end), S - N + end) for start, end in zip(range(0, N, tile), ends, strict=True)]


@specialize(Attention, "cpu")
class AttentionInTiles(Attention):
    """`Attention` for each tile of queries, with its P and the keys and values that it sees.

    The queries of the G heads that share a key head are stacked, (B, Hk, G N', D): one product for all of them, whose
    transpose also sums dV and dK over the heads.
    """

    @staticmethod
    def forward(ctx: Context, q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float) -> Array:
        Hk, S = k.shape[1:3]
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        z = empty_heads(q, (*q.shape[:3], v.shape[-1]))
        saved: list[Array] = []
        for queries, n in tiles(q.shape[2], S, causal):
            Q = _stacked(q[:, :, queries] * scale, Hk)  # (B, Hk, G N', D)
            P = empty(q, (*Q.shape[:3], n))
            matmul(Q, k[:, :, :n].swapaxes(-1, -2), out=P)
            _softmax(P.reshape(*q.shape[:2], queries.stop - queries.start, n), _seen(mask, queries, n), causal)
            _product(P, v[:, :, :n], z[:, :, queries])
            if needs_q or needs_k or needs_v:
                saved.append(P)
        settings = (q.shape, k.shape, scale, causal)
        ctx.save(q if needs_k else None, k if needs_q else None, v if needs_q or needs_k else None, settings, *saved)
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        q, k, v, (q_shape, k_shape, scale, causal), *saved = ctx.saved
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        Hk = k_shape[1]
        dq: Any = empty_heads(dz, q_shape) if needs_q else None
        dk: Any = None
        dv: Any = None
        steps = zip(tiles(q_shape[2], k_shape[2], causal), saved, strict=True)
        for (queries, n), P in reversed(list(steps)):  # the last queries see all keys; the others add to their part
            dZ = _stacked(dz[:, :, queries], Hk)  # (B, Hk, G N', D)
            if needs_v:
                dv = _added(dv, matmul(P.swapaxes(-1, -2), dZ))
            if needs_q or needs_k:
                dS = empty(dz, P.shape)
                matmul(dZ, v[:, :, :n].swapaxes(-1, -2), out=dS)
                softmax_rows_backward(rows(P), rows(dS))
                if needs_q:
                    _product(dS, k[:, :, :n], dq[:, :, queries])
                if needs_k:
                    dk = _added(dk, matmul(dS.swapaxes(-1, -2), _stacked(q[:, :, queries], Hk)))
        if needs_q:
            dq *= scale
        if needs_k:
            dk *= scale
        return dq, dk, dv, None, None, None


@specialize(Rotary, "cpu")
class RotaryByHeads(Rotary):
    """`Rotary` with a result whose heads merge without a copy."""

    @staticmethod
    def forward(ctx: Context, x: Array, cos: Array, sin: Array) -> Array:
        ctx.save(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        cos, sin = ctx.saved
        return _turned(dz, cos, -sin), None, None


def _turned(x: Array, cos: Array, sin: Array) -> Array:
    half = x.shape[-1] // 2
    x1, x2 = x[..., :half], x[..., half:]
    z = empty_heads(x, x.shape)
    z[..., :half] = x1 * cos - x2 * sin
    z[..., half:] = x2 * cos + x1 * sin
    return z


def empty_heads(like: Array, shape: tuple[int, ...]) -> Array:
    """Return an empty (B, H, N, D) that is stored as (B, N, H, D), so that merging the heads copies nothing."""
    B, H, N, D = shape
    return empty(like, (B, N, H, D)).transpose(0, 2, 1, 3)


def _stacked(x: Array, n_kv_heads: int) -> Array:
    """(B, H, N, D) as (B, Hk, G N, D), a copy if G is above 1."""
    B, H, N, D = x.shape
    return x if n_kv_heads == H else x.reshape(B, n_kv_heads, H // n_kv_heads * N, D)


def _seen(mask: Array | None, queries: slice, n_keys: int) -> Array | None:
    """The part of a mask, broadcastable to (B, H, N, S), for some queries and the first keys."""
    if mask is None:
        return None
    part = mask[..., :n_keys] if mask.shape[3] > 1 else mask
    return part[:, :, queries] if mask.shape[2] > 1 else part


def _softmax(s: Array, mask: Array | None, causal: bool) -> None:
    """softmax(s + M) along the keys in place, for the contiguous scores (B, H, N', n) of a tile."""
    xp, N = array_module(s), s.shape[2]
    if causal and s.shape[3] >= N > 1:  # the keys of the last N positions; those before them are visible
        s[..., -N:] += xp.triu(xp.full((N, N), -math.inf, dtype=s.dtype), k=1)
    elif causal and N > 1:
        s += mask_bias(s, N, s.shape[3], True, None)
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
