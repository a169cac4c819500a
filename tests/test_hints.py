"""What a user of PyTorch, transformers or PEFT types works, or is answered with what to type here."""

import copy
import dataclasses
import operator
import pickle
import re

import numpy as np
import pytest
from families import FAMILIES, encoder, gpt2

import minipeft as mp
from minipeft import hints, nn
from minipeft.data import Batches, LanguageModelBatches
from minipeft.models import DecoderConfig, DecoderLM, EncoderClassifier, EncoderConfig, EncoderDecoder
from minipeft.models.arguments import takes_lists
from minipeft.optim import SGD, AdamW, CosineSchedule
from minipeft.peft import (
    AdapterConfig,
    IA3Config,
    LoraConfig,
    PeftError,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)

T = np.ones((2, 3))
IDS = np.array([[1, 2, 3], [4, 5, 6]])
MASK = np.array([[False, True, True], [True, True, True]])


@pytest.fixture
def model():
    return DecoderLM(DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=2, n_heads=3, context=20))


@pytest.fixture
def peft(model):
    return get_peft_model(model, LoraConfig(r=2, init_lora_weights=False))


# Calls


def test_a_model_takes_hugging_face_names(peft):
    assert np.array_equal(peft(input_ids=IDS, attention_mask=MASK).data, peft(IDS, MASK).data)
    classifier = EncoderClassifier(EncoderConfig(vocab_size=17, d_model=12, n_layers=1, n_heads=3, d_ff=8, context=9))
    theirs = classifier(input_ids=IDS, attention_mask=MASK, token_type_ids=IDS % 2)
    assert np.array_equal(theirs.data, classifier(IDS, mask=MASK, token_types=IDS % 2).data)


def test_models_of_images_and_of_two_texts_take_them_too(rng):
    vit, batch = FAMILIES["vit"](rng)
    assert np.array_equal(vit(pixel_values=batch["images"]).data, vit(batch["images"]).data)
    both, batch = FAMILIES["encoder_decoder"](rng)
    theirs = both(input_ids=IDS, decoder_input_ids=IDS, attention_mask=MASK, decoder_attention_mask=MASK)
    assert np.array_equal(theirs.data, both(IDS, IDS, MASK, MASK).data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": IDS, "ids": IDS}, "got both input_ids and ids"),
        ({"ids": IDS, "labels": IDS}, r"forward takes ids, mask, cache, got 'labels'; model.loss\(...\) takes labels"),
        ({"ids": IDS, "position_ids": IDS}, "got 'position_ids'$"),
    ],
)
def test_other_arguments_of_a_model_are_answered(arguments, message, model):
    with pytest.raises(TypeError, match=message):
        model(**arguments)


def test_a_loss_does_not_guess_what_labels_mean(model):
    message = (
        r"input_ids is called ids here; labels are not shifted here: labels\[:, t\] is the token after ids\[:, t\]"
    )
    for call in (model.loss, lambda **batch: mp.train.train_step(model, batch, AdamW(model))):
        with pytest.raises(TypeError, match=message):
            call(input_ids=IDS, labels=IDS)


def test_a_method_that_takes_any_argument_gets_any():
    @takes_lists
    def forward(self, x, **others):
        return x, others

    assert forward(None, [1], input_ids=2) == (np.array([1]), {"input_ids": 2})


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_lists_are_as_good_as_arrays(family, rng):
    model, batch = family(rng)
    lists = {name: x.tolist() for name, x in batch.items()}
    assert model.loss(**lists).item() == model.loss(**batch).item()
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    if isinstance(model, EncoderDecoder):
        inputs["target_ids"] = batch["labels"] % 5
    listed = {name: x.tolist() for name, x in inputs.items()}
    assert np.array_equal(model(**listed).data, model(**inputs).data)


def test_training_takes_lists(rng):
    losses = []
    for kind in (np.asarray, lambda x: x.tolist()):
        model, batch = gpt2(np.random.default_rng(0))
        batch = {name: kind(x) for name, x in batch.items()}
        losses.append([mp.train.train_step(model, batch, AdamW(model), shards=2)])
        losses[-1] += mp.train.fit(model, Batches(batch, 2), AdamW(model), epochs=1, progress=False).losses
    assert losses[0] == losses[1]
    tokens = list(range(20))
    assert next(LanguageModelBatches(tokens, 2, 4).epoch(0))["ids"].shape == (2, 4)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[1, 2], [3]], ValueError, r"rows of one length, got lengths \[1, 2\]; pad them"),
        ([1, 2, 3], ValueError, r"shape \(B, T\), one row a text; got \(3,\)"),
        ([[1.0, 2.0]], TypeError, "integers, got float64"),
        (["hello"], TypeError, "list of texts .'hello'.; encode them"),
        ("hello", ValueError, "got str"),
        (mp.Tensor(IDS), TypeError, "integers, got Tensor"),
    ],
)
def test_other_ids_are_refused(ids, error, message, model):
    with pytest.raises(error, match=message):
        model(ids)


