"""SmolLM2-135M forward and cached generation beside transformers' on the same dequantized weights.

Both in one process, in turn; logits compared first. transformers runs with its cache and its default attention (sdpa).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.autograd import no_grad
from minipeft.bench.step import quartiles
from minipeft.data.fetch import fetch
from minipeft.generate import generate
from minipeft.models import DecoderLM

LENGTHS = (128, 512)
NEW = 32


def run(repeats: int = 7) -> list[dict[str, Any]]:
    """One row a case: the median ratio of our time to theirs, and our tokens a second."""
    import torch
    import transformers

    hf: Any = transformers
    folder = fetch("smollm2")
    model = DecoderLM.from_pretrained(folder)
    theirs = hf.AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    rows = []
    for length in LENGTHS:
        ids = rng.integers(0, model.config.vocab_size, (1, length))
        torch_ids = torch.tensor(ids)

        def our_forward(ids: np.ndarray = ids) -> Any:
            with no_grad():
                return model(ids).data

        def their_forward(ids: Any = torch_ids) -> Any:
            with torch.no_grad():
                return theirs(ids, use_cache=False).logits

        a, b = our_forward(), their_forward().numpy()
        worst = float(np.abs(a - b).max() / np.abs(b).max())
        if worst > 1e-3:
            raise AssertionError(f"the logits differ by {worst} of their scale")
        rows.append(_row(f"forward, {length} tokens", length, our_forward, their_forward, repeats, worst))
    prompt = rng.integers(0, model.config.vocab_size, (1, 16))

    def ours() -> Any:
        return generate(model, prompt, max_new_tokens=NEW)

    def other() -> Any:
        mask = torch.ones(prompt.shape, dtype=torch.long)
        with torch.no_grad():
            return theirs.generate(
                torch.tensor(prompt), attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
            )

    same = float((ours() == other().numpy()).mean())
    rows.append(_row(f"generation, {NEW} tokens after 16", NEW, ours, other, repeats, 1 - same))
    return rows


def _row(
    what: str, tokens: int, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, worst: float
) -> dict[str, Any]:
    pairs = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        ours()
        between = time.perf_counter()
        theirs()
        if i:
            pairs.append((between - start, time.perf_counter() - between))
    low, middle, high = quartiles([a / b for a, b in pairs])
    return {
        "what": what,
        "ratio": middle,
        "lower quartile": low,
        "upper quartile": high,
        "ours, tokens/s": tokens / statistics.median(a for a, _ in pairs),
        "theirs, tokens/s": tokens / statistics.median(b for _, b in pairs),
        "disagreement": worst,
    }
