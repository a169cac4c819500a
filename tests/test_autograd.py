"""The engine: what is recorded, how gradients flow, and what it refuses."""

import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import strict

import minipeft as mp
from minipeft.accounting import recorded_nodes
from minipeft.autograd import Context, Function


def t(x, requires_grad=True):
    return mp.Tensor(np.asarray(x, dtype=np.float64), requires_grad=requires_grad)


@pytest.mark.parametrize("length", [10_000, 100_000])
def test_a_long_chain_needs_no_recursion(length):
    x = t([1.0, 2.0])
    z = x
    for _ in range(length):
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


def test_leaves_do_not_share_an_array_that_a_backward_returns_twice(rng):
    class Twin(mp.Function):
        @staticmethod
        def forward(ctx, x, y):
            return 3.0 * (x + y)

        @staticmethod
        def backward(ctx, dz):
            both = 3.0 * dz
            return both, both

    x, y = t(rng.normal(size=4)), t(rng.normal(size=4))
    dz = rng.normal(size=4)
    (Twin.apply(x, y) + x * 2.0).backward(dz)  # x receives more after the array that y received as well
    assert np.allclose(x.grad, 5.0 * dz)
    assert np.array_equal(y.grad, 3.0 * dz)
    assert not np.shares_memory(x.grad, y.grad)


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


def test_memory_falls_as_the_walk_goes_back():
    held = []

    class Watched(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return x + 1.0

        @staticmethod
        def backward(ctx, dz):
            held.append(tracemalloc.get_traced_memory()[0])
            return dz * 1.0

    z = t(np.zeros(20_000))
    tracemalloc.start()
    try:
        for _ in range(10):
            z = Watched.apply(z)
        z.backward(np.ones(20_000))
    finally:
        tracemalloc.stop()
    drops = -np.diff(held)  # each step forgets what the one before saved
    assert np.median(drops) > 0.9 * 20_000 * 8


def test_a_graph_without_its_tensor_is_freed_at_once():
    x = t(np.ones(3))
    z = x * 2.0 + x
    node = z.node
    alive = weakref.ref(z)
    del z
    assert alive() is None  # no circle: the garbage collector is not needed
    assert node.name == "Add"


def test_nothing_is_recorded_below_the_first_trainable_parameter(rng):
    x, w = t(rng.normal(size=3), False), t(rng.normal(size=3))
    below = (x * x + x).sum()
    assert below.node is None
    assert not below.requires_grad
    loss = (below * w).sum()
    assert len(list(recorded_nodes(loss))) == 2


@pytest.mark.parametrize(("trainable", "kept"), [("x", ["w"]), ("w", ["x"]), ("b", []), ("", None)])
def test_a_frozen_input_costs_no_saved_bytes(trainable, kept, rng):
    x, w, b = (t(rng.normal(size=s), name == trainable) for name, s in (("x", (6, 5)), ("w", (4, 5)), ("b", 4)))
    z = mp.ops.linear(x, w, b)
    if kept is None:
        assert z.node is None
        return
    names = {id(x.data): "x", id(w.data): "w", id(b.data): "b"}
    assert [names[id(s)] for s in z.node.ctx.saved if isinstance(s, np.ndarray)] == kept


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


def test_a_decorated_function_that_raises_leaves_recording_on(rng):
    x = t(rng.normal(size=3))

    @mp.no_grad()
    def fails():
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fails()
        assert (x * 2.0).node is not None


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


def test_a_cotangent_of_another_kind_is_refused_or_cast(rng):
    x = mp.Tensor(rng.normal(size=3).astype(np.float32), requires_grad=True)
    seen = []

    class Sees(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, dz):
            seen.append(dz.dtype)
            return dz * 1.0

    Sees.apply(x).backward(np.ones(3))  # NumPy's default, float64, stays outside
    assert seen == [np.float32]
    assert x.grad.dtype == np.float32
    for wrong in (mp.Tensor(np.ones(3)), [1.0, 1.0, 1.0], 1.0):
        with pytest.raises(ValueError, match="grad must be an array"):
            (x * 1.0).backward(wrong)
    x.grad = None
    (x * 2.0).sum().backward(np.float32(3.0))
    assert np.array_equal(x.grad, np.full(3, 6.0))


def test_a_cotangent_given_to_a_leaf_is_copied():
    x, dz = t([1.0, 2.0]), np.array([3.0, 4.0])
    x.backward(dz)
    x.backward(dz)
    assert np.array_equal(x.grad, [6.0, 8.0])
    assert np.array_equal(dz, [3.0, 4.0])


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


@pytest.mark.parametrize("data", [np.array(["a"]), np.array([None, 1.0]), np.array([1j]), "text", None, [1j]])
def test_what_is_no_real_number_is_refused(data):
    with pytest.raises(TypeError):
        mp.Tensor(data)


def test_truth_is_that_of_the_entry_and_not_of_the_length():
    assert not mp.Tensor([0.0])
    assert mp.Tensor(2.0)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(mp.Tensor([0.0, 1.0]))


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


class Returns(Function):
    """A copy whose backward returns what it is told to."""

    @staticmethod
    def forward(ctx, x, wrong):
        ctx.save(wrong)
        return x * 1.0

    @staticmethod
    def backward(ctx, dz):
        return ctx.saved[0](dz), None


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda dz: dz[:1], r"ndarray of shape \(1, 3\)"),  # broadcasting would spread it over the rows
        (lambda dz: dz.sum(), r"float64 of shape \(\)"),
        (lambda dz: 1.0, r"1\.0"),
        (lambda dz: None, "None"),
    ],
)
def test_a_gradient_of_the_wrong_shape_is_named_where_it_arises(wrong, got, inside):
    x = t(np.ones((2, 3)))
    z = Returns.apply(x * 2.0 if inside else x, wrong)
    with pytest.raises(RuntimeError, match=rf"Returns.backward returned {got} .* input 0, expected .* \(2, 3\)"):
        z.backward(np.ones((2, 3)))


