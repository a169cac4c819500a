"""Specializations for a CPU: work on blocks of rows that stay in a core's cache, in memory that is used again."""

from __future__ import annotations

from typing import Any

from minipeft.autograd import Context
from minipeft.backend import Array, array_module, column_sum, empty, row_blocks, row_dot, row_sum, rows
from minipeft.fast.curves import IN_PLACE
from minipeft.ops.activation import Activation, Gate, curve
from minipeft.ops.normalize import LayerNorm, RMSNorm
from minipeft.specialize import specialize


@specialize(LayerNorm, "cpu")
class LayerNormInBlocks(LayerNorm):
    """`LayerNorm` by blocks of rows: five passes over a block while it is in the cache."""

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, beta: Array, eps: float) -> Array:
        xp = array_module(x)
        needs_x, needs_gamma, _, _ = ctx.needs_grad
        X = rows(x)  # (R, d)
        d = X.shape[1]
        keep = needs_x or needs_gamma
        z = empty(X)
        x_hat = empty(X) if keep else z
        rstd = xp.empty((X.shape[0], 1), dtype=x.dtype)
        for block in row_blocks(X):
            h = xp.subtract(X[block], row_sum(X[block]) * (1.0 / d), out=x_hat[block])
            rstd[block] = 1.0 / xp.sqrt(row_dot(h, h) * (1.0 / d) + eps)
            h *= rstd[block]
            xp.multiply(h, gamma, out=z[block])
            z[block] += beta
        ctx.save(x_hat if keep else None, rstd if needs_x else None, gamma if needs_x else None, x.shape)
        return z.reshape(x.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_hat, rstd, gamma, shape = ctx.saved
        needs_x, needs_gamma, needs_beta, _ = ctx.needs_grad
        dZ = rows(dz)  # (R, d)
        dx = None
        if needs_x:
            xp, d = array_module(dz), dZ.shape[1]
            dX = empty(dZ)
            for block in row_blocks(dZ):
                h = x_hat[block]
                g = xp.multiply(dZ[block], gamma, out=dX[block])
                inner = row_dot(g, h) * (1.0 / d)
                g -= row_sum(g) * (1.0 / d)
                g -= h * inner
                g *= rstd[block]
            dx = dX.reshape(shape)
        dgamma = column_sum(dZ * x_hat) if needs_gamma else None
        return dx, dgamma, column_sum(dZ) if needs_beta else None, None


@specialize(RMSNorm, "cpu")
class RMSNormInBlocks(RMSNorm):
    """`RMSNorm` by blocks of rows."""

    @staticmethod
    def forward(ctx: Context, x: Array, gamma: Array, eps: float) -> Array:
        xp = array_module(x)
        needs_x, needs_gamma, _ = ctx.needs_grad
        X = rows(x)  # (R, d)
        keep = needs_x or needs_gamma
        z = empty(X)
        x_hat = empty(X) if keep else z
        rstd = xp.empty((X.shape[0], 1), dtype=x.dtype)
        for block in row_blocks(X):
            rstd[block] = 1.0 / xp.sqrt(row_dot(X[block], X[block]) * (1.0 / X.shape[1]) + eps)
            h = xp.multiply(X[block], rstd[block], out=x_hat[block])
            xp.multiply(h, gamma, out=z[block])
        ctx.save(x_hat if keep else None, rstd if needs_x else None, gamma if needs_x else None, x.shape)
        return z.reshape(x.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        x_hat, rstd, gamma, shape = ctx.saved
        needs_x, needs_gamma, _ = ctx.needs_grad
        dZ = rows(dz)  # (R, d)
        dx = None
        if needs_x:
            xp = array_module(dz)
            dX = empty(dZ)
            for block in row_blocks(dZ):
                h = x_hat[block]
                g = xp.multiply(dZ[block], gamma, out=dX[block])
                g -= h * (row_dot(g, h) * (1.0 / dZ.shape[1]))
                g *= rstd[block]
            dx = dX.reshape(shape)
        return dx, column_sum(dZ * x_hat) if needs_gamma else None, None


@specialize(Activation, "cpu")
class ActivationInBlocks(Activation):
    """`Activation` by blocks of rows, in place; the derivative is computed only if it is needed."""

    @staticmethod
    def forward(ctx: Context, x: Array, name: str) -> Array:
        curve(name)  # refuses an unknown name
        X = rows(x)
        z = empty(X)
        slope = empty(X) if ctx.needs_grad[0] else None
        for block in row_blocks(X):
            IN_PLACE[name](X[block], z[block], None if slope is None else slope[block])
        ctx.save(None if slope is None else slope.reshape(x.shape))
        return z.reshape(x.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (slope,) = ctx.saved
        return dz * slope, None


@specialize(Gate, "cpu")
class GateInBlocks(Gate):
    """`Gate` by blocks of rows, in place; each factor of a gradient is computed only if it is needed."""

    @staticmethod
    def forward(ctx: Context, g: Array, u: Array, name: str) -> Array:
        curve(name)  # refuses an unknown name
        xp = array_module(g)
        G, U = rows(g), rows(u)
        z = empty(G)
        to_g = empty(G) if ctx.needs_grad[0] else None
        to_u = empty(G) if ctx.needs_grad[1] else None
        for block in row_blocks(G):
            value = z[block] if to_u is None else to_u[block]
            IN_PLACE[name](G[block], value, None if to_g is None else to_g[block])
            if to_g is not None:
                to_g[block] *= U[block]
            xp.multiply(value, U[block], out=z[block])
        ctx.save(None if to_g is None else to_g.reshape(g.shape), None if to_u is None else to_u.reshape(g.shape))
        return z.reshape(g.shape)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        return *(None if factor is None else dz * factor for factor in ctx.saved), None
