"""Calls between two sides: what is copied keeps its layout and what it shares, and changes come back."""

import json
import sys
from functools import reduce
from importlib import import_module
from typing import ClassVar

import numpy as np
import pytest

import minipeft as mp
from autograder.homeworks.folder import homeworks, load_homework
from autograder.sandbox.remote import Remote, replaced
from autograder.sandbox.values import ProtocolError, named
from minipeft.peft.lora import LoraLayer


class Pair:
    """Two sides in one process. `call` lets this side call a function on the other."""

    def __init__(self, function=None, graphs=False):
        self.function = function

        def describe(error):
            return {"type": type(error).__name__, "message": str(error)}

        self.here = Remote(
            lambda message: self.sent(self.there, message), mp, 0, __name__, self.allowed, describe, graphs
        )
        self.there = Remote(lambda message: self.sent(self.here, message), mp, 1, None, self.allowed, describe, graphs)

    def sent(self, to, message):
        return to.answer(message)

    def allowed(self, name):
        if name != "f":
            raise LookupError(name)
        return self.function

    def call(self, function, *args, **kwargs):
        self.function = function
        return self.here.ask({"call": "f"}, args, kwargs)


LAYOUTS = {
    "plain": lambda x: x,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "fortran": np.asfortranarray,
    "negative": lambda x: x[::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "float32": lambda x: x.astype("f4"),
    "booleans": lambda x: x > 0,
    "empty": lambda x: x[:0],
    "no axes": lambda x: x[0, 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_arrives_with_its_values_and_its_layout(layout):
    x = np.asarray(LAYOUTS[layout](np.arange(15.0).reshape(3, 5) - 7))
    seen = []
    back = Pair().call(lambda a: seen.append((a.strides, a.dtype, a is x)) or a.copy(), x)
    assert seen == [(x.strides, x.dtype, False)]
    np.testing.assert_array_equal(back, x)


def test_an_array_that_comes_back_is_the_same_object_and_a_view_of_it_shares_its_memory():
    x = np.arange(6.0).reshape(2, 3)
    same, view, other = Pair().call(lambda a: (a, a.T[1:], a + 0), x)
    assert same is x
    assert np.shares_memory(view, x)
    np.testing.assert_array_equal(view, x.T[1:])
    assert not np.shares_memory(other, x)


def test_what_is_written_there_is_written_here_and_a_read_only_array_stays():
    x, kept = np.arange(4.0), np.arange(4.0)
    kept.flags.writeable = False

    def write(a, b, numbers, table):
        a += 1
        numbers.append(3)
        table["new"] = a
        with pytest.raises(ValueError, match="read-only"):
            b += 1

    numbers, table = [1], {}
    Pair().call(write, x, kept, numbers, table)
    np.testing.assert_array_equal(x, [1, 2, 3, 4])
    assert (numbers, list(table)) == ([1, 3], ["new"])
    assert table["new"] is x
    np.testing.assert_array_equal(kept, np.arange(4.0))


VALUES = [None, True, 3, -(2**40), 1.5, float("inf"), "α", (1, (2.0, "x")), slice(1, None, 2), Ellipsis, range(3)]
VALUES += [np.float32(0.1), np.int64(3), np.dtype("f4"), np.float64, {"a": [1, {2}]}, frozenset({1})]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_arrive_with_their_type(value):
    seen = []
    back = Pair().call(lambda x: seen.append(x) or x, value)
    assert seen[0] == back == value
    assert type(seen[0]) is type(back) is type(value)


def test_gradients_flow_through_a_call_and_through_calls_back():
    rng = np.random.default_rng(0)
    x = mp.Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    w = mp.Tensor(rng.standard_normal((2, 4)), requires_grad=True)
    dz = rng.standard_normal((3, 2))

    def there(a, b, call_back):
        return call_back(a * 2.0, b) + 1.0

    def here(a, b):
        return mp.ops.linear(a, b)

    y = x * x
    z = Pair().call(there, y, w, lambda a, b: here(a, b))
    (z * 3.0).backward(dz)
    other = mp.Tensor(x.data, requires_grad=True), mp.Tensor(w.data, requires_grad=True)
    ((here(other[0] * other[0] * 2.0, other[1]) + 1.0) * 3.0).backward(dz)
    np.testing.assert_allclose(z.data, here(y * 2.0, w).data + 1.0)
    np.testing.assert_allclose(x.grad, other[0].grad)
    np.testing.assert_allclose(w.grad, other[1].grad)


def test_a_result_may_be_used_as_an_argument_again():
    pair, x = Pair(), mp.Tensor(np.arange(3.0), requires_grad=True)
    y = pair.call(lambda a: a * a, x)
    z = pair.call(lambda a, b: a * b, y, x)
    z.backward(np.ones(3))
    np.testing.assert_allclose(x.grad, 3 * x.data**2)


def test_a_module_is_copied_there_and_changed_here():
    base = mp.nn.Linear(3, 2, rng=0)
    layer = LoraLayer(base, 1, 2.0)

    def change(m):
        assert m is not layer
        m.base.weight.data[...] = 5.0
        m.extra = mp.nn.Linear(2, 2, rng=1)
        m.lora_A.requires_grad = False

    Pair().call(change, layer)
    assert layer.base is base
    assert (base.weight.data == 5.0).all()
    assert isinstance(layer.extra, mp.nn.Linear)
    assert not layer.lora_A.requires_grad


def test_recording_the_dropout_generator_and_the_generators_state_go_along():
    pair, rng = Pair(), np.random.default_rng(3)
    expected = np.random.default_rng(3).random(5)
    np.testing.assert_array_equal(pair.call(lambda g: g.random(3), rng), expected[:3])
    np.testing.assert_array_equal(rng.random(2), expected[3:])
    x = mp.Tensor(np.ones(3), requires_grad=True)
    with mp.no_grad():
        assert pair.call(lambda a: (a * 2.0).node is None, x)
    dropout = mp.nn.Dropout(0.5)
    with mp.nn.random_stream(7):
        expected = dropout(mp.Tensor(np.ones(64))).data
    with mp.nn.random_stream(7):
        np.testing.assert_array_equal(pair.call(lambda d, a: d(a), dropout, mp.Tensor(np.ones(64))).data, expected)


def test_flops_of_the_other_side_are_counted():
    pair, replies = Pair(), []
    pair.sent = lambda to, message: replies.append(to.answer(message)) or replies[-1]
    pair.call(lambda a, b: mp.ops.linear(a, b), mp.Tensor(np.ones((2, 3))), mp.Tensor(np.ones((5, 3))))
    assert [reply["flops"] for reply in replies] == [2 * 2 * 3 * 5]


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("k"), mp.peft.PeftError("r")], ids=repr)
def test_an_exception_keeps_its_type(error):
    def fail():
        raise error

    pair = Pair()
    pair.here.describe = pair.there.describe = lambda e: {
        "type": type(e).__name__,
        "class": "minipeft.peft.config:PeftError" if isinstance(e, mp.peft.PeftError) else "",
        "message": str(e),
    }
    with pytest.raises(type(error)):
        pair.call(fail)


def as_bytes(text):
    return np.frombuffer(text.encode(), np.uint8)


def packed(values):
    return as_bytes(json.dumps(values))


class Cubed(mp.Function):
    """x³. backward notes that it was called."""

    called: ClassVar[list] = []

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return x**3

    @staticmethod
    def backward(ctx, dz):
        (x,) = ctx.saved
        Cubed.called.append(x)
        return 3 * x**2 * dz


Cubed.__module__ = "a driver"  # no name by which the other side could find it


def test_a_graph_is_walked_on_the_other_side_by_rules_of_this_one():
    x = mp.Tensor(np.array([2.0, -1.0]), requires_grad=True)
    y = Cubed.apply(x) * Cubed.apply(x)
    root, parents = y.node, list(y.node.parents)
    Cubed.called.clear()
    pair = Pair(graphs=True)
    seen = []

    def walk(root, dz):
        seen.append((root, root.parents[0].function, root.parents[0].parents[0]))
        mp.autograd._walk(root, dz, None)

    pair.call(walk, root, np.ones(2))
    np.testing.assert_allclose(x.grad, 6 * x.data**5)
    assert len(Cubed.called) == 2
    assert all(node.ctx is None and node.parents == [] for node in (root, *parents))
    theirs, function, leaf = seen[0]
    assert theirs is not root
    assert leaf is not x
    assert issubclass(function, mp.Function)
    assert function.__name__ == "Cubed"


def test_a_function_of_this_side_is_applied_on_the_other_and_its_node_comes_back():
    x, frozen = mp.Tensor(np.ones(3), requires_grad=True), mp.Tensor(np.ones(3))
    pair = Pair(graphs=True)
    for leaf in (x, frozen):
        out = pair.call(lambda cls, t: cls.apply(t), Cubed, leaf)
        np.testing.assert_array_equal(out.data, np.ones(3))
        assert (out.node is not None) == leaf.requires_grad
    out = pair.call(lambda cls, t: cls.apply(t), Cubed, x)
    assert out.node.function is Cubed
    assert out.node.parents == [x]
    assert out.node.ctx.saved[0] is x.data


def test_a_graph_may_be_deeper_than_calls_may_be():
    x = mp.Tensor(np.ones(1), requires_grad=True)
    z = x
    for _ in range(3 * sys.getrecursionlimit()):
        z = z + 1.0
    Pair(graphs=True).call(lambda root, dz: mp.autograd._walk(root, dz, None), z.node, np.array([2.0]))
    np.testing.assert_array_equal(x.grad, [2.0])


def test_a_function_of_this_side_cannot_be_changed_from_the_other():
    rules = Cubed.forward, Cubed.backward

    def change(cls):
        cls.forward, cls.backward, cls.__name__ = staticmethod(print), staticmethod(print), "Other"
        return cls

    assert Pair(graphs=True).call(change, Cubed) is Cubed
    assert (Cubed.forward, Cubed.backward, Cubed.__name__) == (*rules, "Cubed")


HOSTILE = [
    [],
    {},
    {"text": "[", "arrays": []},
    {"text": 1 << 40, "arrays": []},
    {"text": as_bytes("["), "arrays": []},
    {"text": as_bytes("[[" * 5000), "arrays": []},
    {"text": packed([[["object", 99]], {}]), "arrays": []},
    {"text": packed([[["tuple", 3], {}, None], {}]), "arrays": []},
    {"text": packed([[["named", "os:system"], {}, None], {}]), "arrays": []},
    {"text": packed([[["named", "minipeft.autograd:heapq.heappop"], {}, None], {}]), "arrays": []},
    {"text": packed([[None, {}, None], {"1": ["instance", "subprocess:Popen", []]}]), "arrays": []},
    {"text": packed([[None, {}, None], {"memory 1": ["memory", 0]}]), "arrays": []},
    {
        "text": packed([[None, {}, None], {"memory 1": ["memory", 0], "3": ["array", 1, 0, [9], [8], "f8", True]}]),
        "arrays": [np.zeros(8, np.uint8)],
    },
    {
        "text": packed([[None, {}, None], {"memory 1": ["memory", 0], "3": ["array", 1, 0, [2], [-8], "f8", True]}]),
        "arrays": [np.zeros(16, np.uint8)],
    },
    *(
        {"text": packed([[["tuple", [["method", owner, name]]], {}, None], {}]), "arrays": []}
        for owner, name in (
            (["named", "minipeft.peft.lora:LoRALinear.forward"], "__globals__"),
            (["named", "minipeft.peft.lora:LoRALinear.forward"], "__code__"),
            (["named", "minipeft.peft.lora:LoraLayer"], "__init__"),
            (["named", "minipeft.peft.lora:LoraLayer"], "mro"),
            (["builtin", "object"], "__subclasses__"),
            (["builtin", "str"], "format"),
        )
    ),
]


@pytest.mark.parametrize("message", HOSTILE, ids=range(len(HOSTILE)))
def test_a_message_that_is_none_is_an_error_and_nothing_more(message):
    pair = Pair()
    pair.sent = lambda to, asked: {"done": True, **message} if isinstance(message, dict) else message
    pair.there.answer = pair.sent
    with pytest.raises((ProtocolError, RecursionError)):
        if isinstance(message, dict):
            pair.call(None)
        else:
            pair.here._unpacked(message)


@pytest.mark.parametrize(
    ("lent", "state"),
    [
        (lambda: np.random.default_rng(0), ["instance", "numpy.random:Generator", [["_bit_generator", None]]]),
        (lambda: np.ones((2, 3)), ["instance", "", [["shape", ["tuple", [9, 9]]]]]),
        (lambda: np.ones((2, 3)), ["dict", []]),
        (lambda: LoraLayer.__new__(LoraLayer), ["dict", []]),
        (lambda: LoraLayer.__new__(LoraLayer), ["instance", "minipeft.nn.layers:Linear", []]),
        (lambda: LoraLayer.__new__(LoraLayer), ["instance", "minipeft.peft.lora:LoraLayer", [["forward", 1]]]),
        (lambda: {}, ["list", []]),
        (lambda: [], ["rng", "{}"]),
        (lambda: Cubed, ["instance", "minipeft.autograd:Function", [["forward", 1]]]),
        (lambda: mp.Tensor(np.ones(2)), ["instance", "minipeft.autograd:Tensor", [["data", 1]]]),
    ],
)
def test_an_object_of_this_side_stays_what_it_is(lent, state):
    x = lent()
    pair = Pair()
    pair.call(lambda a: None, x)
    before = vars(x).copy() if hasattr(x, "__dict__") else repr(x)
    with pytest.raises(ProtocolError):
        pair.here._unpacked({"text": packed([[], {"0": state}]), "arrays": []})
    assert (vars(x) if hasattr(x, "__dict__") else repr(x)) == before


def test_the_other_side_names_only_what_this_side_has_sent():
    wordpiece = "minipeft.data.wordpiece:WordPiece"
    pair = Pair()
    for values in (
        [["named", f"{wordpiece}.from_file"]],
        [["named", wordpiece]],
        [["named", "minipeft.ops.arithmetic:Add"]],
    ):
        with pytest.raises(ProtocolError, match="was not sent"):
            pair.here._unpacked({"text": packed([values, {}]), "arrays": []})
    with pytest.raises(ProtocolError, match="was not sent"):
        pair.here._unpacked({"text": packed([[], {"1": ["instance", wordpiece, []]}]), "arrays": []})
    assert pair.call(lambda cls: (cls, cls), mp.nn.Linear) == (mp.nn.Linear, mp.nn.Linear)


def test_only_what_was_handed_over_can_be_reached():
    with pytest.raises(ProtocolError):
        named("builtins:eval")
    pair = Pair()
    with pytest.raises(LookupError):
        pair.here.ask({"call": "g"})

    def probe(handle):
        with pytest.raises(AttributeError):
            _ = handle.__globals__
        return pair.there.ask({"attribute": [vars(handle)["_number"], "__globals__"]})

    with pytest.raises(RuntimeError):
        pair.call(probe, lambda: 3)


def test_a_function_is_replaced_wherever_it_is_referred_to_and_put_back():
    softmax, attention = (import_module(f"minipeft.ops.{name}") for name in ("softmax", "attention"))
    table = {"softmax": softmax.stable_softmax}
    x = np.zeros((1, 2))
    undo = replaced("minipeft.ops.softmax:stable_softmax", lambda own: lambda *args: (own(*args), "replaced"))
    for function in (softmax.stable_softmax, attention.stable_softmax, table["softmax"]):
        np.testing.assert_array_equal(function(x)[0], [[0.5, 0.5]])
    undo()
    np.testing.assert_array_equal(table["softmax"](x), [[0.5, 0.5]])
    undo = replaced("minipeft.peft.lora:LoRALinear.forward", lambda own: lambda *args: args)
    assert mp.peft.lora.LoRALinear.forward(1, 2) == (1, 2)
    undo()
    undo = replaced("minipeft.peft.adapters:Adapter.__init__", lambda own: lambda self, *args, **more: more)
    with pytest.raises(TypeError, match="should return None"):
        mp.peft.adapters.Adapter(x=1)
    undo()


def test_every_target_of_every_homework_is_replaced():
    """No reference that was taken before, in a table or a default, leads to the library's own function."""
    for target in (t for name in homeworks() for t in load_homework(name).targets):
        import_module(target.module)
        owner = reduce(getattr, target.name.split(".")[:-1], sys.modules[target.module])
        held = vars(owner)[target.name.rpartition(".")[2]]
        function = getattr(held, "__func__", held)
        undo = replaced(str(target), lambda own: lambda *args, **kwargs: "replaced")
        try:
            assert function() == "replaced", target
        finally:
            undo()
