"""Cross-entropy, of logits and of a linear layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, column_sum, device_of, is_array, matmul, to_device
from minipeft.ops.linear import check_linear
from minipeft.ops.shape import reshape

IGNORED = -100


def _block_loss(s: Array, labels: Array, want_grad: bool) -> Array:
    """Σ of -log softmax(s)[label] over the rows of s (R, V), labels (R,), a scalar, for entries of any size.

    Where ``want_grad``, s becomes its own gradient in place, softmax(s) - onehot(label); otherwise it is overwritten.
    """
    raise NotImplementedError("hw2.6: _block_loss")


class CrossEntropy(Function):
    """L = -1/n Σ_i log softmax(s_i)[y_i] over the n rows with a label;  ds_i = dL/n (softmax(s_i) - onehot(y_i)).

    s (R, V), ``kept`` the indices of the rows that have a label (n,), ``labels`` theirs (n,). The gradients of other
    rows are zero. L is a scalar, and so is dL, which arrives at it. Nothing is saved where s wants no gradient.
    """

    @staticmethod
    def forward(ctx: Context, s: Array, kept: Array, labels: Array) -> Array:
        raise NotImplementedError("hw2.6: CrossEntropy.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw2.6: CrossEntropy.backward")


class LinearCrossEntropy(Function):
    """`CrossEntropy` of the logits S = X Wᵀ + b:  with dS = dL/n (softmax(S) - onehot(y)), row by row,

        dX = dS W,  dW = dSᵀ X,  db = Σ_rows dS.

    x (R, d), W (V, d), b (V,) or None; ``kept`` (n,) the rows that have a label, ``labels`` (n,) theirs: the head is
    computed for those rows alone. block: rows at a time for the faster class; here it is all of them.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, kept: Array, labels: Array, block: int | None
    ) -> Array:
        n = labels.shape[0]
        needs_x, needs_w, needs_b = ctx.needs_grad[:3]
        X = x[kept]  # (n, d)
        S = matmul(X, weight.T)  # (n, V)
        if bias is not None:
            S += bias
        loss = _block_loss(S, labels, needs_x or needs_w or needs_b)
        ctx.save(S, X if needs_w else None, weight if needs_x else None, kept, x.shape)
        return loss / n

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        S, X, weight, kept, x_shape = ctx.saved  # S has become its own gradient
        dS = S * (dz / S.shape[0])  # dL/n (softmax - onehot)
        dx = dW = None
        if weight is not None:
            dx = array_module(dz).zeros(x_shape, dtype=dS.dtype)
            dx[kept] = matmul(dS, weight)
        if X is not None:
            dW = matmul(dS.T, X)
        return dx, dW, column_sum(dS) if ctx.needs_grad[2] else None, None, None, None


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

    Raises TypeError for labels that are not integers, ValueError for labels of another shape, all -100, or out of range
    (labels on a GPU are not checked for this: it would wait for the device).
    """
    *shape, V = logits.shape
    kept, chosen = _labelled(labels, tuple(shape), V, logits.data)
    flat = logits if len(shape) == 1 else reshape(logits, labels.size, V)
    return CrossEntropy.apply(flat, kept, chosen)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Array, bias: Tensor | None = None, block: int | None = None
) -> Tensor:
    """``cross_entropy(linear(x, weight, bias), labels)``, of labelled rows alone: x (..., d), weight (V, d).

    block: rows at a time, so that only their logits are in memory; chosen by default. Under `mp.reference` all at once.
    Raises as ``cross_entropy`` does.
    """
    check_linear(x, weight, bias)
    if block is not None and block < 1:
        raise ValueError(f"linear_cross_entropy: block is a number of rows, at least 1, got {block}")
    kept, chosen = _labelled(labels, x.shape[:-1], weight.shape[0], x.data)
    flat = x if len(x.shape) == 2 else reshape(x, labels.size, x.shape[-1])
    return LinearCrossEntropy.apply(flat, weight, bias, kept, chosen, block)
