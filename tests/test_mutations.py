"""Random damage to valid files: our own errors or a model that works, and never more memory than twice the file."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from families import gpt2
from tiny_gguf import f32, gguf_bytes

from minipeft.files import FileError, read_gguf, read_safetensors, write_safetensors
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import LoraConfig, PeftError, PeftModel, get_peft_model

SLACK = 200_000  # bytes that Python itself and a message take, whatever the file
LENGTHS = (0, 1, 2**31, 2**60, 2**63, 2**64 - 1)
BAD_NUMBERS = (b"-1", b"0", b"1e9", b"9223372036854775807", b"18446744073709551616", b"null", b"[]", b'"x"', b"NaN")


def damaged(raw, rng):
    """One of eight kinds of damage, at random places."""
    raw = bytearray(raw)
    at = int(rng.integers(len(raw)))
    kind = rng.integers(8)
    if kind == 0:  # some bits
        for i in rng.integers(len(raw), size=rng.integers(1, 9)):
            raw[i] ^= 1 << int(rng.integers(8))
    elif kind == 1:  # cut off
        del raw[at:]
    elif kind == 2:  # a hole
        del raw[at : at + int(rng.integers(1, 40))]
    elif kind == 3:  # a stretch twice
        raw[at:at] = raw[at : at + int(rng.integers(1, 40))]
    elif kind == 4:  # a length or an offset, near the front where they are
        at = int(rng.integers(min(len(raw), 400)))
        raw[at : at + 8] = LENGTHS[int(rng.integers(len(LENGTHS)))].to_bytes(8, "little")
    elif kind == 5:  # random bytes
        raw[at : at + 16] = rng.bytes(16)
    elif kind == 6:  # a number of the header
        digits = [i for i in range(min(len(raw), 4000)) if chr(raw[i]).isdigit()]
        if digits:
            i = int(rng.choice(digits))
            raw[i : i + 1] = BAD_NUMBERS[int(rng.integers(len(BAD_NUMBERS)))]
    else:  # a name
        raw = bytearray(bytes(raw).replace(b"lora", b"../l").replace(b"token", b"/etc/"))
    return bytes(raw)


def memory_of(action):
    """(what the action gave or the error of ours, the peak of bytes while it ran); any other error comes through."""
    tracemalloc.start()
    try:
        try:
            result = action()
        except (FileError, PeftError) as error:
            result = error
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("times", [150, pytest.param(700, marks=pytest.mark.slow)])
def test_damaged_safetensors(times, rng, tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {f"layer.{i}.lora_A": rng.normal(size=(40, 60 + i)).astype(np.float32) for i in range(40)}
    write_safetensors(path, arrays, {"format": "pt"})
    good = path.read_bytes()
    refused = 0
    for _ in range(times):
        path.write_bytes(damaged(good, rng))
        result, peak = memory_of(lambda: read_safetensors(path))
        assert peak <= 2 * path.stat().st_size + SLACK
        refused += isinstance(result, FileError)
    assert refused > times / 2, "most damage shows"


@pytest.mark.parametrize("times", [100, pytest.param(700, marks=pytest.mark.slow)])
def test_damaged_gguf(times, rng, tmp_path):
    path = tmp_path / "x.gguf"
    tensors = {f"blk.{i}.attn_q.weight": f32(rng.normal(size=(32, 64)).astype(np.float32)) for i in range(40)}
    words = [f"word{i}" for i in range(2000)]
    about = {"general.architecture": "llama", "llama.block_count": 40, "tokenizer.ggml.tokens": words}
    good = gguf_bytes(about, tensors)
    refused = 0

    def read():
        file = read_gguf(path)
        for name in file.entries:
            file.array(name)

    for _ in range(times):
        path.write_bytes(damaged(good, rng))
        result, peak = memory_of(read)
        assert peak <= 2 * path.stat().st_size + SLACK
        refused += isinstance(result, FileError)
    assert refused > 0.4 * times


@pytest.mark.parametrize("times", [100, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["minipeft", "adapter"])
def test_damaged_adapters_leave_the_base_as_it_was(form, times, rng, tmp_path):
    base, batch = gpt2(rng)
    peft = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    for p in peft.trained().values():
        p.data[...] += 0.2 * rng.normal(size=p.shape)
    folder = tmp_path / "a"
    peft.save_pretrained(folder)
    base = peft.unload()
    for f in folder.iterdir():
        if not f.name.startswith(form):
            f.unlink()
    good = {f: f.read_bytes() for f in folder.iterdir()}
    before = {n: p.data.tobytes() for n, p in base.named_parameters()}
    modules = [(path, type(m)) for path, m in base.named_modules()]
    loaded = 0
    for i in range(times):
        for f, raw in good.items():
            f.write_bytes(raw)
        hit = list(good)[i % 2]
        hit.write_bytes(damaged(good[hit], rng))
        size = sum(f.stat().st_size for f in folder.iterdir()) + sum(map(len, before.values()))
        result, peak = memory_of(lambda: PeftModel.from_pretrained(base, folder))
        assert peak <= 2 * size + 2 * SLACK
        if isinstance(result, PeftModel):
            loaded += 1
            result.unload()
        assert [(path, type(m)) for path, m in base.named_modules()] == modules
    assert {n: p.data.tobytes() for n, p in base.named_parameters()} == before
    assert loaded < 2 * times / 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_layers", 10**9), ("d_model", 10**12), ("vocab_size", 10**15), ("d_ff", 2**62), ("context", 10**14)],
)
def test_a_config_of_absurd_sizes_is_refused_before_anything_is_built(name, value, tmp_path):
    DecoderLM(DecoderConfig.gpt2(vocab_size=17, d_model=12, n_layers=1, n_heads=3, context=8)).save_pretrained(tmp_path)
    config = next(f for f in Path(tmp_path).glob("*config.json"))
    settings = json.loads(config.read_text())
    assert name in settings
    config.write_text(json.dumps({**settings, name: value}))
    result, peak = memory_of(lambda: DecoderLM.from_pretrained(tmp_path))
    assert isinstance(result, FileError)
    assert peak < 2 * SLACK
