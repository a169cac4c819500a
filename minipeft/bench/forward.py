"""SmolLM2-135M, forward and cached generation, compared with transformers on the same dequantized weights.

Both run in one process, in turn; their logits are compared first. transformers has its cache and its default attention
(sdpa).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from minipeft.accounting.timing import in_turn
from minipeft.autograd import no_grad
from minipeft.bench import Part, Row
from minipeft.bench.step import quartiles
from minipeft.data.fetch import fetch
from minipeft.generate import generate
from minipeft.models import DecoderLM

LENGTHS = (128, 512)
NEW = 32


def parts(quick: bool = False) -> list[Part]:
    """Return one part a case, with its row: the median ratio of our time to theirs, and our tokens a second."""
    lengths, new, repeats = (LENGTHS[:1], 8, 1) if quick else (LENGTHS, NEW, 7)
    return [
        *(Part(f"forward, {n} tokens", partial(forward, n, repeats), n / 64) for n in lengths),
        Part("generation", partial(generation, new, repeats), 4.0),
    ]


@cache
def models() -> tuple[Any, Any]:
    """Return the SmolLM2 of minipeft and that of transformers."""
    import torch
    import transformers

    hf: Any = transformers
    folder = fetch("smollm2")
    theirs = hf.AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    return DecoderLM.from_pretrained(folder), theirs


def forward(length: int, repeats: int) -> list[Row]:
    """Compare a forward pass; AssertionError if the logits differ."""
    import torch

    model, theirs = models()
    ids = np.random.default_rng(length).integers(0, model.config.vocab_size, (1, length))
    torch_ids = torch.tensor(ids)

    def our_forward() -> Any:
        with no_grad():
            return model(ids).data

    def their_forward() -> Any:
        with torch.no_grad():
            return theirs(torch_ids, use_cache=False).logits

    a, b = our_forward(), their_forward().numpy()
    worst = float(np.abs(a - b).max() / np.abs(b).max())
    if worst > 1e-3:
        raise AssertionError(f"the logits differ by {worst} of their scale")
    return [_row(f"forward, {length} tokens", length, our_forward, their_forward, repeats, worst)]


def generation(new: int, repeats: int) -> list[Row]:
    """Compare the generation of ``new`` tokens after 16."""
    import torch

    model, theirs = models()
    prompt = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, 16))
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}

    def ours() -> Any:
        return generate(model, prompt, max_new_tokens=new)

    def other() -> Any:
        mask = torch.ones(prompt.shape, dtype=torch.long)
        with torch.no_grad():
            return theirs.generate(torch.tensor(prompt), attention_mask=mask, **settings)

    same = float((ours() == other().numpy()).mean())
    return [_row(f"generation, {new} tokens after 16", new, ours, other, repeats, 1 - same)]


def _row(what: str, tokens: int, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, worst: float) -> Row:
    seconds = in_turn({"ours": ours, "theirs": theirs}, repeats, unmeasured=1)
    low, middle, high = quartiles([a / b for a, b in zip(*seconds.values(), strict=True)])
    return {
        "what": what,
        "ratio": middle,
        "lower quartile": low,
        "upper quartile": high,
        "ours, tokens/s": tokens / statistics.median(seconds["ours"]),
        "theirs, tokens/s": tokens / statistics.median(seconds["theirs"]),
        "disagreement": worst,
    }
