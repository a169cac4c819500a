"""Weights that are tied, and what becomes of them when one place is trained, merged, saved and loaded."""

import json

import numpy as np
import pytest
from families import encoder_decoder, gpt2, llama, masked_lm
from reference import REFERENCES, V, golden, weights, write_folder

import minipeft as mp
from minipeft.files import FileError, read_safetensors, write_safetensors
from minipeft.models import EncoderConfig, EncoderMaskedLM, MaskedLMConfig, Model, huggingface_names
from minipeft.nn.module import find
from minipeft.peft import (
    IntrinsicConfig,
    LoraConfig,
    PeftError,
    PeftModel,
    TopLayersConfig,
    get_peft_model,
    to_huggingface,
)

TIED = {"gpt2": gpt2, "llama": llama, "masked_lm": masked_lm, "encoder_decoder": encoder_decoder}
tied_families = pytest.mark.parametrize("family", TIED)
WHAT = {
    "LoRA of the embedding": LoraConfig(r=2, target_modules=["tokens"]),
    "LoRA of the head": LoraConfig(r=2, target_modules=["lm_head"]),
    "LoRA of both": LoraConfig(r=2, target_modules=["tokens", "lm_head"]),
    "the whole embedding": LoraConfig(r=2, modules_to_save=["tokens"]),
    "the whole head": LoraConfig(r=2, modules_to_save=["lm_head"]),
    "the whole embedding and head": LoraConfig(r=2, modules_to_save=["tokens", "lm_head"]),
}


def loss_of(model, batch):
    with mp.no_grad():
        return model.loss(**batch).item()


def trained(family, config, rng):
    model, batch = TIED[family](rng)
    peft = get_peft_model(model, config)
    for p in peft.trained().values():
        p.data[...] += 0.2 * rng.normal(size=p.shape)
    return peft, batch


@tied_families
@pytest.mark.parametrize("named", ["lm_head", "tokens"])
def test_a_tied_module_is_trained_alone_and_tied_again_afterwards(family, named, rng):
    model, batch = TIED[family](rng)
    (shared,) = {find(model, path) for path in model.tied_weights}
    peft = get_peft_model(model, TopLayersConfig(n_layers=0, modules_to_save=[named]))
    for path in model.tied_weights:
        is_named = path.removesuffix(".weight").endswith(named)
        assert find(model, path).requires_grad == is_named
        assert (find(model, path) is shared) == (not is_named)
    peft.loss(**batch).backward()
    assert all(p.grad is not None for p in peft.trained().values())
    peft.unload()
    assert {find(model, path) for path in model.tied_weights} == {shared}


@tied_families
@pytest.mark.parametrize("what", WHAT)
def test_an_adapter_on_tied_weights_is_saved_and_loaded(family, what, rng, tmp_path):
    peft, batch = trained(family, WHAT[what], rng)
    expected = loss_of(peft, batch)
    peft.save_pretrained(tmp_path / "adapter")
    assert loss_of(PeftModel.from_pretrained(peft.unload(), tmp_path / "adapter"), batch) == expected


@tied_families
@pytest.mark.parametrize("what", WHAT)
def test_a_merged_model_whose_weights_are_no_longer_tied_is_saved_and_loaded(family, what, rng, tmp_path):
    peft, batch = trained(family, WHAT[what], rng)
    merged = peft.merge_and_unload()
    expected = loss_of(merged, batch)
    merged.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tied"] is False
    stored, _ = read_safetensors(tmp_path / "model.safetensors")
    for path in merged.tied_weights:
        assert np.array_equal(stored[path], find(merged, path).data)
    again = type(merged).from_pretrained(tmp_path)
    assert not again.config.tied
    assert loss_of(again, batch) == expected
    again.save_pretrained(tmp_path / "again")
    assert loss_of(Model.from_pretrained(tmp_path / "again"), batch) == expected


@tied_families
def test_a_model_that_is_still_tied_says_so_and_stores_the_weight_once(family, rng, tmp_path):
    peft, batch = trained(family, LoraConfig(r=2), rng)
    merged = peft.merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tied"] is True
    assert len(read_safetensors(tmp_path / "model.safetensors")[0].keys() & set(merged.tied_weights)) == 1
    again = type(merged).from_pretrained(tmp_path)
    assert len({find(again, path) for path in again.tied_weights}) == 1
    assert loss_of(again, batch) == loss_of(merged, batch)


