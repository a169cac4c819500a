"""Every Function against three oracles: naive loops, central differences, and the contract of a backward."""

import numpy as np
import pytest
import strict
from devices import comparison
from functions import CASES, naive_attention, naive_cross_entropy, naive_linear, naive_matmul
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.autograd import Context, Function
from minipeft.backend import is_array, to_device
from minipeft.specialize import _faster

cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def floats(args, constants=()):
    return [i for i, a in enumerate(args) if is_array(a) and a.dtype.kind == "f" and i not in constants]


def check_gradient(case, args, change=lambda x: x):
    chosen = floats(args, case.constants)

    def call(*xs):
        full = list(args)
        for i, x in zip(chosen, xs, strict=True):
            full[i] = x
        return case.function.apply(*full)

    mp.gradcheck(call, *(change(args[i]) for i in chosen))


def permuted(x):
    """The same values in memory that is neither C- nor F-contiguous, with a negative stride."""
    if x.ndim == 0:
        return x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]))
    wide[..., ::2] = x[..., ::-1]
    return wide[..., ::2][..., ::-1]


def locked(x):
    """The same values, read-only."""
    x = x.copy()
    x.flags.writeable = False
    return x


def listed(grads):
    return grads if isinstance(grads, tuple) else (grads,)


def all_functions(cls=Function):
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("minipeft."):
            yield sub
        yield from all_functions(sub)


def test_every_function_of_the_library_is_declared():
    elsewhere = {"Checkpoint"}  # its arguments are a module and its parameters: tests/test_memory_saving.py
    elsewhere |= {
        faster.__name__ for faster in _faster.values() if isinstance(faster, type)
    }  # tests/test_specializations.py
    assert {f.__name__ for f in all_functions()} == {c.function.__name__ for c in CASES} | elsewhere


@cases
def test_forward_equals_the_naive_loops(case, rng):
    args = case.arguments(rng)
    z = case.function.forward(Context(*[False] * len(args)), *args)
    np.testing.assert_allclose(z, case.naive(*args), rtol=1e-10, atol=1e-12)


@cases
def test_gradient_equals_central_differences(case, cpu_or_gpu, rng):
    args = [to_device(a, cpu_or_gpu) if isinstance(a, np.ndarray) else a for a in case.arguments(rng)]
    check_gradient(case, args)


@cases
def test_gradient_for_strided_inputs(case, rng):
    check_gradient(case, case.arguments(rng), permuted)


@cases
def test_backward_keeps_its_contract(case, device, rng):
    args = [to_device(a, device) if isinstance(a, np.ndarray) else a for a in case.arguments(rng)]
    mp.check_contract(case.function, *args, constants=case.constants)


