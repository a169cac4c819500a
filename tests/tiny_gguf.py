"""A writer of GGUF files, for tests: llama.cpp's layout, and a small Llama in it."""

import struct

import numpy as np

from minipeft.data.bpe import LETTERS
from minipeft.models import DecoderConfig, DecoderLM

CODES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}
SIZES = {"d": 64, "heads": 2, "kv": 1, "ff": 96, "V": 264, "L": 2}


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(v):
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + string(v)
    if isinstance(v, np.ndarray):
        return struct.pack("<IIQ", 9, 5, v.size) + v.astype("<i4").tobytes()
    return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(string, v))


def gguf_bytes(metadata, tensors, version=3, alignment=32):
    """tensors: {name: (kind, shape, raw bytes)}."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(string(k) + value(v) for k, v in metadata.items())
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        data += b"\0" * (-len(data) % alignment)
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", CODES[kind], len(data))
        data += raw
    return head + b"\0" * (-len(head) % alignment) + data


def f32(x):
    return "F32", x.shape, x.astype("<f4").tobytes()


def permuted(x, heads):
    """A loop: llama.cpp's row 2 i + h of a head is Hugging Face's row h D/2 + i."""
    out = np.empty_like(x)
    D = len(x) // heads
    for head in range(heads):
        for i in range(D // 2):
            for half in range(2):
                out[head * D + 2 * i + half] = x[head * D + half * (D // 2) + i]
    return out


def tokens():
    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS, "he", "ll", "hell", "hello", "Ġhello"]
    return vocabulary, ["h e", "l l", "he ll", "hell o", "Ġ hello"]


def small_llama():
    c = SIZES
    config = DecoderConfig.llama(c["V"], c["d"], c["L"], c["heads"], c["kv"], c["ff"], context=32)
    return DecoderLM(config, rng=3)


def write_llama(model, path, metadata=None, tensors=None):
    """A small Llama as a GGUF file, with other metadata and more tensors."""
    others = metadata or {}
    c = SIZES
    vocabulary, merges = tokens()
    metadata = {
        **{"general.architecture": "llama", "llama.embedding_length": c["d"], "llama.block_count": c["L"]},
        **{"llama.attention.head_count": c["heads"], "llama.attention.head_count_kv": c["kv"]},
        **{"llama.feed_forward_length": c["ff"], "llama.context_length": 32, "llama.rope.freq_base": 10000.0},
        **{"llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2"},
        **{"tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": vocabulary, "tokenizer.ggml.merges": merges},
        "tokenizer.ggml.token_type": np.array([3, 3, 3] + [1] * (len(vocabulary) - 3)),
        "tokenizer.ggml.eos_token_id": 2,
    }
    w = {name: x.data for name, x in model.named_parameters()}
    written = {"token_embd.weight": f32(w["input.tokens.weight"]), "output_norm.weight": f32(w["stack.norm.weight"])}
    parts = {
        **{"attn_norm": "attention_norm", "attn_v": "attention.v_proj", "attn_output": "attention.out_proj"},
        **{"ffn_norm": "feed_forward_norm", "ffn_gate": "feed_forward.gate_proj", "ffn_up": "feed_forward.up_proj"},
        "ffn_down": "feed_forward.down_proj",
    }
    for i in range(c["L"]):
        for theirs, ours in parts.items():
            written[f"blk.{i}.{theirs}.weight"] = f32(w[f"stack.layers.{i}.{ours}.weight"])
        for letter, heads in (("q", c["heads"]), ("k", c["kv"])):
            x = w[f"stack.layers.{i}.attention.{letter}_proj.weight"]
            written[f"blk.{i}.attn_{letter}.weight"] = f32(permuted(x, heads))
    path.write_bytes(gguf_bytes({**metadata, **others}, {**written, **(tensors or {})}))
    return path
