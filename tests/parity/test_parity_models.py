"""The five families against transformers: folders that it saved, its outputs, its gradients, its generation."""

import importlib
import json

import numpy as np
import pytest
from reference import MASK, REFERENCES, golden

import minipeft as mp
from minipeft.models import (
    DecoderLM,
    Encoder,
    EncoderClassifier,
    EncoderDecoder,
    EncoderMaskedLM,
    ViT,
    huggingface_names,
)
from minipeft.models.layouts.fields import NO_EFFECT
from minipeft.models.layouts.layout import taken

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
references = pytest.mark.parametrize("name", REFERENCES)


@pytest.fixture(scope="module")
def theirs():
    """tests/golden/make.py, which imports PyTorch and transformers."""
    return importlib.import_module("golden.make")


@pytest.fixture(scope="module")
def torch(theirs):
    return theirs.torch


def saved(theirs, name, folder, part=None, **options):
    """Their model in float32, and a folder that it, or a part of it, was saved to."""
    model = theirs.their_model(name)[0].float()
    (getattr(model, part) if part else model).save_pretrained(folder, **options)
    return model


def close(ours, theirs, tolerance=1e-5):
    """Equal to ``tolerance`` of the scale of theirs."""
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1.0, np.abs(theirs).max()))


@references
def test_the_golden_files_are_what_transformers_computes(theirs, name):
    made, kept = json.loads(json.dumps(theirs.made(name))), golden(name)
    assert made["tensors"].keys() == kept["tensors"].keys()
    for key, (shape, gradient) in made["tensors"].items():
        assert kept["tensors"][key][0] == shape
        if gradient is None:
            assert kept["tensors"][key][1] is None
        else:
            assert kept["tensors"][key][1] == pytest.approx(gradient, rel=1e-6, abs=1e-6), key
    assert kept["output"] == pytest.approx(made["output"], rel=1e-6, abs=1e-6)
    assert kept.get("loss", 0.0) == pytest.approx(made.get("loss", 0.0), rel=1e-6)


@pytest.mark.network
def test_the_golden_file_of_minilm_is_what_transformers_computes(theirs, minilm):
    made, kept = theirs.made_minilm(minilm), golden("minilm")
    assert made["ids"] == kept["ids"]
    for place, values in made["hidden"].items():
        assert kept["hidden"][place] == pytest.approx(values, rel=1e-6, abs=1e-6)


