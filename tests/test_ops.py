"""What the tables of test_functions do not say: arguments, errors, edges."""

import numpy as np
import pytest
from functions import SCALAR

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
    with pytest.raises(TypeError, match=r"boolean array.* got float64"):
        ops.attention(x, x, x, mask=np.zeros((2, 4)))
    with pytest.raises(TypeError, match=r"boolean array.* got list"):
        ops.attention(x, x, x, mask=[[True] * 4] * 2)


@pytest.mark.parametrize("order", ["C", "F"])
def test_attention_does_not_depend_on_the_order_in_memory(order, rng):
    """``matmul`` lays its result out as its inputs; a softmax in place must not miss it."""
    q, k, v = (t(np.asarray(rng.normal(size=(2, h, n, 4)), order=order)) for h, n in ((4, 3), (1, 5), (1, 5)))
    z = ops.attention(q, k, v, causal=True)
    scores = q.data @ k.data.swapaxes(-1, -2) / 2
    scores[:, :, np.arange(5) > np.arange(3)[:, None] + 2] = -np.inf
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(z.data, p @ v.data, rtol=1e-12)
    mp.gradcheck(lambda *x: ops.attention(*x, causal=True), q.data, k.data, v.data)


def test_attention_without_keys_gives_zeros(rng):
    q, k, v = t(rng.normal(size=(2, 4, 3, 5))), t(np.zeros((2, 2, 0, 5))), t(np.zeros((2, 2, 0, 6)))
    z = ops.attention(q, k, v)
    z.backward(np.ones(z.shape))
    assert np.array_equal(z.data, np.zeros((2, 4, 3, 6)))
    assert not q.grad.any()
    assert k.grad.shape == (2, 2, 0, 5)


def test_a_causal_query_whose_keys_are_all_padding_gives_zeros(rng):
    x = t(rng.normal(size=(1, 2, 4, 3)))
    mask = np.array([[False, False, True, True]])  # padded on the left: the first two queries see nothing
    z = ops.attention(x, x, x, mask=mask, causal=True)
    z.backward(rng.normal(size=z.shape))
    assert not z.data[:, :, :2].any()
    assert z.data[:, :, 2:].all()
    assert not x.grad[:, :, :2].any()
    assert np.isfinite(x.grad).all()


def test_cross_entropy_ignores_rows_without_a_label(rng):
    logits = t(rng.normal(size=(2, 3, 5)))
    labels = np.array([[1, -100, 2], [-100, -100, 0]])
    ops.cross_entropy(logits, labels).backward()
    assert not logits.grad[labels == -100].any()
    kept = logits.data[labels != -100]
    expected = np.log(np.exp(kept).sum(1)) - kept[np.arange(3), labels[labels != -100]]
    assert ops.cross_entropy(logits, labels).item() == pytest.approx(expected.mean())


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), (2,), (1, 2, 3)])
def test_labels_of_another_shape_are_refused_even_of_the_right_number(shape, rng):
    x, w = mp.Tensor(rng.normal(size=(2, 3, 5))), mp.Tensor(rng.normal(size=(4, 5)))
    labels = np.zeros(shape, dtype=np.int64)
    with pytest.raises(ValueError, match=r"logits \(2, 3, 5\) need labels \(2, 3\), got"):
        ops.cross_entropy(x, labels)
    with pytest.raises(ValueError, match=r"logits \(2, 3, 4\) need labels \(2, 3\), got"):
        ops.linear_cross_entropy(x, w, labels)


def test_labels_on_the_device_are_checked_where_it_needs_no_copy(device, rng):
    logits = mp.Tensor(mp.to_device(rng.normal(size=(2, 5)), device))
    labels = mp.to_device(np.array([4, -100]), device)
    assert np.array_equal(
        mp.to_numpy(ops.cross_entropy(logits, labels).data),
        mp.to_numpy(ops.cross_entropy(logits, np.array([4, -100])).data),
    )
    with pytest.raises(ValueError, match="need labels"):
        ops.cross_entropy(logits, mp.to_device(np.array([1, 2, 3]), device))
    with pytest.raises(ValueError, match="nothing to average"):
        ops.cross_entropy(logits, mp.to_device(np.array([-100, -100]), device))


def test_cross_entropy_of_one_row(rng):
    logits = rng.normal(size=5)
    assert ops.cross_entropy(mp.Tensor(logits), np.array(3)).item() == pytest.approx(
        np.log(np.exp(logits).sum()) - logits[3]
    )


