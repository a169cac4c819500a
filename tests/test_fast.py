"""What is worked in place, by blocks, by tiles or in threads equals the plain formula, whatever the layout."""

import math
import sys

import numpy as np
import pytest
from functions import naive_attention
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import minipeft as mp
from minipeft import backend as arr
from minipeft.autograd import Context
from minipeft.fast import attention as fast_attention
from minipeft.fast.attention import (
    TILE,
    AttentionInTiles,
    tiles,
)
from minipeft.fast.cpu import ActivationInBlocks, GateInBlocks, LayerNormInBlocks, RMSNormInBlocks
from minipeft.fast.softmax_rows import softmax_rows, softmax_rows_backward
from minipeft.ops.attention import Attention
from minipeft.ops.loss import CrossEntropy, LinearCrossEntropy
from minipeft.optim import SGD, AdamW
from minipeft.peft.lora import LoRALinear
from minipeft.train import shards

TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}
dtypes = st.sampled_from([np.float32, np.float64])
rows = st.integers(1, 40)
columns = st.integers(1, 70)
seeds = st.integers(0, 999)
threads = st.sampled_from([1, 2])
layouts = st.sampled_from(["C", "F", "strided"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that small arrays have several."""
    monkeypatch.setattr(arr.row_blocks, "__defaults__", (1000,))


def laid_out(x, layout):
    """x in memory that is C- or Fortran-contiguous, or neither."""
    if layout == "strided":
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    return np.asarray(x, order=layout)


def close(got, exact, dtype):
    exact = np.asarray(exact, dtype=np.float64)
    assert got.dtype == dtype
    assert got.shape == exact.shape
    scale = max(float(np.abs(exact).max(initial=0.0)), 1.0)
    assert float(np.abs(got - exact).max(initial=0.0)) <= TOLERANCE[dtype] * scale


def draw(seed, dtype, *shape):
    """Numbers of a type, and the same in float64."""
    x = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return x, x.astype(np.float64)


def plain_gelu_tanh(x):
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    t = np.tanh(u)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du


def plain_silu(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, s + x * s * (1 - s)


def plain_gelu(x):
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape)
    return x * cdf, cdf + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


CURVES = {
    "gelu_tanh": plain_gelu_tanh,
    "gelu": plain_gelu,
    "silu": plain_silu,
    "relu": lambda x: (np.maximum(x, 0), (x > 0) * 1.0),
    "tanh": lambda x: (np.tanh(x), 1 - np.tanh(x) ** 2),
}


@given(R=rows, C=columns, dtype=dtypes, layout=layouts, seed=seeds, want=st.booleans())
@pytest.mark.parametrize("name", CURVES)
def test_activations(name, R, C, dtype, layout, seed, want):
    (x, exact), (dz, exact_dz) = draw(seed, dtype, R, C), draw(seed + 1, dtype, R, C)
    z, slope = CURVES[name](exact)
    ctx = Context(want, False)
    close(ActivationInBlocks.forward(ctx, laid_out(x, layout), name), z, dtype)
    if want:
        close(ActivationInBlocks.backward(ctx, laid_out(dz, layout))[0], exact_dz * slope, dtype)


@given(R=rows, C=columns, dtype=dtypes, layout=layouts, seed=seeds, needs=st.tuples(st.booleans(), st.booleans()))
def test_gate(R, C, dtype, layout, seed, needs):
    (g, G), (u, U), (dz, dZ) = (draw(seed + i, dtype, R, C) for i in range(3))
    value, slope = plain_silu(G)
    ctx = Context(*needs, False)
    close(GateInBlocks.forward(ctx, laid_out(g, layout), laid_out(u, layout), "silu"), value * U, dtype)
    dg, du, _ = GateInBlocks.backward(ctx, dz)
    assert (dg is not None, du is not None) == needs
    if needs[0]:
        close(dg, dZ * U * slope, dtype)
    if needs[1]:
        close(du, dZ * value, dtype)


def plain_norm(x, gamma, eps, centre):
    mean = x.mean(-1, keepdims=True) if centre else 0.0
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    return (x - mean) * rstd, rstd


@given(R=rows, C=columns, dtype=dtypes, layout=layouts, seed=seeds, n=threads, centre=st.booleans(), want=st.booleans())
def test_normalizations(R, C, dtype, layout, seed, n, centre, want):
    (x, X), (dz, dZ), (gamma, G), (beta, shift) = (
        draw(seed + i, dtype, *shape) for i, shape in enumerate([(R, C), (R, C), (C,), (C,)])
    )
    eps = 0.1
    hat, rstd = plain_norm(X, G, eps, centre)
    ctx = Context(want, want, *([want] if centre else []), False)
    with threadpool_limits(n, user_api="blas"):
        if centre:
            z = LayerNormInBlocks.forward(ctx, laid_out(x, layout), gamma, beta, eps)
        else:
            z = RMSNormInBlocks.forward(ctx, laid_out(x, layout), gamma, eps)
        close(z, hat * G + (shift if centre else 0), dtype)
        if want:
            dx, dgamma, *_ = (LayerNormInBlocks if centre else RMSNormInBlocks).backward(ctx, laid_out(dz, layout))
            g = dZ * G
            mean = g.mean(-1, keepdims=True) if centre else 0.0
            close(dx, rstd * (g - mean - hat * (g * hat).mean(-1, keepdims=True)), dtype)
            close(dgamma, (dZ * hat).sum(0), dtype)


@given(R=rows, C=columns, dtype=dtypes, seed=seeds, n=threads)
def test_softmax_of_rows_and_its_gradient(R, C, dtype, seed, n):
    (s, S), (d, D) = draw(seed, dtype, R, C), draw(seed + 1, dtype, R, C)
    s, S = 30 * s, 30 * s.astype(np.float64)
    p = np.exp(S - S.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    with threadpool_limits(n, user_api="blas"):
        softmax_rows(s)
        close(s, p, dtype)
        exact = s.astype(np.float64)
        softmax_rows_backward(s, d)
    close(d, exact * (D - (D * exact).sum(1, keepdims=True)), dtype)


def plain_cross_entropy(S, labels):
    p = np.exp(S - S.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    picks = np.arange(len(labels))
    loss = -np.log(p[picks, labels]).mean()
    p[picks, labels] -= 1
    return loss, p / len(labels)


@given(
    R=rows,
    d=st.integers(1, 9),
    V=columns,
    block=st.integers(1, 50),
    dtype=dtypes,
    layout=layouts,
    seed=seeds,
    n=threads,
)
def test_cross_entropy_alone_and_with_the_head(R, d, V, block, dtype, layout, seed, n):
    (x, X), (W, exact_W) = draw(seed, dtype, R, d), draw(seed + 1, dtype, V, d)
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(rng.random(R) < 0.7) if R > 1 else np.arange(1)
    kept = kept if len(kept) else np.arange(1)
    labels = rng.integers(0, V, len(kept))
    loss, dS = plain_cross_entropy(X[kept] @ exact_W.T, labels)
    dX = np.zeros_like(X)
    dX[kept] = dS @ exact_W
    one = np.ones((), dtype=dtype)
    with threadpool_limits(n, user_api="blas"):
        ctx = Context(True, True, False, False, False, False)
        got = LinearCrossEntropy.forward(ctx, laid_out(x, layout), laid_out(W, layout), None, kept, labels, block)
        close(np.asarray(got), loss, dtype)
        dx, dW, *_ = LinearCrossEntropy.backward(ctx, one)
        close(dx, dX, dtype)
        close(dW, dS.T @ X[kept], dtype)
        s = (X @ exact_W.T).astype(dtype)
        loss, dS = plain_cross_entropy(s.astype(np.float64)[kept], labels)
        ctx = Context(True, False, False)
        close(np.asarray(CrossEntropy.forward(ctx, laid_out(s, layout), kept, labels)), loss, dtype)
        close(CrossEntropy.backward(ctx, one)[0][kept], dS, dtype)


@given(
    B=st.integers(1, 2), Hk=st.integers(1, 3), G=st.integers(1, 3), N=st.integers(1, 9), before=st.integers(0, 4),
    D=st.integers(1, 5), tile=st.integers(1, 10), dtype=dtypes, layout=layouts, seed=seeds, n=threads,
    masked=st.booleans(),
)  # fmt: skip
def test_attention_by_tiles(B, Hk, G, N, before, D, tile, dtype, layout, seed, n, masked):
    S = N + before
    (q, Q), (k, K), (v, V), (dz, _) = (
        draw(seed + i, dtype, *shape)
        for i, shape in enumerate([(B, Hk * G, N, D), (B, Hk, S, D), (B, Hk, S, D + 1), (B, Hk * G, N, D + 1)])
    )
    mask = np.random.default_rng(seed).random((B, 1, 1, S)) > 0.3 if masked else None
    needs = (True, True, True, False, False, False)
    a, b = Context(*needs), Context(*needs)
    with threadpool_limits(n, user_api="blas"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_attention.tiles, "__defaults__", (tile,))
        z = AttentionInTiles.forward(a, *(laid_out(x, layout) for x in (q, k, v)), mask, True, 0.4)
        close(z, naive_attention(Q, K, V, mask, True, 0.4), dtype)
        Attention.forward(b, Q, K, V, mask, True, 0.4)
        exact = Attention.backward(b, dz.astype(np.float64))
        for got, wanted in zip(AttentionInTiles.backward(a, laid_out(dz, layout))[:3], exact[:3], strict=True):
            close(got, wanted, dtype)


def test_tiles_cover_every_query_and_all_it_may_see():
    for N, S, tile in ((1, 1, 4), (7, 9, 3), (9, 9, 9), (10, 12, 4)):
        seen = {i: n for queries, n in tiles(N, S, True, tile) for i in range(queries.start, queries.stop)}
        assert sorted(seen) == list(range(N))
        assert all(n >= S - N + i + 1 for i, n in seen.items())
        assert tiles(N, S, True, tile)[-1][1] == S


def test_long_causal_attention_goes_by_tiles_and_counts_what_it_computes(rng):
    N = 2 * TILE + 5
    q, k, v = (mp.Tensor(rng.normal(size=(1, 2, N, 4)), requires_grad=True) for _ in range(3))
    with arr.counting(arr.FlopCount()) as count:
        z = mp.ops.attention(q, k, v, causal=True)
        z.backward(np.ones(z.shape))
    assert z.node.function is AttentionInTiles
    pairs = TILE * TILE + TILE * 2 * TILE + 5 * N
    assert (count.forward, count.backward) == (2 * 2 * 2 * pairs * 4, 4 * 2 * 2 * pairs * 4)
    full = Attention.forward(Context(*[False] * 6), q.data, k.data, v.data, None, True, 0.5)
    np.testing.assert_allclose(z.data, full, rtol=1e-12, atol=1e-14)


@given(R=rows, k=columns, d=columns, r=st.integers(1, 4), dtype=dtypes, layout=layouts, seed=seeds, n=threads)
def test_lora_linear(R, k, d, r, dtype, layout, seed, n):
    shapes = [(R, k), (d, k), (d,), (r, k), (d, r), (R, d)]
    (x, X), (W, exact_W), (b, shift), (A, exact_A), (B, exact_B), (dz, dZ) = (
        draw(seed + i, dtype, *shape) for i, shape in enumerate(shapes)
    )
    ctx = Context(True, False, False, True, True, False)
    with threadpool_limits(n, user_api="blas"):
        z = LoRALinear.forward(
            ctx, *(laid_out(a, layout) for a in (x, W)), b, *(laid_out(a, layout) for a in (A, B)), 0.5
        )
        dx, _, _, dA, dB, _ = LoRALinear.backward(ctx, laid_out(dz, layout))
    whole = exact_W + 0.5 * exact_B @ exact_A
    scale = max(1.0, k, d, R)  # sums of so many terms
    close(z / dtype(scale), (X @ whole.T + shift) / scale, dtype)
    close(dx / dtype(scale), dZ @ whole / scale, dtype)
    close(dA / dtype(scale), 0.5 * exact_B.T @ dZ.T @ X / scale, dtype)
    close(dB / dtype(scale), 0.5 * dZ.T @ X @ exact_A.T / scale, dtype)


def test_a_product_for_each_row(rng):
    x, y = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    np.testing.assert_allclose(arr.row_dot(x, y), (x * y).sum(1, keepdims=True), rtol=1e-13)
    np.testing.assert_allclose(
        arr.row_dot(x[::2, ::-1], y[:3]), (x[::2, ::-1] * y[:3]).sum(1, keepdims=True), rtol=1e-13
    )


@given(n=st.integers(0, 20), threads=st.integers(1, 5))
def test_work_in_threads_takes_every_item_once_and_keeps_neighbours_together(n, threads):
    seen = []
    arr.in_threads(lambda part: seen.append(list(part)), list(range(n)), threads)
    assert len(seen) == threads
    assert sorted(i for part in seen for i in part) == list(range(n))
    assert all(part == list(range(part[0], part[-1] + 1)) for part in seen if part)


def test_an_error_in_a_thread_is_raised_and_the_handover_is_as_before():
    before = sys.getswitchinterval()

    def work(part):
        assert sys.getswitchinterval() == pytest.approx(1e-5)
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        arr.in_threads(work, [1, 2], 2)
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("make", [lambda p: AdamW(p, lr=0.01), lambda p: SGD(p, lr=0.01, momentum=0.9)])
def test_the_optimizer_gives_the_same_bits_in_any_number_of_threads(make, rng):
    start, grads = rng.normal(size=(301, 30)), rng.normal(size=(3, 301, 30))
    results = []
    for n in (1, 2, 3):
        p = mp.Tensor(start.copy(), requires_grad=True)
        optimizer = make([p])
        for g in grads:
            p.grad = g.copy()
            with arr.use_threads(n):
                optimizer.step()
        results.append(p.data)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_the_sum_over_shards_has_the_same_bits_each_time_and_is_the_sum(rng):
    tensors = [mp.Tensor(rng.normal(size=shape), requires_grad=True) for shape in [(200, 40), (7,), (), (3, 0)]]
    total = {t: np.asarray(rng.normal(size=t.shape)) for t in tensors[:3]}
    more = {t: np.asarray(rng.normal(size=t.shape)) for t in tensors}
    expected = {t: total[t] + g if t in total else g for t, g in more.items()}
    for n in (1, 2):
        summed = {t: g.copy() for t, g in total.items()}
        with arr.use_threads(n):
            shards._add(summed, more)
        assert all(np.array_equal(summed[t], expected[t]) for t in tensors)
