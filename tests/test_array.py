"""The one place that knows NumPy from CuPy."""

import math
import os
import signal
import threading
import time
from contextvars import copy_context

import numpy as np
import pytest
import strict
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft import backend as arr
from minipeft.backend import arrays
from minipeft.backend.cuda import NoGpuError
from minipeft.ops.normal import normal_cdf


@given(n=st.integers(1, 6), ids=st.lists(st.integers(0, 5), max_size=20), width=st.integers(1, 3))
def test_scatter_add_equals_a_loop(n, ids, width):
    index = np.array([i % n for i in ids], dtype=np.int64)
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(len(ids), width))
    target = rng.normal(size=(n, width))
    expected = target.copy()
    for i, u in zip(index, updates, strict=True):
        expected[i] += u
    arr.scatter_add(target, index, updates)
    np.testing.assert_allclose(target, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
def test_scatter_add_into_any_target(shape, layout, device, rng):
    wide = rng.normal(size=(10, *shape)).astype(np.float32)
    target = {"contiguous": wide, "strided": wide[::2], "transposed": np.asfortranarray(wide)}[layout]
    index = rng.integers(0, 5, size=40)
    updates = rng.normal(size=(40, *shape)).astype(np.float32)
    expected = target.astype(np.float64)
    np.add.at(expected, index, updates.astype(np.float64))
    moved = arr.to_device(target, device)
    arr.scatter_add(moved, arr.to_device(index, device), arr.to_device(updates, device))
    assert moved.dtype == np.float32
    np.testing.assert_allclose(arr.to_numpy(moved), expected, rtol=1e-5, atol=1e-5)


def test_scatter_add_gives_the_same_bits_each_time(rng):
    index, updates = rng.integers(0, 5, size=400), rng.normal(size=(400, 3)).astype(np.float32)
    sums = [np.zeros((5, 3), np.float32) for _ in range(3)]
    for total in sums:
        arr.scatter_add(total, index, updates)
    assert np.array_equal(sums[0], sums[1])
    assert np.array_equal(sums[0], sums[2])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((4,), (1, 4)), ((0,), (1, 0)), ((3, 4), (3, 4)), ((2, 3, 4), (6, 4)), ((2, 3, 0), (6, 0))],
)
def test_rows_of_any_array(shape, expected):
    x = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    assert arr.rows(x).shape == expected
    assert np.array_equal(arr.rows(x).ravel(), x.ravel())
    assert np.shares_memory(arr.rows(x), x) or not x.size


def test_aliases_are_seen_on_every_device(device, rng):
    x = arr.to_device(rng.normal(size=(4, 6)), device)
    assert arr.aliases(x, x)
    assert arr.aliases(x, x[1:])
    assert arr.aliases(x.T, x.reshape(-1))
    assert not arr.aliases(x, x.copy())
    assert not arr.aliases(x[:2], x[2:])


@given(rows=st.integers(0, 50), columns=st.integers(1, 9), size=st.integers(1, 400))
def test_row_blocks_cover_every_row_once(rows, columns, size):
    x = np.zeros((rows, columns))
    for block in arr.row_blocks(x, size):
        x[block] += 1
    assert (x == 1).all()


def test_flops_are_counted_exactly_and_by_phase(rng):
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5))
    count = arr.FlopCount()
    arr.matmul(a, b)
    with arr.counting(count):
        arr.matmul(a, b)
        with arr.backward_phase():
            arr.matmul(b, rng.normal(size=(5, 7)), out=np.empty((4, 7)))
    arr.matmul(a, b)
    assert (count.forward, count.backward, count.total) == (2 * 2 * 3 * 4 * 5, 2 * 4 * 5 * 7, 240 + 280)


def test_counts_inside_counts_see_their_part(rng):
    a = rng.normal(size=(2, 3))
    with arr.counting(arr.FlopCount()) as outer:
        arr.matmul(a, a.T)
        with arr.counting(arr.FlopCount()) as inner, arr.backward_phase():
            arr.matmul(a.T, a)
        with pytest.raises(KeyError), arr.counting(inner):
            arr.matmul(a, a.T)
            raise KeyError
        with arr.counting(outer):
            arr.matmul(a, a.T)
    assert (inner.forward, inner.backward) == (24, 36)
    assert (outer.forward, outer.backward) == (72, 36)


