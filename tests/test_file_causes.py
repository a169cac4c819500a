"""Files that are not what they are taken for, and the cause that the error names."""

import dataclasses
import json
import shutil
import struct
import typing

import numpy as np
import pytest
from families import gpt2
from test_fields import WRONG
from tiny_gguf import gguf_bytes, small_llama, tokens, write_llama

from minipeft.data import BytePairs
from minipeft.files import FileError, read_gguf, read_json, read_safetensors, write_safetensors
from minipeft.files.config import typed
from minipeft.models import DecoderLM, Model
from minipeft.peft import LoraConfig, PeftError, PeftModel, get_peft_model, read_config
from minipeft.peft.config import METHODS
from minipeft.peft.huggingface.settings import WITHOUT_EFFECT, AdapterSettings

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 987654321\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
ARCHIVE = b"PK\x03\x04" + bytes(80)
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(80)
HEADS = {
    "pointer": (POINTER, "it is a Git LFS pointer instead of the file itself: run `git lfs pull`"),
    "page": (PAGE, "it is a web page instead of the file"),
    "archive": (ARCHIVE, "it is a pickle or an archive of pickles, as PyTorch writes it, which is never loaded"),
    "legacy": (LEGACY, "it is a pickle or an archive"),
}


@pytest.fixture
def model():
    return gpt2(np.random.default_rng(0))[0]


@pytest.fixture
def adapter(model, rng, tmp_path):
    """A folder of Hugging Face's with a LoRA; the model is as it was."""
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=6))
    for p in peft.trained().values():
        p.data[...] += 0.2 * rng.normal(size=p.shape)
    peft.save_pretrained(tmp_path / "adapter")
    peft.unload()
    for name in ("minipeft_config.json", "minipeft_model.safetensors"):
        (tmp_path / "adapter" / name).unlink()
    return tmp_path / "adapter"


def changed(folder, **settings):
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))


# Files


@pytest.mark.parametrize("kind", HEADS)
def test_what_is_in_place_of_a_file_is_named(kind, tmp_path):
    content, message = HEADS[kind]
    (tmp_path / "file").write_bytes(content)
    for read, expected in ((read_safetensors, "safetensors"), (read_json, "JSON"), (read_gguf, "GGUF")):
        with pytest.raises(FileError, match=f"expected a?.*{expected}.*but {message.replace('.', '.')}"):
            read(tmp_path / "file")


def test_files_of_each_others_kinds_are_named(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"x": np.ones(3)})
    write_llama(small_llama(), tmp_path / "a.gguf")
    with pytest.raises(FileError, match="expected a GGUF file, but it is a safetensors file"):
        DecoderLM.from_pretrained(tmp_path / "a.safetensors")
    with pytest.raises(FileError, match="expected a whole safetensors file, but it is a GGUF file"):
        read_safetensors(tmp_path / "a.gguf")


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "ü"}', encoding="utf-8-sig")
    assert read_json(path) == {"a": "ü"}
    for encoding in ("utf-16", "utf-16-be"):
        path.write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + '{"a": 1}'.encode(encoding))
        with pytest.raises(FileError, match=r"expected JSON, but it is UTF-16 text.*save it as UTF-8"):
            read_json(path)
    path.write_text(" \n")
    with pytest.raises(FileError, match="the file is empty"):
        read_json(path)
    path.write_text('{"abcd": {')
    with pytest.raises(FileError, match="expected JSON, but Expecting property name"):
        read_json(path)