def test_a_backward_may_return_a_list():
    class Lists(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, dz):
            return [dz * 1.0, dz * 2.0]

    x, y = t([1.0]), t([2.0])
    Lists.apply(x, y).backward(np.ones(1))
    assert (x.grad, y.grad) == (1.0, 2.0)


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


def test_a_walk_interrupted_by_an_error_leaves_no_half_graph_behind(rng):
    x = t(rng.normal(size=3))

    def fails(dz):
        raise KeyError("rule")

    z = Returns.apply(x * 2.0, fails)
    with pytest.raises(KeyError):
        z.backward(np.ones(3))
    assert x.grad is None
    with pytest.raises(RuntimeError, match="walked before"):
        z.backward(np.ones(3))
    (x * 2.0).backward(np.ones(3))  # and the engine goes on
    assert np.array_equal(x.grad, [2.0, 2.0, 2.0])


def test_the_same_graph_gives_the_same_bits_on_every_device(device, rng):
    data = {
        "x": rng.normal(size=(4, 5)),
        "w": rng.normal(size=(6, 5)),
        "b": rng.normal(size=6),
        "c": rng.normal(size=(1, 6)),
    }
    data = {name: a.astype(np.float32) for name, a in data.items()}
    labels = np.array([0, 5, -100, 2])

    def run(device):
        x, w, b, c = (mp.Tensor(mp.to_device(a, device), requires_grad=True) for a in data.values())
        strict.Syncs.count = 0
        h = mp.ops.linear(x, w, b) * c + b
        h = mp.ops.softmax((h - h.mean(axis=1, keepdims=True)) / (h * h + 1.0) ** 0.5) @ w
        h = mp.ops.concatenate([h[:, :2], h[:, 2:].exp()], axis=1).reshape(2, 2, 5).transpose(1, 0, 2)
        h = mp.ops.gelu(mp.ops.linear(h.reshape(4, 5), w, b)) + 2.0 * mp.ops.relu(c)
        loss = mp.ops.cross_entropy(h, labels)
        loss.backward()
        assert strict.Syncs.count == 0
        return [loss.data, x.grad, w.grad, b.grad, c.grad]

    for here, there in zip(run("cpu"), run(device), strict=True):
        assert mp.array_module(there) is mp.array_module(mp.to_device(np.ones(1), device))
        assert there.dtype == np.float32
        if device == "strict":
            assert np.array_equal(here, mp.to_numpy(there))
        else:
            np.testing.assert_allclose(here, mp.to_numpy(there), rtol=1e-5, atol=1e-6)


def test_operands_of_two_devices_never_mix(rng):
    x, y = mp.Tensor(rng.normal(size=3)), mp.Tensor(mp.to_device(rng.normal(size=3), "strict"))
    for mixed in (lambda: x + y, lambda: y * x, lambda: mp.ops.concatenate([x, y]), lambda: x.data * y):
        with pytest.raises(TypeError):
            mixed()
