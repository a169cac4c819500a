"""The fields of config.json and the keys of GGUF: what changes the outputs is done or refused by name."""

import math
import typing
from dataclasses import replace

import numpy as np
import pytest
from reference import REFERENCES, golden, weights, write_folder
from tiny_gguf import f32, small_llama, write_llama

from minipeft.files import FileError, read_gguf, write_safetensors
from minipeft.files.config import typed
from minipeft.models import DecoderLM
from minipeft.models.layouts.fields import NO_EFFECT, ONLY
from minipeft.models.layouts.gguf import ACCEPTED, SETTINGS, gguf_settings
from minipeft.models.layouts.gguf import NO_EFFECT as NO_EFFECT_IN_GGUF
from minipeft.models.pretrained import PretrainedSource


def layout_of(name):
    settings = dict(REFERENCES[name].settings)
    return REFERENCES[name].ours.layouts()[settings.pop("model_type")], settings


def folder_of(name, tmp_path, **settings):
    folder = write_folder(tmp_path / name, {**REFERENCES[name].settings, **settings}, {})
    shapes = golden(name)["tensors"]
    arrays = {key: weights(key, tuple(shape)) for key, (shape, _) in shapes.items()}
    write_safetensors(folder / "model.safetensors", arrays)
    return folder


def error_of(function):
    """The FileError that a call raises, None if it raises none; any other exception passes."""
    try:
        function()
    except FileError as error:
        return str(error)
    return None


REFUSED = {
    "llama": [
        *({name: 2.0} for name in ("residual_multiplier", "embedding_multiplier", "logits_scaling", "logit_scale")),
        *({name: 30.0} for name in ("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv")),
        *({name: True} for name in ("qk_norm", "use_qk_norm", "rope_interleaved", "attention_bias", "mlp_bias")),
        *({name: 0.125} for name in ("attention_multiplier", "query_pre_attn_scalar")),
        *({name: False} for name in ("use_rope", "is_causal")),
        {"sliding_window": 8},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"num_local_experts": 4},
        {"quantization_config": {"bits": 4}},
        {"auto_map": {"AutoModel": "modeling.Model"}},
        {"rope_parameters": {"rope_theta": 500.0, "factor": 4.0}},
        {"rope_scaling": {"factor": 4.0}, "rope_parameters": None},
        {"some_new_switch": True},
    ],
    "gpt2": [{"is_causal": False}, {"hidden_size": 24}, {"num_attention_heads": 4}],
    "bert": [
        *({name: True} for name in ("is_causal", "is_encoder_decoder", "is_decoder", "add_cross_attention")),
        {"pruned_heads": {"0": [1]}},
        {"embedding_size": 8},
        {"position_embedding_type": "alibi"},
    ],
    "bart": [
        *({name: True} for name in ("add_bias_logits", "scale_embedding", "normalize_before", "add_final_layer_norm")),
        {"extra_pos_embeddings": 0},
        {"is_encoder_decoder": False},
        {"num_hidden_layers": 5},
    ],
    "vit": [{"qkv_bias": False}, {"use_rope": False}],
}
ALL_REFUSED = [(name, change) for name, changes in REFUSED.items() for change in changes]


@pytest.mark.parametrize(("name", "change"), ALL_REFUSED, ids=[f"{n} {c}" for n, c in ALL_REFUSED])
def test_a_field_that_may_change_the_outputs_is_refused_by_name(name, change, tmp_path):
    with pytest.raises(FileError, match=rf"config\.json: .*{next(iter(change))}"):
        REFERENCES[name].ours.from_pretrained(folder_of(name, tmp_path, **change))