def test_a_big_endian_gguf_file_is_named(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(FileError, match=r"a\.gguf: big-endian GGUF; only little-endian is read"):
        read_gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize(("code", "name"), [(12, "Q4_K"), (14, "Q6_K"), (6, "Q5_0"), (23, "IQ4_XS"), (99, "number 99")])
def test_tensor_types_are_named(code, name, tmp_path):
    whole = gguf_bytes({}, {"a": ("F32", (2, 256), bytes(2048))})
    shape = struct.pack("<QQI", 256, 2, 0)
    (tmp_path / "a.gguf").write_bytes(whole.replace(shape, struct.pack("<QQI", 256, 2, code)))
    known = "F32, F16, Q4_0, Q4_1, Q8_0, BF16"
    with pytest.raises(FileError, match=f"'a' has the tensor type {name}; only {known} are implemented"):
        read_gguf(tmp_path / "a.gguf")


# Folders


def refusal(model, folder):
    with pytest.raises(FileError) as caught:
        PeftModel.from_pretrained(model, folder)
    return str(caught.value)


def test_named_adapters_are_listed(model, adapter, tmp_path):
    for name in ("french", "german"):
        shutil.copytree(adapter, tmp_path / "all" / name)
    (tmp_path / "all" / "logs").mkdir()
    message = refusal(model, tmp_path / "all")
    assert "which only the folders in it have (french, german)" in message
    assert f"PeftModel.from_pretrained(model, '{tmp_path / 'all' / 'french'}')" in message


def test_the_newest_checkpoint_is_named(model, adapter, tmp_path):
    for step in (500, 1500, 1000):
        shutil.copytree(adapter, tmp_path / "run" / f"checkpoint-{step}")
    message = refusal(model, tmp_path / "run")
    assert f"load the newest with PeftModel.from_pretrained(model, '{tmp_path / 'run' / 'checkpoint-1500'}')" in message
    for step in (20, 9):
        (tmp_path / "trainer" / f"checkpoint-{step}").mkdir(parents=True)
        (tmp_path / "trainer" / f"checkpoint-{step}" / "config.json").write_text("{}")
    with pytest.raises(FileError, match=r"load the newest with from_pretrained\('.*checkpoint-20'\)"):
        Model.from_pretrained(tmp_path / "trainer")


@pytest.mark.parametrize("name", ["somebody/llama-2-lora", "gpt2", "openai-community/gpt2"])
def test_a_name_of_a_hub_is_answered(name, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = "there is no such folder or file. minipeft downloads nothing from a hub, only what `minipeft fetch` lists"
    assert said in refusal(model, name)
    with pytest.raises(FileError, match=said):
        Model.from_pretrained(name)
    for path in (tmp_path / "gone", "./gone", "a/b/c"):
        assert "from a hub" not in refusal(model, path)


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin"])
def test_a_pickle_is_named_and_how_it_is_converted(name, model, adapter, tmp_path):
    if name.startswith("adapter"):
        (adapter / "adapter_model.safetensors").rename(adapter / name)
        message = refusal(model, adapter)
    else:
        folder = tmp_path / "model"
        folder.mkdir()
        settings = {"model_type": "gpt2", "vocab_size": 17, "n_embd": 12, "n_layer": 3, "n_head": 3, "n_positions": 20}
        settings |= {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / name).write_bytes(ARCHIVE)
        with pytest.raises(FileError) as caught:
            Model.from_pretrained(folder)
        message = str(caught.value)
    assert f"there is only {name}. A pickle is never loaded; convert it with PyTorch: import torch" in message
    assert f"torch.load('{name}', 'cpu', weights_only=True)" in message
    assert f"'{'adapter_' if name.startswith('adapter') else ''}model.safetensors'" in message


def test_a_folder_without_any_tensors_says_so(model, adapter):
    (adapter / "adapter_model.safetensors").unlink()
    assert "expected adapter_model.safetensors; there is no such file" in refusal(model, adapter)


def test_models_and_adapters_are_told_apart(model, adapter, tmp_path):
    model.save_pretrained(tmp_path / "model")
    assert "it has config.json: a model, not an adapter; load it with Model.from_pretrained" in refusal(
        model, tmp_path / "model"
    )
    with pytest.raises(
        FileError, match=r"it has adapter_config\.json: an adapter; load the model that it was trained on"
    ):
        Model.from_pretrained(adapter)
    assert "this is a file; give its folder" in refusal(model, adapter / "adapter_config.json")
    write_llama(small_llama(), tmp_path / "tiny.gguf")
    with pytest.raises(FileError, match=r"it has tiny\.gguf: a GGUF file is given by its own name"):
        Model.from_pretrained(tmp_path)


# adapter_config.json


@pytest.mark.parametrize(
    "settings",
    [
        {"an_option": None},
        {"an_option": False, "another": 0, "a_third": 0.0},
        {"an_option": "", "another": [], "a_third": {}},
        {"qalora_group_size": 16, "megatron_core": "megatron.core", "use_qalora": False},
        {"runtime_config": {"ephemeral_gpu_offload": False}, "eva_config": {"rho": 2.0}, "init_lora_weights": "eva"},
        {"loftq_config": {"loftq_bits": 4}, "corda_config": {"verbose": True}, "peft_version": "0.99"},
        {"lora_dropout": None, "rank_pattern": None, "alpha_pattern": None, "target_modules": "all-linear"},
    ],
    ids=str,
)
def test_options_that_cannot_matter_are_taken(settings, model, adapter):
    changed(adapter, **settings)
    assert PeftModel.from_pretrained(model, adapter).peft_config.r == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"an_option": 16}, "an_option is 16; only its absence is implemented. If it cannot change"),
        ({"use_dora": True}, "use_dora is True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"target_parameters": ["x"]}, "target_parameters is"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which also changed the base weights"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern must be dict"),
        ({"alpha_pattern": 5}, "alpha_pattern must be dict"),
        ({"alpha_pattern": {"(": 4}}, r"alpha_pattern: '\(' is not a regular expression"),
        ({"rank_pattern": {"c_attn": "x"}}, "rank_pattern must be dict"),
        ({"rank_pattern": {"c_attn": 5}}, r"r \(or rank_pattern\) says rank 5 for 'transformer.h.0.attn.c_attn'"),
        ({"r": 16}, r"r \(or rank_pattern\) says rank 16"),
        ({"modules_to_save": 5}, "modules_to_save must be list"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be list"),
        ({"peft_type": ["LORA"]}, r"peft_type \['LORA'\] is not implemented"),
        ({"peft_type": None}, "peft_type None is not implemented"),
        ({"lora_dropout": "x"}, "lora_dropout must be float"),
        ({"lora_dropout": 1.5}, "lora_dropout is 1.5; expected a number from 0 up to 1"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"bias": "some"}, "bias is 'some'; expected one of"),
    ],
    ids=str,
)
def test_options_that_may_matter_are_refused_by_name(settings, message, model, adapter):
    before = {n: x.copy() for n, x in model.state_dict().items()}
    changed(adapter, **settings)
    with pytest.raises((FileError, PeftError), match=message):
        PeftModel.from_pretrained(model, adapter)
    assert all(np.array_equal(x, before[n]) for n, x in model.state_dict().items())


