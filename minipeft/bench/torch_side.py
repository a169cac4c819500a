"""The other side of the comparisons: Hugging Face's GPT-2 in PyTorch eager, with PEFT. Only benchmarks import it.

Two baselines. Stock is what is installed; where both sides share a process, the first step of ours makes its C library
keep freed memory, which helps both. Tuned has this from the start, and takes PyTorch's fused GELU.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend.allocator import M_TOP_PAD, M_TRIM_THRESHOLD
from minipeft.models import DecoderLM
from minipeft.peft import LoraConfig, get_peft_model

M_MMAP_MAX = -4  # a parameter of mallopt(3)
TARGETS = ["q_proj", "k_proj", "v_proj"]
RANK, ALPHA = 8, 16


@dataclass(frozen=True)
class Shape:
    """A GPT-2: sizes, batch and number of tokens; threads as on the machines of a class."""

    name: str
    d_model: int
    n_layers: int
    n_heads: int
    vocab_size: int
    length: int
    batch: int = 8
    threads: int = 2
    shards: int = 1


def keep_pages() -> None:
    """Make glibc keep freed memory; without glibc, do nothing."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 64 << 20)


def their_base(shape: Shape, tuned: bool) -> Any:
    """Return a GPT2LMHeadModel with random weights, without dropout."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(shape.threads)
    hf: Any = transformers
    config = hf.GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=max(shape.length, 64),
        n_embd=shape.d_model,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        activation_function="gelu_pytorch_tanh" if tuned else "gelu_new",
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return hf.GPT2LMHeadModel(config).train()


def both(shape: Shape, mode: str, tuned: bool, folder: Path) -> tuple[Any, Any]:
    """Return (theirs, ours) with the same weights; "lora" is on queries, keys and values, theirs on the fused c_attn.

    Theirs is one A and the rows of one B; ours the same A three times, each with its part of B.
    """
    import peft
    import torch

    theirs = their_base(shape, tuned)
    theirs.save_pretrained(folder)
    ours = DecoderLM.from_pretrained(folder)
    ours.train()
    if mode == "full":
        return theirs, ours.requires_grad_(True)
    adapted: Any = peft.get_peft_model(
        theirs, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    own: Any = get_peft_model(ours, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    rng = np.random.default_rng(0)
    d = shape.d_model
    for i, block in enumerate(theirs.transformer.h):
        A, B = rng.standard_normal((RANK, d)), 0.01 * rng.standard_normal((3 * d, RANK))
        layer = block.attn.c_attn
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(torch.tensor(A))
            layer.lora_B["default"].weight.copy_(torch.tensor(B))
        for part, name in enumerate(TARGETS):
            wrapped = getattr(own.base_model.stack.layers[i].attention, name)
            wrapped.lora_A.data[...] = A
            wrapped.lora_B.data[...] = B[part * d : (part + 1) * d]
    return adapted.train(), own


def batch_of(shape: Shape, masked: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (B, T) and labels for a model that shifts them itself; the first ``masked`` of each row is -100."""
    ids = np.random.default_rng(1).integers(0, shape.vocab_size, (shape.batch, shape.length))
    labels = ids.copy()
    labels[:, : int(masked * shape.length)] = -100
    return ids, labels


def shifted(labels: np.ndarray) -> np.ndarray:
    """Return the same labels for minipeft: labels[:, t] belongs to the token after ids[:, t]."""
    return np.concatenate([labels[:, 1:], np.full((len(labels), 1), -100)], axis=1)
