"""Folders: what is read from them, what is drawn anew, and what is refused by name."""

import json

import numpy as np
import pytest
from reference import BERT, LABELS, REFERENCES, V, golden, weights, write_folder

from minipeft.files import FileError, write_safetensors
from minipeft.models import (
    MLP,
    ClassifierConfig,
    DecoderConfig,
    DecoderLM,
    Encoder,
    EncoderClassifier,
    EncoderConfig,
    EncoderDecoder,
    EncoderMaskedLM,
    Model,
    ViT,
    ViTConfig,
    huggingface_names,
)

ENCODER = EncoderConfig(vocab_size=11, d_model=12, n_layers=2, n_heads=3, d_ff=20, context=9)


def shapes_of(name):
    return {key: tuple(shape) for key, (shape, _) in golden(name)["tensors"].items()}


def folder_of(name, tmp_path, settings=None, renamed=None, **tensors):
    """The reference's folder; settings changed (None takes one out), tensors renamed, added or (None) taken out."""
    merged = {**REFERENCES[name].settings, **(settings or {})}
    folder = write_folder(tmp_path / name, {k: v for k, v in merged.items() if v is not None}, {})
    arrays = {key: weights(key, shape) for key, shape in shapes_of(name).items()} | tensors
    arrays = {(renamed or (lambda n: n))(key): x for key, x in arrays.items() if x is not None}
    write_safetensors(folder / "model.safetensors", arrays)
    return folder


def same(model, other):
    names, others = dict(model.named_parameters()), dict(other.named_parameters())
    return names.keys() == others.keys() and all(np.array_equal(p.data, others[n].data) for n, p in names.items())


# Names of other versions and other heads


def test_names_of_older_vit_files_are_read(tmp_path):
    def old(name):
        name = name.replace("vit.layers.", "vit.encoder.layer.")
        for new, before in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            name = name.replace(f"attention.{new}", f"attention.attention.{before}")
        name = name.replace("attention.o_proj", "attention.output.dense")
        return name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")

    renamed = {old(name) for name in shapes_of("vit")}
    assert "vit.encoder.layer.1.attention.attention.query.weight" in renamed
    assert "vit.encoder.layer.0.attention.output.dense.bias" in renamed
    assert "vit.encoder.layer.0.output.dense.bias" in renamed
    new_names = ViT.from_pretrained(folder_of("vit", tmp_path))
    assert same(ViT.from_pretrained(folder_of("vit", tmp_path, renamed=old)), new_names)


def test_gamma_and_beta_of_the_oldest_bert_files_are_read(tmp_path):
    def old(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    expected = EncoderMaskedLM.from_pretrained(folder_of("bert_masked_lm", tmp_path))
    assert same(EncoderMaskedLM.from_pretrained(folder_of("bert_masked_lm", tmp_path, renamed=old)), expected)


def test_the_encoder_is_read_out_of_a_masked_language_model_and_a_classifier(tmp_path):
    for name, ours in (("bert_masked_lm", EncoderMaskedLM), ("bert_classifier", EncoderClassifier)):
        folder = folder_of(name, tmp_path)
        assert same(Encoder.from_pretrained(folder), ours.from_pretrained(folder).encoder)


def test_settings_of_older_llama_files_are_read(tmp_path):
    older = {"rope_parameters": None, "rope_theta": 500.0, "rope_scaling": None, "head_dim": None}
    expected = DecoderLM.from_pretrained(folder_of("llama", tmp_path))
    assert DecoderLM.from_pretrained(folder_of("llama", tmp_path, older)).config == expected.config
    assert expected.config.rope_theta == 500.0


def test_a_tied_head_is_not_read_twice(tmp_path):
    head = shapes_of("llama")["lm_head.weight"]
    table = weights("model.embed_tokens.weight", head)
    tied = {"tie_word_embeddings": True}
    model = DecoderLM.from_pretrained(folder_of("llama", tmp_path, tied, **{"lm_head.weight": None}))
    assert model.lm_head.weight is model.input.tokens.weight
    again = DecoderLM.from_pretrained(folder_of("llama", tmp_path, tied, **{"lm_head.weight": table}))
    assert same(model, again)
    with pytest.raises(FileError, match=r"'lm_head.weight' and 'embed_tokens.weight' differ"):
        DecoderLM.from_pretrained(folder_of("llama", tmp_path, tied))


def test_the_bias_of_the_logits_may_be_missing(tmp_path):
    model = EncoderDecoder.from_pretrained(folder_of("bart", tmp_path, final_logits_bias=None))
    assert not model.lm_head.bias.data.any()


def test_half_precision_weights_become_float32(tmp_path):
    shapes = shapes_of("gpt2")
    half = {key: weights(key, shape).astype(np.float16) for key, shape in shapes.items()}
    model = DecoderLM.from_pretrained(folder_of("gpt2", tmp_path, **half))
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    assert np.array_equal(model.stack.norm.bias.data, half["transformer.ln_f.bias"].astype(np.float32))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_folder_names_the_class(name, tmp_path):
    reference = REFERENCES[name]
    folder = folder_of(name, tmp_path, {"architectures": [reference.theirs]})
    assert type(Model.from_pretrained(folder)) is reference.ours
    reference.ours.from_pretrained(folder).save_pretrained(tmp_path / "ours")
    assert type(Model.from_pretrained(tmp_path / "ours")) is reference.ours


def test_a_class_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"nothing is known of model_type 'mamba'; expected one of .*'bart', 'bert'"):
        Model.from_pretrained(folder_of("gpt2", tmp_path, {"model_type": "mamba"}))
    Encoder(ENCODER).save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    for odd, named in (("Decodr", "'Decodr'"), (None, "None"), ([3], "None")):
        (tmp_path / "ours" / "config.json").write_text(json.dumps({**config, "model_class": odd}))
        for ours in (Model, Encoder):
            with pytest.raises(
                FileError, match=f"nothing is known of model_class {named}; expected one of .*'Encoder'"
            ):
                ours.from_pretrained(tmp_path / "ours")


