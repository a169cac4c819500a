"""The stand-in for a GPU refuses what would silently touch the host."""

import numpy as np
import pytest
import strict

from minipeft.array import to_device

X = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: np.asarray(x),
        lambda x: np.array(x),
        lambda x: np.exp(x),
        lambda x: np.sum(x),
        lambda x: np.concatenate([x, x]),
        lambda x: x + X,
        lambda x: X + x,
        lambda x: x @ X.T,
        lambda x: x[np.array([0, 1])],
        lambda x: x[[0, 1]],
        lambda x: x.__setitem__(0, X[0]),
        lambda x: X.__iadd__(x),
        lambda x: strict.strict_xp.exp(X),
        lambda x: strict.strict_xp.add(x, x, where=x > 0),
        lambda x: strict.strict_xp.maximum.reduceat(x, x),
        lambda x: list(x),
        lambda x: memoryview(x),
        lambda x: [1, 2, 3][x[0, 0]],
    ],
)
def test_what_is_refused(use):
    with pytest.raises((TypeError, AttributeError)):
        use(to_device(X, "strict"))


def test_synchronizations_are_counted():
    x = to_device(X, "strict")
    strict.Syncs.count = 0
    assert float(x.sum()) == 15.0
    assert bool((x > 4).max())
    assert x[0, 1].item() == 1.0
    assert strict.Syncs.count == 3


def test_reductions_stay_on_the_device_with_the_same_bits(rng):
    data = rng.normal(size=(3, 4)).astype(np.float32)
    x = to_device(data, "strict")
    strict.Syncs.count = 0
    total = x.sum()
    assert isinstance(total, strict.StrictArray)
    assert total.shape == ()
    assert total.dtype == np.float32
    assert strict.Syncs.count == 0
    assert total._data == data.sum()
    assert np.array_equal((x * 2.0 + x[:, 1:2]).swapaxes(0, 1)._data, (data * 2.0 + data[:, 1:2]).T)


def test_out_must_have_the_shape_of_the_result():
    x = to_device(X, "strict")
    with pytest.raises(ValueError, match="out has shape"):
        strict.strict_xp.exp(x[:1], out=x)
