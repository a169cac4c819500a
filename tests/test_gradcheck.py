"""gradcheck must pass what is right and fail what is wrong, and say where."""

import numpy as np
import pytest

import minipeft as mp
from minipeft.autograd import Function
from minipeft.ops.linear import Linear
from minipeft.ops.normalize import LayerNorm
from minipeft.ops.softmax import Softmax


def mutant(base, backward, name="Mutant"):
    return type(name, (Function,), {"forward": staticmethod(base.forward), "backward": staticmethod(backward)})


def softmax_without_row_sum(ctx, dz):
    p, axis = ctx.saved
    return p * dz, None


def softmax_times_ones_is_zero(ctx, dz):
    p, axis = ctx.saved
    return np.zeros_like(p), None


def layer_norm_without_the_variance(ctx, dz):
    x_hat, rstd, gamma = ctx.saved
    g = dz * gamma
    return (g - g.mean(1, keepdims=True)) * rstd, None, None, None


def linear_transposed(ctx, dz):
    x, weight, shape = ctx.saved
    return None, (x.T @ dz), None


def linear_twice(ctx, dz):
    dx, dW, db = Linear.backward(ctx, dz)
    return dx, None if dW is None else 2 * dW, db


def linear_first_row_only(ctx, dz):
    dx, dW, db = Linear.backward(ctx, dz)
    return dx, dW, None if db is None else dz[0].copy()


def softmax_right_for_ones(ctx, dz):
    p, axis = ctx.saved
    return p * (dz - dz.mean(axis=axis, keepdims=True)), None


def linear_nan(ctx, dz):
    dx, dW, db = Linear.backward(ctx, dz)
    dW[1, 2] = np.nan
    return dx, dW, db


@pytest.mark.parametrize(
    ("function", "inputs", "rest"),
    [
        (mutant(Softmax, softmax_without_row_sum), [(3, 4)], (-1,)),
        (mutant(Softmax, softmax_times_ones_is_zero), [(3, 4)], (-1,)),
        (mutant(Softmax, softmax_right_for_ones), [(3, 4)], (-1,)),
        (mutant(LayerNorm, layer_norm_without_the_variance), [(3, 5)], (np.ones(5), np.zeros(5), 1e-5)),
    ],
)
def test_a_wrong_gradient_of_the_input_is_found(function, inputs, rest, rng):
    arrays = [rng.normal(size=s) for s in inputs]
    with pytest.raises(mp.GradcheckError, match="input 0"):
        mp.gradcheck(lambda *xs: function.apply(*xs, *rest), *arrays)


def test_the_message_names_the_input_the_worst_entry_and_both_values(rng):
    function = mutant(Linear, linear_twice)
    x, W = rng.normal(size=(3, 5)), rng.normal(size=(4, 5))
    with pytest.raises(mp.GradcheckError) as caught:
        mp.gradcheck(lambda a, w: function.apply(a, w, None), x, W)
    text = str(caught.value)
    assert "input 1 of shape (4, 5): 20 of 20 entries are wrong; worst at (" in text
    got, want = text.split("backward gives ")[1].split(" (error")[0].split(", central differences ")
    assert float(got) == pytest.approx(2 * float(want), rel=1e-6)


def test_a_transposed_gradient_is_found(rng):
    function = mutant(Linear, linear_transposed)
    with pytest.raises((mp.GradcheckError, RuntimeError), match=r"shape|wrong"):
        mp.gradcheck(lambda w: function.apply(np.ones((3, 4)), w, None), rng.normal(size=(4, 4)))


def test_nan_is_never_right(rng):
    function = mutant(Linear, linear_nan)
    with pytest.raises(mp.GradcheckError, match=r"\(1, 2\) is nan"):
        mp.gradcheck(lambda w: function.apply(np.ones((3, 5)), w, None), rng.normal(size=(4, 5)))


def test_a_sum_over_the_batch_that_is_missing_is_found(rng):
    function = mutant(Linear, linear_first_row_only)
    with pytest.raises(mp.GradcheckError, match=r"input 0 of shape \(4,\)"):
        mp.gradcheck(lambda b: function.apply(np.ones((3, 5)), np.ones((4, 5)), b), rng.normal(size=4))


@pytest.mark.parametrize("directions", [0, 3])
def test_an_output_that_is_no_number_is_never_right(directions):
    with pytest.raises(mp.GradcheckError, match="not finite"), np.errstate(all="ignore"):
        mp.gradcheck(mp.ops.log, np.array([1.0, -1.0]), directions=directions)
    with pytest.raises(mp.GradcheckError, match="nan"), np.errstate(all="ignore"):
        mp.gradcheck(mp.ops.log, np.array([1.0, 1e-7]), directions=directions, step=1e-3)  # steps outside the domain