def test_threads_that_share_a_count_lose_nothing():
    a = np.ones((2, 2))
    with arr.counting(arr.FlopCount()) as count:
        contexts = [copy_context() for _ in range(4)]
    threads = [
        threading.Thread(target=c.run, args=(lambda: [arr.matmul(a, a) for _ in range(2000)],)) for c in contexts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.forward == 4 * 2000 * 16


@pytest.mark.parametrize(
    ("build", "forward", "backward"),
    [
        (lambda x, w: mp.ops.linear(x, w), 2 * 6 * 4 * 5, 2 * (2 * 6 * 4 * 5)),
        (lambda x, w: mp.ops.linear(x.detach(), w), 240, 240),
        (lambda x, w: x @ w.T, 240, 480),
        (
            lambda x, w: mp.ops.attention(*(x.reshape(1, 2, 3, 4),) * 3),
            2 * (2 * 2 * 3 * 3 * 4),
            4 * (2 * 2 * 3 * 3 * 4),
        ),
        (lambda x, w: mp.ops.linear_cross_entropy(x, w, np.array([[0, 1, -100], [-100, 2, 4]]), block=3), 160, 320),
    ],
)
def test_flops_of_an_operation_are_those_of_its_products(build, forward, backward, rng):
    x = mp.Tensor(rng.normal(size=(2, 3, 4)), requires_grad=True)
    w = mp.Tensor(rng.normal(size=(5, 4)), requires_grad=True)
    with arr.counting(arr.FlopCount()) as count:
        z = build(x, w)
        z.backward(np.ones(z.shape))
    assert (count.forward, count.backward) == (forward, backward)


def test_counting_in_one_thread_does_not_count_another(rng):
    count = arr.FlopCount()
    with arr.counting(count):
        thread = threading.Thread(target=lambda: arr.matmul(np.ones((3, 3)), np.ones((3, 3))))
        thread.start()
        thread.join()
    assert count.total == 0


def test_normal_distribution_equals_the_error_function():
    x = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 1e-300, -1e-300, 40.0, -40.0]])
    exact = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    assert np.abs(normal_cdf(x)[0] - exact).max() < 1e-15
    single = x.astype(np.float32)
    exact = np.array([0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in single])
    for fewer in (single, single[::-7], single.reshape(-1, 1)):
        assert normal_cdf(fewer)[0].dtype == np.float32
    assert np.abs(normal_cdf(single)[0] - exact).max() < 2e-7


def test_sums_as_products_with_ones(rng):
    x = rng.normal(size=(5, 7))
    np.testing.assert_allclose(arr.row_sum(x), x.sum(1, keepdims=True))
    np.testing.assert_allclose(arr.column_sum(x), x.sum(0))


def test_a_false_alarm_of_the_product_is_not_told(rng):
    class Alarming:  # what OpenBLAS does by chance: the right product, and the flag of an invalid operation
        @staticmethod
        def matmul(a, b, out=None):
            np.float32(np.inf) * np.float32(0)
            return a @ b

    five, six = (rng.normal(size=(3, n)).astype(np.float32) for n in (5, 6))
    np.testing.assert_array_equal(arr.product(Alarming, five, five.T), five @ five.T)
    for other in (six, five.astype(np.float64)):
        with pytest.warns(RuntimeWarning, match="invalid value"):
            arr.product(Alarming, other, other.T)


def test_moving_between_devices(rng):
    x = rng.normal(size=3)
    moved = arr.to_device(x, "strict")
    assert isinstance(moved, strict.StrictArray)
    assert arr.to_device(moved, "strict") is moved
    assert arr.device_of(moved) == "strict"
    assert arr.array_module(moved) is strict.strict_xp
    assert np.array_equal(arr.to_numpy(moved), x)
    assert arr.to_device(x, "cpu") is x
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        arr.to_device(x, "tpu")
    with pytest.raises(TypeError, match="expected an array"):
        arr.array_module("text")


def test_a_missing_cupy_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    monkeypatch.delitem(arrays._by_name, "cuda", raising=False)
    with pytest.raises(NoGpuError, match=r'-e "\.\[gpu\]"'):
        arr.to_device(np.ones(2), "cuda")


def test_a_generator_passes_through():
    rng = np.random.default_rng(1)
    assert arr.generator(rng) is rng
    assert arr.generator(5).random() == np.random.default_rng(5).random()


def test_a_strict_array_has_a_module_of_numpy_functions_only_where_cupy_has_them():
    for name in ("vecdot", "errstate", "nditer", "einsum", "unstack"):
        assert not hasattr(strict.strict_xp, name)


def test_threads_are_the_same_at_every_call():
    both = threading.Barrier(2)

    def me():
        both.wait()  # so that neither thread takes both calls
        return threading.get_ident()

    first, second = (arr.side_by_side([me, me]) for _ in range(2))
    assert len(set(first)) == 2
    assert set(first) == set(second)
    assert threading.get_ident() not in first


def test_what_a_call_raises_is_raised_once_all_have_ended():
    ended = []

    def slow():
        time.sleep(0.05)
        ended.append("slow")

    def bad():
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        arr.side_by_side([bad, slow])
    assert ended == ["slow"]


def test_calls_see_the_callers_context():
    with arr.counting(arr.FlopCount()) as count:
        arr.side_by_side([lambda: arr.matmul(np.ones((2, 3)), np.ones((3, 4)))] * 3)
    assert count.total == 3 * 2 * 2 * 3 * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_has_threads_of_its_own():
    arr.side_by_side([int, int])
    child = os.fork()
    if child == 0:
        os._exit(0 if arr.side_by_side([lambda: 1, lambda: 2]) == [1, 2] else 1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the forked process waited for threads that it does not have")
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("shape", [(5, 1), (3, 7), (4, 2048), (2, 2049)])
def test_the_largest_entry_of_each_row(shape, rng):
    x = rng.normal(size=shape).astype(np.float32)
    x[1, -1] = -np.inf
    np.testing.assert_array_equal(arr.row_max(x), x.max(axis=1, keepdims=True))
    x[0, 0] = np.nan
    assert np.isnan(arr.row_max(x)[0, 0])