# Masks


@pytest.mark.parametrize("family", [gpt2, encoder], ids=["gpt2", "encoder"])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK[:, :2], r"one entry for each token, shape \(2, 3\), got \(2, 2\)"),
        (MASK[:1], r"shape \(2, 3\), got \(1, 3\)"),
        (np.ones((2, 5), bool), r"shape \(2, 3\), got \(2, 5\)"),
        (np.ones(3, bool), r"shape \(2, 3\), got \(3,\)"),
        (np.where(MASK, 0.0, -np.inf), "boolean, .* got float64 from -inf to 0.0; .* give mask == 0"),
        (np.where(MASK, 0, -10000), "got int64 from -10000 to 0"),
        (np.zeros((2, 3), np.float32), "got float32 from 0.0 to 0.0"),
        (MASK * 2, "got int64 from 0 to 2"),
        (np.full((2, 3), "a"), "got <U1;"),
    ],
)
def test_a_mask_of_another_shape_or_kind_is_refused(family, mask, message, rng):
    model, _ = family(rng)
    with pytest.raises(ValueError, match=message):
        model(IDS, mask)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8, bool])
def test_masks_of_0_and_1_are_booleans(kind, model):
    expected = model(IDS, MASK).data
    assert np.array_equal(model(IDS, MASK.astype(kind)).data, expected)
    assert np.array_equal(model.generate(IDS, MASK.astype(kind), 4), model.generate(IDS, MASK, 4))


@pytest.mark.parametrize("config", [None, PromptTuningConfig(num_virtual_tokens=3), PrefixTuningConfig(3)])
def test_a_mask_with_a_cache_is_of_all_tokens_and_no_prompt(config, model):
    model = model if config is None else get_peft_model(model, config)
    with mp.no_grad():
        whole = model(IDS, MASK).data
        cache = nn.new_cache(2)
        first = model(IDS[:, :2], MASK[:, :2], cache)
        for wrong in (MASK[:, 2:], np.pad(MASK, ((0, 0), (3, 0)))):
            with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
                model(IDS[:, 2:], wrong, copy.deepcopy(cache))
        rest = model(IDS[:, 2:], MASK, cache)
    np.testing.assert_allclose(np.concatenate([first.data, rest.data], axis=1), whole, rtol=1e-4, atol=1e-6)


# Generation


def test_models_generate(peft):
    expected = mp.generate(peft, IDS, MASK, max_new_tokens=4)
    assert np.array_equal(peft.generate(IDS, MASK, max_new_tokens=4), expected)
    assert np.array_equal(peft.base_model.generate(IDS.tolist(), MASK.tolist(), max_new_tokens=4), expected)
    theirs = peft.generate(input_ids=IDS, attention_mask=MASK, max_new_tokens=4, eos_token_id=2, pad_token_id=3)
    assert np.array_equal(theirs, mp.generate(peft, IDS, MASK, max_new_tokens=4, eos=2, pad=3))


@pytest.mark.parametrize(
    ("name", "answer"),
    [("do_sample", "temperature=0 takes"), ("max_length", "max_new_tokens"), ("num_beams", "no beam")],
)
def test_other_options_of_generate_are_answered(name, answer, model):
    with pytest.raises(TypeError, match=f"generate takes .*, got '{name}'; .*{answer}"):
        model.generate(IDS, **{name: 3})


# Tensors


def test_a_tensor_of_one_number_is_a_number():
    loss = mp.Tensor(np.float32(1.23456), requires_grad=True) * 1.0
    assert float(loss) == np.float32(1.23456)
    assert f"{loss:.3f} {loss:>8.1f}" == "1.235      1.2"
    assert f"{loss}" == str(loss)
    assert float(mp.Tensor(np.ones((1, 1)))) == 1.0
    for convert in (float, "{:.3f}".format, mp.Tensor.item):
        with pytest.raises(ValueError, match=r"a tensor of one number, got shape \(2, 3\); use tensor.data"):
            convert(mp.Tensor(T))


def test_an_array_of_a_tensor_is_answered():
    for convert in (np.asarray, np.array):
        with pytest.raises(TypeError, match=r"use tensor\.data"):
            convert(mp.Tensor(T))


