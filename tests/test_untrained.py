"""Training that would train nothing is refused, and so is losing what was trained."""

import numpy as np
import pytest
from families import gpt2, llama, masked_lm

import minipeft as mp
from minipeft import nn
from minipeft.data import Batches
from minipeft.optim import SGD, AdamW
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    IA3Config,
    LayerNormConfig,
    LoraConfig,
    PeftError,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
    get_peft_model,
)
from minipeft.train import TrainingError, fit, train_step

METHODS = [
    LoraConfig(r=2),
    LoraConfig(r=2, target_modules=["tokens"], bias="all"),
    AdapterConfig(r=3),
    PrefixTuningConfig(num_virtual_tokens=3),
    PromptTuningConfig(num_virtual_tokens=3),
    IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
    BitFitConfig(),
    LayerNormConfig(),
    TopLayersConfig(1),
]
methods = pytest.mark.parametrize("config", METHODS, ids=lambda c: c.peft_type)


def values(model):
    return {name: p.data.copy() for name, p in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


class NeverRun(nn.Module):
    """A model whose loss must not be computed."""

    def __init__(self):
        self.layer = nn.Linear(2, 2, rng=0)

    def loss(self, **batch):
        raise AssertionError("the loss was computed")


@pytest.fixture
def lora(rng):
    model, batch = gpt2(rng)
    return get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, bias="all")), batch


@methods
def test_an_optimizer_made_before_get_peft_model_is_refused(config, rng):
    model, batch = gpt2(rng)
    optimizer = AdamW(model, lr=0.1)
    peft = get_peft_model(model, config)
    before = values(peft)
    with pytest.raises(TrainingError, match=r"none of .* received a gradient; .* made before get_peft_model\(\)"):
        train_step(peft, batch, optimizer)
    with pytest.raises(ValueError, match=r"nothing would be trained; .* made before get_peft_model\(\)"):
        fit(peft, [batch], optimizer, steps=1, progress=False)
    assert same(values(peft), before)
    train_step(peft, batch, AdamW(peft, lr=0.1))
    assert not same(values(peft), before)


def test_an_optimizer_step_of_ones_own_loop_is_refused_too(rng):
    model, batch = gpt2(rng)
    optimizer = AdamW(model, lr=0.1)
    peft = get_peft_model(model, LoraConfig(r=2))
    peft.loss(**batch).backward()
    with pytest.raises(RuntimeError, match=r"none of the optimizer's .* make the optimizer after get_peft_model\(\)"):
        optimizer.step()
    assert optimizer.steps == 0


def test_a_merged_or_disabled_adapter_is_refused_before_anything_is_computed(rng):
    peft = get_peft_model(NeverRun(), LoraConfig(r=1, target_modules=["layer"]))
    optimizer = AdamW(peft)
    peft.merge_adapter()
    for train in (train_step, lambda *arguments: fit(*arguments, steps=1, progress=False)):
        with pytest.raises(PeftError, match=r"merged; call unmerge_adapter\(\) first"):
            train(peft, {}, optimizer)
    peft.unmerge_adapter()
    with peft.disable_adapter(), pytest.raises(PeftError, match=r"leave disable_adapter\(\) first"):
        train_step(peft, {}, optimizer)


def test_an_adapter_that_is_merged_deep_inside_is_named(lora):
    peft, batch = lora

    class Around(nn.Module):
        def __init__(self, inner):
            self.inner = inner

        def loss(self, **arguments):
            return self.inner.loss(**arguments)

    around = Around(peft)
    optimizer = AdamW(around)
    peft.merge_adapter()
    with pytest.raises(TrainingError, match=r"nothing is trained: the adapter is merged; call unmerge_adapter"):
        train_step(around, batch, optimizer)


def test_an_optimizer_of_another_adapter_is_told_which(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, LoraConfig(r=2), adapter_name="one")
    optimizer = AdamW(peft, lr=0.1)
    peft.add_adapter("two", LoraConfig(r=2))
    with pytest.raises(TrainingError, match=r"are of the adapter 'one', but 'two' is active; call set_adapter"):
        train_step(peft, batch, optimizer)
    both = SGD([*optimizer.params.items(), *((f"two.{n}", p) for n, p in peft.trained().items())], lr=0.1)
    train_step(peft, batch, both)  # trains the active one
    peft.set_adapter("one")
    train_step(peft, batch, optimizer)


