"""The peak of a training step: foreseen within 10 % of what was allocated, and kept below a budget."""

import tracemalloc

import numpy as np
import pytest

import minipeft as mp
from minipeft import models as M
from minipeft.accounting import Forecast, bytes_of, readable_bytes
from minipeft.accounting.peak import GRAIN
from minipeft.data import Batches
from minipeft.files import FileError
from minipeft.nn import Linear, Module
from minipeft.optim import SGD, AdamW
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    FacTConfig,
    IntrinsicConfig,
    LNLoraConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
    get_peft_model,
)
from minipeft.train import fit, train_step

V, D, LAYERS, HEADS, T, B = 300, 128, 3, 4, 128, 8


def gpt2(rng, length=T):
    config = M.DecoderConfig.gpt2(V, D, LAYERS, HEADS, context=length + 8)
    ids = rng.integers(0, V, (B, length))
    return M.DecoderLM(config), {"ids": ids, "labels": ids}


def llama(rng, length=T):
    config = M.DecoderConfig.llama(V, D, LAYERS, HEADS, 2, d_ff=300, context=length + 8)
    ids = rng.integers(0, V, (B, length))
    return M.DecoderLM(config), {"ids": ids, "labels": ids}


def bert(rng):
    config = M.EncoderConfig(V, D, LAYERS, HEADS, 4 * D, context=T + 8)
    ids = rng.integers(0, V, (B, T))
    return M.EncoderMaskedLM(config), {"ids": ids, "labels": ids}


def vit(rng):
    config = M.ViTConfig(48, 4, 3, 10, d_model=D, n_layers=LAYERS, n_heads=HEADS, d_ff=4 * D)
    images = rng.normal(size=(B, 3, 48, 48)).astype(np.float32)
    return M.ViT(config), {"images": images, "labels": rng.integers(0, 10, B)}


def measured(make, method, rng, shards=1, steps=2, **settings):
    """The bytes that the second step of a fresh model held at most, model and optimizer included; and both of them."""
    tracemalloc.start()
    try:
        model, batch = make(rng)
        before = sum(x.nbytes for x in {id(x): x for x in batch.values()}.values())
        if settings.get("checkpointing"):
            model.gradient_checkpointing()
        if settings.get("blockwise"):
            model.set_attention("blockwise", 32)
        if method is not None:
            model = get_peft_model(model, method)
        optimizer = AdamW(model)
        for _ in range(steps):
            tracemalloc.reset_peak()
            train_step(model, batch, optimizer, shards=shards, at_once=settings.get("at_once"))
        return tracemalloc.get_traced_memory()[1] - before, model, optimizer, batch
    finally:
        tracemalloc.stop()