@pytest.mark.parametrize("directions", [0, 3])
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_a_wrong_gradient_is_found_however_small(factor, directions, rng):
    class Small(Function):
        @staticmethod
        def forward(ctx, x, wrong):
            ctx.save(x, wrong)
            return x * x * factor

        @staticmethod
        def backward(ctx, dz):
            x, wrong = ctx.saved
            return dz * x * (2 * factor * wrong), None

    x = rng.normal(size=(3, 4))
    assert mp.gradcheck(lambda a: Small.apply(a, 1.0), x, directions=directions)
    for wrong in (0.0, 1.001):
        with pytest.raises(mp.GradcheckError, match="input 0"):
            mp.gradcheck(lambda a: Small.apply(a, wrong), x, directions=directions)


def test_one_wrong_entry_among_many_is_found_and_named(rng):
    def one_wrong(ctx, dz):
        dx, dW, db = Linear.backward(ctx, dz)
        dW = dW.copy()
        dW[2, 3] *= 1.01
        return dx, dW, db

    function = mutant(Linear, one_wrong)
    with pytest.raises(mp.GradcheckError, match=r"1 of 35 entries are wrong; worst at \(2, 3\)"):
        mp.gradcheck(lambda w: function.apply(np.ones((3, 7)), w, None), rng.normal(size=(5, 7)))


def broken(backward, forward=lambda ctx, x, y: x * y):
    def keep(ctx, x, y):
        ctx.save(x, y)
        return forward(ctx, x, y)

    return type("Broken", (Function,), {"forward": staticmethod(keep), "backward": staticmethod(backward)})


def writes_dz(ctx, dz):
    x, y = ctx.saved
    dz *= 2
    return dz * y / 2, dz * x / 2


def writes_an_input(ctx, dz):
    x, y = ctx.saved
    dx = dz * y
    y += 1
    return dx, dz * x


def returns_a_saved_array(ctx, dz):
    x, y = ctx.saved
    return y, dz * x


def returns_a_view_of_another(ctx, dz):
    g = dz * 1.0
    return g, g[...]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (broken(writes_dz), "dz was written"),
        (broken(writes_an_input), "input 1 was written"),
        (broken(returns_a_saved_array), "gradient of input 0 shares memory with input 1"),
        (
            broken(returns_a_view_of_another, lambda ctx, x, y: x + y),
            "gradients of inputs 0 and 1 share memory",
        ),
    ],
)
def test_a_backward_that_breaks_its_contract_is_found_on_the_way(function, message, rng):
    with pytest.raises(mp.GradcheckError, match=message):
        mp.gradcheck(function.apply, rng.normal(size=(2, 3)), rng.normal(size=(2, 3)))


def test_randomness_is_named(rng):
    draws = np.random.default_rng(1)
    with pytest.raises(mp.GradcheckError, match="two calls give two values"):
        mp.gradcheck(lambda x: mp.ops.dropout(x, 0.5, draws), rng.normal(size=(5, 6)))
    p = mp.Tensor(rng.normal(size=9), requires_grad=True)
    with pytest.raises(mp.GradcheckError, match="two calls give two losses"):
        mp.gradcheck_parameters(lambda: mp.ops.dropout(p, 0.5, draws).sum(), {"p": p})


def test_inputs_that_cannot_be_nudged_alone_are_copied(rng):
    x = rng.normal(size=(2, 3))
    locked = x.copy()
    locked.flags.writeable = False
    assert mp.gradcheck(mp.ops.multiply, x, x)
    assert mp.gradcheck(mp.ops.multiply, x, x[:, ::-1])
    assert mp.gradcheck(mp.ops.multiply, locked, np.broadcast_to(rng.normal(size=3), (2, 3)))
    assert mp.gradcheck(lambda a, b: a.exp().sum() * b, np.zeros((0, 3)), np.array(2.0))


def test_inputs_on_a_device(device, rng):
    x, y = (mp.to_device(rng.normal(size=s), device) for s in ((2, 3), (3,)))
    assert mp.gradcheck(mp.ops.multiply, x, y)
    assert mp.gradcheck(mp.ops.multiply, x, y, directions=2)
    with pytest.raises(mp.GradcheckError, match="input 0"):
        mp.gradcheck(lambda a: mutant(Softmax, softmax_without_row_sum).apply(a, -1), x)


def test_an_exception_on_the_way_restores_the_input(rng):
    for directions in (0, 2):
        x = rng.normal(size=3)
        kept = x.copy()
        calls = iter(range(4))

        def runs_out(a):
            next(calls)
            return a * 2.0

        with pytest.raises(StopIteration):
            mp.gradcheck(runs_out, x, directions=directions)
        assert np.array_equal(x, kept)


def test_float32_is_refused(rng):
    with pytest.raises(TypeError, match="input 1 is float32"):
        mp.gradcheck(mp.ops.add, rng.normal(size=3), rng.normal(size=3).astype(np.float32))
    with pytest.raises(TypeError, match="expected a Tensor"):
        mp.gradcheck(lambda x: x.data, rng.normal(size=3))
    with pytest.raises(TypeError, match="at least one"):
        mp.gradcheck(mp.ops.add, np.arange(3), np.arange(3))


def test_an_output_that_depends_on_nothing_is_refused(rng):
    with pytest.raises(mp.GradcheckError, match="nothing was recorded"):
        mp.gradcheck(lambda x: mp.Tensor(x.data * 2), rng.normal(size=3))


