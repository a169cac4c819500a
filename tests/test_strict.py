"""The stand-in for a GPU refuses what would silently touch the host, counts what waits, and keeps NumPy's bits."""

import copy
import pickle

import numpy as np
import pytest
import strict
from strict import Syncs, strict_xp

from minipeft.backend import array_module, to_device, to_numpy

X = np.arange(6.0).reshape(2, 3)

REFUSED = {
    "np.asarray": lambda x: np.asarray(x),
    "np.array": lambda x: np.array(x),
    "np.array with a dtype": lambda x: np.array(x, dtype=np.float32),
    "np.frombuffer": lambda x: np.frombuffer(x),
    "memoryview": lambda x: memoryview(x),
    "the array interface": lambda x: x.__array_interface__,
    "the array struct": lambda x: x.__array_struct__,
    "DLPack": lambda x: np.from_dlpack(x),
    "a NumPy ufunc": lambda x: np.exp(x),
    "a NumPy ufunc with out": lambda x: np.exp(X, out=x),
    "a NumPy reduction": lambda x: np.sum(x),
    "np.concatenate": lambda x: np.concatenate([x, x]),
    "np.where": lambda x: np.where(X > 1, x, 0.0),
    "np.copyto": lambda x: np.copyto(X, x),
    "device + NumPy": lambda x: x + X,
    "NumPy + device": lambda x: X + x,
    "device @ NumPy": lambda x: x @ X.T,
    "NumPy @ device": lambda x: X.T @ x,
    "device += NumPy": lambda x: x.__iadd__(X),
    "NumPy += device": lambda x: X.__iadd__(x),
    "comparison with NumPy": lambda x: x > X,
    "comparison with 0-d NumPy": lambda x: x == np.array(1.0),
    "comparison with None": lambda x: x == None,  # noqa: E711
    "device + list": lambda x: x.__add__([1.0, 2.0, 3.0]),
    "index of NumPy": lambda x: x[np.array([0, 1])],
    "index of 0-d NumPy": lambda x: x[np.array(1)],
    "index list": lambda x: x[[0, 1]],
    "index list in a tuple": lambda x: x[:, [0, 1]],
    "mask of NumPy": lambda x: x[X > 1],
    "NumPy indexed by the device": lambda x: X[x.astype(np.int64)],
    "list indexed by the device": lambda x: [1, 2, 3][x[0, 0]],
    "slice bounds on the device": lambda x: x[: x.astype(np.int64)[0, 1]],
    "range": lambda x: range(x.astype(np.int64)[0, 1]),
    "assigning NumPy": lambda x: x.__setitem__(0, X[0]),
    "assigning a list": lambda x: x.__setitem__(0, [1.0, 2.0, 3.0]),
    "assigning the device to NumPy": lambda x: X.__setitem__(0, x[0]),
    "filling from NumPy": lambda x: x.fill(np.array(1.0)),
    "iteration": lambda x: list(x),
    "unpacking": lambda x: (lambda a, b: a)(*x),
    "membership": lambda x: 1.0 in x,
    "a hash": lambda x: {x: 1},
    "pickle": lambda x: pickle.dumps(x),
    "in-place matmul": lambda x: x.__imatmul__(x),
    "locking": lambda x: setattr(x.flags, "writeable", False),
    "a new shape in place": lambda x: setattr(x, "shape", (6,)),
    "a library ufunc of NumPy": lambda x: strict_xp.exp(X),
    "a library ufunc of both": lambda x: strict_xp.add(x, X),
    "a library ufunc of a number": lambda x: strict_xp.exp(1.0),
    "a library function of NumPy": lambda x: strict_xp.concatenate([x, X]),
    "a library function of a list": lambda x: strict_xp.sum([1.0, 2.0]),
    "uploading by asarray": lambda x: strict_xp.asarray(X),
    "out of NumPy": lambda x: strict_xp.exp(x, out=X),
    "out of NumPy by position": lambda x: strict_xp.exp(x, X),
    "out of a narrower kind": lambda x: strict_xp.exp(x, out=strict_xp.zeros((2, 3), dtype=np.int64)),
    "where= of a ufunc": lambda x: strict_xp.add(x, x, where=x > 0),
    "where= of a reduction": lambda x: x.sum(where=x > 0),
    "where= of a function": lambda x: strict_xp.max(x, where=x > 0, initial=0.0),
    "initial= of a reduction": lambda x: x.max(initial=0.0),
    "like=": lambda x: strict_xp.zeros(3, like=x),
    "maximum.reduce": lambda x: strict_xp.maximum.reduce(x),
    "maximum.accumulate": lambda x: strict_xp.maximum.accumulate(x),
    "maximum.reduceat": lambda x: strict_xp.maximum.reduceat(x, x.astype(np.int64)),
    "multiply.at": lambda x: strict_xp.multiply.at(x, 0, 2.0),
    "add.at with NumPy": lambda x: strict_xp.add.at(x, np.array([0]), 1.0),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_is_refused(use):
    x, before = to_device(X, "strict"), X.copy()
    with pytest.raises((TypeError, AttributeError, BufferError)):
        use(x)
    assert np.array_equal(X, before)
    assert np.array_equal(x._data, before)


@pytest.mark.parametrize(
    "name", ["vecdot", "matvec", "vecmat", "unstack", "errstate", "seterr", "nditer", "memmap", "erf", "random"]
)
def test_the_library_lacks_what_cupy_lacks(name):
    with pytest.raises(AttributeError, match=f"no '{name}'"):
        getattr(strict_xp, name)


def test_a_refusal_says_what_to_do():
    x = to_device(X, "strict")
    for use, words in (
        (lambda: np.asarray(x), "use to_numpy"),
        (lambda: np.exp(x), "operand|array_ufunc"),  # NumPy's own words
        (lambda: np.sum(x), "numpy.sum was called on a device array; call it through array_module"),
        (lambda: x + X, "met ndarray; move it with to_device first"),
        (lambda: x[[0]], "indexing a device array with list"),
        (lambda: strict_xp.add(x, x, where=True), "use xp.where"),
        (lambda: strict_xp.maximum.reduce(x), "only that of add and multiply"),
    ):
        with pytest.raises(TypeError, match=words):
            use()


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        int,
        repr,
        str,
        to_numpy,
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: f"{x:.3f}",
        lambda x: x if x > 0 else 0,
        lambda x: not x,
        lambda x: max(x, x),
    ],
)
def test_reading_a_value_is_counted(read):
    x = to_device(X, "strict")[1, 2]
    before = Syncs.count
    read(x)
    assert Syncs.count == before + 1