CASES = {
    "full": (gpt2, None, {}),
    "LoRA": (gpt2, LoraConfig(r=8), {}),
    "LoRA everywhere": (llama, LoraConfig(r=8, target_modules="all-linear"), {}),
    "full, long": (lambda rng: llama(rng, 300), None, {}),
    "adapters": (llama, AdapterConfig(r=8, after=["feed_forward"], layer_norm=True), {}),
    "prompt": (gpt2, PromptTuningConfig(8), {}),
    "prefix": (llama, PrefixTuningConfig(8), {}),
    "top layer": (gpt2, TopLayersConfig(1), {}),
    "BitFit": (bert, BitFitConfig(), {}),
    "LNLoRA": (vit, LNLoraConfig(r=8), {}),
    "FacT": (vit, FacTConfig(r=8), {}),
    "intrinsic": (gpt2, IntrinsicConfig(d=50), {}),
    "full, BERT": (bert, None, {}),
    "full, ViT": (vit, None, {}),
    "checkpointing": (gpt2, LoraConfig(r=8), {"checkpointing": True}),
    "checkpointing, full": (llama, None, {"checkpointing": True}),
    "blockwise": (gpt2, LoraConfig(r=8), {"blockwise": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_peak_is_foreseen_within_ten_percent(case, rng):
    make, method, settings = CASES[case]
    peak, model, optimizer, batch = measured(make, method, rng, **settings)
    assert Forecast(model, optimizer, batch).peak(B) == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_peak_of_accumulated_gradients_is_foreseen(at_once, rng):
    peak, model, optimizer, batch = measured(gpt2, None, rng, at_once=at_once)
    assert Forecast(model, optimizer, batch).peak(at_once, accumulating=True) == pytest.approx(peak, rel=0.1)


def test_threads_have_a_peak_each(rng):
    _, model, optimizer, batch = measured(gpt2, LoraConfig(r=8), rng, steps=0)
    one, four = (Forecast(model, optimizer, batch, shards=n) for n in (1, 4))
    assert four.peak(8) == pytest.approx(four.states + 4 * one.work(2), abs=GRAIN)
    assert four.peak(6) == pytest.approx(four.states + 2 * one.work(2) + 2 * one.work(1), abs=GRAIN)
    assert four.peak(3) == pytest.approx(four.states + 3 * one.work(1), abs=GRAIN)
    peak, *_ = measured(gpt2, LoraConfig(r=8), rng, shards=2)
    least = four.states + one.work(B // 2)  # where the machine lets one thread run after the other
    assert 0.9 * least < peak < 1.1 * Forecast(model, optimizer, batch, 2).peak(B)


def step_of(forecast, n):
    """The peaks of a step on n examples as measured, without and with accumulation."""
    rows = {name: np.concatenate([x[:1]] * n) for name, x in forecast.batch.items()}
    return {flag: max(peaks) for flag, peaks in forecast._measure(rows).peaks.items()}


@pytest.mark.parametrize("n", [3, 7, 20])
def test_few_examples_say_it_for_more(n, rng):
    """What is extended from small steps is what the large step itself holds."""
    model, batch = gpt2(rng)
    batch = {name: np.tile(x[:1], (n, 1)) for name, x in batch.items()}
    forecast = Forecast(model, AdamW(model), batch)
    foreseen = {flag: forecast.work(n, flag) for flag in (False, True)}
    assert max(forecast._measured) < n
    for flag, held in step_of(forecast, n).items():
        assert foreseen[flag] == pytest.approx(held, rel=0.05)


def test_many_short_examples_are_foreseen_though_gradients_are_most_of_a_step_on_few(rng):
    """The largest of the sums is another one for many examples: each is extended, not the largest alone."""
    config = M.DecoderConfig.gpt2(3000, 256, 2, 4, context=16)
    ids = rng.integers(0, 3000, (512, 8))
    model, batch = M.DecoderLM(config), {"ids": ids, "labels": ids}
    forecast = Forecast(model, AdamW(model), batch)
    foreseen = forecast.work(512)
    assert max(forecast._measured) == 128
    few = [max(forecast._work(n).peaks[False]) for n in (1, 2)]
    held = step_of(forecast, 512)[False]
    assert foreseen == pytest.approx(held, rel=0.1)
    assert few[0] + 511 * (few[1] - few[0]) < 0.8 * held


def test_measuring_changes_neither_gradients_nor_weights(rng):
    model, batch = gpt2(rng, 20)
    before = {n: p.data.copy() for n, p in model.named_parameters()}
    Forecast(model, AdamW(model), batch).at_once(B, 10**9)
    assert all(p.grad is None for p in model.parameters())
    assert all(np.array_equal(p.data, before[n]) for n, p in model.named_parameters())
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
def test_what_is_measured_for_an_answer_fits_into_the_budget(share, rng):
    model, batch = gpt2(rng)
    model = get_peft_model(model, LoraConfig(r=8))
    forecast = Forecast(model, AdamW(model), batch)
    budget = int(share * forecast.peak(B))
    forecast = Forecast(model, AdamW(model), batch)
    n = forecast.at_once(B, budget)
    held = max(max(work.peaks[True]) for work in forecast._measured.values())
    assert 1 <= n < B
    assert forecast.states + forecast.trained + held <= budget


def test_states_are_parameters_and_what_the_optimizer_will_hold(rng):
    model, batch = gpt2(rng)
    size = sum(p.data.nbytes for p in model.parameters())
    for optimizer, slots in ((AdamW(model), 2), (SGD(model, 0.1, momentum=0.9), 1), (SGD(model, 0.1), 0)):
        assert Forecast(model, optimizer, batch).states == (1 + slots) * size
        train_step(model, batch, optimizer)
        assert optimizer.state_bytes == slots * size


def fitted(make, **options):
    """The peak of a whole run in bytes, the data left out, and its history."""
    _, batch = make(np.random.default_rng(0))
    batches = Batches({name: np.concatenate([x, x]) for name, x in batch.items()}, B)
    tracemalloc.start()
    try:
        model, _ = make(np.random.default_rng(0))
        peft = get_peft_model(model, LoraConfig(r=8))
        optimizer = AdamW(peft)
        tracemalloc.reset_peak()
        history = fit(peft, batches, optimizer, steps=2, progress=False, **options)
        return tracemalloc.get_traced_memory()[1], history, (peft, optimizer, batch)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
def test_a_run_stays_within_its_budget(share):
    peak, free, (model, optimizer, batch) = fitted(gpt2)
    budget = int(share * peak)
    held, history, _ = fitted(gpt2, memory_budget=budget)
    assert 1 <= history.at_once < B
    assert held <= budget
    np.testing.assert_allclose(history.losses, free.losses, rtol=1e-5)
    forecast = Forecast(model, optimizer, batch)
    n = history.at_once
    assert forecast.needs(n, accumulating=True) <= budget < forecast.needs(n + 1, accumulating=True)


def test_what_fits_is_not_cut():
    peak, free, _ = fitted(gpt2)
    _, history, _ = fitted(gpt2, memory_budget=2 * peak)
    assert history.at_once == B
    assert history.losses == free.losses
    assert free.at_once is None


def test_a_budget_below_one_example_is_an_error_that_names_the_smallest(rng):
    model, batch = gpt2(rng)
    batches, optimizer = Batches(batch, 4), AdamW(model)
    with pytest.raises(ValueError, match=r"the smallest that works, [0-9]+ bytes") as error:
        fit(model, batches, optimizer, steps=1, memory_budget="1MB", progress=False)
    smallest = int(str(error.value).split("works, ")[1].split(" bytes")[0])
    assert smallest == pytest.approx(Forecast(model, optimizer, batch).needs(1, accumulating=True), abs=2 * GRAIN)
    with pytest.raises(ValueError, match="one example at a time"):
        fit(model, batches, optimizer, steps=1, memory_budget=smallest - 3 * GRAIN, progress=False)
    assert optimizer.steps == 0
    assert fit(model, batches, optimizer, steps=1, memory_budget=smallest, progress=False).at_once == 1


def test_batches_of_other_widths_have_limits_of_their_own(rng):
    """A trimmed batch is narrower; its limit depends on its shape alone, not on what came before."""
    model, batch = gpt2(rng)
    mask = np.ones((B, T), dtype=bool)
    mask[: B // 2, 40:] = False
    labels = np.where(mask, batch["labels"], -100)
    arrays = {"ids": batch["ids"], "labels": labels, "mask": mask}
    peft = get_peft_model(model, LoraConfig(r=8))
    optimizer = AdamW(peft)
    wide = Forecast(peft, optimizer, {name: x[B // 2 :] for name, x in arrays.items()})
    narrow = Forecast(peft, optimizer, {name: x[: B // 2, :40] for name, x in arrays.items()})
    budget = narrow.needs(4) + GRAIN
    assert wide.at_once(4, budget) < narrow.at_once(4, budget) == 4
    batches = Batches(arrays, B // 2, shuffle=False, trim="mask")
    history = fit(peft, batches, optimizer, steps=2, memory_budget=budget, progress=False)
    assert history.at_once == wide.at_once(4, budget)


def test_a_part_weighs_as_much_as_it_has_labels(rng):
    model, batch = gpt2(rng, 20)
    model.to(np.float64)
    labels = batch["labels"].copy()
    labels[:5] = -100  # the first part has none at all
    labels[6, 3:] = -100
    batch["labels"] = labels
    results = []
    for options in ({}, {"at_once": 3}, {"at_once": 5, "shards": 2}):
        copy = M.DecoderLM(model.config).to(np.float64)
        loss = train_step(copy, batch, SGD(copy, 1.0), max_norm=1.0, **options)
        results.append((loss, {n: p.data for n, p in copy.named_parameters()}))
    for loss, parameters in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-12)
        for n, x in parameters.items():
            np.testing.assert_allclose(x, results[0][1][n], rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="at_once must be at least 1"):
        train_step(model, batch, SGD(model, 1.0), at_once=0)


def test_resuming_within_a_budget_gives_the_same_bits_and_another_budget_is_refused(rng, tmp_path):
    model, batch = gpt2(rng, 16)
    budget = Forecast(model, AdamW(model), batch).needs(3, accumulating=True) + GRAIN

    def run(steps, **options):
        model, _ = gpt2(rng, 16)
        return fit(model, Batches(batch, B), AdamW(model), steps=steps, progress=False, **options)

    whole = run(4, memory_budget=budget)
    run(2, memory_budget=budget, checkpoint=tmp_path / "c")
    again = run(4, memory_budget=budget, checkpoint=tmp_path / "c", resume=True)
    assert whole.at_once == again.at_once == 3
    assert again.losses == whole.losses
    with pytest.raises(FileError, match="memory_budget was"):
        run(6, memory_budget=2 * budget, checkpoint=tmp_path / "c", resume=True)


class Odd(Module):
    """Its graph has a node more for more examples than one."""

    def __init__(self):
        self.linear = Linear(3, 4)

    def loss(self, x, labels):
        z = self.linear(mp.Tensor(x))
        return mp.ops.cross_entropy(z if len(x) == 1 else z * 2.0, labels)


def test_a_loss_whose_graph_depends_on_the_number_of_examples_is_refused(rng):
    batch = {"x": rng.normal(size=(4, 3)).astype(np.float32), "labels": np.zeros(4, dtype=int)}
    model = Odd()
    forecast = Forecast(model, AdamW(model), batch)
    assert forecast.peak(1) > 0
    with pytest.raises(ValueError, match="another graph"):
        forecast.peak(4)


@pytest.mark.parametrize(
    ("text", "size"),
    [(7, 7), (2e9, 2 * 10**9), ("1.5KiB", 1536), ("500 MB", 5 * 10**8), ("2gib", 2**31), ("1e6", 10**6), ("3B", 3)],
)
def test_sizes_are_read(text, size):
    assert bytes_of(text) == size
    assert bytes_of(readable_bytes(1536)) == 1536


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "2 GX", "0", 0, "1.2.3MB", float("inf"), float("nan"), "GiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="expected a size in bytes"):
        bytes_of(text)
