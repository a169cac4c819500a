"""Cross-entropy, and the vocabulary head fused with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.array import (
    BLOCK_BYTES,
    Array,
    array_module,
    backward_phase,
    column_sum,
    device_of,
    matmul,
    to_device,
)
from minipeft.autograd import Context, Function, Tensor
from minipeft.ops.shape import reshape

IGNORED = -100


def _block_loss(s: Array, labels: Array, want_grad: bool) -> Array:
    """Σ of -log softmax(s)[label] over the rows of s (R, V); s becomes its own gradient, softmax - onehot."""
    xp = array_module(s)
    picks = xp.arange(s.shape[0])
    s -= s.max(axis=1, keepdims=True)
    at_label = s[picks, labels]
    xp.exp(s, out=s)
    total = s.sum(axis=1)
    loss = (xp.log(total) - at_label).sum()
    if want_grad:
        s *= (1.0 / total)[:, None]
        s[picks, labels] -= 1.0
    return loss


class CrossEntropy(Function):
    """L = -1/n Σ_i log softmax(s_i)[y_i] over the n rows with a label;  ds_i = dL/n (softmax(s_i) - onehot(y_i)).

    s (R, V), ``kept`` the indices of the rows that have a label (n,), ``labels`` theirs (n,). Other rows get zeros.
    """

    @staticmethod
    def forward(ctx: Context, s: Array, kept: Array, labels: Array) -> Array:
        xp = array_module(s)
        n = labels.shape[0]
        want = ctx.needs_grad[0]
        ds = xp.zeros(s.shape, dtype=s.dtype) if want else None
        loss = xp.zeros((), dtype=s.dtype)
        block = max(1, BLOCK_BYTES // (s.shape[1] * s.itemsize))
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
        dW = xp.zeros(weight.shape, dtype=x.dtype) if needs_w else None
        db = xp.zeros((V,), dtype=x.dtype) if needs_b else None
        loss = xp.zeros((), dtype=x.dtype)
        for start in range(0, n, block):
            chosen = kept[start : start + block]
            xb = x[chosen]
            s = matmul(xb, weight.T)  # (R', V)
            if bias is not None:
                s += bias
            loss += _block_loss(s, labels[start : start + block], needs_x or needs_w or needs_b)
            with backward_phase():
                if dx is not None:
                    dx[chosen] = matmul(s, weight)
                if dW is not None:
                    dW += matmul(s.T, xb)
                if db is not None:
                    db += column_sum(s)
        ctx.save(dx, dW, db, n)
        loss *= 1.0 / n
        return loss

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        dx, dW, db, n = ctx.saved
        c = dz * (1.0 / n)
        return *(None if g is None else g * c for g in (dx, dW, db)), None, None, None


def _labelled(labels: Array, n_rows: int, n_classes: int, like: Array) -> tuple[Array, Array]:
    """The rows that have a label and their labels, on the device of ``like``; checked on the host."""
    host = labels if isinstance(labels, np.ndarray) else None
    if host is None:
        xp = array_module(labels)
        flat = labels.reshape(-1)
        kept = xp.flatnonzero(flat != IGNORED)
        return kept, flat[kept]
    if host.dtype.kind not in "iu":
        raise TypeError(f"cross-entropy: labels must be integers, got {host.dtype}")
    flat = host.reshape(-1)
    if flat.shape[0] != n_rows:
        raise ValueError(f"cross-entropy: {flat.shape[0]} labels for {n_rows} rows of logits")
    kept = np.flatnonzero(flat != IGNORED)
    chosen = flat[kept]
    if chosen.size == 0:
        raise ValueError(f"cross-entropy: every label is {IGNORED} (ignored), there is nothing to average")
    if chosen.min() < 0 or chosen.max() >= n_classes:
        raise ValueError(
            f"cross-entropy: labels run from {chosen.min()} to {chosen.max()}; expected 0 to {n_classes - 1}, "
            f"or {IGNORED} for a row without one"
        )
    return to_device(kept, device_of(like)), to_device(chosen, device_of(like))


def cross_entropy(logits: Tensor, labels: Array) -> Tensor:
    """The mean of -log softmax(logits)[label], in nats: logits (..., V), labels (...); label -100 is ignored.

    Raises TypeError for labels that are no integers, ValueError for labels out of range, of another shape, or all -100.
    """
    V = logits.shape[-1]
    flat = logits if len(logits.shape) == 2 else reshape(logits, -1, V)
    return CrossEntropy.apply(flat, *_labelled(labels, flat.shape[0], V, logits.data))


def linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Array, bias: Tensor | None = None, block: int = 256
) -> Tensor:
    """``cross_entropy(linear(x, weight, bias), labels)`` by ``block`` rows at a time: x (..., d), weight (V, d).

    The same value and gradients, in the memory of one block of logits. Raises as ``cross_entropy`` does.
    """
    flat = x if len(x.shape) == 2 else reshape(x, -1, x.shape[-1])
    kept, chosen = _labelled(labels, flat.shape[0], weight.shape[0], flat.data)
    return LinearCrossEntropy.apply(flat, weight, bias, kept, chosen, block)
