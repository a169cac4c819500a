"""Adapters in Hugging Face's form, without Hugging Face: round trips, and errors for what does not fit."""

import json

import numpy as np
import pytest
from families import encoder, encoder_decoder, gpt2, llama, masked_lm, mlp, vit

import minipeft as mp
from minipeft.files import FileError, read_safetensors, write_safetensors
from minipeft.peft import (
    AdapterConfig,
    IA3Config,
    LayerNormConfig,
    LoraConfig,
    PeftError,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    to_huggingface,
)

CONFIGS = {
    "LoRA": lambda: LoraConfig(r=2, lora_alpha=6),
    "LoRA everywhere": lambda: LoraConfig(r=2, target_modules="all-linear", rank_pattern={"up_proj": 3}),
    "LoRA and biases": lambda: LoraConfig(r=2, bias="all"),
    "LoRA of the head": lambda: LoraConfig(r=2, target_modules="lm_head|.*q_proj"),
    "LoRA and the whole embedding": lambda: LoraConfig(r=2, modules_to_save=["tokens"]),
    "LoRA and the whole head": lambda: LoraConfig(r=2, modules_to_save=["lm_head"], bias="lora_only"),
    "LoRA and the whole embedding and head": lambda: LoraConfig(r=2, modules_to_save=["tokens", "lm_head"]),
    "LoRA and whole layers": lambda: LoraConfig(r=2, target_modules=["v_proj"], modules_to_save=["up_proj", "norm"]),
    "IA3": lambda: IA3Config(),
    "IA3 outside": lambda: IA3Config(feedforward_modules=[]),
    "LayerNorm": lambda: LayerNormConfig(),
    "prompt": lambda: PromptTuningConfig(4),
    "prefix": lambda: PrefixTuningConfig(4),
    "prompt before the source": lambda: PromptTuningConfig(4, sides=["encoder"]),
    "prefix before the target": lambda: PrefixTuningConfig(4, sides=["decoder"]),
}
NO_FORM = {
    *((f, m) for f in ("encoder", "vit", "masked_lm") for m in ("prompt", "prefix") if (f, m) != ("encoder", "prefix")),
    *((f, m) for f in ("encoder", "vit") for m in CONFIGS if "whole" in m and m.endswith("head")),
    ("vit", "LoRA and the whole embedding"),
}
FAMILIES = {
    **{"gpt2": gpt2, "llama": llama, "encoder": encoder, "masked_lm": masked_lm, "vit": vit},
    "encoder_decoder": encoder_decoder,
}
ONE_SIDE = [(f, m) for f in FAMILIES for m in list(CONFIGS)[:-2] if f != "encoder_decoder" and (f, m) not in NO_FORM]
NOT_ON_BOTH = (
    *("prompt", "prefix", "LoRA and biases", "prefix before the target"),
    *("LoRA and the whole head", "LoRA and the whole embedding and head"),  # of which the bias is a constant there
)
GRID = [*ONE_SIDE, *(("encoder_decoder", m) for m in CONFIGS if m not in NOT_ON_BOTH)]


def made(family, config, rng, folder):
    """A trained adapter saved in their form alone; the base again, a batch, and what the adapter computes."""
    model, batch = FAMILIES[family](rng)
    peft = get_peft_model(model, config)
    for p in peft.trained().values():
        p.data[...] += 0.2 * rng.normal(size=p.shape)
    with mp.no_grad():
        loss = peft.loss(**batch).item()
    peft.save_pretrained(folder)
    for name in ("minipeft_config.json", "minipeft_model.safetensors"):
        (folder / name).unlink()
    return peft.unload(), batch, loss


@pytest.mark.parametrize(("family", "method"), GRID, ids=[f"{m} on {f}" for f, m in GRID])
def test_their_form_comes_back(family, method, rng, tmp_path):
    base, batch, loss = made(family, CONFIGS[method](), rng, tmp_path / "a")
    peft = PeftModel.from_pretrained(base, tmp_path / "a")
    with mp.no_grad():
        assert peft.loss(**batch).item() == pytest.approx(loss, rel=1e-6)


