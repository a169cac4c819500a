"""Prefix attention for a CPU: scores become probabilities, and their gradients those of the scores, in place."""

from __future__ import annotations

from typing import Any

from minipeft.autograd import Context
from minipeft.backend import Array, array_module, empty, matmul
from minipeft.fast.softmax_rows import softmax_rows, softmax_rows_backward
from minipeft.ops.attention import mask_bias
from minipeft.peft.prefix import PrefixAttention, _behind
from minipeft.specialize import specialize


@specialize(PrefixAttention, "cpu")
class PrefixAttentionInPlace(PrefixAttention):
    """`PrefixAttention` with one array for the scores and A, and one for dA and dS."""

    @staticmethod
    def forward(
        ctx: Context, q: Array, k: Array, v: Array, prefix: Array, mask: Array | None, causal: bool, scale: float
    ) -> Array:
        xp = array_module(q)
        B, H, N, D = q.shape
        Hk, S, P = k.shape[1], k.shape[2], prefix.shape[1]
        keys, values = (_behind(prefix[i], x) for i, x in enumerate((k, v)))  # (B, Hk, 1, P + S, D)
        Q = (q * scale).reshape(B, Hk, H // Hk, N, D)
        A = empty(q, (B, Hk, H // Hk, N, P + S))  # contiguous: the softmax works on its rows in place
        matmul(Q, keys.swapaxes(-1, -2), out=A)
        if mask is not None:
            mask = xp.concatenate([xp.ones((*mask.shape[:3], P), dtype=bool), mask], axis=-1)
        bias = mask_bias(A, N, P + S, causal, mask)
        if bias is not None:
            A += bias if bias.ndim == 2 else bias[:, :, None]
        softmax_rows(A.reshape(-1, P + S))
        needs_q, needs_k, _needs_v, needs_prefix = ctx.needs_grad[:4]
        ctx.save(
            A,
            Q if needs_k or needs_prefix else None,
            keys if needs_q else None,
            values if needs_q or needs_k or needs_prefix else None,
            (P, scale, q.shape),
        )
        return matmul(A, values).reshape(B, H, N, D)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        A, Q, keys, values, (P, scale, q_shape) = ctx.saved
        needs_q, needs_k, needs_v, needs_prefix = ctx.needs_grad[:4]
        dZ = dz.reshape(*A.shape[:4], q_shape[-1])  # (B, Hk, G, N, D)
        dq = dk = dv = None
        dprefix: Any = None
        if needs_prefix:
            dprefix = empty(dz, (2, P, A.shape[1], q_shape[-1]))
        wanted_v = slice(None) if needs_v else slice(0, P)
        if needs_v or needs_prefix:
            dV = matmul(A[..., wanted_v].swapaxes(-1, -2), dZ).sum(axis=2)  # (B, Hk, P + S, D)
            dv = dV[:, :, P:] if needs_v else None
        if needs_prefix:
            dprefix[1] = dV[:, :, :P].sum(axis=0).swapaxes(0, 1)
        if needs_q or needs_k or needs_prefix:
            dS = empty(dz, A.shape)  # (B, Hk, G, N, P + S)
            matmul(dZ, values.swapaxes(-1, -2), out=dS)
            softmax_rows_backward(A.reshape(-1, A.shape[-1]), dS.reshape(-1, A.shape[-1]))
            if needs_q:
                dq = (matmul(dS, keys) * scale).reshape(q_shape)
            wanted_k = slice(None) if needs_k else slice(0, P)
            if needs_k or needs_prefix:
                dK = matmul(dS[..., wanted_k].swapaxes(-1, -2), Q).sum(axis=2)  # (B, Hk, P + S, D)
                dk = dK[:, :, P:] if needs_k else None
            if needs_prefix:
                dprefix[0] = dK[:, :, :P].sum(axis=0).swapaxes(0, 1)
        return dq, dk, dv, dprefix, None, None, None
