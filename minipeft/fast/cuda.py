"""Specializations for a GPU: chains of elementwise steps as one kernel each."""

from __future__ import annotations

from typing import Any

from minipeft.autograd import Context
from minipeft.backend import Array, column_sum, empty, kernels, matmul, rows
from minipeft.fast.attention import empty_heads
from minipeft.ops.activation import Activation, Gate, curve
from minipeft.ops.attention import Attention
from minipeft.ops.normalize import LayerNorm, RMSNorm
from minipeft.specialize import specialize


@specialize(LayerNorm, "cuda")
class LayerNormKernel(LayerNorm):
    """`LayerNorm` with one kernel forward and one for dx."""

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, beta: Array, eps: float) -> Array:
        return _normalized(ctx, x, gamma, beta, eps)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        dx, dgamma = _norm_gradients(ctx, dz, centre=True)
        return dx, dgamma, column_sum(rows(dz)) if ctx.needs_grad[2] else None, None


@specialize(RMSNorm, "cuda")
class RMSNormKernel(RMSNorm):
    """`RMSNorm` with one kernel forward and one for dx."""

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, eps: float) -> Array:
        return _normalized(ctx, x, gamma, None, eps)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        return *_norm_gradients(ctx, dz, centre=False), None


def _normalized(ctx: Context, x: Array, gamma: Array, beta: Array | None, eps: float) -> Array:
    needs_x, needs_gamma = ctx.needs_grad[:2]
    keep = needs_x or needs_gamma
    z, x_hat, rstd = kernels.norm(rows(x), gamma, beta, eps, centre=beta is not None, keep=keep)
    ctx.save(x_hat if keep else None, rstd if needs_x else None, gamma if needs_x else None, x.shape)
    return z.reshape(x.shape)


def _norm_gradients(ctx: Context, dz: Array, centre: bool) -> tuple[Array | None, Array | None]:
    """dx and dγ, as far as each is needed."""
    x_hat, rstd, gamma, shape = ctx.saved
    dZ = rows(dz)
    dx = kernels.norm_backward(dZ, x_hat, rstd, gamma, centre).reshape(shape) if ctx.needs_grad[0] else None
    return dx, column_sum(dZ * x_hat) if ctx.needs_grad[1] else None


@specialize(Activation, "cuda")
class ActivationKernel(Activation):
    """`Activation` with one kernel for f(x) and f'(x)."""

    @staticmethod
    def forward(ctx: Context, x: Array, name: str) -> Array:
        curve(name)  # refuses an unknown name
        z, slope = kernels.activation(x, name, ctx.needs_grad[0])
        ctx.save(slope)
        return z


@specialize(Gate, "cuda")
class GateKernel(Gate):
    """`Gate` with one kernel for z and the factors of its gradients."""

    @staticmethod
    def forward(ctx: Context, g: Array, u: Array, name: str) -> Array:
        curve(name)  # refuses an unknown name
        z, to_g, to_u = kernels.gate(g, u, name, *ctx.needs_grad[:2])
        ctx.save(to_g, to_u)
        return z


@specialize(Attention, "cuda")
class AttentionKernel(Attention):
    """`Attention` with one kernel for scores to P and one for dP to dS, in place."""

    @staticmethod
    def forward(ctx: Context, q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float) -> Array:
        B, H, N, _ = q.shape
        Hk, S = k.shape[1:3]
        P = empty(q, (B, H, N, S))
        matmul(_grouped(q * scale, Hk), _shared(k, H).swapaxes(-1, -2), out=_grouped(P, Hk))
        kernels.softmax(P, causal, mask)
        z = empty_heads(q, (B, H, N, v.shape[-1]))
        matmul(_grouped(P, Hk), _shared(v, H), out=_grouped(z, Hk))
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        ctx.save(
            P if needs_q or needs_k or needs_v else None,
            q if needs_k else None,
            k if needs_q else None,
            v if needs_q or needs_k else None,
            (q.shape, k.shape, v.shape, scale),
        )
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        P, q, k, v, (q_shape, k_shape, v_shape, scale) = ctx.saved
        needs_q, needs_k, needs_v = ctx.needs_grad[:3]
        H, Hk = q_shape[1], k_shape[1]
        dZ = _grouped(dz, Hk)
        dq = dk = dv = None
        if needs_v:
            dv = _key_gradient(_grouped(P, Hk), dZ, v_shape)
        if needs_q or needs_k:
            dS = empty(dz, P.shape)
            matmul(dZ, _shared(v, H).swapaxes(-1, -2), out=_grouped(dS, Hk))
            kernels.softmax_backward(rows(P), rows(dS))
            if needs_q:
                dq = empty_heads(dz, q_shape)
                matmul(_grouped(dS, Hk), _shared(k, H), out=_grouped(dq, Hk))
                dq *= scale
            if needs_k:
                dk = _key_gradient(_grouped(dS, Hk), _grouped(q, Hk), k_shape)
                dk *= scale
        return dq, dk, dv, None, None, None


def _grouped(x: Array, n_kv_heads: int) -> Array:
    """A view of (B, H, N, ·) as (B, Hk, G, N, ·), G query heads to a key head; unchanged if G = 1."""
    B, H, N, D = x.shape
    return x if n_kv_heads == H else x.reshape(B, n_kv_heads, H // n_kv_heads, N, D)


def _shared(x: Array, n_heads: int) -> Array:
    """(B, Hk, S, D) -> (B, Hk, 1, S, D) to meet `_grouped`; unchanged if every head has its own keys."""
    return x if x.shape[1] == n_heads else x[:, :, None]


def _key_gradient(p: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """pᵀ x, summed over the query heads that share a key head: (B, Hk, S, D)."""
    if p.ndim == 5:
        return matmul(p.swapaxes(-1, -2), x).sum(axis=2)
    out = empty_heads(x, shape)
    matmul(p.swapaxes(-1, -2), x, out=out)
    return out