def named_error(function, *errors):
    try:
        function()
    except errors as error:
        return str(error)
    return None


def test_no_value_of_any_option_of_theirs_raises_anything_but_an_error_that_names_it(model, adapter):
    config = adapter / "adapter_config.json"
    good = json.loads(config.read_text())
    refused = 0
    for name in [*(f.name for f in dataclasses.fields(AdapterSettings)), "unheard_of"]:
        for value in WRONG:
            config.write_text(json.dumps({**good, name: value}))
            error = named_error(lambda: PeftModel.from_pretrained(model, adapter).unload(), FileError, PeftError)
            refused += error is not None
            assert error is None or name in error, f"{name} = {value!r}: {error}"
    assert refused > 100
    for name in WITHOUT_EFFECT:
        for value in WRONG:
            assert AdapterSettings.from_json({**good, name: value}, config, {"LORA": None}).r == 4


@pytest.mark.parametrize("kind", METHODS)
def test_no_value_of_any_option_of_ours_raises_anything_but_an_error_that_names_it(kind, model, tmp_path):
    path = tmp_path / "minipeft_config.json"
    hints = typing.get_type_hints(METHODS[kind])
    fields = [f for f in dataclasses.fields(METHODS[kind]) if f.init]
    refused = 0
    for field in fields:
        for value in WRONG:
            path.write_text(json.dumps({"peft_type": kind, field.name: value}))
            error = named_error(lambda: get_peft_model(model, read_config(path)).unload(), FileError, PeftError)
            refused += error is not None
            if error is not None and field.name not in error:  # of the right type, but it does not fit the model
                assert typed(value, hints[field.name]) == value, f"{field.name} = {value!r}: {error}"
    path.write_text(json.dumps({"peft_type": [kind]}))
    assert "unknown peft_type" in named_error(lambda: read_config(path), PeftError)
    assert refused > 10 * len(fields)


# A chat template is a program of somebody's


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages[0].content.foo() }}", "UndefinedError: .* has no attribute 'foo'"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ 'a' * 10**15 }}", "MemoryError|OverflowError"),
        ("{{ range(10**9) }}", "OverflowError: Range too big"),
        ("{% for", "TemplateSyntaxError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ raise_exception('no') }}", "UndefinedError: 'raise_exception' is undefined"),
        ("{{ 'x' + 1 }}", "TypeError"),
    ],
)
def test_whatever_a_chat_template_raises_is_one_clear_error(template, message):
    vocabulary, merges = tokens()
    tokenizer = BytePairs(vocabulary, merges, template=template)
    with pytest.raises(ValueError, match=rf"the chat template failed \(({message})"):
        tokenizer.chat([{"role": "user", "content": "hello"}, {"role": "user", "content": "hello"}])