# Heads


def test_a_classifier_is_saved_and_loaded_with_its_head_and_its_pooling(tmp_path, rng):
    model = EncoderClassifier(ENCODER, n_classes=4, pool="pooler", rng=1).eval()
    model.save_pretrained(tmp_path / "saved")
    again = EncoderClassifier.from_pretrained(tmp_path / "saved")
    assert again.config == model.config == ClassifierConfig(**vars(ENCODER), n_classes=4, pool="pooler")
    assert same(model, again)
    ids = rng.integers(0, 11, (2, 5))
    assert np.array_equal(again(ids).data, model(ids).data)


def test_an_encoder_is_read_out_of_our_own_larger_models(tmp_path):
    for model in (EncoderClassifier(ENCODER, 4, rng=1), EncoderMaskedLM(ENCODER, rng=2)):
        model.save_pretrained(tmp_path / "saved")
        encoder = Encoder.from_pretrained(tmp_path / "saved")
        assert encoder.config == ENCODER
        assert same(encoder, model.encoder)


@pytest.mark.parametrize("source", ["encoder", "masked", "classifier", "theirs"])
def test_a_new_head_is_drawn_from_its_generator_over_the_encoder_of_the_folder(source, tmp_path):
    folder = tmp_path / "saved"
    if source == "theirs":
        folder = folder_of("bert_classifier", tmp_path)
    else:
        ours = {"encoder": Encoder, "masked": EncoderMaskedLM, "classifier": EncoderClassifier}[source]
        ours(ENCODER, rng=3).save_pretrained(folder)
    first, again, other = (EncoderClassifier.from_pretrained(folder, n_classes=5, rng=seed) for seed in (1, 1, 2))
    assert first.config.n_classes == 5
    assert first.config.pool == "mean"
    assert same(first.encoder, Encoder.from_pretrained(folder))
    assert np.array_equal(first.classifier.weight.data, again.classifier.weight.data)
    assert not np.array_equal(first.classifier.weight.data, other.classifier.weight.data)
    assert first.classifier.weight.data.std() == pytest.approx(12**-0.5, rel=0.4)
    assert not first.training


def test_a_folder_without_a_head_gives_two_classes_and_mean_pooling(tmp_path):
    model = EncoderClassifier.from_pretrained(folder_of("bert", tmp_path))
    assert (model.config.n_classes, model.config.pool) == (2, "mean")


