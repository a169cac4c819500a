"""gradcheck must pass what is right and fail what is wrong, and say where."""

import numpy as np
import pytest

import minipeft as mp
from minipeft.autograd import Function
from minipeft.ops.activation import Softmax
from minipeft.ops.linear import Linear
from minipeft.ops.normalize import LayerNorm


def mutant(base, backward, name="Mutant"):
    return type(name, (Function,), {"forward": staticmethod(base.forward), "backward": staticmethod(backward)})


def softmax_without_row_sum(ctx, dz):
    p, axis = ctx.saved
    return p * dz, None


def softmax_times_ones_is_zero(ctx, dz):
    p, axis = ctx.saved
    return np.zeros_like(p), None


def layer_norm_without_the_variance(ctx, dz):
    x_hat, rstd, gamma, shape = ctx.saved
    g = dz.reshape(x_hat.shape) * gamma
    return ((g - g.mean(1, keepdims=True)) * rstd).reshape(shape), None, None, None


def linear_transposed(ctx, dz):
    x, weight, shape = ctx.saved
    return None, (x.T @ dz), None


def linear_twice(ctx, dz):
    dx, dW, db = Linear.backward(ctx, dz)
    return dx, None if dW is None else 2 * dW, db


def linear_nan(ctx, dz):
    dx, dW, db = Linear.backward(ctx, dz)
    dW[1, 2] = np.nan
    return dx, dW, db


@pytest.mark.parametrize(
    ("function", "inputs", "rest"),
    [
        (mutant(Softmax, softmax_without_row_sum), [(3, 4)], (-1,)),
        (mutant(Softmax, softmax_times_ones_is_zero), [(3, 4)], (-1,)),
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


def test_float32_is_refused(rng):
    with pytest.raises(TypeError, match="input 1 is float32"):
        mp.gradcheck(mp.ops.add, rng.normal(size=3), rng.normal(size=3).astype(np.float32))
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


def test_one_array_returned_twice_is_found(rng):
    class Twice(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, dz):
            g = dz * 1.0
            return (g if ctx.needs_grad[0] else None), (g if ctx.needs_grad[1] else None)

    with pytest.raises(mp.GradcheckError, match="are one array"):
        mp.check_contract(Twice, rng.normal(size=3), rng.normal(size=3))


def test_saving_more_for_a_frozen_input_is_found(rng):
    class Hoards(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save(*([x, y, x * y] if not ctx.needs_grad[1] else [x, y]))
            return x * y

        @staticmethod
        def backward(ctx, dz):
            x, y = ctx.saved[:2]
            return (dz * y if ctx.needs_grad[0] else None), (dz * x if ctx.needs_grad[1] else None)

    with pytest.raises(mp.GradcheckError, match="saves"):
        mp.check_contract(Hoards, rng.normal(size=3), rng.normal(size=3))


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
    named["first"].grad = None
    assert mp.gradcheck_parameters(lambda: loss(Linear), named)
