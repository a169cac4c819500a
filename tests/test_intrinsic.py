"""Random subspaces: their projections, their gradients, and the search for the intrinsic dimension."""

import numpy as np
import pytest
from families import encoder, gpt2, llama, mlp

import minipeft as mp
from minipeft.accounting import saved_buffers
from minipeft.data import Batches
from minipeft.nn.module import find
from minipeft.optim import AdamW
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    FacTConfig,
    IA3Config,
    IntrinsicConfig,
    LayerNormConfig,
    LNLoraConfig,
    LoraConfig,
    PeftError,
    get_peft_model,
    intrinsic_dimension,
)
from minipeft.peft.projections import KINDS, Fastfood, walsh_hadamard
from minipeft.peft.unified import DESIGNS, attention_with_prefix, gate, gated_parallel_adapter
from minipeft.train import fit


def matrix(p):
    return np.stack([p.apply(column) for column in np.eye(p.d)], axis=1)


@pytest.mark.parametrize("L", [1, 2, 8, 64])
def test_the_transform_is_the_matrix_of_hadamard(L, rng):
    H = np.ones((1, 1))
    while len(H) < L:
        H = np.block([[H, H], [H, -H]])
    x = rng.normal(size=L)
    np.testing.assert_allclose(walsh_hadamard(x), H @ x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(walsh_hadamard(walsh_hadamard(x)), L * x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "d"), [(1, 1), (15, 4), (4, 15), (5000, 3), (64, 64)])