@pytest.mark.parametrize("name", hints.TENSOR)
def test_what_a_tensor_does_not_have_is_answered(name):
    with pytest.raises(AttributeError) as raised:
        getattr(mp.Tensor(T), name)
    assert str(raised.value) == f"'Tensor' object has no attribute {name!r}; {hints.TENSOR[name]}"
    assert raised.value.name == name


def test_tensors_and_models_are_still_copied_and_pickled(peft):
    for again in (copy.deepcopy(peft), pickle.loads(pickle.dumps(peft))):
        assert np.array_equal(again(IDS).data, peft(IDS).data)
    assert not hasattr(mp.Tensor(T), "nothing")
    assert not hasattr(peft, "nothing")


# Models


@pytest.mark.parametrize("name", hints.MODULE)
def test_what_a_module_does_not_have_is_answered(name):
    with pytest.raises(AttributeError) as raised:
        getattr(nn.Linear(2, 3), name)
    assert str(raised.value) == f"'Linear' object has no attribute {name!r}; {hints.MODULE[name]}"


@pytest.mark.parametrize(
    "answer", dict.fromkeys([*hints.TENSOR.values(), *hints.MODULE.values(), *hints.OTHER_ARGUMENTS.values()])
)
def test_answers_name_what_there_is(answer, peft):
    owners = {"model": peft, "tensor": mp.Tensor(T), "minipeft": mp}
    for owner, path in re.findall(r"\b(model|tensor|minipeft)((?:\.\w+)+)", answer):
        assert operator.attrgetter(path[1:])(owners[owner]) is not None


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_names_of_a_configuration_are_answered_if_it_has_them(family, rng):
    config = family(rng)[0].config
    own = {f.name for f in dataclasses.fields(config)}
    for theirs, name in hints.CONFIG.items():
        with pytest.raises(AttributeError) as raised:
            getattr(config, theirs)
        answer = f"; use config.{name}" if name in own else ""
        assert str(raised.value) == f"{type(config).__name__!r} object has no attribute {theirs!r}{answer}"
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == dataclasses.replace(config) == config


def test_a_peft_model_counts_as_at_hugging_face(peft, capsys):
    assert peft.get_nb_trainable_parameters() == peft.trainable_counts() == (192, 4428)
    peft.print_trainable_parameters()
    assert capsys.readouterr().out == "trainable params: 192 || all params: 4,428 || trainable%: 4.3360\n"


@pytest.mark.parametrize("target", ["float16", "bfloat16", np.float16, np.int64, np.dtype("float16")])
def test_half_precision_is_refused_where_it_is_asked_for(target, peft):
    before = {name: p.dtype for name, p in peft.named_parameters()}
    with pytest.raises(TypeError, match="to: expected a device name, float32 or float64, got"):
        peft.to(target)
    assert {name: p.dtype for name, p in peft.named_parameters()} == before


def test_arguments_of_peft_in_another_order_are_told_the_right_one(model, tmp_path):
    for call in (
        lambda: get_peft_model(LoraConfig(), model),
        lambda: PeftModel.from_pretrained(tmp_path, model),
        lambda: PeftModel.from_pretrained("folder", "model"),
        lambda: get_peft_model(DecoderLM, LoraConfig()),
    ):
        with pytest.raises(TypeError, match=r"expected a model first, got (LoraConfig|\w*Path|str|the class \w+);"):
            call()
    with pytest.raises(TypeError, match=r"expected a configuration such as LoraConfig\(r=8\), got dict"):
        get_peft_model(model, {"r": 8})


# Options


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", inference_mode=False),
        LoraConfig(r=2, fan_in_fan_out=True, base_model_name_or_path="gpt2", revision=None, peft_type="LORA"),
        LoraConfig(r=2, use_dora=False, lora_bias=False, layers_pattern=None, layer_replication=None),
        IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM", inference_mode=False),
        PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
    ids=lambda c: c.peft_type,
)
def test_options_of_peft_that_change_nothing_are_taken(config, model, tmp_path):
    peft = get_peft_model(model, config)
    assert peft.peft_config.task_type in (None, "CAUSAL_LM")
    peft.save_pretrained(tmp_path / "a")
    again = PeftModel.from_pretrained(peft.unload(), tmp_path / "a", allow_zero=True)
    assert again.peft_config == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoraConfig(rank=8), "LoraConfig has no option rank=8; did you mean r?"),
        (lambda: LoraConfig(alpha=8), "did you mean lora_alpha?"),
        (lambda: LoraConfig(dropout=0.1), "did you mean lora_dropout?"),
        (lambda: LoraConfig(target_module=["q_proj"]), "did you mean target_modules?"),
        (lambda: LoraConfig(peft_type="IA3"), "has no option peft_type='IA3'"),
        (lambda: LoraConfig(inference_mode=True), "under no_grad()"),
        (lambda: LoraConfig(use_dora=True), "DoRA is not implemented"),
        (lambda: LoraConfig(lr=1e-3), "the optimizer has the learning rate"),
        (lambda: AdapterConfig(reduction_factor=16), "give r, the width of the bottleneck"),
        (lambda: PrefixTuningConfig(prefix_length=3), "did you mean num_virtual_tokens?"),
        (lambda: IA3Config(zzz=1), "it takes modules_to_save, task_type, target_modules, feedforward_modules"),
    ],
)
def test_other_options_are_answered(make, message):
    with pytest.raises(TypeError) as raised:
        make()
    assert message in str(raised.value)


