"""Cross-entropy by blocks of rows: the logits of a large vocabulary never exist as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minipeft.autograd import Context
from minipeft.backend import (
    BLOCK_BYTES,
    Array,
    array_module,
    backward_phase,
    column_sum,
    empty,
    kernels,
    matmul,
    row_blocks,
    row_max,
    row_sum,
)
from minipeft.ops.loss import CrossEntropy, LinearCrossEntropy
from minipeft.specialize import specialize

BlockLoss = Callable[[Array, Array, bool], Array]  # that of `minipeft.ops.loss._block_loss`
ON_GPU = 1024  # rows: few large products are faster


def _in_place(s: Array, labels: Array, want_grad: bool) -> Array:
    """`_block_loss` for each part of the rows that fits the cache."""
    xp = array_module(s)
    loss = xp.zeros((), dtype=s.dtype)
    for block in row_blocks(s, 2 * BLOCK_BYTES):  # a row of a large vocabulary is long
        p, chosen = s[block], labels[block]
        rows = xp.arange(p.shape[0])
        p -= row_max(p)
        at_label = p[rows, chosen]
        xp.exp(p, out=p)
        total = row_sum(p)
        loss += (xp.log(total[:, 0]) - at_label).sum()
        if want_grad:
            p *= 1.0 / total
            p[rows, chosen] -= 1.0
    return loss


def _by_kernel(s: Array, labels: Array, want_grad: bool) -> Array:
    return kernels.cross_entropy(s, labels, want_grad).sum()


@specialize(CrossEntropy, "cpu")
class CrossEntropyInBlocks(CrossEntropy):
    """`CrossEntropy` for some of the rows at a time."""

    @staticmethod
    def forward(ctx: Context, s: Array, kept: Array, labels: Array) -> Array:
        return _cross_entropy(ctx, s, kept, labels, max(1, BLOCK_BYTES // (s.shape[1] * s.itemsize)), _in_place)


@specialize(CrossEntropy, "cuda")
class CrossEntropyKernel(CrossEntropy):
    """`CrossEntropy` with one kernel for all rows."""

    @staticmethod
    def forward(ctx: Context, s: Array, kept: Array, labels: Array) -> Array:
        return _cross_entropy(ctx, s, kept, labels, labels.shape[0], _by_kernel)


def _cross_entropy(ctx: Context, s: Array, kept: Array, labels: Array, block: int, block_loss: BlockLoss) -> Array:
    xp = array_module(s)
    n = labels.shape[0]
    ds = xp.zeros(s.shape, dtype=s.dtype) if ctx.needs_grad[0] else None
    loss = xp.zeros((), dtype=s.dtype)
    for start in range(0, n, block):
        chosen = kept[start : start + block]
        part = s[chosen]
        loss += block_loss(part, labels[start : start + block], ds is not None)
        if ds is not None:
            part *= 1.0 / n
            ds[chosen] = part
    if ds is not None:
        ctx.save(ds)
    loss *= 1.0 / n
    return loss


@specialize(LinearCrossEntropy, "cpu")
class LinearCrossEntropyInBlocks(LinearCrossEntropy):
    """`LinearCrossEntropy` whose gradients for dL = 1 are made while a block's logits are in the cache.

    The loss is a scalar, so the backward only scales them. A block has 256 rows, or 512 where W is trained: each after
    the first makes another (V, d) and adds it.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, kept: Array, labels: Array, block: int | None
    ) -> Array:
        rows = block or (512 if ctx.needs_grad[1] else 256)
        return _linear_cross_entropy(ctx, x, weight, bias, kept, labels, rows, _in_place)

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        *grads, n = ctx.saved
        c = dz * (1.0 / n)
        return *(None if g is None else g * c for g in grads), None, None, None


@specialize(LinearCrossEntropy, "cuda")
class LinearCrossEntropyKernel(LinearCrossEntropyInBlocks):
    """By 1024 rows, with one kernel for the loss of a block and its gradient."""

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, kept: Array, labels: Array, block: int | None
    ) -> Array:
        return _linear_cross_entropy(ctx, x, weight, bias, kept, labels, block or ON_GPU, _by_kernel)


def _linear_cross_entropy(
    ctx: Context,
    x: Array,
    weight: Array,
    bias: Array | None,
    kept: Array,
    labels: Array,
    block: int,
    block_loss: BlockLoss,
) -> Array:
    xp = array_module(x)
    n, V = labels.shape[0], weight.shape[0]
    needs_x, needs_w, needs_b = ctx.needs_grad[:3]
    dx = xp.zeros(x.shape, dtype=x.dtype) if needs_x else None
    dW = empty(x, weight.shape) if needs_w else None
    db = xp.zeros((V,), dtype=x.dtype) if needs_b else None
    loss = xp.zeros((), dtype=x.dtype)
    logits = empty(x, (min(block, n), V))
    for start in range(0, n, block):
        chosen = kept[start : start + block]
        xb = x[chosen]
        s = matmul(xb, weight.T, out=logits[: xb.shape[0]])  # (R', V)
        if bias is not None:
            s += bias
        loss += block_loss(s, labels[start : start + block], needs_x or needs_w or needs_b)
        with backward_phase():
            if dx is not None:
                dx[chosen] = matmul(s, weight)
            if dW is not None and start == 0:
                matmul(s.T, xb, out=dW)
            elif dW is not None:
                dW += matmul(s.T, xb)
            if db is not None:
                db += column_sum(s)
    ctx.save(dx, dW, db, n)
    loss *= 1.0 / n
    return loss