def test_names_and_shapes_are_theirs(rng, tmp_path):
    base, _, _ = made("gpt2", LoraConfig(r=2, lora_alpha=6), rng, tmp_path / "a")
    tensors, _ = read_safetensors(tmp_path / "a" / "adapter_model.safetensors")
    module = "base_model.model.transformer.h.{}.attn.c_attn.lora_{}.weight"
    assert set(tensors) == {module.format(i, x) for i in range(3) for x in "AB"}
    assert tensors[module.format(0, "A")].shape == (4, 12)  # the ranks of W_q and W_v together
    assert tensors[module.format(0, "B")].shape == (36, 4)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"], config["task_type"]) == (
        4,
        12,
        True,
        "CAUSAL_LM",
    )
    assert config["target_modules"] == [f"transformer.h.{i}.attn.c_attn" for i in range(3)]
    made("llama", PrefixTuningConfig(4), rng, tmp_path / "b")
    tensors, _ = read_safetensors(tmp_path / "b" / "adapter_model.safetensors")
    assert {n: x.shape for n, x in tensors.items()} == {"prompt_embeddings": (4, 3 * 2 * 2 * 6)}
    made("encoder_decoder", LoraConfig(r=2, target_modules=["cross_attention.q_proj"]), rng, tmp_path / "c")
    tensors, _ = read_safetensors(tmp_path / "c" / "adapter_model.safetensors")
    module = "base_model.model.model.decoder.layers.{}.encoder_attn.q_proj.lora_{}.weight"
    assert set(tensors) == {module.format(i, x) for i in range(2) for x in "AB"}
    assert json.loads((tmp_path / "c" / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    made("encoder_decoder", PromptTuningConfig(4, sides=["encoder"]), rng, tmp_path / "d")
    tensors, _ = read_safetensors(tmp_path / "d" / "adapter_model.safetensors")
    assert {n: x.shape for n, x in tensors.items()} == {"prompt_embeddings": (8, 12)}  # they read the first half
    assert json.loads((tmp_path / "d" / "adapter_config.json").read_text())["num_transformer_submodules"] == 2


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (gpt2, AdapterConfig(r=2)),
        (gpt2, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["k_proj"])),  # one module there
        (vit, LoraConfig(r=2, modules_to_save=["patches"])),  # a convolution there
        (mlp, LoraConfig(r=2, target_modules=["layers.0"])),
        (vit, PromptTuningConfig(2)),
        (llama, PromptTuningConfig(2, modules_to_save=["lm_head"])),  # it would overwrite the base's own there
        (encoder_decoder, PromptTuningConfig(2)),
        (encoder_decoder, PrefixTuningConfig(2, sides=["decoder", "cross"])),
        (encoder_decoder, PrefixTuningConfig(2, sides=["decoder"])),  # two layers, that share one there
        (encoder_decoder, LoraConfig(r=2, bias="all")),
    ],
)
def test_what_they_have_no_form_for_is_saved_in_ours_alone(family, config, rng, tmp_path):
    peft = get_peft_model(family(rng)[0], config)
    assert to_huggingface(peft) is None
    peft.save_pretrained(tmp_path / "a")
    assert {f.name for f in (tmp_path / "a").iterdir()} == {"minipeft_config.json", "minipeft_model.safetensors"}