def test_the_inputs_come_back_to_the_bit(rng):
    x = rng.normal(size=(3, 4))
    kept = x.copy()
    mp.gradcheck(mp.ops.exp, x)
    mp.gradcheck(mp.ops.exp, x, directions=3)
    assert np.array_equal(x, kept)


def contract_breakers():
    kept = {}

    def writes_dz(ctx, dz):
        dz *= 2
        return dz / 2, None, None

    def returns_saved(ctx, dz):
        return ctx.saved[0] if ctx.saved[0] is not None else dz, None, None

    def ignores_needs(ctx, dz):
        dx, dW, db = Linear.backward(ctx, dz)
        return dx, dz.T @ np.ones((3, 5)) if dW is None else dW, db

    def depends_on_the_others(ctx, dz):
        dx, dW, db = Linear.backward(ctx, dz)
        return dx, None if dW is None else dW * (1 if dx is None else 2), db

    def twice(ctx, dz):
        a = dz.sum(0)
        kept["a"] = a
        return None, None, a

    yield "wrote into", writes_dz
    yield "shares memory|missing", returns_saved
    yield "in vain", ignores_needs
    yield "depends on which other", depends_on_the_others
    yield "missing", twice


@pytest.mark.parametrize(("message", "backward"), list(contract_breakers()))
def test_breaking_the_contract_is_found(message, backward, rng):
    function = mutant(Linear, backward)
    with pytest.raises(mp.GradcheckError, match=message):
        mp.check_contract(function, rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), rng.normal(size=4))


@pytest.mark.parametrize("view", [False, True])
def test_one_array_may_be_returned_twice_but_not_as_a_view_of_it(view, rng):
    class Twice(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, dz):
            g = dz * 1.0
            return (g if ctx.needs_grad[0] else None), ((g[...] if view else g) if ctx.needs_grad[1] else None)

    x, y = rng.normal(size=3), rng.normal(size=3)
    if view:
        with pytest.raises(mp.GradcheckError, match="share memory without being one array"):
            mp.check_contract(Twice, x, y)
    else:
        assert mp.check_contract(Twice, x, y)
        assert mp.gradcheck(Twice.apply, x, y)


def test_saving_more_for_a_frozen_input_is_found(rng):
    class Hoards(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save(x if ctx.needs_grad[1] else None, y if ctx.needs_grad[0] else None)
            if not ctx.needs_grad[1]:
                ctx.save(None, np.stack([y, y, y]))
            return x * y

        @staticmethod
        def backward(ctx, dz):
            x, y = ctx.saved
            return (None if y is None else dz * (y if y.ndim == 1 else y.mean(0))), (None if x is None else dz * x)

    with pytest.raises(mp.GradcheckError, match=r"saves 72 bytes for inputs \[0\] but 48 for \[0, 1\]"):
        mp.check_contract(Hoards, rng.normal(size=3), rng.normal(size=3))


def test_saving_what_no_gradient_uses_is_found(rng):
    class SavesAll(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save(x, y)
            return x * y

        @staticmethod
        def backward(ctx, dz):
            x, y = ctx.saved
            return (dz * y if ctx.needs_grad[0] else None), (dz * x if ctx.needs_grad[1] else None)

    with pytest.raises(mp.GradcheckError, match=r"saves an array of shape \(3,\) that no gradient of .* \[\d\] uses"):
        mp.check_contract(SavesAll, rng.normal(size=3), rng.normal(size=3))


def test_a_gradient_of_another_dtype_is_found(rng):
    class Promotes(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2.0

        @staticmethod
        def backward(ctx, dz):
            return dz * np.float64(2.0)

    assert mp.check_contract(Promotes, rng.normal(size=3))
    with pytest.raises(mp.GradcheckError, match=r"gradient 0 is float64\(3,\), its input float32\(3,\)"):
        mp.check_contract(Promotes, rng.normal(size=3).astype(np.float32))


def test_the_count_of_gradients_is_checked(rng):
    function = mutant(Linear, lambda ctx, dz: Linear.backward(ctx, dz)[:2])
    with pytest.raises(mp.GradcheckError, match="returned 2 gradients for 3 inputs"):
        mp.check_contract(function, rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), None)


def test_the_directional_mode_names_the_wrong_parameter(rng):
    wrong = mutant(Linear, linear_twice)
    named = {n: mp.Tensor(rng.normal(size=s), requires_grad=True) for n, s in (("first", (4, 5)), ("second", (3, 4)))}
    x = rng.normal(size=(2, 5))

    def loss(function):
        h = mp.ops.tanh(mp.ops.linear(mp.Tensor(x), named["first"]))
        return function.apply(h, named["second"], None).sum()

    assert mp.gradcheck_parameters(lambda: loss(Linear), named)
    with pytest.raises(mp.GradcheckError, match="second: directional derivative"):
        mp.gradcheck_parameters(lambda: loss(wrong), named)
    named["first"].requires_grad = False
    named["first"].grad = kept = np.ones((4, 5))
    assert mp.gradcheck_parameters(lambda: loss(Linear), named)
    assert named["first"].grad is kept  # gradients of before are left alone
    assert named["second"].grad is None