@tied_families
def test_a_folder_from_before_there_was_a_choice_is_tied(family, rng, tmp_path):
    model, batch = TIED[family](rng)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["tied"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert loss_of(Model.from_pretrained(tmp_path), batch) == loss_of(model, batch)


@tied_families
def test_several_adapters_of_tied_weights_live_on_one_base(family, rng):
    """Switching, disabling and summing: each place has its own weight, and the base keeps the shared one."""
    peft, batch = trained(family, WHAT["the whole head"], rng)
    base = peft.base_model
    paths = base.tied_weights
    with peft.disable_adapter():
        (shared,) = {find(base, path) for path in paths}
        before = shared.data.copy()
        plain = loss_of(base, batch)
    head = base.lm_head.weight.data.copy()
    peft.add_adapter("second", WHAT["the whole head"], rng=1)
    for p in peft.trained().values():
        p.data[...] -= 0.1 * rng.normal(size=p.shape)
    second = base.lm_head.weight.data.copy()
    peft.add_weighted_adapter(["default", "second"], [0.25, 0.5], "sum")
    expected = before + 0.25 * (head - before) + 0.5 * (second - before)
    np.testing.assert_allclose(base.lm_head.weight.data, expected, atol=1e-6)
    assert all(find(base, path) is shared for path in paths if not path.startswith("lm_head"))
    peft.set_adapter("default")
    assert np.array_equal(base.lm_head.weight.data, head)
    assert np.array_equal(shared.data, before)
    assert loss_of(peft.unload(), batch) == plain
    assert {find(base, path) for path in paths} == {shared}


@tied_families
def test_a_random_subspace_moves_both_places_together(family, rng):
    peft, batch = trained(family, IntrinsicConfig(d=5), rng)
    base = peft.base_model
    first, *others = (path.removesuffix(".weight") for path in base.tied_weights)
    moved = [find(base, path)._projections.by_name["weight"] for path in (first, *others)]
    assert len(set(map(id, moved))) == 1
    assert len({id(find(base, path).base.weight) for path in (first, *others)}) == 1


@tied_families
def test_a_model_under_an_adapter_of_its_head_is_not_saved_as_a_model(family, rng, tmp_path):
    peft, _ = trained(family, WHAT["LoRA of the head"], rng)
    with pytest.raises(ValueError, match="has an adapter: save the adapter"):
        peft.base_model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_masked_language_model_takes_an_encoders_configuration_or_its_own():
    config = EncoderConfig(vocab_size=11, d_model=12, n_layers=1, n_heads=3, d_ff=20, context=9)
    assert EncoderMaskedLM(config).config == MaskedLMConfig(**vars(config), tied=True)
    untied = EncoderMaskedLM(MaskedLMConfig(**vars(config), tied=False))
    assert untied.lm_head.weight is not untied.encoder.input.tokens.weight
    assert untied.encoder.config == config


# Folders of Hugging Face's

HEADS = {
    "gpt2": {"lm_head.weight": "transformer.wte.weight"},
    "bart": {
        f"{name}.weight": "model.shared.weight" for name in ("model.encoder.embed_tokens", "model.decoder.embed_tokens")
    }
    | {"lm_head.weight": "model.shared.weight"},
    "bert_masked_lm": {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
}
their_families = pytest.mark.parametrize("name", HEADS)


def folder_of(name, tmp_path, settings, tensors):
    folder = write_folder(tmp_path / name, {**REFERENCES[name].settings, **settings}, {})
    shapes = {key: tuple(shape) for key, (shape, _) in golden(name)["tensors"].items()}
    arrays = {key: weights(key, shape) for key, shape in shapes.items()} | tensors
    write_safetensors(folder / "model.safetensors", arrays)
    return folder


def own_tensors(name):
    """Tensors for the places of a model that is not tied, all different."""
    shapes = golden(name)["tensors"]
    return {key: weights(key, tuple(shapes[source][0])) for key, source in HEADS[name].items()}


@their_families
def test_an_untied_folder_gives_each_module_its_own_weight(name, tmp_path):
    own = own_tensors(name)
    model = REFERENCES[name].ours.from_pretrained(folder_of(name, tmp_path, {"tie_word_embeddings": False}, own))
    assert not model.config.tied
    for path, (theirs, _) in huggingface_names(model).items():
        if theirs in own:
            assert np.array_equal(find(model, path).data, own.pop(theirs))
    assert not own


@their_families
def test_an_untied_folder_without_a_weight_of_its_own_is_refused_by_name(name, tmp_path):
    folder = folder_of(name, tmp_path, {"tie_word_embeddings": False}, {})
    missing = next(iter(HEADS[name])).removeprefix("model.")
    with pytest.raises(FileError, match=f"the tensor '{missing}' is missing"):
        REFERENCES[name].ours.from_pretrained(folder)


@their_families
def test_a_tied_folder_may_hold_the_weight_under_each_of_its_names(name, tmp_path):
    tied = REFERENCES[name].ours.from_pretrained(folder_of(name, tmp_path, {}, {}))
    shapes = golden(name)["tensors"]
    same = {key: weights(source, tuple(shapes[source][0])) for key, source in HEADS[name].items()}
    again = REFERENCES[name].ours.from_pretrained(folder_of(name, tmp_path, {}, same))
    assert {n: x.tobytes() for n, x in tied.state_dict().items()} == {
        n: x.tobytes() for n, x in again.state_dict().items()
    }


@their_families
def test_a_tied_folder_with_different_weights_is_refused_and_says_what_to_do(name, tmp_path):
    folder = folder_of(name, tmp_path, {}, own_tensors(name))
    with pytest.raises(FileError, match=r"differ, but .* set tie_word_embeddings to false"):
        REFERENCES[name].ours.from_pretrained(folder)


def test_an_untied_bert_of_before_version_5_has_one_bias_for_its_head(tmp_path):
    own = own_tensors("bert_masked_lm")
    bias = weights("cls.predictions.bias", (V,))
    del own["cls.predictions.decoder.bias"]
    model = EncoderMaskedLM.from_pretrained(folder_of("bert_masked_lm", tmp_path, {"tie_word_embeddings": False}, own))
    assert np.array_equal(model.lm_head.bias.data, bias)


# Adapters of Hugging Face's


def rewritten(folder, settings=None, **tensors):
    """Their adapter in ``folder`` with other settings and tensors; None takes one out."""
    for name in ("minipeft_config.json", "minipeft_model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    stored, _ = read_safetensors(folder / "adapter_model.safetensors")
    stored = {
        n: x for n, x in (stored | {f"base_model.model.{n}": x for n, x in tensors.items()}).items() if x is not None
    }
    write_safetensors(folder / "adapter_model.safetensors", stored)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **(settings or {})}))