HARMLESS = {  # many from well-known files
    "gpt2": {
        **{"n_ctx": 9, "hidden_size": 12, "task_specific_params": {"text-generation": {"max_length": 50}}},
        **{"summary_use_proj": True, "resid_pdrop": 0.1, "reorder_and_upcast_attn": True, "is_decoder": True},
    },
    "llama": {
        **{"pretraining_tp": 2, "rope_interleaved": False, "is_llama_config": True, "transformers.js_config": {"a": 1}},
        **{"sliding_window": 9, "layer_types": ["full_attention", "full_attention"], "torch_dtype": "bfloat16"},
        **{"residual_multiplier": 1.0, "clip_qkv": None, "hidden_act": "swish", "attention_bias": None},
        **{"rope_parameters": {"rope_theta": 500.0, "factor": 1.0}, "num_experts": 0, "some_new_switch": False},
        **{"another": "", "a_list": [], "an_object": {}, "nothing": None},
    },
    "bert": {
        **{"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform"},
        **{"pruned_heads": {}, "gradient_checkpointing": False, "chunk_size_feed_forward": 2},
        **{"position_embedding_type": "absolute", "classifier_dropout": None, "finetuning_task": "sst-2"},
    },
    "bart": {
        **{"num_beams": 4, "add_bias_logits": False, "add_final_layer_norm": False, "num_hidden_layers": 2},
        **{"prefix": " ", "forced_bos_token_id": 0, "replacing_rate": 0, "extra_pos_embeddings": 2},
        **{"classif_dropout": 0.1, "early_stopping": True, "is_encoder_decoder": True, "output_past": True},
    },
    "vit": {"encoder_stride": 16, "pooler_act": "tanh", "pooler_output_size": 12, "problem_type": None},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_fields_that_change_no_output_are_taken(name, tmp_path):
    plain = REFERENCES[name].ours.from_pretrained(folder_of(name, tmp_path))
    model = REFERENCES[name].ours.from_pretrained(folder_of(name, tmp_path, **HARMLESS[name]))
    assert model.config == plain.config
    assert np.array_equal(REFERENCES[name].output(model), REFERENCES[name].output(plain))


def test_a_window_that_is_switched_off_is_taken(tmp_path):
    folder = folder_of("llama", tmp_path, sliding_window=4, use_sliding_window=False)
    assert DecoderLM.from_pretrained(folder).config.context == 9


WRONG = [
    *(None, True, False, 3, -1, 0, 2.5, -0.5, 1e300, 10**400, "x", "", "3"),
    *([], [1], [None], ["a", {"b": []}], {}, {"a": 1}, {"a": {"b": [None]}}),
]
ASKED_BY_FUNCTIONS = {
    *("n_inner", "num_key_value_heads", "head_dim", "id2label", "num_labels", "rope_parameters", "rope_scaling"),
    *("rope_theta", "partial_rotary_factor", "sliding_window", "layer_types", "tie_word_embeddings", "hidden_act"),
    *("activation_function", "num_attention_heads", "max_position_embeddings", "hidden_size", "encoder_layers"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_no_value_of_any_field_raises_anything_but_an_error_that_names_the_field(name, tmp_path):
    layout, settings = layout_of(name)
    kind = REFERENCES[name].ours.config_class
    hints = typing.get_type_hints(kind)
    types = {theirs: hints[ours] for ours, theirs in layout.fields.items() if isinstance(theirs, str)}
    named = types.keys() | ASKED_BY_FUNCTIONS | layout.fixed.keys() | layout.same.keys()
    refused = 0
    for field in sorted(named | ONLY.keys() | NO_EFFECT | {"unheard_of"}):
        for value in WRONG:
            made = []
            changed = {**settings, field: value}
            error = error_of(lambda: made.append(layout.config(kind, changed, tmp_path / "config.json")))
            refused += error is not None
            if error is not None:
                assert field in error, f"{field} = {value!r}: {error}"
                continue
            assert field not in types or typed(value, types[field]) == value
            assert all(math.isfinite(x) for x in vars(made[0]).values() if isinstance(x, float))
    assert refused > 100


@pytest.mark.parametrize("name", REFERENCES)
def test_a_missing_field_is_named(name, tmp_path):
    layout, settings = layout_of(name)
    for theirs in [t for t in layout.fields.values() if isinstance(t, str)]:
        without = {k: v for k, v in settings.items() if k != theirs}
        with pytest.raises(FileError, match=f"the field '{theirs}' is missing"):
            layout.config(REFERENCES[name].ours.config_class, without, tmp_path / "config.json")


# GGUF


@pytest.fixture(scope="module")
def llama():
    return small_llama()


def full(keys):
    return {n if n.startswith(("general.", "split.")) else f"llama.{n}": v for n, v in keys.items()}


KEYS = [
    {"rope.scaling.factor": 4.0},
    {"rope.scaling.factor": 2.0, "rope.scaling.type": "linear"},
    {"rope.scale_linear": 2.0},
    {"rope.scaling.type": "yarn"},
    *({name: 1.2} for name in ("rope.scaling.attn_factor", "logit_scale", "residual_scale", "embedding_scale")),
    *({name: 16} for name in ("rope.dimension_count", "attention.key_length", "attention.value_length", "vocab_size")),
    *({name: 8.0} for name in ("attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias")),
    *({name: 30.0} for name in ("attn_logit_softcapping", "final_logit_softcapping")),
    {"attention.causal": False},
    {"attention.sliding_window": 8},
    {"expert_count": 8},
    {"pooling_type": 1},
    *({name: True} for name in ("use_parallel_residual", "swin_norm")),
    *({"something_new": value} for value in (3.5, "x", np.array([1]))),
    {"general.type": "adapter"},
    {"split.count": 2},
    {"general.architecture": "mamba"},
]


@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_a_key_that_may_change_the_outputs_is_refused_by_name(keys, llama, tmp_path):
    path = write_llama(llama, tmp_path / "llama.gguf", full(keys))
    with pytest.raises(FileError, match=rf"llama\.gguf: {next(iter(full(keys)))} is "):
        DecoderLM.from_pretrained(path)


@pytest.mark.parametrize(
    "keys",
    [
        {"vocab_size": 264, "rope.dimension_count": 32, "attention.key_length": 32, "attention.value_length": 32},
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0},
        {"rope.scaling.factor": 0.0, "rope.scale_linear": 1.0, "rope.scaling.finetuned": True},
        {"attention.causal": True, "attention.sliding_window": 32, "attention.clamp_kqv": 0.0, "attention.scale": 0.0},
        {"attention.scale": 32**-0.5, "logit_scale": 1.0, "residual_scale": 0.0, "embedding_scale": 1.0},
        {"expert_count": 0, "pooling_type": 0, "attention.layer_norm_epsilon": 0.1, "something_new": ""},
    ],
    ids=str,
)
def test_keys_that_change_no_output_are_taken(keys, llama, tmp_path):
    model = DecoderLM.from_pretrained(write_llama(llama, tmp_path / "llama.gguf", full(keys)))
    assert {n: x.tobytes() for n, x in model.state_dict().items()} == {
        n: x.tobytes() for n, x in llama.state_dict().items()
    }


def test_rotary_positions_that_a_tensor_scales_are_refused(llama, tmp_path):
    scales = {"rope_freqs.weight": f32(np.linspace(1, 8, 16, dtype=np.float32))}
    with pytest.raises(FileError, match=r"'rope_freqs\.weight' scales the rotary positions"):
        DecoderLM.from_pretrained(write_llama(llama, tmp_path / "llama.gguf", tensors=scales))


def test_no_value_of_any_key_raises_anything_but_an_error_that_names_it(llama, tmp_path):
    values = [
        *(True, False, 0, 7, 2**31, 2.5, -1.0, math.nan, math.inf, "x", ""),
        *(np.array([1, 2]), np.array([]), ["a"], []),
    ]
    good = read_gguf(write_llama(llama, tmp_path / "llama.gguf"))

    def made(key, value):
        changed = replace(good, metadata={**good.metadata, **full({key: value})})
        folder = PretrainedSource(good.path, "llama", None, gguf_settings(changed), changed)
        return folder.build(DecoderLM, folder.config_of(DecoderLM))

    refused = 0
    for key in [*SETTINGS, *ACCEPTED, *NO_EFFECT_IN_GGUF, "unheard_of"]:
        for value in values:
            error = error_of(lambda: made(key, value))
            refused += error is not None
            is_size = key in SETTINGS and type(value) is SETTINGS[key][1]  # its tensors are missing, say
            assert error is None or is_size or f"llama.{key}" in error, f"{key} = {value!r}: {error}"
    assert refused > 200
