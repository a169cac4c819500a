"""The one place that knows NumPy from CuPy."""

import math
import threading

import numpy as np
import pytest
import strict
from hypothesis import given, settings
from hypothesis import strategies as st

from minipeft import array as arr
from minipeft.ops.activation import normal_cdf


@settings(max_examples=80, deadline=None)
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


@settings(max_examples=50, deadline=None)
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


def test_counting_in_one_thread_does_not_count_another(rng):
    count = arr.FlopCount()
    with arr.counting(count):
        thread = threading.Thread(target=lambda: arr.matmul(np.ones((3, 3)), np.ones((3, 3))))
        thread.start()
        thread.join()
    assert count.total == 0


def test_normal_distribution_equals_the_error_function():
    x = np.linspace(-12, 12, 4001)
    exact = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    assert np.abs(normal_cdf(x)[0] - exact).max() < 2e-15
    assert np.abs(normal_cdf(x.astype(np.float32))[0] - exact).max() < 2e-7


def test_sums_as_products_with_ones(rng):
    x = rng.normal(size=(5, 7))
    np.testing.assert_allclose(arr.row_sum(x), x.sum(1, keepdims=True))
    np.testing.assert_allclose(arr.column_sum(x), x.sum(0))


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
    monkeypatch.delitem(arr._by_name, "cuda", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"minipeft\[gpu\]"):
        arr.to_device(np.ones(2), "cuda")


def test_a_generator_passes_through():
    rng = np.random.default_rng(1)
    assert arr.generator(rng) is rng
    assert arr.generator(5).random() == np.random.default_rng(5).random()


def test_a_strict_array_has_a_module_of_numpy_functions_only_where_cupy_has_them():
    for name in ("vecdot", "errstate", "nditer", "einsum", "unstack"):
        assert not hasattr(strict.strict_xp, name)
