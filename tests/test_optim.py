"""Optimizers: the published rules, in place, on what is trainable alone."""

import math

import numpy as np
import pytest
from strict import Syncs

import minipeft as mp
from minipeft import nn
from minipeft.backend import threads, use_threads
from minipeft.optim import SGD, AdamW, CosineSchedule, LinearSchedule, clip_grad_norm_


def leaf(x, **kwargs):
    return mp.Tensor(np.array(x), requires_grad=True, **kwargs)


def quadratic(p):
    return (p * p).sum()


def trained(optimizer_of, steps=5, size=(3, 4)):
    rng = np.random.default_rng(0)
    p = leaf(rng.normal(size=size))
    grads = [rng.normal(size=size) for _ in range(steps)]
    optimizer = optimizer_of([p])
    values = [p.data.copy()]
    for g in grads:
        p.grad = g.copy()
        optimizer.step()
        values.append(p.data.copy())
    return values, grads


def test_adamw_follows_its_rule():
    lr, b1, b2, eps, decay = 0.02, 0.8, 0.95, 1e-6, 0.1
    values, grads = trained(lambda p: AdamW(p, lr, (b1, b2), eps, decay))
    x, m, v = values[0].copy(), np.zeros((3, 4)), np.zeros((3, 4))
    for t, g in enumerate(grads, 1):
        x = x - lr * decay * x
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x = x - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        np.testing.assert_allclose(values[t], x, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_follows_its_rule(nesterov):
    lr, mu, decay = 0.1, 0.9, 0.01
    values, grads = trained(lambda p: SGD(p, lr, mu, decay, nesterov))
    x, v = values[0].copy(), np.zeros((3, 4))
    for t, g in enumerate(grads, 1):
        g = g + decay * x
        v = mu * v + g
        x = x - lr * (g + mu * v if nesterov else v)
        np.testing.assert_allclose(values[t], x, rtol=1e-12)


@pytest.mark.parametrize("size", [(), (1,), (7,), (5, 3), (70_001,), (4099, 33)])
def test_blocks_change_nothing(size):
    values, grads = trained(lambda p: AdamW(p, 0.1, eps=0.3, weight_decay=0.2), steps=1, size=size)
    expected = (1 - 0.1 * 0.2) * values[0] - 0.1 * grads[0] / (np.abs(grads[0]) + 0.3)  # at the first step m̂ is g
    np.testing.assert_allclose(values[1], expected, rtol=1e-10, atol=1e-12)
    values, grads = trained(lambda p: SGD(p, 0.1), steps=1, size=size)
    np.testing.assert_allclose(values[1], values[0] - 0.1 * grads[0], rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.1),
        lambda p: SGD(p, 0.1, 0.9, 0.01),
        lambda p: SGD(p, 0.1, 0.9, 0.01, nesterov=True),
        lambda p: AdamW(p, 0.1, weight_decay=0.1),
        lambda p: AdamW(p, 0.1, (0.8, 0.95), 1e-3, 0.0),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_a_faster_step_equals_the_rule(make, dtype, tolerance, device, monkeypatch):
    def run(where, threads):
        rng = np.random.default_rng(1)
        sizes = [(70_001,), (), (5, 3), (0, 2), (301, 235)]
        params = [mp.Tensor(mp.to_device(rng.normal(size=s).astype(dtype), where), requires_grad=True) for s in sizes]
        optimizer = make(params)
        for _ in range(3):
            for p in params:
                p.grad = mp.to_device(rng.normal(size=p.shape).astype(dtype), where)
            with use_threads(threads):
                optimizer.step()
        state = [x for slots in optimizer.state.values() for x in slots.values()]
        return [mp.to_numpy(x) for x in (*(p.data for p in params), *state)]

    monkeypatch.setattr(threads, "ENOUGH_BLOCKS", 2)
    fast = run(device, threads=1)
    shared = run("cpu", threads=3)
    with mp.reference():
        plain = run("cpu", threads=1)
    for x, y, z in zip(plain, fast, shared, strict=True):
        np.testing.assert_allclose(y, x, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(z, x, rtol=tolerance, atol=tolerance)


def test_a_subclass_runs_its_own_rule():
    class Signs(SGD):
        def update(self, x, g, state, lr, decay):
            x[...] = x - lr * np.sign(g)

    p = leaf(np.ones((2, 3)))
    optimizer = Signs([p], 0.25)
    p.grad = np.array([[1.0, -2.0, 3.0], [-4.0, 5.0, 0.0]])
    optimizer.step()
    np.testing.assert_array_equal(p.data, [[0.75, 1.25, 0.75], [1.25, 0.75, 1.0]])


@pytest.mark.parametrize("no_decay", [("bias", "norm"), lambda name: "norm" in name or name.endswith("bias")])
def test_what_is_named_takes_no_decay(no_decay):
    names = ["layers.0.proj.weight", "layers.0.proj.bias", "layers.0.attention_norm.weight", "norm.weight"]
    tensors = [(name, leaf([2.0, 4.0])) for name in names]
    for optimizer in (
        AdamW(tensors, lr=0.5, weight_decay=0.1, no_decay=no_decay),
        SGD(tensors, lr=0.5, weight_decay=0.1, no_decay=no_decay),
    ):
        for _, p in tensors:
            p.data[...] = [2.0, 4.0]
            p.grad = np.zeros(2)
        optimizer.step()
        assert [p.data.tolist() for _, p in tensors] == [[1.9, 3.8], [2.0, 4.0], [2.0, 4.0], [2.0, 4.0]]
        assert optimizer.settings()["no_decay"] == names[1:]


def test_settings_tell_runs_apart():
    p = [leaf([1.0])]
    assert AdamW(p).settings() == AdamW(p, lr=np.float64(1e-3)).settings()
    others = [
        AdamW(p, lr=2e-3),
        AdamW(p, lr=LinearSchedule(1e-3, 5)),
        AdamW(p, lr=LinearSchedule(1e-3, 6)),
        AdamW(p, lr=CosineSchedule(1e-3, 5)),
        AdamW(p, lr=lambda step: 1e-3),
        AdamW(p, betas=(0.8, 0.999)),
        AdamW(p, no_decay=["0"]),
        SGD(p, lr=1e-3),
        SGD(p, lr=1e-3, momentum=0.5),
    ]
    texts = [str(o.settings()) for o in (AdamW(p), *others)]
    assert len(set(texts)) == len(texts)


def test_numbers_of_numpy_do_not_promote():
    f = np.float64
    for make in (
        lambda p: AdamW(p, f(0.1), (f(0.9), f(0.99)), f(1e-8), f(0.1)),
        lambda p: AdamW(p, lambda step: f(0.1)),
        lambda p: SGD(p, f(0.1), f(0.9), f(0.1), nesterov=True),
    ):
        p = leaf(np.ones(3, np.float32))
        optimizer = make([p])
        p.grad = np.full(3, 0.5, np.float32)
        optimizer.step()
        assert p.data.dtype == np.float32
        assert {x.dtype for x in optimizer.state["0"].values()} == {np.dtype(np.float32)}
        held = [optimizer.lr, *optimizer.decays.values(), *getattr(optimizer, "betas", [])]
        assert all(type(n) is float for n in held)  # a temporary would promote unseen


def test_each_device_gives_the_same_bits_and_clipping_reads_one_number(device):
    start = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    for make in (lambda p: AdamW(p, 0.1, weight_decay=0.1), lambda p: SGD(p, 0.1, 0.9, 0.01, nesterov=True)):
        results = []
        for where in ("cpu", device):
            p, q = (mp.Tensor(mp.to_device(start * s, where), requires_grad=True) for s in (1, 2))
            optimizer = make([p, q])
            for s in (1.0, -3.0):
                p.grad, q.grad = mp.to_device(start * s, where), mp.to_device(start + 1, where)
                before = Syncs.count
                norm = clip_grad_norm_([p, q], 0.5)
                optimizer.step()
                assert where not in ("strict", "emulated") or Syncs.count == before + 1
            results.append([norm, *(mp.to_numpy(t.data) for t in (p, q))])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=0 if device == "strict" else 2e-6)


def test_what_is_frozen_has_no_state_and_no_decay(rng):
    model = nn.FeedForward(4, 6, rng=0)
    model.up_proj.requires_grad_(False)
    frozen = model.up_proj.weight.data.copy()
    optimizer = AdamW(model, lr=0.1, weight_decay=0.5)
    for _ in range(3):
        (model(mp.Tensor(np.ones((2, 4), np.float32))) * 1.0).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(optimizer.state) == {"down_proj.weight", "down_proj.bias"}
    assert np.array_equal(model.up_proj.weight.data, frozen)
    assert optimizer.state_bytes == 2 * 4 * (24 + 4)


def test_a_parameter_frozen_later_is_left_alone():
    p, q = leaf([1.0]), leaf([2.0])
    optimizer = AdamW([p, q], lr=0.1)
    p.grad, q.grad = np.ones(1), np.ones(1)
    p.requires_grad = False
    optimizer.step()
    assert p.data == 1.0
    assert q.data != 2.0


def test_a_parameter_without_a_gradient_is_left_alone():
    p, q = leaf([1.0]), leaf([2.0])
    optimizer = AdamW([p, q], lr=0.1, weight_decay=0.5)
    q.grad = np.ones(1)
    optimizer.step()
    assert p.data == 1.0
    assert list(optimizer.state) == ["1"]


def test_a_tied_parameter_is_stepped_once():
    p = leaf([1.0])
    optimizer = SGD([p, p, ("again", p)], lr=0.1)
    p.grad = np.ones(1)
    optimizer.step()
    assert p.data == pytest.approx(0.9)


def test_updates_are_in_place_and_keep_float32():
    p = leaf(np.ones(5, np.float32))
    data = p.data
    optimizer = AdamW([p], lr=0.1)
    p.grad = np.ones(5, np.float32)
    optimizer.step()
    assert p.data is data
    assert data.dtype == np.float32
    assert {x.dtype for x in optimizer.state["0"].values()} == {np.dtype(np.float32)}


def test_schedules_rise_and_fall():
    linear = LinearSchedule(1.0, 10, warmup=2)
    assert [linear(s) for s in (0, 1, 2, 6, 10, 20)] == [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    cosine = CosineSchedule(1.0, 10, warmup=2, floor=0.1)
    assert cosine(1) == 1.0
    assert cosine(6) == pytest.approx(0.55)
    assert cosine(10) == pytest.approx(0.1)
    assert cosine(4) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    p = leaf([1.0])
    optimizer = SGD([p], lr=linear)
    rates = []
    for _ in range(3):
        rates.append(optimizer.lr)
        p.grad = np.ones(1)
        optimizer.step()
    assert rates == [0.5, 1.0, 1.0]
    for bad in ((0.0, 5, 0), (1.0, 0, 0), (1.0, 5, 6)):
        with pytest.raises(ValueError, match="a schedule needs"):
            LinearSchedule(*bad)
    with pytest.raises(ValueError, match="0 <= floor <= lr"):
        CosineSchedule(0.1, 5, floor=0.2)


def test_clipping_by_the_common_norm():
    p, q = leaf([3.0, 0.0]), leaf([[4.0]])
    p.grad, q.grad = np.array([3.0, 0.0]), np.array([[4.0]])
    assert clip_grad_norm_([p, q, p], 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(p.grad, [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(q.grad, [[0.8]], rtol=1e-6)
    assert clip_grad_norm_([p, q], 10.0) == pytest.approx(1.0)
    np.testing.assert_allclose(p.grad, [0.6, 0.0], rtol=1e-6)
    assert clip_grad_norm_([leaf([1.0])], 1.0) == 0.0
    with pytest.raises(ValueError, match="positive"):
        clip_grad_norm_([p], 0.0)
    q.grad = np.array([[math.inf]])
    before = p.grad.copy()
    with pytest.raises(FloatingPointError, match="norm is inf"):
        clip_grad_norm_([p, q], 0.1, error_if_nonfinite=True)
    assert np.array_equal(p.grad, before)


def test_the_norm_is_summed_in_float64_over_all_blocks():
    p = leaf(np.zeros((300, 301), np.float32))
    p.grad = np.full((301, 300), 1e-3, np.float32).T
    assert clip_grad_norm_([p], 1e9) == pytest.approx(np.float32(1e-3) * math.sqrt(90_300), rel=1e-12)


def test_state_resumes_to_the_same_bits():
    def run(optimizer, p, steps):
        for s in steps:
            p.grad = np.array([s, -s, 2.0 * s], dtype=np.float32)
            optimizer.step()

    p, q = leaf(np.ones(3, np.float32)), leaf(np.ones(3, np.float32))
    a = AdamW([p], lr=CosineSchedule(0.1, 10))
    run(a, p, range(1, 7))
    b = AdamW([q], lr=CosineSchedule(0.1, 10))
    run(b, q, range(1, 4))
    c = AdamW([q], lr=CosineSchedule(0.1, 10))
    c.load_state_dict(b.state_dict())
    run(c, q, range(4, 7))
    assert np.array_equal(p.data, q.data)


def test_a_state_of_other_parameters_is_refused():
    p = leaf([1.0, 2.0])
    optimizer = AdamW([("w", p)])
    p.grad = np.ones(2)
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="fits no trainable parameter"):
        AdamW([("v", p)]).load_state_dict(state)
    with pytest.raises(ValueError, match="fits no trainable parameter"):
        AdamW([("w", leaf([1.0]))]).load_state_dict(state)
    with pytest.raises(ValueError, match="expected"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != "w/m"})
    with pytest.raises(ValueError, match="needs steps"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != "steps"})
    with pytest.raises(ValueError, match="fits no trainable parameter"):
        SGD([("w", p)], 0.1, momentum=0.9).load_state_dict(state)
    assert optimizer.steps == 1
    assert np.array_equal(optimizer.state["w"]["m"], state["w/m"])


def test_an_array_that_could_not_be_updated_in_place_is_refused_later_too():
    p = leaf(np.ones((2, 3)))
    optimizer = SGD([("w", p)], lr=0.1)
    p.data, p.grad = p.data.T, np.ones((3, 2))
    with pytest.raises(ValueError, match="w is not contiguous"):
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: AdamW([]), ValueError, "nothing to train"),
        (lambda p: AdamW([mp.Tensor([1.0])]), ValueError, "none of the 1 parameters"),
        (lambda p: AdamW([np.ones(2)]), TypeError, "got ndarray"),
        (lambda p: AdamW([p], lr=0.0), ValueError, "learning rate"),
        (lambda p: AdamW([p], betas=(1.0, 0.9)), ValueError, "betas"),
        (lambda p: AdamW([p], weight_decay=-1.0), ValueError, "decay"),
        (lambda p: SGD([p], 0.1, momentum=1.0), ValueError, "momentum"),
        (lambda p: SGD([p], 0.1, nesterov=True), ValueError, "Nesterov"),
        (lambda p: AdamW([leaf(np.ones((2, 3)).T)]), ValueError, "not contiguous"),
        (lambda p: AdamW([("w", p), ("w", leaf([1.0]))]), ValueError, "two parameters are called 'w'"),
        (lambda p: AdamW([p], no_decay="bias"), TypeError, "list of endings"),
    ],
)
def test_arguments_that_do_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make(leaf([1.0]))


@pytest.mark.parity
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_steps_equal_those_of_pytorch(dtype, tolerance):
    import torch

    rng = np.random.default_rng(0)
    size = (301, 235)  # more than one block
    start, grads = rng.normal(size=size).astype(dtype), [rng.normal(size=size).astype(dtype) for _ in range(6)]
    pairs = [
        (lambda p: AdamW(p, 0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
        (
            lambda p: SGD(p, 0.1, 0.9, 0.01, nesterov=True),
            lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01, nesterov=True),
        ),
        (lambda p: SGD(p, 0.1, 0.9, 0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
    ]
    for ours, theirs in pairs:
        p, q = leaf(start.copy()), torch.tensor(start, requires_grad=True)
        a, b = ours([p]), theirs([q])
        for g in grads:
            p.grad, q.grad = g.copy(), torch.tensor(g)
            norm = clip_grad_norm_([p], 100.0)
            assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_([q], 100.0).item(), rel=1e-5)
            a.step()
            b.step()
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=tolerance, atol=tolerance)
