"""Costs are counted exactly, and equal the closed formulas."""

from dataclasses import replace

import numpy as np
import pytest
from families import FAMILIES, gpt2, llama

import minipeft as mp
from minipeft import nn
from minipeft.accounting import (
    GPT3_SIZES,
    count_flops,
    count_parameters,
    decoder_flops,
    decoder_parameters,
    gpt3_parameters,
    linear_flops,
    memory,
    readable_bytes,
    recorded_nodes,
    report,
    saved_by,
    zero_memory,
)
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, get_peft_model
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
    assert gpt3_parameters(layers, d, vocab, context) == decoder_parameters(config)


@pytest.mark.parametrize("size", GPT3_SIZES, ids=lambda size: size.name)
def test_the_table_of_gpt3_sizes(size):
    assert gpt3_parameters(size.n_layers, size.d_model) == pytest.approx(size.printed, rel=0.02)


def test_the_oddities_of_the_table_are_kept():
    odd = {size.name: size.n_heads * size.d_head for size in GPT3_SIZES if size.n_heads * size.d_head != size.d_model}
    assert odd == {"GPT-3 XL": 3072, "GPT-3 13B": 5120}
    assert gpt3_parameters(24, 2048, d_attention=3072) == 1_517_123_584  # what the printed heads would make, not 1.3e9


def test_gpt2_small_has_its_published_number_of_parameters():
    assert gpt3_parameters(12, 768, context=1024) == 124_439_808


def test_zero_divides_the_model_states_as_its_paper_says():
    gigabytes = [zero_memory(7.5e9, k=12, n=64, stage=s) / 1e9 for s in range(4)]
    np.testing.assert_allclose(gigabytes, [120, 31.4, 16.6, 1.9], atol=0.05)
    assert zero_memory(1, k=12, n=1, stage=3) == 16
    with pytest.raises(ValueError, match="stage"):
        zero_memory(1, stage=4)


@pytest.mark.parametrize("family", [gpt2, llama])
def test_a_frozen_trunk_costs_no_backward(family, rng):
    model, batch = family(rng)
    c, (B, T) = model.config, batch["ids"].shape
    labelled = int((batch["labels"] != -100).sum())
    model.requires_grad_(False)
    model.stack.layers[-1].requires_grad_(True)
    with count_flops() as flops:
        model.loss(**batch).backward()
    head = linear_flops(labelled, c.d_model, c.vocab_size)
    whole = decoder_flops(c, B, T, labelled)
    assert flops.forward == whole.forward
    # The head gives its input's gradient alone. The top layer gives all of its own: the gradient of what goes into q, k
    # and v too, since the normalization in front of them is trained.
    assert flops.backward == head + 2 * (whole.forward - head) // c.n_layers


@pytest.mark.parametrize("family", [gpt2, llama])
def test_bytes_saved_for_the_top_layer_do_not_depend_on_the_layers_below(family, rng):
    saved = []
    for n_layers in (1, 2, 5):
        _, batch = family(np.random.default_rng(0))
        config = replace(family(np.random.default_rng(0))[0].config, n_layers=n_layers)
        model = DecoderLM(config)
        model.requires_grad_(False)
        model.stack.layers[-1].requires_grad_(True)
        loss = model.loss(**batch)
        saved.append((saved_by(loss, model), len(list(recorded_nodes(loss)))))
    assert saved[0] == saved[1] == saved[2]


def test_a_buffer_counts_once_whole_and_never_for_a_parameter():
    class Keep(mp.Function):
        """Saves what it is given, in a tuple within the tuple."""

        @staticmethod
        def forward(ctx, x, *arrays):
            ctx.save(arrays[:1], *arrays[1:], 3, None)
            return x.copy()

    buffer, other, alone = np.zeros((4, 6)), np.zeros(5), np.zeros(7)
    model = nn.Linear(3, 2)
    x = mp.Tensor(alone, requires_grad=True)
    views = (buffer[1:, ::2], buffer.T, buffer.reshape(-1)[3:])
    loss = Keep.apply(Keep.apply(x, *views), other, buffer[:1], model.weight.data[:, 1:], model.bias.data)
    assert memory(model, None, loss).activations == buffer.nbytes + other.nbytes
    assert saved_by(loss, model) == {"Keep": buffer.nbytes + other.nbytes}


def test_a_tied_table_counts_once(rng):
    config = DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=1, n_heads=3, context=20)
    tied, own = (count_parameters(DecoderLM(replace(config, tied=flag))) for flag in (True, False))
    assert own.total - tied.total == 17 * 12
    assert memory(DecoderLM(config)).parameters == 4 * tied.total


def test_parts_are_told_apart_below_a_wrapper(rng):
    model, _ = gpt2(rng)
    plain = count_parameters(model)
    assert list(plain.by_group) == ["input", "stack"]
    peft = get_peft_model(model, LoraConfig(r=2))
    counts = count_parameters(peft)
    assert counts.by_group == {**plain.by_group, "stack": plain.by_group["stack"] + counts.trainable}
    assert counts.trainable_by_group == {"input": 0, "stack": counts.trainable}


def test_a_report_is_a_table_with_units(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, LoraConfig(r=2))
    optimizer = AdamW(peft)
    train_step(peft, batch, optimizer)
    with count_flops() as flops:
        loss = peft.loss(**batch)
        used = report(peft, optimizer, loss, flops)
        loss.backward()
    lines = [line.split() for line in str(used).splitlines()]
    counts = count_parameters(peft)
    assert ["parameters", "all", "trained", "trained", "%"] in lines
    assert [
        "total",
        f"{counts.total:,}",
        f"{counts.trainable:,}",
        f"{100 * counts.trainable / counts.total:.2f}",
    ] in lines
    assert ["optimizer", "state", *readable_bytes(8 * counts.trainable).split()] in lines
    assert ["activations", *readable_bytes(used.memory.activations).split()] in lines
    assert ["Attention", *readable_bytes(used.saved_by["Attention"]).split()] in lines
    assert ["backward", f"{flops.backward / 1e9:.3f}"] in lines
    assert "activations saved by" not in str(report(peft))


def test_bytes_are_written_with_a_unit():
    written = [readable_bytes(n) for n in (0, 1023, 1536, 150 * 1024, 3 * 2**20, 5 * 2**30)]
    assert written == ["0 B", "1023 B", "1.5 KiB", "150 KiB", "3.0 MiB", "5.0 GiB"]


def test_nothing_is_counted_without_a_graph(rng):
    model, batch = gpt2(rng)
    with mp.no_grad(), count_flops() as flops:
        loss = model.loss(**batch)
    assert flops.backward == 0
    assert memory(model, None, loss).activations == 0