@cases
def test_any_layout_of_memory_gives_the_same(case, rng):
    args = case.arguments(rng)
    wanted = floats(args, case.constants)
    needs = [i in wanted for i in range(len(args))]
    expected, dz = None, None
    for change in (np.ascontiguousarray, np.asfortranarray, permuted, locked):
        ctx = Context(*needs)
        z = np.asarray(case.function.forward(ctx, *(change(a) if i in wanted else a for i, a in enumerate(args))))
        dz = rng.standard_normal(z.shape) if dz is None else dz
        results = [z, *(g for g in listed(case.function.backward(ctx, change(dz))) if g is not None)]
        expected = results if expected is None else expected
        for a, b in zip(expected, results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@cases
def test_float32_stays_float32(case, rng):
    args = case.arguments(rng)
    single = [a.astype(np.float32) if i in floats(args) else a for i, a in enumerate(args)]
    ctx = Context(*[i in floats(args, case.constants) for i in range(len(args))])
    z = case.function.forward(ctx, *single)
    assert z.dtype == np.float32
    for s in ctx.saved:
        assert not (isinstance(s, np.ndarray) and s.dtype == np.float64)
    for g in listed(case.function.backward(ctx, np.asarray(rng.standard_normal(z.shape), dtype=np.float32))):
        assert g is None or g.dtype == np.float32


@cases
def test_float32_computes_what_float64_does(case, rng):
    args = case.arguments(rng)
    wanted = floats(args, case.constants)
    single = [a.astype(np.float32) if i in floats(args) else a for i, a in enumerate(args)]
    rounded = [a.astype(np.float64) if i in floats(args) else a for i, a in enumerate(single)]
    results, dz = [], None
    for inputs in (rounded, single):
        ctx = Context(*[i in wanted for i in range(len(args))])
        z = case.function.forward(ctx, *inputs)
        dz = np.asarray(rng.standard_normal(z.shape), dtype=np.float32) if dz is None else dz
        results.append([z, *listed(case.function.backward(ctx, dz.astype(z.dtype)))])
    for exact, g in zip(*results, strict=True):
        if exact is not None:
            assert np.abs(exact - g).max() <= 2e-5 * np.abs(exact).max()


@cases
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_device_gives_the_same_without_a_synchronization(case, dtype, other_device, rng):
    args = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in case.arguments(rng)]
    wanted = floats(args, case.constants)
    shape = case.function.forward(Context(*[False] * len(args)), *args).shape
    for bits in range(1, 2 ** len(wanted)):
        needs = [i in wanted and bool(bits >> wanted.index(i) & 1) for i in range(len(args))]
        results = []
        for device in ("cpu", other_device):
            moved = [to_device(a, device) if isinstance(a, np.ndarray) else a for a in args]
            ctx = Context(*needs)
            dz = np.asarray(np.random.default_rng(1).standard_normal(shape), dtype=dtype)
            dz = to_device(dz, device)
            strict.Syncs.count = 0
            z = case.function.forward(ctx, *moved)
            results.append([z, *listed(case.function.backward(ctx, dz))])
            assert strict.Syncs.count == 0
        for a, b in zip(*results, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                comparison(other_device)(b, np.asarray(a))


shapes = st.lists(st.integers(0, 3), min_size=0, max_size=3)


@given(shape=shapes, drop=st.integers(0, 3), ones=st.lists(st.booleans(), min_size=3, max_size=3), flip=st.booleans())
@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_broadcasting_pairs(operation, shape, drop, ones, flip):
    other = [1 if ones[i] else n for i, n in enumerate(shape)][min(drop, len(shape)) :]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), 2 + rng.random(other)
    if flip and operation != "divide":
        x, y = y, x
    a, b = mp.Tensor(x, requires_grad=True), mp.Tensor(y, requires_grad=True)
    z = getattr(mp.ops, operation)(a, b)
    assert z.shape == np.broadcast_shapes(x.shape, y.shape)
    dz = np.asarray(rng.normal(size=z.shape))
    z.backward(dz)
    assert a.grad.shape == x.shape
    assert b.grad.shape == y.shape
    if z.size:
        mp.gradcheck(getattr(mp.ops, operation), x, y)


def test_a_frozen_weight_saves_nothing_of_the_input(rng):
    x, weight, bias = rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), rng.normal(size=4)
    from minipeft.ops.linear import Linear

    ctx = Context(True, False, True)
    Linear.forward(ctx, x, weight, bias)
    assert [s is x for s in ctx.saved] == [False, False, False]
    ctx = Context(False, False, True)
    Linear.forward(ctx, x, weight, bias)
    assert not any(isinstance(s, np.ndarray) for s in ctx.saved)


