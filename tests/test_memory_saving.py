"""Activation checkpointing and blockwise attention: the same numbers, less that is kept."""

from dataclasses import replace

import numpy as np
import pytest
from families import TRANSFORMERS, gpt2

import minipeft as mp
from minipeft import models as M
from minipeft import ops
from minipeft.accounting import count_flops, memory
from minipeft.nn.layers import random_stream
from minipeft.optim import AdamW
from minipeft.peft import (
    AdapterConfig,
    FacTConfig,
    IA3Config,
    IntrinsicConfig,
    LNLoraConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
    get_peft_model,
)
from minipeft.train import train_step

METHODS = {
    "full": None,
    "LoRA": lambda: LoraConfig(r=2, lora_dropout=0.3),
    "adapters": lambda: AdapterConfig(r=3),
    "prompt": lambda: PromptTuningConfig(3),
    "prefix": lambda: PrefixTuningConfig(3, init_std=0.5),
    "projected prefix": lambda: PrefixTuningConfig(3, prefix_projection=True),
    "top layer": lambda: TopLayersConfig(1),
    "LNLoRA": lambda: LNLoraConfig(r=2),
    "IA3": lambda: IA3Config(),
    "FacT": lambda: FacTConfig(r=2, factorization="tk", target_modules=["attention.q_proj", "attention.out_proj"]),
    "intrinsic": lambda: IntrinsicConfig(d=130, said=True, projection="dense"),
}
grid = [pytest.mark.parametrize("family", TRANSFORMERS), pytest.mark.parametrize("method", METHODS)]


def adapted(family, method, rng):
    model, batch = TRANSFORMERS[family](rng)
    model = model.to(np.float64)
    if METHODS[method] is None:
        return model, model, batch
    peft = get_peft_model(model, METHODS[method]())
    for p in peft.trained().values():
        p.data[...] += 0.1 * rng.normal(size=p.shape)
    return model, peft, batch


def loss_and_gradients(model, batch):
    model.train()
    with random_stream(5):
        loss = model.loss(**batch)
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    for p in model.parameters():
        p.grad = None
    return loss.data, grads


@grid[0]
@grid[1]
def test_checkpointing_gives_the_same_bits(family, method, rng):
    base, model, batch = adapted(family, method, rng)
    loss, grads = loss_and_gradients(model, batch)
    base.gradient_checkpointing()
    again, others = loss_and_gradients(model, batch)
    assert again == loss
    assert grads.keys() == others.keys()
    for n, g in grads.items():
        np.testing.assert_allclose(others[n], g, rtol=1e-12, atol=1e-15, err_msg=n)
    base.gradient_checkpointing(False)
    assert loss_and_gradients(model, batch)[0] == loss


def test_dropout_draws_the_same_masks_a_second_time(rng):
    config = M.DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=3, n_heads=3, context=20, dropout=0.4)
    ids = rng.integers(0, 17, (3, 5))
    batch = {"ids": ids, "labels": ids}
    model = M.DecoderLM(config).to(np.float64)
    loss, grads = loss_and_gradients(model, batch)
    again, others = loss_and_gradients(model.gradient_checkpointing(), batch)
    assert again == loss
    for n, g in grads.items():
        np.testing.assert_allclose(others[n], g, rtol=1e-12, atol=1e-15)


@grid[0]
@grid[1]
@pytest.mark.parametrize("block", [2, 100])
def test_blockwise_attention_is_exact(family, method, block, rng):
    base, model, batch = adapted(family, method, rng)
    loss, grads = loss_and_gradients(model, batch)
    base.set_attention("blockwise", block)
    again, others = loss_and_gradients(model, batch)
    assert again == pytest.approx(loss, rel=1e-12)
    for n, g in grads.items():
        np.testing.assert_allclose(others[n], g, rtol=1e-9, atol=1e-12, err_msg=n)
    base.set_attention("full")
    assert loss_and_gradients(model, batch)[0] == loss


def test_gradients_of_blockwise_attention_under_checkpointing(rng):
    base, model, batch = adapted("llama", "prefix", rng)
    base.set_attention("blockwise", 2).gradient_checkpointing()
    mp.gradcheck_parameters(lambda: model.loss(**batch), dict(model.named_parameters()))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_blockwise_attention_in_float32_is_as_good_as_the_full_one(scale, rng):
    q, k, v = (scale * rng.normal(size=(2, 3, n, 8)) for n in (40, 70, 70))
    exact = ops.attention(q, k, v, causal=True).data
    single = [x.astype(np.float32) for x in (q, k, v)]
    for block in (1, 16, 70):
        z = ops.attention(*single, causal=True, block=block).data
        assert z.dtype == np.float32
        np.testing.assert_allclose(z, exact, rtol=1e-3, atol=1e-4 * scale)


def kept(model, batch):
    with random_stream(0):
        return memory(model, None, model.loss(**batch)).activations


def test_what_is_kept(rng):
    """Blockwise attention drops H N S numbers a layer, and keeps its output and the sums of its rows instead."""
    config = M.DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=3, n_heads=3, context=64)
    ids = rng.integers(0, 17, (2, 64))
    batch = {"ids": ids, "labels": ids}
    full = kept(M.DecoderLM(config), batch)
    blockwise = kept(M.DecoderLM(config).set_attention("blockwise", 16), batch)
    scores = 3 * 2 * 3 * 64 * 64 * 4  # layers, batch, heads, N, S, bytes
    more = 3 * (2 * 64 * 12 + 2 * 3 * 64) * 4  # the layer's output by head, and the sums of its rows
    assert full - blockwise == pytest.approx(scores - more, abs=3 * 2 * 64 * 12 * 4)


