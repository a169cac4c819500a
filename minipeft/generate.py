"""Generation: greedy, or sampled with temperature, top-k and top-p; with a cache, so that each token is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minipeft.array import generator, to_numpy
from minipeft.autograd import Tensor, no_grad
from minipeft.models.encoder_decoder import EncoderDecoder
from minipeft.nn.transformer import Cache, new_cache


def generate(
    model: Any,
    ids: np.ndarray,
    mask: np.ndarray | None = None,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: int | np.random.Generator = 0,
    eos: int | None = None,
    pad: int | None = None,
    use_cache: bool = True,
) -> np.ndarray:
    """Continue ids (B, T) by up to ``max_new_tokens``: (B, T + n); for an encoder-decoder the targets alone, (B, 1 + n).

    mask (B, T): True for real tokens; pad on the left, so that every row goes on from its last token. temperature 0:
    the likeliest token; else samples from softmax(logits / temperature), of the top_k likeliest, and of the smallest set whose
    probability reaches top_p. After ``eos`` a row is filled with ``pad`` (by default eos), and all stop when all have.
    Raises ValueError for arguments that do not fit, or where the context is full.
    """
    columns = list(
        stream(model, ids, mask, max_new_tokens, temperature, top_k, top_p, rng, eos, pad, use_cache)
    )  # n times (B,)
    start = _targets(model, ids)
    return np.concatenate([start, *(c[:, None] for c in columns)], axis=1)


def stream(
    model: Any,
    ids: np.ndarray,
    mask: np.ndarray | None = None,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: int | np.random.Generator = 0,
    eos: int | None = None,
    pad: int | None = None,
    use_cache: bool = True,
) -> Iterator[np.ndarray]:
    """The tokens of `generate` one by one as they are made, (B,) each."""
    _check(ids, None if _has_encoder(model) else mask, max_new_tokens, temperature, top_k, top_p)
    rng = generator(rng)
    was_training = model.training
    model.eval()
    try:
        step = _encoder_decoder_step(model, ids, mask, use_cache) if _has_encoder(model) else _decoder_step(model, mask, use_cache)
        new = _targets(model, ids)
        tokens = new
        done = np.zeros(len(ids), dtype=bool)
        for _ in range(max_new_tokens):
            with no_grad():
                logits = to_numpy(step(tokens, new).data).astype(np.float64)  # (B, V)
            chosen = choose(logits, temperature, top_k, top_p, rng)
            if eos is not None:
                chosen = np.where(done, eos if pad is None else pad, chosen)
                done |= chosen == eos
            yield chosen
            if done.all():
                return
            new = chosen[:, None]
            tokens = np.concatenate([tokens, new], axis=1)
    finally:
        model.train(was_training)


Step = Callable[[np.ndarray, np.ndarray], Tensor]


def _has_encoder(model: Any) -> bool:
    return isinstance(getattr(model, "base_model", model), EncoderDecoder)


def _targets(model: Any, ids: np.ndarray) -> np.ndarray:
    """What the first step reads: the prompt, or the start token of an encoder-decoder."""
    return np.full((len(ids), 1), model.config.start, dtype=np.int64) if _has_encoder(model) else np.asarray(ids)


def _decoder_step(model: Any, mask: np.ndarray | None, use_cache: bool) -> Step:
    cache: list[Cache] | None = new_cache(model.config.n_layers) if use_cache else None

    def step(tokens: np.ndarray, new: np.ndarray) -> Tensor:
        full = None if mask is None else np.pad(mask, ((0, 0), (0, tokens.shape[1] - mask.shape[1])), constant_values=True)
        x = model.hidden(new if use_cache else tokens, full, cache)
        return model.lm_head(x[:, -1])

    return step


def _encoder_decoder_step(model: Any, ids: np.ndarray, mask: np.ndarray | None, use_cache: bool) -> Step:
    cache: list[Cache] | None = new_cache(model.config.n_layers) if use_cache else None
    with no_grad():
        memory, memory_mask = model.encode(ids, mask)

    def step(tokens: np.ndarray, new: np.ndarray) -> Tensor:
        x = model.decode(new if use_cache else tokens, memory, memory_mask, cache=cache)
        return model.lm_head(x[:, -1])

    return step


def choose(
    logits: np.ndarray,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """One token for each row of logits (B, V), float64."""
    if temperature == 0.0:
        return logits.argmax(axis=1)
    p = probabilities(logits, temperature, top_k, top_p)
    edges = np.cumsum(p, axis=1)
    u = rng.random((len(p), 1)) * edges[:, -1:]
    return np.minimum((edges <= u).sum(axis=1), p.shape[1] - 1)


def probabilities(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """The distribution (B, V) that is sampled from: softmax(logits / temperature), cut to top_k and top_p, renormalized."""
    scaled = logits / temperature
    p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1, kind="stable")  # of equal ones the smaller id first
    ranked = np.take_along_axis(p, order, axis=1)
    keep = np.ones_like(ranked, dtype=bool)
    if top_k is not None:
        keep[:, top_k:] = False
    if top_p is not None:
        before = np.cumsum(ranked * keep, axis=1) - ranked * keep
        keep &= before < top_p * (ranked * keep).sum(axis=1, keepdims=True)
    ranked = np.where(keep, ranked, 0.0)
    result = np.zeros_like(p)
    np.put_along_axis(result, order, ranked / ranked.sum(axis=1, keepdims=True), axis=1)
    return result


def _check(
    ids: np.ndarray,
    mask: np.ndarray | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if ids.ndim != 2 or ids.shape[1] < 1:
        raise ValueError(f"generate: ids must have shape (B, T) with T at least 1, got {ids.shape}")
    if mask is not None and (mask.shape != ids.shape or not np.asarray(mask)[:, -1].all()):
        raise ValueError("generate: the mask must have the shape of ids and end in True; pad on the left")
    if max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens must be at least 1, got {max_new_tokens}")
    if temperature < 0:
        raise ValueError(f"generate: the temperature must not be negative, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p must lie in (0, 1], got {top_p}")
