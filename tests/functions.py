"""One declaration for each Function of the library: arguments, and the forward again as plain loops.

Three oracles read it: equality with the loops, the gradient by central differences, and the contract of a backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.ops.activation import Activation, Dropout, Gate
from minipeft.ops.arithmetic import (
    Add,
    Divide,
    Exp,
    Log,
    MatMul,
    Max,
    Mean,
    Multiply,
    Power,
    Scale,
    Shift,
    Sqrt,
    Subtract,
    Sum,
    WeightedMean,
)
from minipeft.ops.attention import Attention, MergeHeads, Rotary, SplitHeads
from minipeft.ops.blockwise import BlockwiseAttention
from minipeft.ops.embedding import Embedding
from minipeft.ops.linear import Linear
from minipeft.ops.loss import CrossEntropy, LinearCrossEntropy
from minipeft.ops.normalize import LayerNorm, RMSNorm
from minipeft.ops.shape import BroadcastTo, Concatenate, Index, Reshape, Transpose
from minipeft.ops.softmax import LogSoftmax, Softmax
from minipeft.peft.adapters import Bottleneck
from minipeft.peft.fact import FactorizedLinear
from minipeft.peft.ia3 import ScaledLinear
from minipeft.peft.intrinsic import Subspace
from minipeft.peft.lnlora import LNLoRALinear
from minipeft.peft.lora import LoRALinear
from minipeft.peft.lora_embedding import LoRAEmbedding
from minipeft.peft.mixed import AddToRows
from minipeft.peft.prefix import PrefixAttention
from minipeft.peft.projections import Dense, Fastfood, Sparse
from minipeft.peft.prompt import Prepend


@dataclass
class Case:
    """A Function, how to draw its arguments, and its naive forward."""

    name: str
    function: Any
    arguments: Callable[[np.random.Generator], tuple[Any, ...]]
    naive: Callable[..., np.ndarray]
    constants: tuple[int, ...] = ()


def each(f):
    """A naive forward from a scalar function, entry by entry."""

    def naive(x, *rest):
        z = np.zeros(x.shape)
        for i in np.ndindex(x.shape):
            z[i] = f(float(x[i]), *rest)
        return z

    return naive


def broadcast_each(f):
    def naive(x, y):
        shape = np.broadcast_shapes(x.shape, y.shape)
        a, b = np.broadcast_to(x, shape), np.broadcast_to(y, shape)
        z = np.zeros(shape)
        for i in np.ndindex(shape):
            z[i] = f(float(a[i]), float(b[i]))
        return z

    return naive


def away_from_zero(x):
    return x + np.sign(x) * 0.1


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


SCALAR = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
}


def naive_matmul(x, y):
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    a = np.broadcast_to(x, (*batch, *x.shape[-2:]))
    b = np.broadcast_to(y, (*batch, *y.shape[-2:]))
    z = np.zeros((*batch, x.shape[-2], y.shape[-1]))
    for i in np.ndindex(z.shape):
        *head, m, n = i
        z[i] = sum(a[(*head, m, k)] * b[(*head, k, n)] for k in range(x.shape[-1]))
    return z


def naive_linear(x, weight, bias):
    z = np.zeros((*x.shape[:-1], weight.shape[0]))
    for i in np.ndindex(z.shape):
        *head, d = i
        z[i] = sum(x[(*head, k)] * weight[d, k] for k in range(x.shape[-1])) + (0 if bias is None else bias[d])
    return z


def naive_softmax(row):
    top = max(row, default=-math.inf)
    if top == -math.inf:
        return [0.0] * len(row)
    e = [math.exp(v - top) for v in row]
    return [v / sum(e) for v in e]


def along(f, axis):
    return lambda x, *_: np.apply_along_axis(lambda row: np.array(f(list(row))), axis, x)


def naive_norm(x, gamma, beta, eps, centre):
    z = np.zeros(x.shape)
    for i in np.ndindex(x.shape[:-1]):
        row = [float(v) for v in x[i]]
        mean = sum(row) / len(row) if centre else 0.0
        var = sum((v - mean) ** 2 for v in row) / len(row)
        for j, v in enumerate(row):
            z[(*i, j)] = gamma[j] * (v - mean) / math.sqrt(var + eps) + (0.0 if beta is None else beta[j])
    return z


def naive_attention(q, k, v, mask, causal, scale):
    B, H, N, _ = q.shape
    Hk, S = k.shape[1:3]
    z = np.zeros((B, H, N, v.shape[-1]))
    for b, h, n in np.ndindex(B, H, N):
        g = h // (H // Hk)
        scores = []
        for s in range(S):
            seen = not causal or s <= S - N + n
            if mask is not None:
                full = np.broadcast_to(mask, (B, H, N, S))
                seen = seen and full[b, h, n, s]
            scores.append(scale * float(q[b, h, n] @ k[b, g, s]) if seen else -math.inf)
        for s, p in enumerate(naive_softmax(scores)):
            z[b, h, n] += p * v[b, g, s]
    return z


def naive_prefix_attention(q, k, v, prefix, mask, causal, scale):
    B, H, N, _ = q.shape
    Hk, S = k.shape[1:3]
    P = prefix.shape[1]
    z = np.zeros((B, H, N, v.shape[-1]))
    for b, h, n in np.ndindex(B, H, N):
        g = h // (H // Hk)
        scores = [scale * float(q[b, h, n] @ prefix[0, i, g]) for i in range(P)]
        for s in range(S):
            seen = not causal or s <= S - N + n
            if mask is not None:
                seen = seen and np.broadcast_to(mask, (B, 1, N, S))[b, 0, n, s]
            scores.append(scale * float(q[b, h, n] @ k[b, g, s]) if seen else -math.inf)
        weights = naive_softmax(scores)
        for i in range(P):
            z[b, h, n] += weights[i] * prefix[1, i, g]
        for s in range(S):
            z[b, h, n] += weights[P + s] * v[b, g, s]
    return z


def naive_cross_entropy(s, kept, labels):
    total = 0.0
    for i, y in zip(kept, labels, strict=True):
        total -= math.log(naive_softmax(list(s[i]))[y])
    return np.array(total / len(labels))


def naive_rotary(x, cos, sin):
    z = np.zeros(x.shape)
    half = x.shape[-1] // 2
    for b, h, t, j in np.ndindex(*x.shape[:3], half):
        c, s, x1, x2 = cos[t, j], sin[t, j], x[b, h, t, j], x[b, h, t, j + half]
        z[b, h, t, j], z[b, h, t, j + half] = x1 * c - x2 * s, x2 * c + x1 * s
    return z


def naive_bottleneck(h, W_down, b_down, W_up, b_up, activation):
    g = naive_linear(h, W_down, b_down)
    return h + naive_linear(each(SCALAR[activation])(g), W_up, b_up)


def naive_fact(x, w, b, U, V, sigma, s):
    blocks = [naive_matmul(naive_matmul(V, core), U) for core in sigma]
    return naive_linear(x, w + s * np.concatenate(blocks, axis=0 if w.shape[0] > w.shape[1] else 1), b)


def p_matrix(projection):
    return np.stack([projection.apply(column) for column in np.eye(projection.d)], axis=1)


def padding(rng, *shape):
    mask = rng.random(shape) > 0.3
    mask[..., 0] = True
    return mask


CASES = [
    Case("add", Add, lambda r: (r.normal(size=(3, 1, 5)), r.normal(size=(4, 1))), broadcast_each(lambda a, b: a + b)),
    Case("add same", Add, lambda r: (r.normal(size=(3, 4)), r.normal(size=(3, 4))), broadcast_each(lambda a, b: a + b)),
    Case(
        "subtract", Subtract, lambda r: (r.normal(size=(4,)), r.normal(size=(3, 4))), broadcast_each(lambda a, b: a - b)
    ),
    Case(
        "multiply",
        Multiply,
        lambda r: (r.normal(size=(3, 4)), r.normal(size=(2, 1, 4))),
        broadcast_each(lambda a, b: a * b),
    ),
    Case(
        "divide",
        Divide,
        lambda r: (r.normal(size=(3, 4)), away_from_zero(r.normal(size=(3, 1)))),
        broadcast_each(lambda a, b: a / b),
    ),
    Case("scale", Scale, lambda r: (r.normal(size=(3, 4)), -1.7), each(lambda x, c: x * c)),
    Case("shift", Shift, lambda r: (r.normal(size=(3, 4)), 0.3), each(lambda x, c: x + c)),
    Case("power", Power, lambda r: (r.uniform(0.5, 2, (3, 4)), 2.5), each(lambda x, p: x**p)),
    Case("power zero", Power, lambda r: (r.normal(size=(3, 4)), 0.0), each(lambda x, p: 1.0)),
    Case("exp", Exp, lambda r: (r.normal(size=(3, 4)),), each(math.exp)),
    Case("log", Log, lambda r: (r.uniform(0.5, 3, (3, 4)),), each(math.log)),
    Case("sqrt", Sqrt, lambda r: (r.uniform(0.5, 3, (3, 4)),), each(math.sqrt)),
    Case(
        "sum",
        Sum,
        lambda r: (r.normal(size=(2, 3, 4)), (0, 2), False),
        lambda x, a, k: sum(x[i, :, j] for i in range(2) for j in range(4)),
    ),
    Case(
        "sum kept",
        Sum,
        lambda r: (r.normal(size=(2, 3)), -1, True),
        lambda x, a, k: np.array([[sum(row)] for row in x]),
    ),
    Case(
        "mean", Mean, lambda r: (r.normal(size=(2, 3, 4)), 1, False), lambda x, a, k: sum(x[:, i] for i in range(3)) / 3
    ),
    Case(
        "max",
        Max,
        lambda r: (r.normal(size=(2, 3, 4)), 1, False),
        lambda x, a, k: np.array([[max(x[i, :, j]) for j in range(4)] for i in range(2)]),
    ),
    Case(
        "max of all", Max, lambda r: (r.normal(size=(3, 4)), None, True), lambda x, a, k: np.array([[max(x.ravel())]])
    ),
    Case(
        "matmul of vectors as matrices",
        MatMul,
        lambda r: (r.normal(size=(1, 5)), r.normal(size=(3, 5, 1))),
        naive_matmul,
    ),
    Case("matmul", MatMul, lambda r: (r.normal(size=(2, 1, 3, 4)), r.normal(size=(5, 4, 6))), naive_matmul),
    Case(
        "weighted mean",
        WeightedMean,
        lambda r: (r.normal(size=(2, 3, 4)), r.uniform(0, 1, (2, 3))),
        lambda x, w: np.array([sum(w[b, t] * x[b, t] for t in range(3)) for b in range(2)]),
        (1,),
    ),
    Case(
        "reshape",
        Reshape,
        lambda r: (r.normal(size=(2, 3, 4)), (6, 4)),
        lambda x, s: np.array([x[i // 3, i % 3] for i in range(6)]),
    ),
    Case(
        "transpose",
        Transpose,
        lambda r: (r.normal(size=(2, 3, 4)), (2, 0, 1)),
        lambda x, a: np.array([[[x[j, k, i] for k in range(3)] for j in range(2)] for i in range(4)]),
    ),
    Case(
        "index",
        Index,
        lambda r: (r.normal(size=(4, 3, 5)), (slice(1, None, 2), None, Ellipsis, 2)),
        lambda x, k: np.array([[[x[i, j, 2] for j in range(3)]] for i in (1, 3)]),
    ),
    Case(
        "index repeated",
        Index,
        lambda r: (r.normal(size=(4, 3)), np.array([1, 3, 1, 1])),
        lambda x, k: np.array([x[i] for i in k]),
    ),
    Case(
        "concatenate",
        Concatenate,
        lambda r: (1, r.normal(size=(2, 3)), r.normal(size=(2, 1)), r.normal(size=(2, 4))),
        lambda a, *xs: np.array([[v for x in xs for v in x[i]] for i in range(2)]),
    ),
    Case(
        "broadcast to",
        BroadcastTo,
        lambda r: (r.normal(size=(3, 1)), (2, 3, 4)),
        lambda x, s: np.array([[[x[i, 0]] * 4 for i in range(3)]] * 2),
    ),
    Case("linear", Linear, lambda r: (r.normal(size=(2, 3, 5)), r.normal(size=(4, 5)), r.normal(size=4)), naive_linear),
    Case("linear without bias", Linear, lambda r: (r.normal(size=(3, 5)), r.normal(size=(4, 5)), None), naive_linear),
    *[
        Case(
            name,
            Activation,
            lambda r, name=name: (away_from_zero(2 * r.normal(size=(3, 7))), name),
            lambda x, n: each(SCALAR[n])(x),
        )
        for name in SCALAR
    ],
    Case(
        "gate",
        Gate,
        lambda r: (r.normal(size=(2, 3, 4)), r.normal(size=(2, 3, 4)), "silu"),
        lambda g, u, n: each(SCALAR[n])(g) * u,
    ),
    Case("softmax", Softmax, lambda r: (r.normal(size=(2, 3, 4)), 1), along(naive_softmax, 1)),
    Case(
        "log-softmax",
        LogSoftmax,
        lambda r: (r.normal(size=(2, 3, 4)), -1),
        along(lambda row: [math.log(p) for p in naive_softmax(row)], -1),
    ),
    Case(
        "dropout",
        Dropout,
        lambda r: (r.normal(size=(3, 4)), r.random((3, 4)) > 0.3, 0.3),
        lambda x, keep, p: np.array([[v / 0.7 if k else 0.0 for v, k in zip(a, b)] for a, b in zip(x, keep)]),
    ),
    Case(
        "layer norm",
        LayerNorm,
        lambda r: (0.01 * r.normal(size=(2, 3, 5)) + 1, r.normal(size=5), r.normal(size=5), 1e-5),
        lambda x, g, b, e: naive_norm(x, g, b, e, True),
    ),
    Case(
        "rms norm",
        RMSNorm,
        lambda r: (0.01 * r.normal(size=(2, 3, 5)), r.normal(size=5), 1e-6),
        lambda x, g, e: naive_norm(x, g, None, e, False),
    ),
    Case(
        "embedding",
        Embedding,
        lambda r: (r.normal(size=(6, 4)), np.array([[1, 5, 1], [0, 1, 5]])),
        lambda e, ids: np.array([[e[i] for i in row] for row in ids]),
    ),
    Case(
        "rotary",
        Rotary,
        lambda r: (r.normal(size=(2, 3, 5, 4)), np.cos(a := r.normal(size=(5, 2))), np.sin(a)),
        naive_rotary,
        (1, 2),
    ),
    Case(
        "split heads",
        SplitHeads,
        lambda r: (r.normal(size=(2, 3, 8)), 4),
        lambda x, h: np.array([[[x[b, n, 2 * i : 2 * i + 2] for n in range(3)] for i in range(4)] for b in range(2)]),
    ),
    Case(
        "merge heads",
        MergeHeads,
        lambda r: (r.normal(size=(2, 3, 5, 4)),),
        lambda x: np.array([[np.concatenate([x[b, h, n] for h in range(3)]) for n in range(5)] for b in range(2)]),
    ),
    Case(
        "attention square",
        Attention,
        lambda r: (
            r.normal(size=(2, 3, 4, 5)),
            r.normal(size=(2, 3, 4, 5)),
            r.normal(size=(2, 3, 4, 6)),
            None,
            True,
            0.4,
        ),
        naive_attention,
    ),
    Case(
        "attention behind a prefix",
        Attention,
        lambda r: (
            r.normal(size=(2, 3, 4, 5)),
            r.normal(size=(2, 3, 7, 5)),
            r.normal(size=(2, 3, 7, 5)),
            None,
            True,
            0.4,
        ),
        naive_attention,
    ),
    Case(
        "attention grouped and padded",
        Attention,
        lambda r: (
            r.normal(size=(2, 6, 4, 5)),
            r.normal(size=(2, 3, 7, 5)),
            r.normal(size=(2, 3, 7, 5)),
            padding(r, 2, 1, 1, 7),
            True,
            0.4,
        ),
        naive_attention,
    ),
    Case(
        "attention with fewer keys than causal queries",  # the first queries may look nowhere
        Attention,
        lambda r: (
            r.normal(size=(2, 3, 5, 4)),
            r.normal(size=(2, 3, 2, 4)),
            r.normal(size=(2, 3, 2, 6)),
            None,
            True,
            0.4,
        ),
        naive_attention,
    ),
    Case(
        "attention grouped with a mask for each head",
        Attention,
        lambda r: (
            r.normal(size=(2, 6, 3, 5)),
            r.normal(size=(2, 2, 7, 5)),
            r.normal(size=(2, 2, 7, 4)),
            r.random((2, 6, 3, 7)) > 0.6,
            True,
            0.4,
        ),
        naive_attention,
    ),
    Case(
        "cross-attention",
        Attention,
        lambda r: (
            r.normal(size=(2, 3, 4, 5)),
            r.normal(size=(2, 3, 2, 5)),
            r.normal(size=(2, 3, 2, 5)),
            padding(r, 2, 1, 4, 2),
            False,
            0.4,
        ),
        naive_attention,
    ),
    Case(
        "cross-entropy",
        CrossEntropy,
        lambda r: (r.normal(size=(6, 5)), np.array([0, 2, 3, 5]), np.array([4, 0, 2, 2])),
        naive_cross_entropy,
    ),
    Case(
        "head and cross-entropy",
        LinearCrossEntropy,
        lambda r: (
            r.normal(size=(9, 4)),
            r.normal(size=(7, 4)),
            r.normal(size=7),
            np.array([0, 1, 2, 3, 5, 6, 7, 8]),
            np.array([4, 0, 2, 2, 6, 1, 0, 5]),
            3,
        ),
        lambda x, w, b, kept, y, n: naive_cross_entropy(naive_linear(x, w, b), kept, y),
    ),
    Case(
        "LoRA",
        LoRALinear,
        lambda r: (
            r.normal(size=(2, 3, 5)),
            r.normal(size=(4, 5)),
            r.normal(size=4),
            r.normal(size=(2, 5)),
            r.normal(size=(4, 2)),
            0.7,
        ),
        lambda x, w, b, A, B, s: naive_linear(x, w + s * naive_matmul(B, A), b),
    ),
    Case(
        "LoRA of an embedding",
        LoRAEmbedding,
        lambda r: (
            r.normal(size=(6, 4)),
            np.array([[1, 5, 1], [0, 1, 5]]),
            r.normal(size=(2, 6)),
            r.normal(size=(4, 2)),
            0.7,
        ),
        lambda e, ids, A, B, s: np.array(
            [[e[i] + s * sum(A[k, i] * B[:, k] for k in range(2)) for i in row] for row in ids]
        ),
    ),
    *[
        Case(
            f"subspace {kind.__name__}",
            Subspace,
            lambda r, kind=kind: (
                r.normal(size=(3, 5)),
                r.normal(size=4),
                np.asarray(r.normal()),
                kind(15, 4, 40, (3, 1)),
            ),
            lambda theta0, x, scale, p: theta0 + scale * naive_matmul(p_matrix(p), x[:, None]).reshape(3, 5),
        )
        for kind in (Dense, Sparse, Fastfood)
    ],
    Case(
        "IA3 outside",
        ScaledLinear,
        lambda r: (r.normal(size=(2, 3, 5)), r.normal(size=(4, 5)), r.normal(size=4), r.normal(size=4), False),
        lambda x, w, b, scale, inside: naive_linear(x, w, b) * scale,
    ),
    Case(
        "IA3 inside",
        ScaledLinear,
        lambda r: (r.normal(size=(2, 3, 5)), r.normal(size=(4, 5)), r.normal(size=4), r.normal(size=5), True),
        lambda x, w, b, scale, inside: naive_linear(x * scale, w, b),
    ),
    Case(
        "LNLoRA",
        LNLoRALinear,
        lambda r: (
            r.normal(size=(2, 3, 5)),
            r.normal(size=(4, 5)),
            r.normal(size=4),
            r.normal(size=5),
            r.normal(size=5),
            r.normal(size=(2, 5)),
            r.normal(size=(4, 2)),
            0.7,
        ),
        lambda x, w, b, g, be, A, B, s: (
            naive_linear(x, w, b) + s * naive_linear(naive_norm(x, g, be, 1e-5, True), naive_matmul(B, A), None)
        ),
    ),
    Case(
        "FacT one block",
        FactorizedLinear,
        lambda r: (
            r.normal(size=(2, 3, 4)),
            r.normal(size=(4, 4)),
            r.normal(size=4),
            r.normal(size=(2, 4)),
            r.normal(size=(4, 2)),
            r.normal(size=(1, 2, 2)),
            0.7,
        ),
        naive_fact,
    ),
    Case(
        "FacT blocks of the output",
        FactorizedLinear,
        lambda r: (
            r.normal(size=(2, 5, 4)),
            r.normal(size=(12, 4)),
            r.normal(size=12),
            r.normal(size=(2, 4)),
            r.normal(size=(4, 2)),
            r.normal(size=(3, 2, 2)),
            0.7,
        ),
        naive_fact,
    ),
    Case(
        "FacT blocks of the input",
        FactorizedLinear,
        lambda r: (
            r.normal(size=(2, 5, 12)),
            r.normal(size=(4, 12)),
            r.normal(size=4),
            r.normal(size=(2, 4)),
            r.normal(size=(4, 2)),
            r.normal(size=(3, 2, 2)),
            0.7,
        ),
        naive_fact,
    ),
    Case(
        "scaled adapter without residual",
        Bottleneck,
        lambda r: (
            r.normal(size=(2, 3, 6)),
            r.normal(size=(4, 6)),
            r.normal(size=4),
            r.normal(size=(6, 4)),
            r.normal(size=6),
            "silu",
            4.0,
            False,
        ),
        lambda h, *rest: 4.0 * (naive_bottleneck(h, *rest[:5]) - h),
    ),
    Case(
        "add to rows",
        AddToRows,
        lambda r: (r.normal(size=(5, 3, 2)), r.normal(size=(2, 3, 2)), np.array([3, 0])),
        lambda x, y, index: np.array(
            [x[i] + sum((y[j] for j in range(2) if index[j] == i), np.zeros((3, 2))) for i in range(5)]
        ),
    ),
    Case(
        "bottleneck adapter",
        Bottleneck,
        lambda r: (
            r.normal(size=(2, 3, 6)),
            r.normal(size=(4, 6)),
            r.normal(size=4),
            r.normal(size=(6, 4)),
            r.normal(size=6),
            "gelu",
        ),
        naive_bottleneck,
    ),
    Case(
        "prompt",
        Prepend,
        lambda r: (r.normal(size=(4, 5)), r.normal(size=(2, 3, 5))),
        lambda p, x: np.array([[*p, *rows] for rows in x]),
    ),
    Case(
        "prefix attention",
        PrefixAttention,
        lambda r: (
            r.normal(size=(2, 3, 4, 6)),
            r.normal(size=(2, 3, 5, 6)),
            r.normal(size=(2, 3, 5, 6)),
            r.normal(size=(2, 7, 3, 6)),
            None,
            True,
            0.4,
        ),
        naive_prefix_attention,
    ),
    Case(
        "prefix attention with one key head",
        PrefixAttention,
        lambda r: (
            r.normal(size=(2, 4, 3, 6)),
            r.normal(size=(2, 1, 5, 6)),
            r.normal(size=(2, 1, 5, 6)),
            r.normal(size=(2, 7, 1, 6)),
            None,
            True,
            0.4,
        ),
        naive_prefix_attention,
    ),
    Case(
        "prefix attention grouped and padded",
        PrefixAttention,
        lambda r: (
            r.normal(size=(2, 4, 3, 6)),
            r.normal(size=(2, 2, 5, 6)),
            r.normal(size=(2, 2, 5, 6)),
            r.normal(size=(2, 7, 2, 6)),
            padding(r, 2, 1, 1, 5),
            True,
            0.4,
        ),
        naive_prefix_attention,
    ),
]

CASES += [
    Case(
        f"blockwise {case.name}",
        BlockwiseAttention,
        lambda r, case=case: (*case.arguments(r), 3),
        lambda *args, case=case: case.naive(*args[:-1]),
        case.constants,
    )
    for case in CASES
    if case.function is Attention
]