@pytest.mark.parametrize("n_layers", [1, 4])
def test_checkpointing_keeps_the_input_of_each_layer_and_nothing_else_of_it(n_layers, rng):
    config = M.DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=n_layers, n_heads=3, context=64)
    ids, labels = (rng.integers(0, 17, (2, 10)) for _ in range(2))
    batch = {"ids": ids, "labels": labels}
    saved = kept(M.DecoderLM(config).gradient_checkpointing(), batch)
    around = kept(M.DecoderLM(replace(config, n_layers=0)), batch)  # embeddings, last normalization, head
    assert saved == around + n_layers * 2 * 10 * 12 * 4


@pytest.mark.parametrize(
    ("method", "layers", "like"),
    [
        (None, 3, None),
        (LoraConfig(r=2), 3, LoraConfig(r=2)),
        (AdapterConfig(r=3), 3, AdapterConfig(r=3)),
        (LoraConfig(r=2, layers_to_transform=[1, 2]), 2, LoraConfig(r=2)),
        (TopLayersConfig(1), 1, None),
    ],
    ids=["full", "LoRA", "adapters", "LoRA on top", "top layer"],
)
def test_checkpointing_costs_the_forward_of_the_recorded_layers_once_more(method, layers, like, rng):
    """Below the lowest trained parameter nothing is recorded, and so nothing is computed again."""
    config = M.DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=3, n_heads=3, context=64)
    ids = rng.integers(0, 17, (2, 10))

    def flops_of(n_layers, method, checkpointing=False):
        base = M.DecoderLM(replace(config, n_layers=n_layers)).gradient_checkpointing(checkpointing)
        model = base if method is None else get_peft_model(base, method)
        with count_flops() as flops:
            model.loss(ids, ids).backward()
        return flops

    plain, flops = flops_of(3, method), flops_of(3, method, checkpointing=True)
    again = flops_of(layers, like).forward - flops_of(0, None).forward
    assert (flops.forward, flops.backward) == (plain.forward, plain.backward + again)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("setting", ["checkpointing", "blockwise", "both"])
def test_beyond_a_tile_of_queries_the_numbers_are_the_same_too(family, setting, rng):
    length, vocabulary = 150, 17
    config = {
        "gpt2": M.DecoderConfig.gpt2(vocabulary, 12, 2, 3, context=length + 3),
        "llama": M.DecoderConfig.llama(vocabulary, 24, 2, 4, 2, 20, context=length + 3),
    }[family]
    base = M.DecoderLM(config).to(np.float64)
    model = get_peft_model(base, LoraConfig(r=2, init_lora_weights=False))
    ids = rng.integers(0, vocabulary, (2, length))
    mask = np.ones((2, length), dtype=bool)
    mask[1, 140:] = False
    batch = {"ids": ids, "labels": np.where(mask, ids, -100), "mask": mask}
    loss, grads = loss_and_gradients(model, batch)
    if setting != "blockwise":
        base.gradient_checkpointing()
    if setting != "checkpointing":
        base.set_attention("blockwise", 32)
    again, others = loss_and_gradients(model, batch)
    assert again == pytest.approx(loss, rel=1e-12)
    for n, g in grads.items():
        np.testing.assert_allclose(others[n], g, rtol=1e-9, atol=1e-12, err_msg=n)


@pytest.mark.parametrize("method", ["LoRA", "prefix"])
def test_checkpointed_shards_draw_the_masks_of_the_shards(method, rng):
    results = []
    for checkpointing in (False, True):
        model, batch = gpt2(np.random.default_rng(0))
        peft = get_peft_model(model, METHODS[method](), rng=1)
        model.gradient_checkpointing(checkpointing)
        peft.train()
        losses = [train_step(peft, batch, AdamW(peft, lr=0.1), shards=2, rng=(3, i)) for i in range(3)]
        results.append((losses, [p.data.copy() for p in peft.trained().values()]))
    (losses, parameters), (again, others) = results
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    for p, q in zip(parameters, others, strict=True):
        np.testing.assert_allclose(q, p, rtol=1e-3, atol=1e-4)


def test_a_frozen_bottom_still_reaches_the_adapters(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, LoraConfig(r=2))
    model.gradient_checkpointing()
    peft.loss(**batch).backward()
    assert all(p.grad is not None and np.isfinite(p.grad).all() for p in peft.trained().values())
    assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)


def test_what_makes_no_sense_is_refused(rng):
    model, _ = gpt2(rng)
    for kind, block in (("flash", 128), ("blockwise", 0)):
        with pytest.raises(ValueError, match="attention is"):
            model.set_attention(kind, block)
    q = rng.normal(size=(1, 1, 2, 3))
    with pytest.raises(ValueError, match="at least 1 key"):
        ops.attention(q, q, q, block=0)


def test_generation_goes_on_without_either(rng):
    model, _ = gpt2(rng)
    expected = mp.generate(model, np.array([[1, 2, 3]]), max_new_tokens=5)
    model.gradient_checkpointing().set_attention("blockwise", 2)
    np.testing.assert_array_equal(mp.generate(model, np.array([[1, 2, 3]]), max_new_tokens=5), expected)