def test_a_pooler_is_read_where_it_is_asked_for_and_never_invented(tmp_path):
    folder = folder_of("bert_classifier", tmp_path)
    model = EncoderClassifier.from_pretrained(folder, n_classes=7, pool="pooler")
    expected = weights("bert.pooler.dense.weight", (12, 12))
    assert np.array_equal(model.pooler.weight.data, expected)
    model.save_pretrained(tmp_path / "saved")
    again = EncoderClassifier.from_pretrained(tmp_path / "saved", n_classes=3, pool="pooler")
    assert np.array_equal(again.pooler.weight.data, expected)
    without = folder_of("bert_masked_lm", tmp_path)
    with pytest.raises(FileError, match=r"'pooler.dense.weight' is missing"):
        EncoderClassifier.from_pretrained(without, pool="pooler")
    Encoder(ENCODER).save_pretrained(tmp_path / "ours")
    with pytest.raises(FileError, match="this Encoder has no pooler; choose pool 'mean' or 'first'"):
        EncoderClassifier.from_pretrained(tmp_path / "ours", pool="pooler")


def test_a_vit_takes_a_new_head(tmp_path):
    folder = folder_of("vit", tmp_path)
    with_theirs, new = ViT.from_pretrained(folder), ViT.from_pretrained(folder, n_classes=6, rng=4)
    assert with_theirs.config.n_classes == 3
    assert new.config.n_classes == 6
    assert new.classifier.weight.shape == (6, 12)
    assert new.classifier.weight.data.any()
    assert same(new.stack, with_theirs.stack)
    ViT(ViTConfig(8, 4, 2, 5, d_model=12, n_layers=1, n_heads=3, d_ff=16)).save_pretrained(tmp_path / "ours")
    assert ViT.from_pretrained(tmp_path / "ours", n_classes=2).classifier.weight.shape == (2, 12)


def test_an_unknown_pool_is_an_error():
    with pytest.raises(ValueError, match="unknown pool 'max'; expected one of"):
        EncoderClassifier(ENCODER, pool="max")


