"""Generating tokens: greedy, or drawn at a temperature among the most likely ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minipeft.array import generator, to_numpy
from minipeft.autograd import Tensor, no_grad
from minipeft.models.decoder import DecoderLM
from minipeft.models.encoder_decoder import EncoderDecoder
from minipeft.nn.transformer import Cache, TextInput, new_cache
from minipeft.peft.base import PeftModel

Step = Callable[[np.ndarray, np.ndarray | None, list[Cache] | None], Tensor]  # ids, mask, cache -> logits (B, V)


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
    """ids (B, T) and the tokens that follow, (B, T + n); from an encoder-decoder the target alone, start token first.

    mask (B, T): True for real tokens, padding on the left (an encoder-decoder's source may have it anywhere).
    temperature 0 takes the likeliest token; above 0 tokens are drawn from softmax(logits / temperature), among the
    ``top_k`` likeliest, and among the fewest whose probabilities reach ``top_p`` together. A row that has produced
    ``eos`` goes on with ``pad`` (``eos`` by default), and once all rows have, generation ends. Without the cache every
    step reads the whole sequence again: the same tokens, slower.
    Raises ValueError for arguments out of range and for more tokens than the context holds, before anything is run.
    """
    steps = stream(model, ids, mask, max_new_tokens, temperature, top_k, top_p, rng, eos, pad, use_cache)
    new = [tokens[:, None] for tokens in steps]
    first = _start(model, ids) if _is(model, EncoderDecoder) else _checked_ids(ids)
    return np.concatenate([first, *new], axis=1)


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
    """The tokens of `generate` one step at a time, (B,) each, as soon as they are known."""
    _check_choices(temperature, top_k, top_p)
    if max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens must be at least 1, got {max_new_tokens}")
    if not (_is(model, DecoderLM) or _is(model, EncoderDecoder)):
        raise TypeError(f"generate needs a DecoderLM or an EncoderDecoder, got {type(model).__name__}")
    vocab_size = model.config.vocab_size
    for name, token in (("eos", eos), ("pad", pad)):
        if token is not None and not 0 <= token < vocab_size:
            raise ValueError(f"generate: {name} must be a token id in 0 … {vocab_size - 1}, got {token}")
    ids = _checked_ids(ids)
    if mask is not None:
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != ids.shape:
            raise ValueError(f"generate: the mask must have the ids' shape {ids.shape}, got {mask.shape}")
    if _is(model, EncoderDecoder):
        _check_room(model.decoder_input, 1, max_new_tokens)
        step, ids, mask = _from_source(model, ids, mask), _start(model, ids), None
    else:
        if mask is not None and not mask[:, -1].all():
            raise ValueError("generate: a row ends in padding; pad on the left, so that the new tokens follow the text")
        _check_room(model.input, ids.shape[1] if mask is None else int(mask.sum(axis=1).max()), max_new_tokens)
        step = _after_text(model)
    cache = new_cache(model.config.n_layers) if use_cache else None
    draws = generator(rng)

    def choose(logits: np.ndarray) -> np.ndarray:
        return next_tokens(logits, temperature, top_k, top_p, draws)

    return _steps(step, ids, mask, cache, max_new_tokens, choose, eos, eos if pad is None else pad)


def _steps(
    step: Step,
    ids: np.ndarray,
    mask: np.ndarray | None,
    cache: list[Cache] | None,
    n: int,
    choose: Callable[[np.ndarray], np.ndarray],
    eos: int | None,
    pad: int | None,
) -> Iterator[np.ndarray]:
    done = np.zeros(len(ids), dtype=bool)
    for _ in range(n):
        with no_grad():
            logits = to_numpy(step(ids, mask, cache).data)
        tokens = choose(logits)
        if eos is not None:
            tokens[done] = pad
            done |= tokens == eos
        yield tokens
        if done.all():
            return
        new = tokens[:, None]
        ids = new if cache is not None else np.concatenate([ids, new], axis=1)
        if mask is not None:
            mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=True)


def _is(model: Any, kind: type) -> bool:
    return isinstance(model.base_model if isinstance(model, PeftModel) else model, kind)


def _checked_ids(ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(f"generate: ids must be integers (B, T) with T at least 1, got {ids.dtype} {ids.shape}")
    return ids.astype(np.int64, copy=False)


def _start(model: Any, ids: np.ndarray) -> np.ndarray:
    return np.full((len(ids), 1), model.config.start, dtype=np.int64)


def _after_text(model: Any) -> Step:
    def step(ids: np.ndarray, mask: np.ndarray | None, cache: list[Cache] | None) -> Tensor:
        return model.lm_head(model.hidden(ids, mask, cache)[:, -1])

    return step


def _from_source(model: Any, ids: np.ndarray, mask: np.ndarray | None) -> Step:
    with no_grad():
        memory, memory_mask = model.encode(ids, mask)

    def step(target_ids: np.ndarray, _: np.ndarray | None, cache: list[Cache] | None) -> Tensor:
        return model.lm_head(model.decode(target_ids, memory, memory_mask, cache=cache)[:, -1])

    return step


def _check_room(entry: TextInput, n_tokens: int, max_new_tokens: int) -> None:
    """ValueError where the positions do not suffice; the last token made needs none, it is not read."""
    nothing = Tensor(entry.tokens.weight.data[None, :0])  # (1, 0, d)
    with no_grad():
        before = entry.prompted(nothing).shape[1] + entry.position_offset
    needed = before + n_tokens + max_new_tokens - 1
    if needed > entry.context:
        raise ValueError(
            f"generate: {n_tokens} tokens{f' behind {before} of a prompt or prefix' if before else ''} and "
            f"{max_new_tokens} new ones need {needed} positions, but the model's context has {entry.context}; "
            f"at most {max(entry.context - before - n_tokens + 1, 0)} new tokens fit"
        )


def _check_choices(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0.0 <= temperature < float("inf"):
        raise ValueError(f"generate: temperature must be 0 (greedy) or above, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"generate: top_p must lie in (0, 1], got {top_p}")
    if temperature == 0.0 and not (top_k is None and top_p is None):
        raise ValueError("generate: top_k and top_p need a temperature above 0; at 0 the likeliest token is taken")


def next_tokens(
    logits: np.ndarray,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: int | np.random.Generator = 0,
) -> np.ndarray:
    """One token a row (B,) from logits (B, V), as `generate` does; FloatingPointError where they are not finite."""
    if not np.isfinite(logits.max(axis=1)).all():
        raise FloatingPointError("generate: the logits hold NaN or infinity; did training blow up the weights?")
    if temperature == 0.0:
        return logits.argmax(axis=1)
    edges = np.cumsum(token_probabilities(logits, temperature, top_k, top_p), axis=1)  # (B, V)
    # Below the last edge even after rounding, so that the first edge above belongs to a token of positive probability.
    drawn = np.minimum(generator(rng).random((len(logits), 1)) * edges[:, -1:], np.nextafter(edges[:, -1:], 0.0))
    return (edges <= drawn).sum(axis=1)


def token_probabilities(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """What tokens are drawn with, (B, V) in float64: softmax(logits / temperature), cut to top_k, then top_p, rescaled.

    top_p (nucleus sampling, Holtzman et al. 2020) keeps the fewest likeliest tokens that reach it. Of equal logits the
    first come first. Raises ValueError for choices out of range, and for temperature 0.
    """
    _check_choices(temperature, top_k, top_p)
    if temperature == 0.0:
        raise ValueError("token_probabilities: at temperature 0 nothing is drawn; give one above 0")
    s = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # a temperature near 0 sends all but the likeliest to -inf
        p = np.exp((s - s.max(axis=1, keepdims=True)) / temperature)
    p /= p.sum(axis=1, keepdims=True)
    if top_k is None and top_p is None:
        return p
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    if top_k is not None:
        ranked[:, top_k:] = 0.0
        ranked /= ranked.sum(axis=1, keepdims=True)
    if top_p is not None:
        reached = np.cumsum(ranked, axis=1) - ranked  # by the tokens before
        ranked[reached >= top_p] = 0.0
    np.put_along_axis(p, order, ranked / ranked.sum(axis=1, keepdims=True), axis=1)
    return p


__all__ = ["generate", "next_tokens", "stream", "token_probabilities"]
