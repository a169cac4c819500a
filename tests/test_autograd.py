"""The engine: what is recorded, how gradients flow, and what it refuses."""

import threading
import weakref

import numpy as np
import pytest

import minipeft as mp
from minipeft.accounting import recorded_nodes
from minipeft.autograd import Context, Function


def t(x, requires_grad=True):
    return mp.Tensor(np.asarray(x, dtype=np.float64), requires_grad=requires_grad)


def test_a_long_chain_needs_no_recursion():
    x = t([1.0, 2.0])
    z = x
    for _ in range(10_000):
        z = z + 1.0
    z.backward(np.array([3.0, 4.0]))
    assert np.array_equal(x.grad, [3.0, 4.0])
    del z  # neither does forgetting the graph


def test_a_long_chain_that_is_never_walked_is_forgotten_quietly():
    z = t(1.0)
    for _ in range(100_000):
        z = z * 1.0
    del z


def test_a_diamond_adds_both_ways(rng):
    x = t(rng.normal(size=3))
    y = x * 2.0
    (y * y + y).sum().backward()
    assert np.allclose(x.grad, 8 * x.data + 2)


def test_a_leaf_used_often_accumulates_over_calls(rng):
    x = t([1.0, 2.0])
    (x + x + x).sum().backward()
    (x * 4.0).sum().backward()
    assert np.array_equal(x.grad, [7.0, 7.0])


def test_no_two_gradients_share_memory(rng):
    x, y, w = (t(rng.normal(size=(2, 3))) for _ in range(3))
    cotangent = rng.normal(size=(2, 3))
    kept = cotangent.copy()
    (x + y + w.reshape(3, 2).reshape(2, 3)).backward(cotangent)
    grads = [x.grad, y.grad, w.grad, cotangent]
    for i, a in enumerate(grads):
        for b in grads[:i]:
            assert not np.shares_memory(a, b)
    x.grad *= 0.0
    assert np.array_equal(y.grad, kept)
    assert np.array_equal(cotangent, kept)


def test_gradient_of_a_sum_of_many_branches_writes_no_cotangent(rng):
    x = t(rng.normal(size=3))
    y = x * 1.0
    dz = rng.normal(size=3)
    kept = dz.copy()
    (y + y + y + y).backward(dz)
    assert np.array_equal(dz, kept)
    assert np.allclose(x.grad, 4 * dz)


def test_a_second_backward_is_a_clear_error(rng):
    z = (t(rng.normal(size=3)) * 2.0).sum()
    z.backward()
    with pytest.raises(RuntimeError, match="walked before"):
        z.backward()


def test_a_shared_part_that_was_walked_is_a_clear_error(rng):
    shared = t(rng.normal(size=3)) * 2.0
    first, second = shared.sum(), (shared * shared).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="walked before"):
        second.backward()


def test_what_a_node_saved_is_dropped_as_it_is_walked():
    class Remembers(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x.copy())
            return x * 1.0

        @staticmethod
        def backward(ctx, dz):
            return dz * 1.0

    x = t(np.ones(3))
    z = Remembers.apply(x)
    saved = weakref.ref(z.node.ctx.saved[0])
    assert saved() is not None
    z.backward(np.ones(3))
    assert saved() is None


def test_nothing_is_recorded_below_the_first_trainable_parameter(rng):
    x, w = t(rng.normal(size=3), False), t(rng.normal(size=3))
    below = (x * x + x).sum()
    assert below.node is None
    assert not below.requires_grad
    loss = (below * w).sum()
    assert len(list(recorded_nodes(loss))) == 2


def test_no_grad_nests_and_ends_with_an_exception(rng):
    x = t(rng.normal(size=3))
    with mp.no_grad():
        with mp.no_grad():
            assert (x * 2.0).node is None
        assert (x * 2.0).node is None
    with pytest.raises(KeyError), mp.no_grad():
        raise KeyError
    assert (x * 2.0).node is not None

    @mp.no_grad()
    def quiet():
        return x * 2.0

    assert quiet().node is None