def test_saving_nothing_for_frozen_inputs_holds_for_every_function(rng):
    for case in CASES:
        args = case.arguments(rng)
        x = [mp.Tensor(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
        assert case.function.apply(*x).node is None


sizes = st.integers(1, 3)


@given(B=sizes, Hk=sizes, G=sizes, N=st.integers(1, 4), before=st.integers(-1, 3), D=sizes, Dv=sizes, draw=st.data())
def test_attention_of_any_shape(B, Hk, G, N, before, D, Dv, draw):
    S = max(0, N + before)
    causal = draw.draw(st.booleans()) and S >= N
    rng = np.random.default_rng(draw.draw(st.integers(0, 99)))
    mask = None
    if draw.draw(st.booleans()):
        mask = rng.random([n if draw.draw(st.booleans()) else 1 for n in (B, Hk * G, N, S)]) > 0.4
    q, k, v = rng.normal(size=(B, Hk * G, N, D)), rng.normal(size=(B, Hk, S, D)), rng.normal(size=(B, Hk, S, Dv))
    if draw.draw(st.booleans()):
        q, k, v = (np.asfortranarray(x) for x in (q, k, v))
    z = mp.ops.attention(mp.Tensor(q), mp.Tensor(k), mp.Tensor(v), mask, causal, 0.7).data
    np.testing.assert_allclose(z, naive_attention(q, k, v, mask, causal, 0.7), rtol=1e-10, atol=1e-12)
    mp.gradcheck(lambda *qkv: mp.ops.attention(*qkv, mask, causal, 0.7), q, k, v, directions=2)


@given(draw=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_gradient_of_any_index(draw, shape):
    def entry(n):
        return draw.draw(
            st.one_of(
                st.integers(-n, n - 1),
                st.slices(n),
                st.lists(st.integers(-n, n - 1), max_size=4).map(lambda i: np.array(i, dtype=np.int64)),
                st.integers(0, n - 1).map(np.int64),
            )
        )

    key = tuple(entry(n) for n in shape[: draw.draw(st.integers(0, len(shape)))])
    arrays = [k for k in key if isinstance(k, np.ndarray)]
    if len({a.shape for a in arrays}) > 1:
        key = tuple(slice(None) if isinstance(k, np.ndarray) else k for k in key)
    x = mp.Tensor(np.random.default_rng(0).normal(size=shape), requires_grad=True)
    z = x[key]
    assert np.array_equal(z.data, x.data[key])
    dz = np.random.default_rng(1).normal(size=z.shape)
    expected = np.zeros(shape)
    np.add.at(expected, key, dz)
    z.backward(np.asarray(dz))
    np.testing.assert_allclose(x.grad, expected, rtol=1e-12, atol=1e-14)


@given(shape=st.lists(st.integers(1, 4), max_size=3), keep=st.booleans(), draw=st.data())
@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_reduction_over_any_axes(name, shape, keep, draw):
    n = len(shape)
    axes = draw.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1)) if n else []
    axes = [a - n if draw.draw(st.booleans()) else a for a in axes]
    axis = draw.draw(st.sampled_from([None, tuple(axes), *axes])) if axes else None
    x = np.random.default_rng(0).normal(size=shape)
    z = getattr(mp.ops, name)(mp.Tensor(x), axis, keep)
    np.testing.assert_allclose(z.data, getattr(x, name)(axis=axis, keepdims=keep), rtol=1e-12)
    mp.gradcheck(lambda y: getattr(mp.ops, name)(y, axis, keep), x)


@given(x=st.lists(st.integers(0, 3), max_size=2), y=st.lists(st.integers(0, 3), max_size=2), m=sizes, k=sizes, n=sizes)
def test_matrix_products_with_any_batch_axes(x, y, m, k, n):
    for i in range(1, min(len(x), len(y)) + 1):  # equal, or one of them 1
        if x[-i] != y[-i] and 1 not in (x[-i], y[-i]):
            y[-i] = 1
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(*x, m, k)), rng.normal(size=(*y, k, n))
    s, t = mp.Tensor(a, requires_grad=True), mp.Tensor(b, requires_grad=True)
    z = s @ t
    np.testing.assert_allclose(z.data, naive_matmul(a, b), rtol=1e-12, atol=1e-14)
    z.backward(np.ones(z.shape))
    assert (s.grad.shape, t.grad.shape) == (a.shape, b.shape)
    if z.size:
        mp.gradcheck(mp.ops.matmul, a, b)


@given(lead=st.lists(st.integers(0, 3), max_size=3), k=st.integers(0, 3), d=sizes)
def test_linear_with_any_leading_axes(lead, k, d):
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(*lead, k)), rng.normal(size=(d, k)), rng.normal(size=d)
    z = mp.ops.linear(mp.Tensor(x), mp.Tensor(weight), mp.Tensor(bias))
    np.testing.assert_allclose(z.data, naive_linear(x, weight, bias), rtol=1e-12, atol=1e-14)
    if z.size:
        mp.gradcheck(mp.ops.linear, x, weight, bias)


@given(lead=st.lists(st.integers(0, 3), max_size=2), V=sizes, block=st.integers(1, 4), draw=st.data())
def test_fused_head_of_any_shape_equals_the_loops(lead, V, block, draw):
    labels = np.array(
        [draw.draw(st.sampled_from([-100, *range(V)])) for _ in range(int(np.prod(lead)))], dtype=np.int64
    ).reshape(lead)
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(*lead, 2)), rng.normal(size=(V, 2)), rng.normal(size=V)

    def fused(x, w, b):
        return mp.ops.linear_cross_entropy(x, w, labels, b, block)

    if not (labels >= 0).any():
        with pytest.raises(ValueError, match="nothing to average"):
            fused(*map(mp.Tensor, (x, weight, bias)))
        return
    logits = naive_linear(x, weight, bias)
    kept = np.flatnonzero(labels.reshape(-1) >= 0)
    expected = naive_cross_entropy(logits.reshape(-1, V), kept, labels.reshape(-1)[kept])
    plain = mp.ops.cross_entropy(mp.Tensor(logits), labels).item()
    assert plain == pytest.approx(float(expected), rel=1e-12, abs=1e-14)
    assert fused(*map(mp.Tensor, (x, weight, bias))).item() == pytest.approx(float(expected), rel=1e-12, abs=1e-14)
    mp.gradcheck(fused, x, weight, bias)
