"""The kernels for a GPU: compiled by nvcc where it is there, run on the host, and held to the NumPy forms."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import emulate
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minipeft.autograd import Context
from minipeft.backend import has_kernels, kernels, kernels_of, matmul, to_device, to_numpy
from minipeft.backend.cuda import ADDRESSES
from minipeft.ops.activation import CURVES, curve
from minipeft.ops.attention import mask_bias
from minipeft.ops.softmax import Softmax, stable_softmax

both = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
widths = pytest.mark.parametrize("width", [1, 5, 32, 33, 257, 700])
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def close(result, expected, dtype, scale=1.0):
    host = to_numpy(result)
    assert host.dtype == dtype
    assert host.shape == expected.shape
    tolerance = (1e-5 if dtype == np.float32 else 1e-12) * scale
    np.testing.assert_allclose(host, expected, rtol=tolerance, atol=tolerance)


# compiling


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="compiling CUDA C needs nvcc on the PATH")
@both
def test_every_kernel_compiles_and_float_stays_float(dtype, tmp_path):
    (tmp_path / "kernels.cu").write_text(kernels.source(dtype) + ADDRESSES, encoding="utf-8")
    command = ["nvcc", "-arch=sm_80", "-ptx", "-Werror", "all-warnings", "kernels.cu", "-o", "kernels.ptx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entries = re.split(r"\.visible \.entry ", (tmp_path / "kernels.ptx").read_text())[1:]
    assert {e.split("(")[0] for e in entries} == {*emulate.parameters(kernels.source(dtype)), "addresses"}
    if dtype == np.float32:
        in_double = {e.split("(")[0] for e in entries if re.search(r"\b(add|sub|mul|div|fma|sqrt)\S*\.f64", e)}
        assert in_double <= {"squares", "adamw"}  # a sum that is kept in double, and numbers made once a thread


def test_all_kernels_are_run_by_some_test():
    names = set(emulate.parameters(kernels.source(np.float32)))
    text = Path(kernels.__file__).read_text(encoding="utf-8")
    for name in names:
        stem = re.sub(r"_(gelu|gelu_tanh|silu|relu|tanh)$", "_{name}", name)
        assert f'"{stem}"' in text, f"no function of kernels.py launches {name}"


# the stand-in for a GPU is strict


HURDLE = """
typedef float T;
extern "C" __global__ void hurdle(T* x) { if (threadIdx.x != 3) __syncthreads(); x[threadIdx.x] = 1; }
"""
TURN = """
typedef float T;
extern "C" __global__ void turn(T* x)
{
    __shared__ T all[64];
    all[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = all[(threadIdx.x + 40) % 64] + __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
}
"""


@pytest.fixture
def emulated():
    if emulate.COMPILER is None:
        pytest.skip("running the kernels of a GPU on the host needs g++ or clang++")
    return emulate.device


def test_a_wait_that_some_thread_misses_is_an_error(emulated):
    x = emulated.upload(np.zeros(32, np.float32))
    with pytest.raises(RuntimeError, match="hurdle: a thread waits for others"):
        emulated.launch(HURDLE, "hurdle", (1, 1), 32, [x])


def test_threads_of_a_block_see_each_other(emulated):
    x = emulated.upload(np.arange(64, dtype=np.float32))
    emulated.launch(TURN, "turn", (1, 1), 64, [x])
    i = np.arange(64)
    np.testing.assert_array_equal(to_numpy(x), (i + 40) % 64 + (i ^ 1))


def test_an_argument_of_another_type_is_refused(emulated):
    x = emulated.upload(np.zeros(4, np.float32))
    for args in ([x, x, kernels.NULL, 4], [x, x, x, np.int32(4)], [x, emulated.upload(np.zeros(4)), x, np.int64(4)]):
        with pytest.raises(AssertionError):
            emulated.launch(kernels.source(np.float32), "activate_silu", (1, 1), 32, args)
    assert np.array_equal(to_numpy(x), np.zeros(4))


# each kernel beside its NumPy form


@both
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (5, 7, 11), (1000,)])
def test_activation_and_its_slope(name, shape, dtype, gpu, rng):
    x = np.asarray(3 * rng.normal(size=shape)).astype(dtype)
    z, slope = (a.reshape(shape) for a in curve(name)(x.astype(np.float64).reshape(1, -1)))
    for want in (True, False):
        ours, derivative = kernels.activation(to_device(x, gpu), name, want)
        close(ours, z, dtype)
        assert want or derivative is None
        if want:
            close(derivative, slope, dtype)


@both
def test_activation_of_any_strides_and_of_extremes(dtype, gpu, rng):
    x = to_device(rng.normal(size=(4, 6)).astype(dtype), gpu)
    for view in (x.T, x[::-1, ::2], x[:, 1:3]):
        close(kernels.activation(view, "gelu_tanh", False)[0], curve("gelu_tanh")(to_numpy(view))[0], dtype)
    wild = to_device(np.array([-np.inf, np.inf, np.nan, -1e30, 1e30], dtype), gpu)
    assert np.isnan(to_numpy(kernels.activation(wild, "relu", False)[0])).tolist() == [False, False, True, False, False]
    for name in CURVES:
        z = to_numpy(kernels.activation(wild[3:], name, False)[0])
        assert np.isfinite(z).all(), name
        assert abs(z[0]) <= 1


@both
@pytest.mark.parametrize("name", CURVES)
def test_gate(name, dtype, gpu, rng):
    g, u = rng.normal(size=(2, 3, 7)).astype(dtype)
    value, slope = curve(name)(g.astype(np.float64))
    z, to_g, to_u = kernels.gate(to_device(g, gpu), to_device(u, gpu), name, True, True)
    close(z, value * u, dtype)
    close(to_g, slope * u, dtype)
    close(to_u, value, dtype)
    assert kernels.gate(to_device(g, gpu), to_device(u, gpu), name, False, False)[1:] == (None, None)


@both
@widths
@pytest.mark.parametrize("centre", [True, False])
def test_normalization_and_its_gradient(centre, width, dtype, gpu, rng):
    x, dz = rng.normal(size=(2, 3, width)) + 2.0 * centre
    gamma, beta = rng.normal(size=(2, width))
    x, dz, gamma, beta = (v.astype(dtype) for v in (x, dz, gamma, beta))
    exact = x.astype(np.float64)
    centred = exact - centre * exact.mean(axis=1, keepdims=True)
    r = 1.0 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-3)
    hat = centred * r
    moved = [to_device(v, gpu) for v in (x, gamma, beta)]
    z, x_hat, rstd = kernels.norm(*moved[:2], moved[2] if centre else None, 1e-3, centre, True)
    close(z, hat * gamma + centre * beta, dtype, 10)
    close(x_hat, hat, dtype, 10)
    close(rstd, r, dtype, 10)
    lean, same, _ = kernels.norm(*moved[:2], moved[2] if centre else None, 1e-3, centre, False)
    assert same is lean
    close(lean, hat * gamma + centre * beta, dtype, 10)
    g = dz * gamma.astype(np.float64)
    expected = (g - centre * g.mean(axis=1, keepdims=True) - hat * (g * hat).mean(axis=1, keepdims=True)) * r
    close(kernels.norm_backward(to_device(dz, gpu), x_hat, rstd, moved[1], centre), expected, dtype, 50)


def masked_softmax(s, causal, mask):
    bias = mask_bias(s, *s.shape[2:], causal, mask)
    return stable_softmax(s if bias is None else s + bias)


@both
@widths
def test_softmax_and_its_gradient(width, dtype, gpu, rng):
    s = (5 * rng.normal(size=(2, 3, 2, width))).astype(dtype)
    expected = masked_softmax(s.astype(np.float64), False, None)
    p = to_device(s, gpu)
    kernels.softmax(p, False, None)
    close(p, expected, dtype)
    dp = rng.normal(size=s.shape).astype(dtype)
    ds = to_device(dp, gpu)
    kernels.softmax_backward(p.reshape(-1, width), ds.reshape(-1, width))
    ctx = Context(True, False)
    ctx.save(expected, -1)
    close(ds, Softmax.backward(ctx, dp.astype(np.float64))[0], dtype, 10)


@many
@given(
    B=st.integers(1, 2), H=st.integers(1, 3), N=st.integers(1, 5), S=st.integers(1, 40), causal=st.booleans(),
    axes=st.none() | st.lists(st.booleans(), min_size=4, max_size=4), seed=st.integers(0, 99),
)  # fmt: skip
def test_softmax_under_any_mask(B, H, N, S, causal, axes, seed, gpu):
    rng = np.random.default_rng(seed)
    s = rng.normal(size=(B, H, N, S))
    mask = None
    if axes is not None:
        mask = rng.random([n if full else 1 for n, full in zip((B, H, N, S), axes)]) > 0.4
    for view in (slice(None), slice(None, None, -1)):
        seen = None if mask is None else mask[..., view]
        p = to_device(s, gpu)
        kernels.softmax(p, causal, None if mask is None else to_device(mask, gpu)[..., view])
        causal_here = causal and (N > 1 or S < N)  # one query sees all keys, as in mask_bias
        close(p, masked_softmax(s, causal_here, seen), np.float64)


@both
def test_softmax_of_rows_without_a_finite_score_and_of_nan(dtype, gpu):
    s = np.array([[-np.inf, -np.inf], [-np.inf, 3], [np.nan, 1], [np.finfo(dtype).max, 0]], dtype)[None, None]
    p = to_device(s, gpu)
    kernels.softmax(p, False, None)
    np.testing.assert_array_equal(to_numpy(p)[0, 0], [[0, 0], [0, 1], [np.nan, np.nan], [1, 0]])


@both
@pytest.mark.parametrize("labels", [np.int64, np.int32])
@pytest.mark.parametrize("V", [1, 5, 33, 1000, 9000])
def test_cross_entropy_turns_logits_into_their_gradient(V, labels, dtype, gpu, rng):
    s = (4 * rng.normal(size=(3, V))).astype(dtype)
    y = np.array([V - 1, 0, V // 2], labels)
    exact = s.astype(np.float64)
    p = np.exp(exact - exact.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    losses = -np.log(p[np.arange(3), y])
    onehot = np.arange(V) == y[:, None]
    logits = to_device(s, gpu)
    close(kernels.cross_entropy(logits, to_device(y, gpu), False), losses, dtype, 10)
    np.testing.assert_array_equal(to_numpy(logits), s)
    close(kernels.cross_entropy(logits, to_device(y, gpu), True, 0.25), losses, dtype, 10)
    close(logits, 0.25 * (p - onehot), dtype)


@both
def test_adamw_of_several_tensors_in_one_launch(dtype, gpu, rng):
    sizes, decays = [(3,), (2, 5), (), (40, 30)], [0.1, 0.0, 0.1, 0.0]
    start = [[np.asarray(rng.normal(size=n)).astype(dtype) for n in sizes] for _ in range(2)]
    m = [np.zeros(n, dtype) for n in sizes]
    v = [np.zeros(n, dtype) for n in sizes]
    tensors = [tuple(to_device(a, gpu) for a in four) for four in zip(*start, m, v, strict=True)]
    x = [a.astype(np.float64) for a in start[0]]
    first, second = [a.astype(np.float64) for a in m], [a.astype(np.float64) for a in v]
    for step in (1, 2, 3):
        kernels.adamw(tensors, decays, 0.01, (0.9, 0.99), 1e-6, step)
        for i, g in enumerate(start[1]):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.99 * second[i] + 0.01 * g.astype(np.float64) ** 2
            direction = first[i] / (1 - 0.9**step) / (np.sqrt(second[i] / (1 - 0.99**step)) + 1e-6)
            x[i] = x[i] * (1 - 0.01 * decays[i]) - 0.01 * direction
    for (ours, _, m1, v1), *exact in zip(tensors, x, first, second, strict=True):
        for a, b in zip((ours, m1, v1), exact, strict=True):
            close(a, b, dtype, 10)


@both
def test_squares_and_scaling_of_several_arrays(dtype, gpu, rng):
    arrays = [np.asarray(rng.normal(size=n)).astype(dtype) for n in [(7,), (3, 400), (), (0,)]]
    moved = [to_device(a, gpu) for a in arrays]
    total = kernels.squares(moved)
    assert total.dtype == np.float64
    assert float(total) == pytest.approx(sum((a.astype(np.float64) ** 2).sum() for a in arrays), rel=1e-12)
    kernels.scale(moved, 0.5)
    for a, b in zip(arrays, moved, strict=True):
        np.testing.assert_array_equal(to_numpy(b), a * dtype(0.5))


# products of batches, without a copy of views


LAYOUTS = {
    "by rows": lambda x: x,
    "heads beside each other": lambda x: np.ascontiguousarray(x.swapaxes(-3, -2)).swapaxes(-3, -2),
    "transposed": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "part of wider rows": lambda x: np.concatenate([x, x + 1], axis=-1)[..., : x.shape[-1]],
    "backwards": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
}


@pytest.mark.parametrize("out", [None, "by rows", "heads beside each other", "transposed", "backwards"])
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_batched_product_of_any_layout(left, right, out, gpu, rng):
    a, b = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 5, 6))
    x, y = placed(a, left, gpu), placed(b, right, gpu)
    target = None if out is None else placed(np.zeros((2, 3, 4, 6)), out, gpu)
    z = matmul(x, y, out=target)
    assert target is None or z is target
    np.testing.assert_allclose(to_numpy(z), a @ b, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(to_numpy(x), a)
    np.testing.assert_array_equal(to_numpy(y), b)


def placed(x, layout, device):
    """x on the device, in this layout there."""
    host = LAYOUTS[layout](x)
    base = host if host.base is None else host.base
    while base.base is not None:
        base = base.base
    offset = (host.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // x.itemsize
    flat = to_device(np.ascontiguousarray(base.reshape(-1) if base.flags.c_contiguous else base.T.reshape(-1)), device)
    return strided(flat, offset, host)


def strided(flat, offset, host):
    if hasattr(flat, "_data"):
        view = np.lib.stride_tricks.as_strided(flat._data[offset:], host.shape, host.strides)
        return type(flat)(view)
    import cupy

    return cupy.lib.stride_tricks.as_strided(flat[offset:], host.shape, host.strides)


@many
@given(
    x=st.lists(st.integers(0, 3), max_size=2), y=st.lists(st.integers(0, 3), max_size=2), m=st.integers(0, 3),
    k=st.integers(0, 3), n=st.integers(0, 3),
)  # fmt: skip
def test_batched_product_with_any_batch_axes(x, y, m, k, n, gpu):
    for i in range(1, min(len(x), len(y)) + 1):
        if x[-i] != y[-i] and 1 not in (x[-i], y[-i]):
            y[-i] = 1
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(*x, m, k)), rng.normal(size=(*y, k, n))
    z = matmul(to_device(a, gpu), to_device(b, gpu))
    assert z.shape == (a @ b).shape
    np.testing.assert_allclose(to_numpy(z), a @ b, rtol=1e-12, atol=1e-12)


def test_a_product_of_heads_is_two_launches_and_copies_nothing(emulated, rng, monkeypatch):
    import strict

    from minipeft.backend import register

    register(emulate.backend)
    try:
        q, k = (to_device(rng.normal(size=(2, 7, 3, 4)), "emulated").transpose(0, 2, 1, 3) for _ in range(2))
        out = to_device(np.zeros((2, 7, 3, 7)), "emulated").transpose(0, 2, 1, 3)
        refuse = lambda *_, **__: pytest.fail("a copy was made")  # noqa: E731
        monkeypatch.setitem(vars(strict.strict_xp), "ascontiguousarray", refuse)
        emulated.launches.clear()
        matmul(q, k.swapaxes(-1, -2), out=out)
        assert emulated.launches == ["addresses", "gemm_batched"]
        emulated.launches.clear()
        matmul(q, k.swapaxes(-1, -2), out=out)
        assert emulated.launches == ["gemm_batched"]  # the addresses of these places are known
    finally:
        register(strict.backend)


def test_a_batched_product_says_what_does_not_fit(gpu, rng):
    a, b = (to_device(rng.normal(size=s), gpu) for s in ((2, 3, 4), (2, 4, 5)))
    with pytest.raises(ValueError, match=r"matmul: float64 \(2, 3, 4\) does not go with float64 \(2, 3, 4\)"):
        matmul(a, a)
    with pytest.raises(ValueError, match="does not go with float32"):
        matmul(a, b.astype(np.float32))
    with pytest.raises(ValueError, match=r"out is float64 \(2, 3, 4\), the product float64 \(2, 3, 5\)"):
        matmul(a, b, out=a)


def test_only_a_gpu_has_kernels(device, rng):
    x = to_device(rng.normal(size=3), device)
    assert has_kernels(x) == (device in ("emulated", "cuda"))
    if not has_kernels(x):
        with pytest.raises(TypeError, match=f"device {device!r} has no kernels"):
            kernels_of(x)
    assert math.isfinite(float(x.sum()))
