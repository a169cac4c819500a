"""Random subspaces: their projections, their gradients, and the search for the intrinsic dimension."""

import numpy as np
import pytest
from families import encoder, gpt2, llama, mlp

import minipeft as mp
from minipeft.data import Batches
from minipeft.optim import AdamW
from minipeft.peft import IntrinsicConfig, PeftError, get_peft_model, intrinsic_dimension
from minipeft.peft.intrinsic import KINDS, Fastfood, walsh_hadamard
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
    for d in DESIGNS:
        assert d.insertion in ("sequential", "parallel")
        assert all((d.method, d.delta_h, d.modified, d.composition))