def test_recording_is_a_matter_of_one_thread(rng):
    x = t(rng.normal(size=3))
    inside, leave, results = threading.Event(), threading.Event(), {}

    def quiet():
        with mp.no_grad():
            inside.set()
            leave.wait(5)
            results["quiet"] = (x * 2.0).node

    thread = threading.Thread(target=quiet)
    thread.start()
    inside.wait(5)
    results["loud"] = (x * 2.0).node
    leave.set()
    thread.join()
    assert results["quiet"] is None
    assert results["loud"] is not None


def test_threads_build_and_walk_their_own_graphs(rng):
    data = rng.normal(size=(8, 50))
    sums = {}

    def work(i):
        x = t(data[i])
        z = x
        for _ in range(200):
            z = z + x * 0.01
        z.sum().backward()
        sums[i] = x.grad

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert np.allclose(sums[i], 3.0)


def test_backward_into_a_dict_leaves_grad_alone(rng):
    x, y = t(rng.normal(size=3)), t(rng.normal(size=3))
    grads = {}
    (x * y).sum().backward(into=grads)
    assert x.grad is None
    assert np.array_equal(grads[x], y.data)
    (x * y).sum().backward(into=grads)
    assert np.array_equal(grads[y], 2 * x.data)


def test_writing_into_a_recorded_tensor_is_an_error(rng):
    x = t(rng.normal(size=3))
    z = x * 2.0
    for tensor in (x, z):
        with pytest.raises(RuntimeError, match="falsify"):
            tensor[0] = 1.0
    with mp.no_grad():
        x[0] = 1.0
    assert x.data[0] == 1.0


def test_backward_refuses_what_makes_no_sense(rng):
    x = t(rng.normal(size=(2, 3)))
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        (x * 2.0).backward()
    with pytest.raises(ValueError, match=r"got ndarray of shape \(3,\)"):
        (x * 2.0).backward(np.ones(3))
    with pytest.raises(RuntimeError, match="requires a gradient"):
        (t([1.0], False) * 2.0).backward()


def test_only_floating_point_leaves_can_require_a_gradient():
    with pytest.raises(TypeError, match="floating-point"):
        mp.Tensor(np.arange(3), requires_grad=True)
    x = t([1.0])
    with pytest.raises(RuntimeError, match="leaves"):
        (x * 2.0).requires_grad_(False)
    with pytest.raises(TypeError, match="silently"):
        np.asarray(x)
    with pytest.raises(TypeError, match="detach"):
        mp.Tensor(x)


def test_python_numbers_become_float32_and_arrays_keep_their_type():
    assert mp.Tensor([1.0, 2.0]).dtype == np.float32
    assert mp.Tensor(3.5).dtype == np.float32
    assert mp.Tensor([1, 2]).dtype.kind == "i"
    assert mp.Tensor(np.ones(2)).dtype == np.float64


def test_a_backward_with_the_wrong_number_of_gradients_is_named():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, dz):
            return dz

    with pytest.raises(RuntimeError, match=r"Wrong.backward returned 1 gradients for 2 inputs"):
        Wrong.apply(t([1.0]), t([2.0])).backward(np.ones(1))


def test_a_gradient_of_the_wrong_shape_is_named():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, dz):
            return dz[:1]

    with pytest.raises(RuntimeError, match=r"Wrong.backward returned ndarray of shape \(1,\) .* input 0, expected"):
        Wrong.apply(t([1.0, 2.0])).backward(np.ones(2))


def test_detach_stops_gradients(rng):
    x = t(rng.normal(size=3))
    (x * (x * 2.0).detach()).sum().backward()
    assert np.allclose(x.grad, 2 * x.data)


def test_a_function_runs_without_the_engine(rng):
    from minipeft.ops.linear import Linear

    ctx = Context(True, False, False)
    z = Linear.forward(ctx, rng.normal(size=(2, 3)), weight := rng.normal(size=(4, 3)), None)
    dz = rng.normal(size=z.shape)
    dx, dW, db = Linear.backward(ctx, dz)
    assert np.allclose(dx, dz @ weight)
    assert dW is None
    assert db is None


def test_gradients_of_scalars_are_arrays():
    x = t(2.0)
    (x * 3.0).backward()
    assert isinstance(x.grad, np.ndarray)
    assert x.grad.shape == ()
    y = t(2.0)
    z = y * 1.0
    (z + z + z + z).backward()
    assert y.grad == 4.0