def test_what_does_not_fit_is_refused_and_changes_nothing(rng, tmp_path):
    folder = tmp_path / "a"
    base, batch, _ = made("gpt2", LoraConfig(r=2), rng, folder)
    with mp.no_grad():
        before = base.loss(**batch).item()
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, _ = read_safetensors(weights)
    settings = json.loads(config.read_text())
    first = next(n for n in tensors if n.endswith("lora_A.weight"))

    def refused(error, message, model=base, **changes):
        write_safetensors(weights, changes.pop("tensors", tensors))
        config.write_text(json.dumps({**settings, **changes}))
        with pytest.raises(error, match=message):
            PeftModel.from_pretrained(model, folder)

    refused(
        PeftError,
        "should begin with 'base_model.model.'",
        tensors={n.removeprefix("base_model.model."): x for n, x in tensors.items()},
    )
    refused(
        PeftError,
        r"lora_B.weight' is missing",
        tensors={n: x for n, x in tensors.items() if n != first.replace("_A", "_B")},
    )
    refused(PeftError, "no module 'transformer.h.9", tensors={**tensors, first.replace("h.0", "h.9"): tensors[first]})
    refused(PeftError, "'extra' has no place", tensors={**tensors, "extra": np.ones(2)})
    refused(PeftError, "the model needs", tensors={**tensors, first: np.ones((4, 7), np.float32)})
    refused(PeftError, "not finite", tensors={**tensors, first: tensors[first] * np.inf})
    refused(PeftError, "adapter is empty", tensors={})
    refused(PeftError, "use_dora is True", use_dora=True)
    refused(PeftError, "some_new_option is 3; only its absence", some_new_option=3)
    refused(PeftError, "'pissa_niter_4', which also changed the base weights", init_lora_weights="pissa_niter_4")
    table = base.input.tokens.weight.data
    stored = "base_model.model.transformer.wte.base_layer.weight"
    refused(PeftError, "belongs to other base weights", tensors={**tensors, stored: table + 1})
    refused(PeftError, "belongs to other base weights", tensors={**tensors, stored: table[:-1]})
    refused(PeftError, "no module 'transformer.odd'", tensors={**tensors, stored.replace("wte", "odd"): table})
    for key in ("../../etc/passwd", "base_model.model./etc/passwd.lora_A.weight", "base_model.model.", "a\x00b", "…"):
        refused(PeftError, r"has no place|no module", tensors={**tensors, key: tensors[first]})
    refused(PeftError, "'ADALORA' is not implemented", peft_type="ADALORA")
    refused(PeftError, "no layout", model=mlp(rng)[0])
    refused(PeftError, "no module", model=masked_lm(rng)[0])
    config.write_text("{")
    with pytest.raises(FileError, match="expected JSON"):
        PeftModel.from_pretrained(base, folder)
    with mp.no_grad():
        assert base.loss(**batch).item() == before
    assert all(p.requires_grad for p in base.parameters())


def test_prompts_of_a_classifier_mean_something_else_there(rng, tmp_path):
    made("gpt2", PromptTuningConfig(4), rng, tmp_path / "a")
    with pytest.raises(PeftError, match="means the same there and here for DecoderLM, Encoder"):
        PeftModel.from_pretrained(encoder(rng)[0], tmp_path / "a")


def test_a_prefix_of_other_sizes_is_refused(rng, tmp_path):
    made("gpt2", PrefixTuningConfig(4), rng, tmp_path / "a")
    wide = mp.models.DecoderConfig.gpt2(vocab_size=17, d_model=24, n_layers=3, n_heads=3, context=20)
    with pytest.raises(PeftError, match="prompt_embeddings has"):
        PeftModel.from_pretrained(mp.models.DecoderLM(wide), tmp_path / "a")


def test_the_prefixes_of_an_odd_number_of_decoder_layers_come_back(rng, tmp_path):
    """Theirs deals layer i the pair 2 i mod L: with three layers 0, 2, 1."""
    config = mp.models.EncoderDecoderConfig(vocab_size=17, d_model=12, n_layers=3, n_heads=3, d_ff=16, context=20)
    peft = get_peft_model(mp.models.EncoderDecoder(config), PrefixTuningConfig(2, sides=["decoder"]))
    before = {n: p.data.copy() for n, p in peft.trained().items()}
    peft.save_pretrained(tmp_path / "a")
    flat = read_safetensors(tmp_path / "a" / "adapter_model.safetensors")[0]["prompt_embeddings"]  # (2, 3 * 2 * 12)
    pairs = np.split(flat, 3, axis=1)
    for (_, x), pair in zip(sorted(before.items()), (pairs[0], pairs[2], pairs[1]), strict=True):
        np.testing.assert_array_equal(x.swapaxes(0, 1).reshape(2, -1), pair)
    base = peft.unload()
    for name in ("minipeft_config.json", "minipeft_model.safetensors"):
        (tmp_path / "a" / name).unlink()
    after = PeftModel.from_pretrained(base, tmp_path / "a").trained()
    assert {n: p.data.tobytes() for n, p in after.items()} == {n: x.tobytes() for n, x in before.items()}


