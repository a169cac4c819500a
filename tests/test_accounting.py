"""Costs are counted exactly, and equal the closed formulas."""

import numpy as np
import pytest
from families import FAMILIES, gpt2, llama

import minipeft as mp
from minipeft.accounting import count_flops, count_parameters, gpt3_parameters, memory, saved_by, zero_memory
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.train import train_step


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_counts_and_bytes(family, rng):
    model, batch = family(rng)
    counts = count_parameters(model)
    assert counts.total == counts.trainable == sum(counts.by_group.values()) == sum(p.size for p in model.parameters())
    optimizer = AdamW(model)
    train_step(model, batch, optimizer)
    loss = model.loss(**batch)
    used = memory(model, optimizer, loss)
    assert (used.parameters, used.gradients, used.optimizer_state) == tuple(4 * counts.total * k for k in (1, 1, 2))
    assert used.activations == sum(saved_by(loss, model).values()) > 0
    assert used.total == used.parameters + used.gradients + used.optimizer_state + used.activations
    loss.backward()
    assert sum(p.grad.nbytes for p in model.parameters()) == used.gradients
    assert memory(model, optimizer, loss).activations == 0  # the walk dropped what was saved
    model.requires_grad_(False)
    assert memory(model, None, model.loss(**batch)).activations == 0
    assert count_parameters(model).trainable == 0


@pytest.mark.parametrize(("layers", "d", "vocab", "context"), [(2, 12, 17, 20), (3, 8, 5, 9)])
def test_the_formula_of_gpt3_counts_our_own_decoder(layers, d, vocab, context):
    config = DecoderConfig.gpt2(vocab_size=vocab, d_model=d, n_layers=layers, n_heads=2, context=context)
    assert gpt3_parameters(layers, d, vocab, context) == count_parameters(DecoderLM(config)).total


@pytest.mark.parametrize(
    ("layers", "d", "attention", "millions"),
    [
        (12, 768, None, 125),
        (24, 1024, None, 350),
        (24, 1536, None, 760),
        (24, 2048, 24 * 128, 1300),
        (32, 2560, None, 2700),
        (32, 4096, None, 6700),
        (40, 5140, 40 * 128, 13000),
        (96, 12288, None, 175000),
    ],
)
def test_the_table_of_gpt3_sizes(layers, d, attention, millions):
    assert gpt3_parameters(layers, d, d_attention=attention) == pytest.approx(
        millions * 1e6, rel=0.17 if d == 2048 else 0.02
    )


def test_gpt2_small_has_its_published_number_of_parameters():
    assert gpt3_parameters(12, 768, context=1024) == 124_439_808


def test_zero_divides_the_model_states_as_its_paper_says():
    gigabytes = [zero_memory(7.5e9, k=12, n=64, stage=s) / 1e9 for s in range(4)]
    np.testing.assert_allclose(gigabytes, [120, 31.4, 16.6, 1.9], atol=0.05)
    assert zero_memory(1, k=12, n=1, stage=3) == 16
    with pytest.raises(ValueError, match="stage"):
        zero_memory(1, stage=4)


def decoder_forward_flops(c, B, T, labelled):
    kv = (c.n_kv_heads or c.n_heads) * c.d_model // c.n_heads
    projections = 2 * c.d_model * (2 * c.d_model + 2 * kv)
    feed_forward = 2 * c.d_model * c.d_ff * (3 if c.gated else 2)
    scores = 2 * 2 * T * c.d_model
    norms = 0
    return B * T * c.n_layers * (projections + feed_forward + scores) + 2 * labelled * c.d_model * c.vocab_size + norms


@pytest.mark.parametrize("family", [gpt2, llama])
def test_flops_of_a_decoder_equal_the_closed_formula(family, rng):
    model, batch = family(rng)
    B, T = batch["ids"].shape
    labelled = int((batch["labels"] != -100).sum())
    with count_flops() as flops:
        loss = model.loss(**batch)
        loss.backward()
    forward = decoder_forward_flops(model.config, B, T, labelled)
    assert flops.forward == forward
    assert flops.backward == 2 * forward
    model.requires_grad_(False)
    model.stack.layers[-1].requires_grad_(True)
    with count_flops() as top:
        model.loss(**batch).backward()
    assert top.forward == forward
    layer = (forward - 2 * labelled * model.config.d_model * model.config.vocab_size) / model.config.n_layers
    head = 2 * labelled * model.config.d_model * model.config.vocab_size
    # both gradients of every product of the top layer, but none for the layer's own input
    c = model.config
    kv = (c.n_kv_heads or c.n_heads) * c.d_model // c.n_heads
    into_qkv = 2 * B * T * c.d_model * (c.d_model + 2 * kv)
    norm_gradient = into_qkv  # the normalization in front of them is trained too, so dx is needed there
    assert top.backward == 2 * layer + head - into_qkv + norm_gradient


def test_nothing_is_counted_without_a_graph(rng):
    model, batch = gpt2(rng)
    with mp.no_grad(), count_flops() as flops:
        loss = model.loss(**batch)
    assert flops.backward == 0
    assert memory(model, None, loss).activations == 0