def test_the_transpose_is_the_transpose(kind, size, d, rng):
    p = KINDS[kind](size, d, 2 * size, (1, 2))
    x, y = rng.normal(size=d), rng.normal(size=size)
    assert p.apply(x).shape == (size,)
    assert p.transpose(y).shape == (d,)
    assert p.apply(x) @ y == pytest.approx(x @ p.transpose(y), rel=1e-10, abs=1e-12)
    again = KINDS[kind](size, d, 2 * size, (1, 2))
    assert np.array_equal(p.apply(x), again.apply(x))
    other = KINDS[kind](size, d, 2 * size, (1, 3))
    assert size == 1 or not np.array_equal(p.apply(x), other.apply(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_projection_is_drawn_from_its_seed_and_never_kept_or_trained(kind, rng):
    d = 200
    config = IntrinsicConfig(d=d, projection=kind, seed=4)
    model, batch = gpt2(rng)
    sizes = [p.size for p in model.parameters()]
    peft = get_peft_model(model, config)
    assert [p.shape for p in peft.trained().values()] == [(d,)]
    projections = list({id(p): p for p in _held(peft)}.values())
    assert len(projections) == len(sizes)
    for p in projections:
        assert all(isinstance(v, (int, tuple)) for v in vars(p).values()), "sizes and a seed, no array"
    kept = sum(n for _, n in saved_buffers(peft.loss(**batch), list(peft.parameters())))
    assert kept < sum(sizes) * d * 4 / 10, "the graph holds no P of D x d numbers either"
    again = get_peft_model(gpt2(rng)[0], config)
    x = rng.normal(size=d)
    for a, b in zip(projections, list({id(p): p for p in _held(again)}.values()), strict=True):
        assert np.array_equal(a.apply(x), b.apply(x))


def _held(model):
    held = [vars(m)["_projections"] for _, m in model.named_modules() if "_projections" in vars(m)]
    return [p for each in held for p in each.by_name.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_over_a_whole_model_have_length_one(kind):
    sizes = [3000, 1000, 96]
    parts = [matrix(KINDS[kind](n, 20, sum(sizes), (0, i))) for i, n in enumerate(sizes)]
    lengths = np.linalg.norm(np.concatenate(parts), axis=0)
    np.testing.assert_allclose(lengths, 1.0, atol=0.35 if kind == "sparse" else 0.12)
    gram = np.concatenate(parts).T @ np.concatenate(parts)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 0.5


@pytest.mark.parametrize("L_size", [128, 1000, 5000])
def test_the_gradient_of_fastfood_has_no_factor(L_size, rng):
    """A known implementation multiplies its gradient by 1/L for a tensor of L numbers."""
    p = Fastfood(L_size, 3, L_size, (0,))
    mp.gradcheck(lambda x: mp.Tensor(p.apply(np.zeros(3))) + _through(p, x), rng.normal(size=3))


def _through(p, x):
    from minipeft.peft.intrinsic import Subspace

    return Subspace.apply(np.zeros(p.size), x, None, p)


@pytest.mark.parametrize("family", [gpt2, llama, encoder])
@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_the_base_and_moves_in_d_directions(family, kind, rng):
    model, batch = family(rng)
    model.to(np.float64)
    base = model.loss(**batch).item()
    peft = get_peft_model(model, IntrinsicConfig(d=5, projection=kind))
    assert peft.loss(**batch).item() == pytest.approx(base, rel=1e-12)
    (theta,) = peft.trained().values()
    assert theta.shape == (5,)
    mp.gradcheck(lambda x: _loss_at(peft, theta, x, batch), rng.normal(size=5))


def _loss_at(peft, theta, x, batch):
    swapped = [m for _, m in peft.base_model.named_modules() if hasattr(m, "theta_d")]
    for m in swapped:
        m.theta_d = x
    try:
        return peft.loss(**batch)
    finally:
        for m in swapped:
            m.theta_d = theta


def test_tied_weights_move_together(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, IntrinsicConfig(d=5))
    next(iter(peft.trained().values())).data[...] = rng.normal(size=5)
    projections = [m._projections.by_name["weight"] for m in (peft.input.tokens, peft.lm_head)]
    assert projections[0] is projections[1]
    ids = batch["ids"]
    with mp.no_grad():
        moved = peft(ids).data
        plain = peft.unload()(ids).data
    assert not np.allclose(moved, plain)


def test_dimensions_that_make_no_sense(rng):
    for config, message in (
        (IntrinsicConfig(d=0), "at least 1"),
        (IntrinsicConfig(d=10**7), "directions"),
        (IntrinsicConfig(d=5, said=True), "are scales"),
        (IntrinsicConfig(projection="random"), "one of"),
    ):
        with pytest.raises(PeftError, match=message):
            get_peft_model(gpt2(rng)[0], config)


def test_a_larger_subspace_learns_more(rng):
    x = rng.normal(size=(60, 6)).astype(np.float32)
    data = Batches({"x": x, "labels": (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)}, 20)

    def loss(d):
        model, _ = mlp(rng)
        peft = get_peft_model(model, IntrinsicConfig(d=d, projection="dense"))
        history = fit(peft, data, AdamW(peft, lr=0.1, weight_decay=0.0), steps=60, progress=False)
        return np.mean(history.losses[-6:])

    assert loss(40) < loss(1)


def test_the_intrinsic_dimension_is_read_off_on_a_logarithmic_axis():
    noise = {0: 0.0, 1: 0.02, 2: -0.02}

    def score(d, seed):
        return min(1.0, np.log10(d) / 3) + noise[seed]

    found = intrinsic_dimension(score, [1, 10, 100, 1000, 10000], full=1.0, seeds=[0, 1, 2])
    assert found.d == pytest.approx(10**2.7, rel=1e-6)
    assert found.low <= found.d <= found.high
    assert found.high / found.low < 2
    assert found.target == 0.9
    never = intrinsic_dimension(lambda d, s: 0.1, [1, 10], full=1.0)
    assert (never.d, never.low, never.high) == (None, None, None)
    assert intrinsic_dimension(lambda d, s: 1.0, [7, 9], full=1.0).d == 7.0
    dip = intrinsic_dimension(lambda d, s: {1: 0.0, 10: 1.0, 100: 0.2}[d], [1, 10, 100], full=1.0)
    assert dip.d == pytest.approx(10**0.9)
    with pytest.raises(ValueError, match="at least one"):
        intrinsic_dimension(score, [], 1.0)
    with pytest.raises(ValueError, match="not finite"):
        intrinsic_dimension(lambda d, s: float("nan"), [1, 10], 1.0)


def test_the_intrinsic_dimension_of_a_network_that_is_trained(rng):
    """The whole way: full training, then trainings in random subspaces of three seeds."""
    x = rng.normal(size=(90, 6)).astype(np.float32)
    labels = (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 0.5)
    data = Batches({"x": x, "labels": labels}, 30)

    def accuracy(model):
        fit(model, data, AdamW(model, lr=0.05, weight_decay=0.0), steps=90, progress=False)
        with mp.no_grad():
            return float((model(x).data.argmax(1) == labels).mean())

    full = accuracy(mp.models.MLP((6, 12, 3), rng=0))
    assert full > 0.9
    config = {d: (lambda seed, d=d: IntrinsicConfig(d=d, projection="dense", seed=seed)) for d in (1, 4, 16, 64)}
    found = intrinsic_dimension(
        lambda d, seed: accuracy(get_peft_model(mp.models.MLP((6, 12, 3), rng=0), config[d](seed))),
        list(config),
        full,
        seeds=[0, 1, 2],
    )
    assert found.d is not None
    assert 1 < found.d < 123, "more than one direction, less than all parameters"
    assert found.low is not None
    assert found.low <= found.d
    assert np.mean(found.scores[64]) > np.mean(found.scores[1])


@pytest.mark.parametrize("P", [1, 7])
def test_prefix_attention_is_a_gated_parallel_adapter(P, rng):
    q, k, v = rng.normal(size=(4, 6)), rng.normal(size=(5, 6)), rng.normal(size=(5, 6))
    prefix_k, prefix_v = 3 * rng.normal(size=(P, 6)), rng.normal(size=(P, 6))
    args = (q, k, v, prefix_k, prefix_v, 6**-0.5)
    np.testing.assert_allclose(attention_with_prefix(*args), gated_parallel_adapter(*args), rtol=0, atol=1e-12)
    share = gate(q, k, prefix_k, 6**-0.5)
    assert ((share > 0) & (share < 1)).all()


def test_the_identity_holds_for_the_function_that_trains(rng):
    from minipeft.autograd import Context
    from minipeft.peft.prefix import PrefixAttention

    q, k, v = (rng.normal(size=(2, 3, n, 6)) for n in (4, 5, 5))
    prefix = rng.normal(size=(2, 7, 3, 6))
    z = PrefixAttention.forward(Context(*[False] * 7), q, k, v, prefix, None, False, 6**-0.5)
    for b, h in np.ndindex(2, 3):
        expected = gated_parallel_adapter(q[b, h], k[b, h], v[b, h], prefix[0, :, h], prefix[1, :, h], 6**-0.5)
        np.testing.assert_allclose(z[b, h], expected, rtol=0, atol=1e-12)


def test_every_method_has_its_four_choices():
    assert len({d.method for d in DESIGNS}) == len(DESIGNS)
    for d in DESIGNS:
        assert d.insertion in ("sequential", "parallel")
        assert all((d.method, d.delta_h, d.modified, d.composition))


def _changed(config, path, rng, inputs):
    """What stands at ``path`` of a GPT-2 under a method, that of the base, and both on ``inputs``."""
    model, _ = gpt2(rng)
    base = find(model.to(np.float64), path)
    peft = get_peft_model(model, config)
    for p in peft.trained().values():
        p.data[...] += 0.3 * rng.normal(size=p.shape)
    new = find(model, path)
    with mp.no_grad():
        return new, base(inputs).data, new(inputs).data


def _norm(x, weight=1.0, bias=0.0, eps=1e-5):
    return weight * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) + bias


def test_the_changes_are_what_the_table_of_designs_says(rng):
    """h and Δh computed beside the modules, for each row of the table but the two of prompts."""
    inputs = mp.Tensor(rng.normal(size=(2, 5, 12)))
    x = inputs.data
    q, ff = "stack.layers.0.attention.q_proj", "stack.layers.0.feed_forward"
    tried = set()

    def holds(method, config, path, change):
        new, h, z = _changed(config, path, rng, inputs)
        np.testing.assert_allclose(z, h + change(new, h), rtol=1e-10, atol=1e-12, err_msg=method)
        tried.add(method)

    def bottleneck(a, h):
        return np.maximum(h @ a.down.data.T + a.down_bias.data, 0) @ a.up.data.T + a.up_bias.data

    relu = {"r": 3, "activation": "relu"}
    holds("adapter (AdapterH)", AdapterConfig(**relu), ff, lambda m, h: bottleneck(m.adapter, h))
    holds(
        "AdapterL",
        AdapterConfig(**relu, after=["feed_forward"], layer_norm=True),
        ff,
        lambda m, h: bottleneck(m.adapter, _norm(h, m.adapter.norm.weight.data, m.adapter.norm.bias.data)),
    )
    holds(
        "parallel adapter",
        AdapterConfig(**relu, after=["feed_forward"], parallel=True, scale=4.0),
        ff,
        lambda m, h: 4.0 * bottleneck(m.adapter, x),
    )
    holds("LoRA", LoraConfig(r=2, lora_alpha=6), q, lambda m, h: 3.0 * x @ m.lora_A.data.T @ m.lora_B.data.T)
    holds(
        "LNLoRA",
        LNLoraConfig(r=2, lora_alpha=6),
        q,
        lambda m, h: 3.0 * _norm(x, m.norm_weight.data, m.norm_bias.data) @ m.lora_A.data.T @ m.lora_B.data.T,
    )
    holds(
        "FacT",
        FacTConfig(r=2, scale=0.5),
        q,
        lambda m, h: 0.5 * x @ m.fact_U.data.T @ m.core.sigma.data[0].T @ m.fact_V.data.T,
    )
    holds("IA3", IA3Config(), "stack.layers.0.attention.k_proj", lambda m, h: (m.ia3_l.data - 1) * h)
    model, _ = gpt2(rng)
    bias = find(model.to(np.float64), q).bias.data.copy()
    with mp.no_grad():
        h = find(model, q)(inputs).data
        peft = get_peft_model(model, BitFitConfig())
        layer = find(model, q)
        layer.bias.data[...] += rng.normal(size=12)
        np.testing.assert_allclose(layer(inputs).data, h + (layer.bias.data - bias), rtol=1e-12)
    assert peft.unload() is model
    tried.add("BitFit")
    norm = "stack.layers.0.attention_norm"
    with mp.no_grad():
        h = find(model, norm)(inputs).data
        get_peft_model(model, LayerNormConfig())
        layer = find(model, norm)
        layer.weight.data[...] += rng.normal(size=12)
        layer.bias.data[...] += rng.normal(size=12)
        expected = h + (layer.weight.data - 1) * _norm(x) + layer.bias.data
        np.testing.assert_allclose(layer(inputs).data, expected, rtol=1e-10, atol=1e-12)
    tried.add("LayerNorm tuning")
    assert tried == {d.method for d in DESIGNS} - {"prefix tuning", "prompt tuning"}
