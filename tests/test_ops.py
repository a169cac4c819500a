"""What the tables of test_functions do not say: arguments, errors, edges."""

import numpy as np
import pytest

import minipeft as mp
from minipeft import ops


def t(x):
    return mp.Tensor(x, requires_grad=True)


def test_causal_mask_counts_the_prefix(rng):
    q, k, v = (mp.Tensor(rng.normal(size=(1, 1, n, 2))) for n in (3, 5, 5))
    far = mp.Tensor(v.data.copy())
    far.data[:, :, 4] = 1e6  # only the last query may see the last key
    with mp.no_grad():
        a, b = ops.attention(q, k, v, causal=True).data, ops.attention(q, k, far, causal=True).data
    assert np.array_equal(a[:, :, :2], b[:, :, :2])
    assert not np.allclose(a[:, :, 2], b[:, :, 2])


def test_a_query_that_may_look_nowhere_gives_zeros_and_no_gradient(rng):
    q, k, v = (t(rng.normal(size=(2, 2, 3, 4))) for _ in range(3))
    mask = np.ones((2, 3), bool)
    mask[0] = False
    z = ops.attention(q, k, v, mask=mask)
    z.backward(rng.normal(size=z.shape))
    assert not z.data[0].any()
    for x in (q, k, v):
        assert not x.grad[0].any()
        assert np.isfinite(x.grad).all()
        assert x.grad[1].any()


def test_masked_keys_get_no_weight_and_no_gradient(rng):
    q, k, v = t(rng.normal(size=(1, 2, 3, 4))), t(rng.normal(size=(1, 2, 5, 4))), t(rng.normal(size=(1, 2, 5, 4)))
    mask = np.array([[True, False, True, True, False]])
    z = ops.attention(q, k, v, mask=mask)
    z.backward(rng.normal(size=z.shape))
    assert not k.grad[:, :, [1, 4]].any()
    assert not v.grad[:, :, [1, 4]].any()


@pytest.mark.parametrize(
    ("shapes", "kwargs", "message"),
    [
        (((2, 3, 4, 5), (2, 3, 4, 6), (2, 3, 4, 5)), {}, "goes with k"),
        (((2, 3, 4, 5), (2, 2, 4, 5), (2, 2, 4, 5)), {}, "divisor"),
        (((3, 4, 5), (3, 4, 5), (3, 4, 5)), {}, "B, H, N, D"),
        (((2, 3, 4, 5), (2, 3, 2, 5), (2, 3, 2, 5)), {"causal": True}, "at least as many keys"),
        (((2, 3, 4, 5),) * 3, {"mask": np.ones((2, 5), bool)}, "does not broadcast"),
    ],
)
def test_attention_names_shapes_that_do_not_fit(shapes, kwargs, message, rng):
    with pytest.raises(ValueError, match=message):
        ops.attention(*(mp.Tensor(rng.normal(size=s)) for s in shapes), **kwargs)


def test_attention_takes_no_additive_mask(rng):
    x = mp.Tensor(rng.normal(size=(2, 3, 4, 5)))
    with pytest.raises(TypeError, match="boolean"):
        ops.attention(x, x, x, mask=np.zeros((2, 4)))


def test_cross_entropy_ignores_rows_without_a_label(rng):
    logits = t(rng.normal(size=(2, 3, 5)))
    labels = np.array([[1, -100, 2], [-100, -100, 0]])
    ops.cross_entropy(logits, labels).backward()
    assert not logits.grad[labels == -100].any()
    kept = logits.data[labels != -100]
    expected = np.log(np.exp(kept).sum(1)) - kept[np.arange(3), labels[labels != -100]]
    assert ops.cross_entropy(logits, labels).item() == pytest.approx(expected.mean())


def test_cross_entropy_survives_huge_logits():
    logits = t(np.array([[1e4, -1e4, 0.0]], dtype=np.float32))
    loss = ops.cross_entropy(logits, np.array([1]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert np.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0, 5]), ValueError, "expected 0 to 4"),
        (np.array([0, -1]), ValueError, "-100"),
        (np.array([0.0, 1.0]), TypeError, "integers"),
        (np.array([-100, -100]), ValueError, "nothing to average"),
        (np.array([0, 1, 2]), ValueError, "need labels \\(2,\\), got \\(3,\\)"),
    ],
)
def test_cross_entropy_names_bad_labels(labels, error, message, rng):
    with pytest.raises(error, match=message):
        ops.cross_entropy(mp.Tensor(rng.normal(size=(2, 5))), labels)


@pytest.mark.parametrize("block", [1, 2, 7, 256])
def test_fused_head_equals_the_plain_one(block, rng):
    labels = np.array([[3, -100, 1], [0, 4, -100]])
    grads = []
    for fused in (True, False):
        x, w, b = t(rng.normal(size=(2, 3, 4))), t(rng.normal(size=(5, 4))), t(rng.normal(size=5))
        rng = np.random.default_rng(1)
        for p in (x, w, b):
            p.data[...] = rng.normal(size=p.shape)
        loss = (
            ops.linear_cross_entropy(x, w, labels, b, block)
            if fused
            else ops.cross_entropy(ops.linear(x, w, b), labels)
        )
        (loss * 3.0).backward()
        grads.append([loss.data, x.grad, w.grad, b.grad])
    for a, c in zip(*grads, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-14)