def test_a_copy_of_barts_shared_table_is_ignored_with_a_warning_since_it_changes_nothing_there(rng, tmp_path):
    peft, batch = trained("encoder_decoder", LoraConfig(r=2), rng)
    expected = loss_of(peft, batch)
    peft.save_pretrained(tmp_path)
    base = peft.unload()
    rewritten(tmp_path, {"modules_to_save": ["shared"]}, **{"model.shared.weight": np.ones((17, 12), np.float32)})
    with pytest.warns(UserWarning, match=r"'model.shared' was trained alone.*changes no output.*Train embed_tokens"):
        again = PeftModel.from_pretrained(base, tmp_path)
    assert loss_of(again, batch) == pytest.approx(expected, rel=1e-6)


def test_an_adapter_whose_modules_are_one_there_must_hold_both(rng, tmp_path):
    peft, batch = trained("llama", WHAT["the whole embedding and head"], rng)
    expected = loss_of(peft, batch)
    peft.save_pretrained(tmp_path)
    base = peft.unload()
    rewritten(tmp_path, {"ensure_weight_tying": True})
    again = PeftModel.from_pretrained(base, tmp_path)
    assert loss_of(again, batch) == pytest.approx(expected, rel=1e-6)
    base = again.unload()
    rewritten(tmp_path, {"modules_to_save": ["embed_tokens"]}, **{"lm_head.weight": None})
    with pytest.raises(PeftError, match="ensure_weight_tying is True, but the file has no tensor for 'lm_head'"):
        PeftModel.from_pretrained(base, tmp_path)
    with pytest.raises(PeftError, match=r"trainable_token_indices is \[1, 2\]; only its absence is implemented"):
        rewritten(tmp_path, {"trainable_token_indices": [1, 2]})
        PeftModel.from_pretrained(base, tmp_path)


def test_the_head_of_an_encoder_decoder_has_a_form_there_only_with_the_bases_bias(rng):
    """final_logits_bias is a constant of BART, which no adapter of theirs changes."""
    model, _ = encoder_decoder(rng)
    peft = get_peft_model(model, WHAT["the whole head"])
    model.lm_head.weight.data[...] += 1.0
    tensors, settings = to_huggingface(peft)
    assert np.array_equal(tensors["base_model.model.lm_head.weight"], model.lm_head.weight.data)
    assert settings["modules_to_save"] == ["lm_head"]
    model.lm_head.bias.data[...] += 1.0
    assert to_huggingface(peft) is None


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_a_head_trained_in_full_is_in_their_file_whichever_biases_are_trained(bias, rng, tmp_path):
    peft, _ = trained("masked_lm", LoraConfig(r=2, bias=bias, modules_to_save=["lm_head"]), rng)
    peft.save_pretrained(tmp_path)
    stored, _ = read_safetensors(tmp_path / "adapter_model.safetensors")
    head = peft.base_model.lm_head
    assert np.array_equal(stored["base_model.model.cls.predictions.decoder.weight"], head.weight.data)
    assert np.array_equal(stored["base_model.model.cls.predictions.decoder.bias"], head.bias.data)