def test_the_fused_head_names_what_does_not_fit(rng):
    x, w, labels = mp.Tensor(rng.normal(size=(2, 5))), mp.Tensor(rng.normal(size=(4, 5))), np.array([0, 3])
    with pytest.raises(ValueError, match="weight"):
        ops.linear_cross_entropy(x, mp.Tensor(rng.normal(size=(4, 6))), labels)
    with pytest.raises(ValueError, match="bias"):
        ops.linear_cross_entropy(x, w, labels, mp.Tensor(rng.normal(size=1)))
    with pytest.raises(ValueError, match="at least 1"):
        ops.linear_cross_entropy(x, w, labels, block=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalization_of_narrow_rows_far_from_zero(dtype, rng):
    """σ = 1e-2 around 3: ε must stand inside the root, and the mean be taken off first."""
    x = (3 + 0.01 * rng.normal(size=(4, 64))).astype(dtype)
    exact = x.astype(np.float64)
    for eps in (1e-5, 1e-12):
        z = ops.layer_norm(mp.Tensor(x), mp.Tensor(np.ones(64, dtype)), mp.Tensor(np.zeros(64, dtype)), eps).data
        expected = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + eps)
        assert z.dtype == dtype
        np.testing.assert_allclose(z, expected, atol=2e-4 if dtype == np.float32 else 1e-11)


def test_log_softmax_of_huge_logits():
    x = t(np.array([[1e4, -1e4, 0.0], [-1e30, 1e30, 0.0]], dtype=np.float32))
    z = ops.log_softmax(x)
    z.backward(np.ones((2, 3), dtype=np.float32))
    assert np.array_equal(z.data[0], np.float32([0.0, -2e4, -1e4]))
    assert np.isfinite(x.grad).all()
    assert np.array_equal(ops.softmax(x).data, np.float32([[1, 0, 0], [0, 1, 0]]))


def test_softmax_where_nothing_or_everything_is_minus_infinity():
    x = np.array([[-np.inf, 0.0, 0.0], [-np.inf] * 3])
    assert np.array_equal(ops.softmax(mp.Tensor(x)).data, [[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])


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
    with pytest.raises(TypeError, match="integers, got float64"):
        ops.embedding(table, np.array([0.5]))
    with pytest.raises(TypeError, match="integers, got list"):
        ops.embedding(table, [0, 1])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (7,), (2, 3, 2)])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_embedding_of_ids_of_any_shape(shape, dtype, device, rng):
    table = rng.normal(size=(4, 3))
    ids = rng.integers(0, 4, size=shape).astype(dtype)
    x = t(mp.to_device(table, device))
    z = ops.embedding(x, ids)
    assert np.array_equal(mp.to_numpy(z.data), table[ids])
    dz = np.asarray(rng.normal(size=z.shape))
    z.backward(mp.to_device(dz, device))
    expected = np.zeros((4, 3))
    np.add.at(expected, ids, dz)
    np.testing.assert_allclose(mp.to_numpy(x.grad), expected, rtol=1e-12, atol=1e-14)


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


def test_options_given_as_numpy_numbers_do_not_promote(rng):
    q, x, w = (t(rng.normal(size=s).astype(np.float32)) for s in ((1, 2, 3, 4), (3, 4), 4))
    for z in (
        ops.attention(q, q, q, scale=1 / np.sqrt(4)),
        ops.dropout(x, np.float64(0.5), rng),
        ops.layer_norm(x, w, w, np.float64(1e-5)),
        ops.rms_norm(x, w, np.float64(1e-6)),
        ops.rotary(q, *ops.rotary_angles(np.arange(3), 4)),
        ops.weighted_mean(q.reshape(2, 3, 4), np.full((2, 3), 1 / 3)),
        x.sum(axis=np.int64(0)),
        x[np.int64(1)],
        x**0,
    ):
        assert z.dtype == np.float32
        z.backward(np.ones(z.shape))
    assert all(p.grad.dtype == np.float32 for p in (q, x, w))


def test_integers_are_refused_where_they_would_be_cut_off():
    ids = mp.Tensor([1, 2, 3])
    for f in (ops.gelu, ops.relu, ops.silu, ops.tanh, ops.softmax, ops.log_softmax, lambda x: ops.gate(x, x)):
        with pytest.raises(TypeError, match="float32 or float64, got int64"):
            f(ids)
    with pytest.raises(TypeError, match="float32 or float64"):
        ops.dropout(ids, 0.5, np.random.default_rng(0))
    ones = mp.Tensor(np.ones(3))
    for norm in (lambda: ops.layer_norm(ids, ones, ones), lambda: ops.rms_norm(ids, ones)):
        with pytest.raises(TypeError, match="floating-point, got int64"):
            norm()
    with pytest.raises(TypeError, match="float16"):
        ops.gelu(mp.Tensor(np.ones(3, dtype=np.float16)))