def test_computing_is_not_counted():
    x = to_device(X, "strict")
    before = Syncs.count, Syncs.sizes
    y = strict_xp.exp(-x) * 2.0 + x[:, 1:2]
    y[0] = 1.0
    y += strict_xp.where(x > 2, x, 0.0).sum(axis=0, keepdims=True) / x.max()
    assert y.shape == (2, 3)
    assert len(y) == 2
    assert (Syncs.count, Syncs.sizes) == before


def test_a_shape_that_depends_on_values_is_counted():
    x = to_device(X, "strict")
    before = Syncs.sizes
    assert x[x > 2].shape == (3,)
    assert strict_xp.flatnonzero(x).shape == (5,)
    assert len(strict_xp.where(x > 2)) == 2
    x[x > 4] = 0.0  # a number goes wherever the mask says, without a count of it
    assert Syncs.sizes == before + 3


def test_a_host_array_is_a_copy_both_ways():
    source = X.copy()
    x = to_device(source, "strict")
    source += 1
    back = to_numpy(x)
    back += 2
    assert np.array_equal(x._data, X)


def test_reductions_and_elements_are_arrays_without_axes():
    x = to_device(X.astype(np.float32), "strict")
    for z in (x.sum(), x.mean(), x[0, 1], x.max(), strict_xp.sum(x), strict_xp.add(x[0, 0], 1.0), x.argmax()):
        assert isinstance(z, strict.StrictArray)
        assert z.shape == ()
    assert x.sum().dtype == np.float32