def test_embedding_names_ids_out_of_range(rng):
    table = mp.Tensor(rng.normal(size=(4, 3)))
    with pytest.raises(IndexError, match="rows 0 to 3"):
        ops.embedding(table, np.array([0, 4]))
    with pytest.raises(IndexError, match="-1"):
        ops.embedding(table, np.array([-1]))
    with pytest.raises(TypeError, match="integers"):
        ops.embedding(table, np.array([0.5]))


def test_dropout_draws_from_its_generator_and_keeps_the_mean():
    x = t(np.ones((200, 300), dtype=np.float32))
    a = ops.dropout(x, 0.25, np.random.default_rng(3))
    b = ops.dropout(x, 0.25, np.random.default_rng(3))
    assert np.array_equal(a.data, b.data)
    assert set(np.unique(a.data)) == {np.float32(0), np.float32(1 / 0.75)}
    assert a.data.mean() == pytest.approx(1.0, abs=0.02)
    assert ops.dropout(x, 0.0, np.random.default_rng(3)) is x
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        ops.dropout(x, 1.0, np.random.default_rng(3))


def test_split_gives_the_pieces_and_their_gradients(rng):
    x = t(rng.normal(size=(2, 6)))
    a, b = ops.split(x, [2, 4], axis=1)
    (a.sum() * 2.0 + b.sum() * 3.0).backward()
    assert np.array_equal(x.grad, np.repeat([[2.0, 2, 3, 3, 3, 3]], 2, axis=0))
    assert [p.shape for p in ops.split(x, 3, axis=1)] == [(2, 2)] * 3
    with pytest.raises(ValueError, match="equal parts"):
        ops.split(x, 4, axis=1)
    with pytest.raises(ValueError, match="sum to 5"):
        ops.split(x, [2, 3], axis=1)


def test_boolean_index_gradient(rng):
    x = t(rng.normal(size=(3, 4)))
    chosen = x.data > 0
    x[chosen].sum().backward()
    assert np.array_equal(x.grad, chosen.astype(float))


def test_python_and_numpy_scalars_never_promote():
    x = t(np.ones((2, 3), dtype=np.float32))
    for z in (x * 2.0, x * np.float64(2), 1 / x, x - np.float64(1), 3 - x, x**2, -x, x / 7, np.float64(2) * x):
        assert z.dtype == np.float32
        assert isinstance(z, mp.Tensor)


def test_array_times_tensor_is_a_tensor(rng):
    x = t(rng.normal(size=(2, 3)))
    for z in (np.ones((2, 3)) * x, np.ones((2, 3)) + x, np.ones((4, 2)) @ x, np.ones((2, 3)) - x, np.ones((2, 3)) / x):
        assert isinstance(z, mp.Tensor)
        assert z.requires_grad


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_reductions_equal_numpy(axis, rng):
    x = rng.normal(size=(2, 3, 4))
    for name in ("sum", "mean", "max"):
        for keep in (False, True):
            mp.gradcheck(lambda y: getattr(y, name)(axis=axis, keepdims=keep), x)
            np.testing.assert_allclose(
                getattr(t(x), name)(axis=axis, keepdims=keep).data, getattr(x, name)(axis=axis, keepdims=keep)
            )


def test_equal_maxima_share_the_gradient():
    x = t(np.array([[1.0, 3.0, 3.0]]))
    x.max().backward()
    assert np.array_equal(x.grad, [[0.0, 0.5, 0.5]])


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu", "tanh"])
def test_activations_survive_extreme_inputs(name):
    x = t(np.array([-1e4, -50.0, 0.0, 50.0, 1e4], dtype=np.float32))
    z = ops.activation(x, name)
    z.backward(np.ones(5, dtype=np.float32))
    assert np.isfinite(z.data).all()
    assert np.isfinite(x.grad).all()


def test_errors_name_what_is_known(rng):
    x = mp.Tensor(rng.normal(size=(2, 3)))
    with pytest.raises(ValueError, match="gelu_tanh"):
        ops.activation(x, "gelo")
    with pytest.raises(ValueError, match="differ"):
        ops.matmul(x, x)
    with pytest.raises(ValueError, match="takes"):
        ops.linear(x, mp.Tensor(rng.normal(size=(4, 2))))
    with pytest.raises(ValueError, match="needs weights of shape"):
        ops.layer_norm(x, mp.Tensor(np.ones(2)), mp.Tensor(np.ones(3)))
    with pytest.raises(ValueError, match="even head size"):
        ops.rotary_angles(np.arange(3), 5)
    with pytest.raises(TypeError, match="exponent"):
        x**x


def test_zero_rows_pass_through():
    x = t(np.zeros((0, 5)))
    for z in (
        ops.gelu(x),
        ops.softmax(x),
        ops.layer_norm(x, t(np.ones(5)), t(np.zeros(5))),
        ops.linear(x, t(np.ones((4, 5)))),
    ):
        assert z.shape[0] == 0
        z.backward(np.zeros(z.shape))
        assert x.grad.shape == (0, 5)