@pytest.mark.parametrize("settings", [{"task_type": "SEQ_CLS"}, {"task_type": None, "modules_to_save": ["classifier"]}])
def test_an_adapter_without_the_head_that_it_was_trained_with_is_refused(settings, rng, tmp_path):
    base, batch, _ = made("encoder", LoraConfig(r=2), rng, tmp_path / "a")
    weights, config = tmp_path / "a" / "adapter_model.safetensors", tmp_path / "a" / "adapter_config.json"
    tensors, _ = read_safetensors(weights)
    write_safetensors(weights, {n: x for n, x in tensors.items() if "classifier" not in n})
    config.write_text(json.dumps({**json.loads(config.read_text()), "modules_to_save": None, **settings}))
    with mp.no_grad():
        before = base.loss(**batch).item()
    with pytest.raises(
        PeftError, match="should hold the trained module 'classifier', but its file has no tensor of it"
    ):
        PeftModel.from_pretrained(base, tmp_path / "a")
    with mp.no_grad():
        assert base.loss(**batch).item() == before


def test_an_adapter_without_a_head_does_not_promise_one(rng, tmp_path):
    base, _, _ = made("encoder", LoraConfig(r=2, modules_to_save=[]), rng, tmp_path / "a")
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert settings["task_type"] is None  # with SEQ_CLS theirs would look for one
    assert PeftModel.from_pretrained(base, tmp_path / "a").peft_config.modules_to_save == []


def test_the_base_weights_that_they_store_beside_an_embeddings_lora_are_held_against_the_model(rng, tmp_path):
    base, batch, loss = made("gpt2", LoraConfig(r=2, target_modules=["tokens", "q_proj"]), rng, tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    tensors, _ = read_safetensors(weights)
    key = "base_model.model.transformer.wte.base_layer.weight"
    write_safetensors(weights, {**tensors, key: base.input.tokens.weight.data})
    with mp.no_grad():
        assert PeftModel.from_pretrained(base, tmp_path / "a").loss(**batch).item() == pytest.approx(loss, rel=1e-6)


def test_normalizations_that_they_left_keep_the_bases_values(rng, tmp_path):
    base, _, _ = made("gpt2", LayerNormConfig(), rng, tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    tensors, _ = read_safetensors(weights)
    last = {n: x for n, x in tensors.items() if ".ln_f." in n}
    assert len(last) == 2
    write_safetensors(weights, last)
    trained = PeftModel.from_pretrained(base, tmp_path / "a").trained()
    assert np.array_equal(
        trained["stack.norm.bias"].data, last["base_model.model.transformer.ln_f.ln_tuning_layers.bias"]
    )
    assert np.array_equal(trained["stack.layers.0.attention_norm.weight"].data, np.ones(12))
    odd = {"base_model.model.transformer.h.0.mlp.c_fc.ln_tuning_layers.weight": np.ones((12, 48), np.float32)}
    for wrong, message in (({**last, **odd}, "is not a normalization"), ({}, "adapter is empty")):
        write_safetensors(weights, wrong)
        with pytest.raises(PeftError, match=message):
            PeftModel.from_pretrained(gpt2(rng)[0], tmp_path / "a")


def test_names_of_heads_that_the_model_does_not_have_are_no_fault(rng, tmp_path):
    """They write modules_to_save = [classifier, score] for every classifier, whichever of the two it has."""
    base, batch, loss = made("encoder", LoraConfig(r=2), rng, tmp_path / "a")
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "modules_to_save": ["classifier", "score"]}))
    with mp.no_grad():
        assert PeftModel.from_pretrained(base, tmp_path / "a").loss(**batch).item() == pytest.approx(loss, rel=1e-6)
