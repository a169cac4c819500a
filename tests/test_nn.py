"""Modules: how parameters are found, named, loaded, replaced and moved."""

import numpy as np
import pytest

import minipeft as mp
from minipeft import nn


class Odd(nn.Module):
    def __init__(self):
        self.several = [nn.Linear(2, 3, rng=0), {"inner": nn.Linear(3, 2, rng=0)}]
        self.pair = (nn.LayerNorm(2),)
        self.table = np.ones(3)
        self.tied = nn.Linear(2, 3, rng=0)
        self.tied.weight = self.several[0].weight


def test_modules_in_lists_tuples_and_dicts_are_found_and_tied_ones_once():
    model = Odd()
    assert [name for name, _ in model.named_parameters()] == [
        "several.0.weight",
        "several.0.bias",
        "several.1.inner.weight",
        "several.1.inner.bias",
        "pair.0.weight",
        "pair.0.bias",
        "tied.bias",
    ]
    assert len({id(p) for p in model.parameters()}) == 7


def test_a_layer_made_of_weights_uses_them_as_they_are(rng):
    weight, bias = mp.Tensor(rng.normal(size=(3, 2))), mp.Tensor(rng.normal(size=3))
    layer, table = nn.Linear.from_weight(weight, bias), nn.Embedding.from_weight(weight)
    assert layer.weight is table.weight is weight
    assert layer.bias is bias
    assert vars(layer).keys() == vars(nn.Linear(2, 3)).keys()
    assert (layer.in_features, layer.out_features) == (2, 3)
    assert nn.Linear.from_weight(weight).bias is None
    x = rng.normal(size=(4, 2))
    np.testing.assert_allclose(layer(mp.Tensor(x)).data, x @ weight.data.T + bias.data)
    assert np.array_equal(table(np.array([2, 0])).data, weight.data[[2, 0]])


def test_a_misspelt_attribute_raises():
    with pytest.raises(AttributeError):
        nn.Linear(2, 3).wieght  # noqa: B018


def test_loading_is_all_or_nothing(rng):
    model = nn.FeedForward(4, 6, rng=0)
    before = {k: v.copy() for k, v in model.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()}
    with pytest.raises(KeyError, match=r"up_proj\.wieght' \(near: up_proj.weight"):
        model.load_state_dict({**state, "up_proj.wieght": state["up_proj.weight"]})
    with pytest.raises(KeyError, match="1 missing"):
        model.load_state_dict({k: v for k, v in state.items() if k != "up_proj.bias"})
    with pytest.raises(ValueError, match=r"down_proj.bias: the model has shape \(4,\), the state \(5,\)"):
        model.load_state_dict({**state, "down_proj.bias": np.ones(5)})
    for k, v in model.state_dict().items():
        assert np.array_equal(v, before[k])
    model.load_state_dict(state)
    assert np.array_equal(model.up_proj.weight.data, before["up_proj.weight"] + 1)


def test_replace_and_find_say_what_is_near():
    model = Odd()
    new = nn.Linear(3, 2, rng=1)
    old = nn.replace(model, "several.1.inner", new)
    assert nn.find(model, "several.1.inner") is new
    assert old is not new
    with pytest.raises(KeyError, match="near: several"):
        nn.find(model, "severall.0")
    with pytest.raises(KeyError, match="no '7' in a list of 2"):
        nn.replace(model, "several.7", new)
    with pytest.raises(TypeError, match="tuple"):
        nn.replace(model, "pair.0", new)


def test_to_changes_the_type_of_parameters_and_constants():
    model = Odd().to(np.float64)
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float64)}
    assert model.tied.weight is model.several[0].weight
    model.to("strict")
    assert type(model.table).__name__ == "StrictArray"
    model.to("cpu")
    with pytest.raises(TypeError, match="float32 or float64"):
        model.to(np.int64)


def test_train_and_eval_reach_every_part():
    model = Odd().eval()
    assert not model.several[1]["inner"].training
    assert model.train().several[1]["inner"].training


def test_dropout_needs_a_stream_and_repeats_with_it():
    layer = nn.Dropout(0.5)
    x = mp.Tensor(np.ones((3, 4), dtype=np.float32))
    with pytest.raises(RuntimeError, match="random_stream"):
        layer(x)
    with nn.random_stream(3):
        a = layer(x)
    with nn.random_stream(3):
        b = layer(x)
    assert np.array_equal(a.data, b.data)
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        nn.Dropout(1.5)


def test_requires_grad_false_forgets_gradients():
    layer = nn.Linear(2, 3, rng=0)
    layer(mp.Tensor(np.ones((1, 2), dtype=np.float32))).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    assert layer.weight.grad is None
    assert not layer.weight.requires_grad


def test_attention_equals_a_loop_over_heads(rng):
    layer = nn.MultiHeadAttention(12, 3, causal=True, rng=0).to(np.float64)
    X = rng.normal(size=(2, 5, 12))
    M = np.where(np.tril(np.ones((5, 5))) > 0, 0.0, -np.inf)
    heads = []
    for i in range(3):
        rows = slice(4 * i, 4 * i + 4)
        Q, K, V = (X @ p.weight.data[rows].T + p.bias.data[rows] for p in (layer.q_proj, layer.k_proj, layer.v_proj))
        S = Q @ K.swapaxes(1, 2) / np.sqrt(4) + M
        P = np.exp(S) / np.exp(S).sum(-1, keepdims=True)
        heads.append(P @ V)
    expected = np.concatenate(heads, axis=-1) @ layer.out_proj.weight.data.T + layer.out_proj.bias.data
    np.testing.assert_allclose(layer(mp.Tensor(X)).data, expected, rtol=1e-12)


def test_layers_refuse_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="multiple of n_heads"):
        nn.MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="n_kv_heads"):
        nn.MultiHeadAttention(12, 4, 3)
    with pytest.raises(ValueError, match="positive"):
        nn.Linear(0, 3)
    with pytest.raises(ValueError, match="unknown normalization"):
        nn.TransformerLayer(12, 3, 16, norm="batch")


def test_a_cache_keeps_no_gradients(rng):
    layer = nn.MultiHeadAttention(12, 3, rng=0)
    with pytest.raises(RuntimeError, match="no_grad"):
        layer(mp.Tensor(np.ones((1, 2, 12), dtype=np.float32)), cache=nn.LayerCache())