@references
def test_outputs_and_gradients_equal_those_of_transformers(theirs, torch, name, tmp_path):
    reference = REFERENCES[name]
    them = saved(theirs, name, tmp_path)
    us = reference.ours.from_pretrained(tmp_path)
    their_output = theirs.their_output(them, reference.batch)
    close(reference.output(us), on_real_tokens(their_output))
    if name == "bert":  # it has no loss of its own
        cotangent = np.random.default_rng(0).standard_normal(their_output.shape).astype(np.float32) * MASK[..., None]
        their_output.backward(torch.tensor(cotangent))
        us(**{k: x for k, x in reference.batch.items() if k != "labels"}).backward(cotangent)
    else:
        their_loss = theirs.their_loss(their_output, reference.batch["labels"])
        their_loss.backward()
        loss = us.loss(**reference.batch)
        loss.backward()
        assert loss.item() == pytest.approx(their_loss.item(), rel=1e-6)
    parameters, names = dict(them.named_parameters()), huggingface_names(us)
    for ours, p in us.named_parameters():
        if names[ours][0] != "final_logits_bias":  # a constant of theirs
            whole = parameters[names[ours][0]].grad
            expected = taken(whole.numpy(), names[ours][1])
            np.testing.assert_allclose(p.grad, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


@references
def test_every_name_of_ours_is_a_name_of_theirs_and_none_is_left_out(theirs, name, tmp_path):
    them = saved(theirs, name, tmp_path)
    us = REFERENCES[name].ours.from_pretrained(tmp_path)
    names = {theirs for theirs, _ in huggingface_names(us).values()}
    assert {ours for ours, _ in us.named_parameters()} <= huggingface_names(us).keys()
    pooler = {"pooler.dense.weight", "pooler.dense.bias"} if name == "bert" else set()
    assert names <= them.state_dict().keys()
    assert {n for n, _ in them.named_parameters()} - pooler <= names


@references
def test_a_folder_in_shards_is_the_same_model(theirs, name, tmp_path):
    them = saved(theirs, name, tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    us = REFERENCES[name].ours.from_pretrained(tmp_path)
    close(REFERENCES[name].output(us), on_real_tokens(theirs.their_output(them, REFERENCES[name].batch)))


def on_real_tokens(output):
    return output[MASK] if output.shape[:2] == MASK.shape else output


def inputs(name):
    return {k: x for k, x in REFERENCES[name].batch.items() if k != "labels"}


@pytest.mark.parametrize(
    ("name", "part", "ours"),
    [
        ("gpt2", "transformer", DecoderLM),
        ("bert_masked_lm", "bert", Encoder),
        ("bert_classifier", "bert", EncoderClassifier),
        ("bart", "model", EncoderDecoder),
        ("vit", "vit", ViT),
    ],
)
def test_a_base_model_saved_without_its_head_is_read(theirs, torch, name, part, ours, tmp_path):
    them = saved(theirs, name, tmp_path, part)
    batch = inputs(name)
    options = {"bert_classifier": {"n_classes": 4, "pool": "pooler"}, "vit": {"n_classes": 4}}.get(name, {})
    us = ours.from_pretrained(tmp_path, **options)
    base = getattr(them, part)(**theirs.their_inputs(batch))
    if name == "gpt2":
        close(us.hidden(batch["ids"], batch["mask"]).data[MASK], base.last_hidden_state[MASK])
    elif name == "bert_classifier":
        close(us.pooled(**batch).data, base.pooler_output)
        assert us(**batch).shape == (2, 4)
    elif name == "bart":
        close(us.decode(batch["target_ids"], *us.encode(batch["ids"], batch["mask"])).data, base.last_hidden_state)
        close(us.encode(batch["ids"], batch["mask"])[0].data[MASK], base.encoder_last_hidden_state[MASK])
    elif name == "vit":
        close(us.hidden(batch["images"]).data, base.last_hidden_state)
        assert us(**batch).shape == (2, 4)
    else:
        close(us(**batch).data[MASK], base.last_hidden_state[MASK])


@pytest.mark.parametrize("ours", [Encoder, EncoderMaskedLM])
def test_a_whole_pretraining_model_with_both_heads_is_read(theirs, ours, tmp_path):
    transformers = theirs.transformers
    transformers.BertForPreTraining(transformers.BertConfig(**REFERENCES["bert"].settings)).save_pretrained(tmp_path)
    ours.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_equals_theirs_with_padding_on_the_left(theirs, torch, name, tmp_path):
    them = saved(theirs, name, tmp_path)
    us = DecoderLM.from_pretrained(tmp_path)
    ids = REFERENCES[name].batch["ids"][:, :4]
    mask = np.array([[True] * 4, [False, False, True, True]])
    expected = them.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert np.array_equal(mp.generate(us, ids, mask, 5), expected.numpy())


def test_generation_of_the_encoder_decoder_equals_theirs(theirs, torch, tmp_path):
    them = saved(theirs, "bart", tmp_path)
    us = EncoderDecoder.from_pretrained(tmp_path)
    batch = REFERENCES["bart"].batch
    expected = them.generate(
        torch.tensor(batch["ids"]),
        attention_mask=torch.tensor(MASK),
        max_new_tokens=6,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
        forced_eos_token_id=None,
        forced_bos_token_id=None,
        pad_token_id=1,
    )
    assert np.array_equal(mp.generate(us, batch["ids"], MASK, 6), expected.numpy())


OTHER_VALUES = {  # of fields that `NO_EFFECT` lists, for every type that they have
    **{"reorder_and_upcast_attn": True, "use_cache": False, "chunk_size_feed_forward": 1, "pretraining_tp": 2},
    **{"gradient_checkpointing": True, "problem_type": "regression", "pooler_act": "relu", "encoder_stride": 8},
    **{"output_attentions": True, "output_hidden_states": True, "return_dict": True, "torchscript": True},
}


@references
def test_the_fields_that_change_no_output_here_change_none_there(theirs, torch, name):
    """Every field of their configuration class that is listed, with another value than its default."""
    them, _ = theirs.their_model(name)
    config, listed = them.config.to_dict(), NO_EFFECT - {"tie_word_embeddings"}  # models with a tied head ask for it
    others = {
        field: OTHER_VALUES.get(field, value + 0.25 if isinstance(value, float) else not value)
        for field, value in config.items()
        if field in listed and (field in OTHER_VALUES or isinstance(value, (bool, float)))
    }
    assert len(others) > 3
    changed = type(them)(type(them.config)(**{**REFERENCES[name].settings, **others})).double().eval()
    changed.load_state_dict(them.state_dict())
    expected = theirs.their_output(them, REFERENCES[name].batch)
    torch.testing.assert_close(theirs.their_output(changed, REFERENCES[name].batch), expected, rtol=0, atol=1e-12)


@pytest.mark.network
def test_hidden_states_of_the_real_minilm_equal_theirs(theirs, torch, minilm):
    them = theirs.transformers.BertModel.from_pretrained(minilm).eval()
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30000, (4, 40))
    mask = np.arange(40) < np.array([40, 31, 7, 1])[:, None]
    with torch.no_grad():
        out = them(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long())
    with mp.no_grad():
        hidden = Encoder.from_pretrained(minilm)(ids, mask).data
        pooled = EncoderClassifier.from_pretrained(minilm, pool="pooler").pooled(ids, mask).data
    assert np.abs(hidden - out.last_hidden_state.numpy())[mask].max() < 1e-5
    assert np.abs(pooled - out.pooler_output.numpy()).max() < 1e-5