def test_an_optimizer_of_another_model_is_refused(rng):
    model, batch = gpt2(rng)
    with pytest.raises(TrainingError, match="are not in this model"):
        train_step(model, batch, AdamW(gpt2(rng)[0]))
    with pytest.raises(ValueError, match="are not in this model"):
        fit(model, [batch], AdamW(gpt2(rng)[0]), steps=1, progress=False)


def test_an_optimizer_with_some_parameters_of_another_model_is_refused(rng):
    model, batch = gpt2(rng)
    before = values(model)
    mixed = AdamW([*model.named_parameters(), ("stranger", nn.Linear(2, 2, rng=0).weight)])
    message = r"1 of the optimizer's 53 parameters are not in this model, first 'stranger'"
    with pytest.raises(TrainingError, match=message):
        train_step(model, batch, mixed)
    with pytest.raises(ValueError, match=message):
        fit(model, [batch], mixed, steps=1, progress=False)
    assert same(values(model), before)


def test_frozen_models_and_no_grad_are_told_apart(rng):
    model, batch = gpt2(rng)
    optimizer = AdamW(model)
    with mp.no_grad(), pytest.raises(TrainingError, match=r"the step runs inside no_grad\(\)"):
        train_step(model, batch, optimizer)
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="every parameter of the model is frozen"):
        train_step(model, batch, optimizer, shards=2)
    model.lm_head.weight.requires_grad_(True)
    others = AdamW(model.stack.requires_grad_(True))
    model.stack.requires_grad_(False)
    with pytest.raises(TrainingError, match="the optimizer's parameters are frozen"):
        train_step(model, batch, others)
    with pytest.raises(ValueError, match=r"nothing to train: none .* unmerge_adapter\(\)"):
        AdamW(model.stack)


def test_a_parameter_that_one_batch_does_not_use_is_no_error(rng):
    model, batch = gpt2(rng)
    model.unused = nn.Linear(2, 2, rng=0)
    before = values(model)
    train_step(model, batch, AdamW(model, lr=0.1))
    after = values(model)
    assert {name for name in after if np.array_equal(before[name], after[name])} == {"unused.weight", "unused.bias"}
    with pytest.raises(TrainingError, match="the loss does not depend on the optimizer's parameters"):
        train_step(model, batch, AdamW(model.unused))


@pytest.mark.parametrize("family", [gpt2, llama])
def test_nothing_of_a_merged_model_is_trainable_and_unmerging_makes_it_so_again(family, rng):
    model, batch = family(rng)
    peft = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, bias="lora_only"))
    trained, counts = peft.trained(), peft.get_nb_trainable_parameters()
    assert counts == (sum(p.size for p in trained.values()), sum(p.size for p in peft.parameters()))
    before = values(peft)
    peft.merge_adapter()
    assert peft.get_nb_trainable_parameters()[0] == 0
    with pytest.raises(ValueError, match="nothing to train"):
        AdamW(peft)
    with pytest.raises(RuntimeError, match="nothing here requires a gradient"):
        peft.loss(**batch).backward()
    peft.unmerge_adapter()
    assert peft.trained().keys() == trained.keys()
    assert all(peft.trained()[name] is p for name, p in trained.items())
    assert peft.get_nb_trainable_parameters() == counts
    assert same(values(peft), before)


def test_unmerging_refuses_to_lose_a_change_of_the_merged_weights(lora):
    peft, batch = lora
    peft.merge_adapter()
    peft.requires_grad_(True)
    optimizer = SGD(peft, lr=0.1)
    peft.loss(**batch).backward()
    optimizer.step()
    trained = values(peft)
    with pytest.raises(
        PeftError, match=r"6 merged weights were changed .* first at stack\.layers\.0\.attention\.q_proj"
    ):
        peft.unmerge_adapter()
    assert same(values(peft), trained)
    kept = peft.merge_and_unload()
    assert all(np.array_equal(p.data, trained[f"base_model.{name}"]) for name, p in kept.named_parameters())


def test_moving_a_merged_model_is_no_change(lora):
    peft, batch = lora
    peft.merge_adapter()
    peft.to(np.float64)
    merged = peft(batch["ids"]).data
    peft.unmerge_adapter()
    np.testing.assert_allclose(peft(batch["ids"]).data, merged, rtol=1e-4, atol=1e-6)