# Refusals


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gpt2", {"activation_function": "mish"}, "activation_function is 'mish'; only gelu, gelu_python, relu"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False; only True is implemented"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("gpt2", {"n_head": None}, "the field 'n_head' is missing"),
        ("gpt2", {"n_head": "three"}, "n_head must be int, got 'three'"),
        ("gpt2", {"n_head": 5}, "no DecoderLM has these sizes .*d_model 12 must be a multiple of n_heads 5"),
        ("gpt2", {"n_head": 0}, "n_head must be a number from 1 on, got 0"),
        ("gpt2", {"n_layer": 7000}, "no DecoderLM has these sizes .n_layers is 7000, .*n_layer = 7000"),
        ("gpt2", {"n_embd": [12]}, "must be int"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' or 'swish' is implemented"),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"head_dim": 8}, "head_dim is 8; only hidden_size / num_attention_heads"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is 'llama3'"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rope_type is 'linear'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"rope_parameters": 3}, "rope_parameters must be an object, got 3"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        ("bart", {"scale_embedding": True}, "scale_embedding is True"),
        ("bart", {"decoder_layers": 3}, "encoder_layers is 2 and decoder_layers 3; only equal ones"),
        ("bart", {"normalize_before": True}, "normalize_before is True"),
        ("vit", {"qkv_bias": False}, "qkv_bias is False"),
        ("vit", {"image_size": 9}, "no ViT has these sizes .*9 pixels"),
        ("vit", {"model_type": "deit"}, "model_type 'deit' is not a ViT; expected one of .*'minipeft', 'vit'"),
        ("vit", {"model_type": None}, "model_type None is not a ViT"),
        ("vit", {"model_type": ["vit"]}, "model_type None is not a ViT"),
    ],
)
def test_a_configuration_that_is_not_implemented_is_refused_by_name(name, settings, message, tmp_path):
    folder = folder_of(name, tmp_path, settings)
    with pytest.raises(FileError, match=message) as caught:
        REFERENCES[name].ours.from_pretrained(folder)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"transformer.h.1.mlp.c_fc.bias": None}, "the tensor 'h.1.mlp.c_fc.bias' is missing"),
        ({"transformer.h.2.ln_1.bias": np.ones(12)}, "1 tensors have no place in this model, .*'h.2.ln_1.bias'"),
        (
            {"transformer.h.0.attn.c_attn.weight": np.ones((12, 35))},
            r"'h.0.attn.c_attn.weight' is float64 .*\(12, 35\)",
        ),
        ({"transformer.h.0.attn.c_attn.bias": np.ones(())}, r"'h.0.attn.c_attn.bias' is float64 of shape \(\)"),
        ({"transformer.h.0.mlp.c_fc.weight": np.ones((48, 12))}, r"up_proj.weight of shape \(48, 12\)"),
        ({"transformer.wte.weight": np.ones((V, 12), dtype=np.int64)}, "'wte.weight' is int64"),
        ({"lm_head.weight": np.ones((V, 12))}, "'lm_head.weight' and 'wte.weight' differ"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(tensors, message, tmp_path):
    with pytest.raises(FileError, match=message):
        DecoderLM.from_pretrained(folder_of("gpt2", tmp_path, **tensors))


@pytest.mark.parametrize(
    ("name", "key", "odd"),
    [
        ("bart", "model.encoder.embed_positions.weight", np.ones(())),
        ("bart", "final_logits_bias", np.ones((2, V))),
        ("vit", "vit.embeddings.patch_embeddings.projection.weight", np.ones(())),
        ("vit", "vit.embeddings.patch_embeddings.projection.weight", np.ones((0, 3))),
        ("vit", "vit.embeddings.cls_token", np.ones(12)),
    ],
)
def test_an_odd_shape_is_refused_whatever_is_done_to_the_tensor(name, key, odd, tmp_path):
    with pytest.raises(FileError, match=f"{key.partition('.')[2] or key}' is float64 of shape"):
        REFERENCES[name].ours.from_pretrained(folder_of(name, tmp_path, **{key: odd}))


def test_a_broken_gguf_file_is_named_and_a_missing_one_says_what_is_expected(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF1234")
    (tmp_path / "model").write_bytes(b"GGUF1234")
    for name in ("model.gguf", "model"):
        with pytest.raises(FileError, match="expected a GGUF file"):
            DecoderLM.from_pretrained(tmp_path / name)
    with pytest.raises(FileError, match=r"expected a folder with config\.json, a GGUF file, or a name"):
        DecoderLM.from_pretrained(tmp_path / "elsewhere.gguf")


def test_pickles_are_not_read(tmp_path):
    folder = folder_of("gpt2", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileError, match=r"there is only pytorch_model.bin. A pickle is never loaded"):
        DecoderLM.from_pretrained(folder)


def test_an_index_that_promises_more_than_its_shards_hold_is_refused(tmp_path):
    folder = folder_of("gpt2", tmp_path)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {**dict.fromkeys(shapes_of("gpt2"), "part.safetensors"), "more": "part.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileError, match="'more' is in none of the shards"):
        DecoderLM.from_pretrained(folder)


def test_a_name_that_was_not_fetched_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path))
    with pytest.raises(FileError, match=r"minilm: expected a folder .* or a name that `minipeft fetch` got"):
        Encoder.from_pretrained("minilm")


# Names


def test_names_say_where_a_parameter_stands_in_their_model():
    gpt2 = huggingface_names(DecoderLM(DecoderConfig.gpt2(11, 12, 2, 3, 9)))
    assert gpt2["stack.layers.1.attention.k_proj.weight"] == ("transformer.h.1.attn.c_attn.weight", "1/3T")
    assert gpt2["stack.layers.1.attention.k_proj.bias"] == ("transformer.h.1.attn.c_attn.bias", "1/3")
    llama = huggingface_names(DecoderLM(DecoderConfig.llama(11, 12, 1, 2, 1, 20, 9)))
    assert llama["stack.layers.0.attention.out_proj.weight"] == ("model.layers.0.self_attn.o_proj.weight", "")
    assert "lm_head.weight" not in llama  # it is tied
    untied = huggingface_names(DecoderLM(DecoderConfig.llama(11, 12, 1, 2, 1, 20, 9)), tied=False)
    assert untied["lm_head.weight"][0] == "lm_head.weight"
    query = "encoder.layer.0.attention.self.query.weight"
    assert huggingface_names(Encoder(ENCODER))["stack.layers.0.attention.q_proj.weight"][0] == query
    classifier = huggingface_names(EncoderClassifier(ENCODER))
    assert classifier["encoder.stack.layers.0.attention.q_proj.weight"][0] == f"bert.{query}"
    assert classifier["classifier.weight"][0] == "classifier.weight"


def test_a_model_that_they_have_no_layout_for_has_no_names():
    with pytest.raises(ValueError, match="neither GPT-2's nor Llama's"):
        huggingface_names(DecoderLM(DecoderConfig.gpt2(11, 12, 1, 3, 9, rotary=True)))
    with pytest.raises(ValueError, match="no layout for this MLP"):
        huggingface_names(MLP((3, 2)))


def test_labels_of_the_configuration_give_the_number_of_classes(tmp_path):
    settings = {**BERT, **LABELS, "architectures": ["BertForSequenceClassification"]}
    assert EncoderClassifier.from_pretrained(folder_of("bert_classifier", tmp_path, settings)).config.n_classes == 3