def test_powers_at_zero():
    for p, slope in ((0, 0.0), (1, 1.0), (2, 0.0), (3.0, 0.0)):
        x = t(np.array([0.0, 2.0]))
        (x**p).backward(np.ones(2))
        assert np.array_equal(x.grad, [slope, p * 2.0 ** (p - 1)])


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
    heads = mp.Tensor(rng.normal(size=(1, 2, 3, 4)))
    half = np.ones((3, 2))
    for cos in (np.ones((3, 1)), np.ones((2, 2)), np.ones((3, 4))):
        with pytest.raises(ValueError, match="rotary"):
            ops.rotary(heads, cos, cos)
    with pytest.raises(ValueError, match="rotary"):
        ops.rotary(mp.Tensor(rng.normal(size=(1, 2, 3, 5))), half, half)
    with pytest.raises(ValueError, match=r"a multiple of 2 heads"):
        ops.split_heads(x, 2)
    with pytest.raises(ValueError, match=r"a multiple of 0 heads"):
        ops.split_heads(mp.Tensor(rng.normal(size=(1, 2, 4))), 0)
    with pytest.raises(ValueError, match="merge_heads"):
        ops.merge_heads(x)
    with pytest.raises(ValueError, match="does not order the axes"):
        ops.transpose(x, 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        ops.concatenate([])
    with pytest.raises(ValueError, match="matrices"):
        ops.matmul(x, mp.Tensor(np.ones(3)))
    with pytest.raises(ValueError, match="bias has shape"):
        ops.linear(x, mp.Tensor(np.ones((4, 3))), mp.Tensor(np.ones(1)))
    with pytest.raises(ValueError, match="'none' or 'tanh'"):
        ops.gelu(x, "sigmoid")
    with pytest.raises(ValueError, match="differ"):
        ops.gate(x, heads)
    with pytest.raises(ValueError, match="needs weights"):
        ops.weighted_mean(heads, np.ones((1, 3)))


def test_tensors_are_indices_too(rng):
    x = t(rng.normal(size=(4, 3)))
    rows = mp.Tensor([0, 2, 0])
    assert np.array_equal(x[rows].data, x.data[[0, 2, 0]])
    z = x[rows, 1]
    z.backward(np.array([1.0, 2.0, 3.0]))
    assert np.array_equal(x.grad[:, 1], [4.0, 0.0, 2.0, 0.0])


def test_concatenating_a_tensor_with_itself_adds_both_parts(rng):
    x = t(rng.normal(size=(2, 3)))
    for axis in (0, 1, -1):
        x.grad = None
        dz = rng.normal(size=ops.concatenate([x, np.zeros((2, 3)), x], axis).shape)
        ops.concatenate([x, np.zeros((2, 3)), x], axis).backward(dz)
        first, _, last = np.split(dz, 3, axis)
        np.testing.assert_allclose(x.grad, first + last, rtol=1e-15)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (2, 3, 0), (0,), (0, 0)])
def test_empty_arrays_pass_through(shape):
    x = t(np.zeros(shape))
    d = shape[-1]
    results = [
        ops.gelu(x),
        ops.relu(x),
        ops.softmax(x),
        ops.gate(x, x),
        ops.linear(x, t(np.ones((4, d)))),
        x.sum(),
        x * 2,
    ]
    if d:
        results += [ops.layer_norm(x, t(np.ones(d)), t(np.zeros(d))), ops.rms_norm(x, t(np.ones(d))), x.max(axis=-1)]
    for z in results:
        x.grad = None
        z.backward(np.zeros(z.shape))
        assert x.grad.shape == shape


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu", "tanh"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (700, 300)])
def test_activations_of_any_size_equal_their_entries(name, shape, rng):
    x = np.asarray(rng.normal(size=shape))
    z = ops.activation(mp.Tensor(x), name)
    assert z.shape == shape
    for i in list(np.ndindex(shape))[:: max(1, x.size // 7)]:
        assert z.data[i] == pytest.approx(SCALAR[name](float(x[i])), rel=1e-13, abs=1e-15)
    if x.size < 10:
        mp.gradcheck(lambda y: ops.activation(y, name), x)
        mp.gradcheck(lambda y: ops.gate(y, y * 2.0, name), x)