def test_merging_and_unloading_leaves_a_model_to_train(lora):
    peft, batch = lora
    merged = peft.merge_and_unload()
    assert all(p.requires_grad for p in merged.parameters())
    train_step(merged, batch, AdamW(merged))


@methods
def test_a_base_model_has_one_method_at_a_time(config, rng):
    model, _ = gpt2(rng)
    peft = get_peft_model(model, config)
    for again in (
        lambda: get_peft_model(model, LoraConfig(r=2)),
        lambda: get_peft_model(peft, LoraConfig(r=2)),
        lambda: PeftModel.from_pretrained(model, "nowhere"),
    ):
        with pytest.raises(PeftError, match=r"already has a method; call add_adapter .* or unload\(\)"):
            again()
    again = get_peft_model(peft.unload(), LoraConfig(r=2))
    get_peft_model(again.merge_and_unload(), LoraConfig(r=2))


def test_a_method_that_did_not_fit_leaves_no_trace(rng):
    model, _ = gpt2(rng)
    with pytest.raises(PeftError, match="matches no"):
        get_peft_model(model, LoraConfig(target_modules=["nothing"]))
    assert get_peft_model(model, LoraConfig(r=2)).adapters == ["default"]


def test_a_part_that_has_a_method_cannot_get_another_with_its_model(rng):
    model, _ = gpt2(rng)
    get_peft_model(model.stack, LoraConfig(r=2))
    with pytest.raises(PeftError, match="already has a method"):
        get_peft_model(model, LoraConfig(r=2))


@pytest.mark.parametrize("batches", [list, tuple, iter, lambda b: (x for x in b)], ids=["list", "tuple", "iter", "gen"])
def test_fit_takes_any_iterable_of_batches(batches, rng):
    losses = []
    for make in (batches, list):
        model, batch = gpt2(rng := np.random.default_rng(0))
        two = [batch, {**batch, "ids": rng.integers(0, 17, batch["ids"].shape)}]
        losses.append(fit(model, make(two), AdamW(model), epochs=2, progress=False).losses)
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_an_endless_iterator_is_read_for_as_many_steps_as_are_asked_for(rng):
    model, batch = gpt2(rng)

    def endless():
        while True:
            yield batch

    assert len(fit(model, endless(), AdamW(model), steps=3, progress=False).losses) == 3


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ({"ids": np.zeros((1, 2), int)}, r"got one dict: for a single batch give \[batch\]"),
        ([np.zeros((1, 2), int)], "got list of ndarray"),
        (5, "got int"),
    ],
)
def test_other_batches_are_refused(batches, message, rng):
    model, _ = gpt2(rng)
    with pytest.raises(TypeError, match=f"expected Batches, or a list of batches .* {message}"):
        fit(model, batches, AdamW(model), steps=1, progress=False)


def test_a_base_model_without_a_loss_is_refused_with_an_adapter_too(rng):
    model, batch = masked_lm(rng)
    peft = get_peft_model(model.encoder, LoraConfig(r=2))
    with pytest.raises(AttributeError, match="'Encoder' object has no attribute 'loss'"):
        peft.loss(**batch)
    with pytest.raises(TypeError, match="expected a model that has a loss first, got PeftModel"):
        train_step(peft, batch, AdamW(peft))


def test_arguments_in_another_order_are_told_the_right_one(rng):
    model, batch = gpt2(rng)
    optimizer = AdamW(model)
    for wrong in ((optimizer, batch, model), (batch, model, optimizer), (model.stack, batch, optimizer)):
        with pytest.raises(TypeError, match=r"train_step\(model, batch, optimizer\): expected a model .* first, got"):
            train_step(*wrong)
        with pytest.raises(TypeError, match=r"fit\(model, batches, optimizer\): expected a model .* first, got"):
            fit(*wrong, steps=1)
    with pytest.raises(TypeError, match="expected an optimizer third, got dict"):
        train_step(model, optimizer, batch)
    with pytest.raises(TypeError, match="expected one batch, a dict of arrays, got Batches"):
        train_step(model, Batches(batch, 2), optimizer)
    for steps in (1.5, "1", True):
        with pytest.raises(TypeError, match="steps must be a whole number"):
            fit(model, [batch], optimizer, steps=steps)
