"""Every Function against three oracles: naive loops, central differences, and the contract of a backward."""

import numpy as np
import pytest
import strict
from functions import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

import minipeft as mp
from minipeft.array import to_device, to_numpy
from minipeft.autograd import Context, Function

cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def floats(args, constants=()):
    return [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype.kind == "f" and i not in constants]


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
    assert {f.__name__ for f in all_functions()} == {c.function.__name__ for c in CASES}


@cases
def test_forward_equals_the_naive_loops(case, rng):
    args = case.arguments(rng)
    z = case.function.forward(Context(*[False] * len(args)), *args)
    np.testing.assert_allclose(z, case.naive(*args), rtol=1e-10, atol=1e-12)


@cases
def test_gradient_equals_central_differences(case, rng):
    check_gradient(case, case.arguments(rng))


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
def test_device_gives_the_same_bits_without_a_synchronization(case, dtype, rng):
    args = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in case.arguments(rng)]
    wanted = floats(args, case.constants)
    shape = case.function.forward(Context(*[False] * len(args)), *args).shape
    for bits in range(1, 2 ** len(wanted)):
        needs = [i in wanted and bool(bits >> wanted.index(i) & 1) for i in range(len(args))]
        results = []
        for device in ("cpu", "strict"):
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
                assert np.array_equal(np.asarray(a), to_numpy(b))


shapes = st.lists(st.integers(0, 3), min_size=0, max_size=3)


@settings(max_examples=60, deadline=None)
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