EQUAL = {
    "operators": lambda xp, x, i: (2.0 - x) / (x * x + 1.0) ** 2 @ x.T,
    "in place": lambda xp, x, i: x.__imul__(3.0).__isub__(x[:1]),
    "NumPy numbers keep their dtype": lambda xp, x, i: x * np.float64(0.1),
    "NumPy numbers before": lambda xp, x, i: np.float64(0.1) * x,
    "Python numbers have none": lambda xp, x, i: x * 0.1,
    "views": lambda xp, x, i: x.T[::-1, None, ...].reshape(-1).swapaxes(0, 0),
    "sum": lambda xp, x, i: x.sum(axis=0, keepdims=True),
    "std": lambda xp, x, i: x.std(axis=1),
    "ufunc": lambda xp, x, i: xp.tanh(x),
    "ufunc with out": lambda xp, x, i: xp.multiply(x, 2.0, out=x),
    "ufunc with out by position": lambda xp, x, i: xp.multiply(x, 2.0, x),
    "ufunc into a wider type": lambda xp, x, i: xp.exp(x, out=xp.zeros((5, 7), dtype=np.float64)),
    "matmul with out": lambda xp, x, i: xp.matmul(x.T, x, out=xp.empty((7, 7), dtype=x.dtype)),
    "rows by index": lambda xp, x, i: x[i],
    "entries by two indices": lambda xp, x, i: x[i, i + 1],
    "mask": lambda xp, x, i: x[x > 0],
    "where": lambda xp, x, i: xp.where(x > 0, x, -1.0),
    "scatter": lambda xp, x, i: xp.add.at(x, i, 1.5) or x,
    "segments": lambda xp, x, i: xp.add.reduceat(x, xp.asarray([0, 2, 3]), axis=0),
    "reduce": lambda xp, x, i: xp.multiply.reduce(x, axis=1) + xp.add.accumulate(x, axis=1)[:, 0],
    "parts": lambda xp, x, i: xp.concatenate(xp.split(x, [2, 5], axis=1)[::-1], axis=1),
    "order": lambda xp, x, i: xp.argsort(x, axis=1, kind="stable"),
    "types": lambda xp, x, i: x.astype(xp.float64).view(np.int64),
}


@pytest.mark.parametrize("use", EQUAL.values(), ids=EQUAL)
def test_results_have_the_bits_and_the_type_of_numpy(use, rng, on_device, assert_agrees):
    data, index = rng.normal(size=(5, 7)).astype(np.float32), np.array([3, 1, 1])
    expected = use(np, data.copy(), index)
    x, i = on_device((data, index))
    assert_agrees(use(array_module(x), x, i), expected)


def test_views_know_the_array_that_owns_their_memory():
    x = to_device(X, "strict")
    assert x.base is None
    assert x[1:].T.base is x
    assert x.reshape(3, 2).reshape(6).base is x
    assert (x + 1.0).base is None
    y = strict_xp.zeros(4)
    assert strict_xp.exp(y, out=y) is y
    assert strict_xp.may_share_memory(x, x[1:])
    assert copy.deepcopy(x).base is None


def test_out_must_have_the_shape_of_the_result():
    x = to_device(X, "strict")
    for out in (x, strict_xp.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match="out has shape"):
            strict_xp.exp(x[:1], out=out)


def test_an_index_out_of_bounds_is_an_error_where_cupy_would_wrap_around():
    with pytest.raises(IndexError):
        to_device(X, "strict")[to_device(np.array([2]), "strict")]


def test_writing_two_values_to_one_place_is_refused():
    x, repeated = to_device(X, "strict"), to_device(np.array([1, 1]), "strict")
    with pytest.raises(ValueError, match="repeated"):
        x[repeated] = x
    with pytest.raises(ValueError, match="repeated"):
        x[repeated] += x
    x[repeated] = 5.0  # one value: no matter which is last
    assert np.array_equal(x._data, [[0, 1, 2], [5, 5, 5]])


@pytest.mark.gpu
def test_cupy_has_whatever_the_stand_in_has():
    cupy = pytest.importorskip("cupy")
    for name in (*strict_xp.UFUNCS, *strict_xp.CREATING, *strict_xp.WAITING, *strict_xp.FUNCTIONS, *strict_xp.PLAIN):
        assert hasattr(cupy, name), name
    for name in strict_xp.UFUNCS:
        assert callable(getattr(cupy, name))
    properties = [n for n, v in vars(strict.StrictArray).items() if isinstance(v, property)]
    for name in (*strict.OPERATORS, *strict.METHODS, *properties, "base", "item", "tolist", "fill"):
        assert hasattr(cupy.ndarray, name), name
