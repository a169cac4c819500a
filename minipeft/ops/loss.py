"""Cross-entropy, and the vocabulary head fused with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft import fused
from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import (
    BLOCK_BYTES,
    Array,
    array_module,
    backward_phase,
    column_sum,
    device_of,
    empty,
    has_kernels,
    is_array,
    matmul,
    row_blocks,
    row_max,
    row_sum,
    to_device,
)
from minipeft.ops.linear import check_linear
from minipeft.ops.shape import reshape

IGNORED = -100


def _block_loss(s: Array, labels: Array, want_grad: bool) -> Array:
    """Σ of -log softmax(s)[label] over the rows of s (R, V), labels (R,), a scalar, for entries of any size.

    Where ``want_grad``, s becomes its own gradient in place, softmax(s) - onehot(label); else what it becomes is open.
    """
    if has_kernels(s):
        return fused.cross_entropy(s, labels, want_grad).sum()
    xp = array_module(s)
    loss = xp.zeros((), dtype=s.dtype)
    for block in row_blocks(s, 2 * BLOCK_BYTES):  # a row of a large vocabulary is long
        p, chosen = s[block], labels[block]
        picks = xp.arange(p.shape[0])
        p -= row_max(p)
        at_label = p[picks, chosen]
        xp.exp(p, out=p)
        total = row_sum(p)
        loss += (xp.log(total[:, 0]) - at_label).sum()
        if want_grad:
            p *= 1.0 / total
            p[picks, chosen] -= 1.0
    return loss


class CrossEntropy(Function):
    """L = -1/n Σ_i log softmax(s_i)[y_i] over the n rows with a label;  ds_i = dL/n (softmax(s_i) - onehot(y_i)).

    s (R, V), ``kept`` the indices of the rows that have a label (n,), ``labels`` theirs (n,). The gradients of other
    rows are zero. L is a scalar, dL too. Nothing is saved where s wants no gradient.
    """

    @staticmethod
    def forward(ctx: Context, s: Array, kept: Array, labels: Array) -> Array:
        xp = array_module(s)
        n = labels.shape[0]
        want = ctx.needs_grad[0]
        ds = xp.zeros(s.shape, dtype=s.dtype) if want else None
        loss = xp.zeros((), dtype=s.dtype)
        block = n if has_kernels(s) else max(1, BLOCK_BYTES // (s.shape[1] * s.itemsize))
        for start in range(0, n, block):
            chosen = kept[start : start + block]
            part = s[chosen]
            loss += _block_loss(part, labels[start : start + block], want)
            if ds is not None:
                part *= 1.0 / n
                ds[chosen] = part
        if want:
            ctx.save(ds)
        loss *= 1.0 / n
        return loss

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        (ds,) = ctx.saved
        return ds * dz, None, None


class LinearCrossEntropy(Function):
    """Cross-entropy of the logits x Wᵀ + b, by blocks of rows: the (R, V) logits never exist as a whole.

    x (R, d), W (V, d), b (V,) or None; ``kept`` (n,) the rows that have a label, ``labels`` (n,) theirs: the head is
    computed for those rows alone. The loss is a scalar, so its gradients for dL = 1 are made while each block's
    logits are in the cache (they turn into their own gradient), and the backward only scales them.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, kept: Array, labels: Array, block: int
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
            loss += _block_loss(s, labels[start : start + block], needs_x or needs_w or needs_b)
            with backward_phase():
                if dx is not None:
                    dx[chosen] = matmul(s, weight)
                if dW is not None and start == 0:
                    matmul(s.T, xb, out=dW)
                elif dW is not None:
                    dW += matmul(s.T, xb)
                if db is not None:
                    db += column_sum(s)
        ctx.save(dx, dW, db, (n, V, block))
        loss *= 1.0 / n
        return loss

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        dx, dW, db, (n, _, _) = ctx.saved
        c = dz * (1.0 / n)
        return *(None if g is None else g * c for g in (dx, dW, db)), None, None, None


def _labelled(labels: Array, shape: tuple[int, ...], n_classes: int, like: Array) -> tuple[Array, Array]:
    """The rows that have a label, and their labels, on the device of ``like``; those on the host are checked there.

    shape: what the labels must have, that of the logits without their last axis.
    """
    if not is_array(labels) or labels.dtype.kind not in "iu":
        got = labels.dtype if is_array(labels) else type(labels).__name__
        raise TypeError(f"cross-entropy: labels must be an array of integers, got {got}")
    if labels.shape != shape:
        raise ValueError(f"cross-entropy: logits {(*shape, n_classes)} need labels {shape}, got {labels.shape}")
    flat = labels.reshape(-1)
    kept = array_module(flat).flatnonzero(flat != IGNORED)
    chosen = flat[kept]
    if chosen.size == 0:
        raise ValueError(f"cross-entropy: every label is {IGNORED} (ignored), there is nothing to average")
    if isinstance(chosen, np.ndarray) and (chosen.min() < 0 or chosen.max() >= n_classes):
        raise ValueError(
            f"cross-entropy: labels run from {chosen.min()} to {chosen.max()}; expected 0 to {n_classes - 1}, "
            f"or {IGNORED} for a row without one"
        )
    return to_device(kept, device_of(like)), to_device(chosen, device_of(like))


def cross_entropy(logits: Tensor, labels: Array) -> Tensor:
    """The mean of -log softmax(logits)[label], in nats: logits (..., V), labels (...); label -100 is ignored.

    Raises TypeError for labels that are no integers, ValueError for labels out of range, of another shape, or all -100.
    """
    *shape, V = logits.shape
    kept, chosen = _labelled(labels, tuple(shape), V, logits.data)
    flat = logits if len(shape) == 1 else reshape(logits, labels.size, V)
    return CrossEntropy.apply(flat, kept, chosen)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Array, bias: Tensor | None = None, block: int | None = None
) -> Tensor:
    """``cross_entropy(linear(x, weight, bias), labels)`` by ``block`` rows at a time: x (..., d), weight (V, d).

    By default 256 rows, 512 where W is trained (each block after the first makes another (V, d) and adds it), or 1024
    on a GPU, where few large products are faster. The same value and gradients, in the memory of one block of logits.
    Raises as ``cross_entropy`` does.
    """
    check_linear(x, weight, bias)
    if block is None:
        block = 1024 if has_kernels(x.data) else 512 if weight.requires_grad else 256
    if block < 1:
        raise ValueError(f"linear_cross_entropy: block is a number of rows, at least 1, got {block}")
    kept, chosen = _labelled(labels, x.shape[:-1], weight.shape[0], x.data)
    flat = x if len(x.shape) == 2 else reshape(x, labels.size, x.shape[-1])
    return LinearCrossEntropy.apply(flat, weight, bias, kept, chosen, block)