def test_an_unknown_task_type_is_refused(model):
    with pytest.raises(PeftError, match=r"task_type is one of .*'CAUSAL_LM'.*, got 'causal'"):
        get_peft_model(model, LoraConfig(task_type="causal"))


# Optimizers


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: AdamW(1e-3, m), "expected a model or its parameters first, got float"),
        (lambda m: AdamW(m, "1e-3"), "learning rate as a number or a schedule, got '1e-3'"),
        (lambda m: AdamW([{"params": list(m.parameters())}]), "got dict"),
        (lambda m: Batches([IDS], 2), "expected a dict of arrays by name first, got list"),
    ],
)
def test_other_arguments_are_answered(make, message, model):
    with pytest.raises(TypeError, match=message):
        make(model)


# Printing


def test_a_printed_model_is_a_tree_with_sizes():
    model = DecoderLM(DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=3, n_heads=3, context=20))
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[2]))
    lines = str(model).split("\n")
    assert lines[0] == "PeftModel(LORA 'default'): 48 of 6,168 trainable parameters"
    assert lines[1] == "  (base_model): DecoderLM: 48 of 6,168 trainable"
    for line in (
        "      (tokens): Embedding(weight (17, 12)): 204 frozen",
        "        (0-1): 2 x TransformerLayer(norm_first=True): 1,884 frozen",
        "        (2): TransformerLayer(norm_first=True): 48 of 1,932 trainable",
        "          (attention): MultiHeadAttention(n_heads=3, n_kv_heads=3, head_dim=4): 624 frozen",
        "            (k_proj): Linear(weight (12, 12), bias (12,)): 156 frozen",
        "            (q_proj): LoraLayer(lora_A (2, 12), lora_B (12, 2)): 48 of 204 trainable",
        "              (base): Linear(weight (12, 12), bias (12,)): 156 frozen",
        "          (dropout): Dropout(p=0.0)",
    ):
        assert line in lines
    assert len(lines) < 60
    model.merge_adapter()
    assert str(model).startswith("PeftModel(LORA 'default', merged): 6,120 frozen parameters")
    model.unmerge_adapter()
    with model.disable_adapter():
        assert str(model).startswith("PeftModel(LORA 'default', disabled): 6,120 frozen parameters")


def test_tensors_in_lists_and_dicts_are_printed_and_tied_weights_counted_once():
    class Odd(nn.Module):
        def __init__(self):
            self.scales = [mp.Tensor([1.0, 2.0], requires_grad=True) for _ in range(3)]
            self.parts = {"a": nn.Linear(2, 3, rng=0)}
            self.again = self.parts["a"]
            self.nothing, self.p, self._hidden = [], 0.5, 1

    assert str(Odd()) == (
        "Odd(p=0.5): 15 trainable parameters\n"
        "  (scales):\n"
        "    (0-2): 3 x Tensor (2,): 2 trainable\n"
        "  (parts):\n"
        "    (a): Linear(weight (3, 2), bias (3,)): 9 trainable\n"
        "  (again): Linear(weight (3, 2), bias (3,)): 9 trainable"
    )
    assert str(nn.Dropout(0.1)) == "Dropout(p=0.1)"


def test_a_printed_optimizer_says_what_it_holds(model):
    assert str(SGD(model, lr=0.1, momentum=0.9)) == (
        "SGD(lr=0.1, weight_decay=0.0, momentum=0.9, nesterov=False): 4,236 parameters in 36 tensors, step 0"
    )
    optimizer = AdamW(model, lr=CosineSchedule(0.2, steps=10))
    mp.train.train_step(model, {"ids": IDS, "labels": IDS}, optimizer)
    assert str(optimizer).startswith("AdamW(lr=0.195106 by CosineSchedule, weight_decay=0.01, betas=[0.9, 0.999]")
    assert str(optimizer).endswith(": 4,236 parameters in 36 tensors, step 1")
