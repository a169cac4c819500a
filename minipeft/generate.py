"""Generation: greedy, or sampled with temperature, top-k and top-p; a cache lets each token be read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minipeft.autograd import Tensor, no_grad
from minipeft.backend import generator, to_numpy
from minipeft.models.arguments import takes_lists
from minipeft.models.decoder import DecoderLM
from minipeft.models.encoder_decoder import EncoderDecoder
from minipeft.nn.module import Module
from minipeft.nn.transformer import Cache, TextInput, checked_mask, new_cache


@takes_lists
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
    """Continue ids by at most ``max_new_tokens`` tokens. Also a method of the models.

    Args:
        model: a decoder, or an encoder-decoder.
        ids: (B, T), the texts to continue, or an encoder-decoder's source.
        mask: (B, T), True for real tokens. Pad on the left, so that every row goes on from its last token; a source may
            be padded anywhere.
        max_new_tokens: n at most.
        temperature: 0 takes the likeliest token; otherwise tokens are drawn from softmax(logits / temperature).
        top_k: draw from so many likeliest tokens.
        top_p: draw from the smallest set of tokens whose probability reaches this.
        rng: a seed or generator.
        eos: the token that ends a row. All rows stop when all have ended.
        pad: what follows ``eos``, by default eos.
        use_cache: keep keys and values; without, every step reads all again: the same tokens, slower.

    Returns:
        (B, T + n); of an encoder-decoder the targets alone, (B, 1 + n), the start token first.

    Raises:
        ValueError: arguments that do not fit, or more tokens than the context holds, before anything is run.
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
    """The tokens of `generate` one by one as they are made, (B,) each; arguments are checked at the call."""
    ids = np.asarray(ids)
    mask = _checked(model, ids, mask, max_new_tokens, eos, pad)
    _check_choice(temperature, top_k, top_p)
    draws = generator(rng)
    modules = [module for _, module in model.named_modules()]
    cache = new_cache(model.config.n_layers) if use_cache else None
    with no_grad(), _without_dropout(modules):
        step = (
            _encoder_decoder_step(model, ids, mask, cache) if _has_encoder(model) else _decoder_step(model, mask, cache)
        )

    def tokens() -> Iterator[np.ndarray]:
        new = so_far = _targets(model, ids)
        done = np.zeros(len(ids), dtype=bool)
        for _ in range(max_new_tokens):
            with no_grad(), _without_dropout(modules):
                logits = to_numpy(step(so_far, new).data).astype(np.float64)  # (B, V)
            chosen = choose(logits, temperature, top_k, top_p, draws)
            if eos is not None:
                chosen = np.where(done, eos if pad is None else pad, chosen)
                done |= chosen == eos
            yield chosen
            if done.all():
                return
            new = chosen[:, None]
            so_far = np.concatenate([so_far, new], axis=1)

    return tokens()


@contextmanager
def _without_dropout(modules: list[Module]) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part is in the mode that it was in."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


Step = Callable[[np.ndarray, np.ndarray], Tensor]


def _has_encoder(model: Any) -> bool:
    return isinstance(getattr(model, "base_model", model), EncoderDecoder)


def _targets(model: Any, ids: np.ndarray) -> np.ndarray:
    """What the first step reads: the prompt, or the start token of an encoder-decoder."""
    return np.full((len(ids), 1), model.config.start, dtype=np.int64) if _has_encoder(model) else np.asarray(ids)


def _decoder_step(model: Any, mask: np.ndarray | None, cache: list[Cache] | None) -> Step:
    def step(tokens: np.ndarray, new: np.ndarray) -> Tensor:
        full = mask
        if mask is not None:
            full = np.pad(mask, ((0, 0), (0, tokens.shape[1] - mask.shape[1])), constant_values=True)
        x = model.hidden(tokens if cache is None else new, full, cache)
        return model.lm_head(x[:, -1])

    return step


def _encoder_decoder_step(model: Any, ids: np.ndarray, mask: np.ndarray | None, cache: list[Cache] | None) -> Step:
    memory, memory_mask = model.encode(ids, mask)

    def step(tokens: np.ndarray, new: np.ndarray) -> Tensor:
        x = model.decode(tokens if cache is None else new, memory, memory_mask, cache=cache)
        return model.lm_head(x[:, -1])

    return step


def choose(
    logits: np.ndarray,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """One token for each row of logits (B, V), float64; FloatingPointError where they are not finite."""
    if not np.isfinite(logits.max(axis=1)).all():
        raise FloatingPointError("generate: the logits hold NaN or infinity; did training blow up the weights?")
    if temperature == 0.0:
        return logits.argmax(axis=1)
    p = probabilities(logits, temperature, top_k, top_p)
    edges = np.cumsum(p, axis=1)
    # Below the last edge even after rounding: the first edge above u then ends a token of positive probability.
    u = np.minimum(rng.random((len(p), 1)) * edges[:, -1:], np.nextafter(edges[:, -1:], 0.0))
    return (edges <= u).sum(axis=1)


def probabilities(
    logits: np.ndarray, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """The distribution (B, V) that is drawn from: softmax(logits / temperature), cut to top_k, then top_p, rescaled."""
    with np.errstate(over="ignore"):  # a temperature near 0 sends all but the likeliest to -inf
        p = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
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


def _checked(
    model: Any, ids: np.ndarray, mask: np.ndarray | None, max_new_tokens: int, eos: int | None, pad: int | None
) -> np.ndarray | None:
    """Check the arguments of `stream` and return the mask as booleans."""
    if not (_has_encoder(model) or isinstance(getattr(model, "base_model", model), DecoderLM)):
        raise TypeError(f"generate needs a DecoderLM or an EncoderDecoder, got {type(model).__name__}")
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(f"generate: ids must be integers (B, T) with T at least 1, got {ids.dtype} {ids.shape}")
    mask = None if mask is None else checked_mask(mask, ids.shape)
    if mask is not None and not _has_encoder(model) and not mask[:, -1].all():
        raise ValueError("generate: a row ends in padding; pad on the left, so that the new tokens follow the text")
    if max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens must be at least 1, got {max_new_tokens}")
    vocab_size = model.config.vocab_size
    for name, token in (("eos", eos), ("pad", pad)):
        if token is not None and not 0 <= token < vocab_size:
            raise ValueError(f"generate: {name} must be a token id in 0 … {vocab_size - 1}, got {token}")
    if _has_encoder(model):
        _check_room(model.decoder_input, 1, max_new_tokens)
    else:
        _check_room(model.input, ids.shape[1] if mask is None else int(mask.sum(axis=1).max()), max_new_tokens)
    return mask


def _check_room(entry: TextInput, n_tokens: int, n_new: int) -> None:
    """ValueError where the positions do not suffice; the last token made needs none, since it is not read."""
    nothing = Tensor(entry.tokens.weight.data[None, :0])  # (1, 0, d)
    with no_grad():
        before = entry.prompted(nothing).shape[1] + entry.position_offset
    needed = before + n_tokens + n_new - 1
    if needed > entry.context:
        raise ValueError(
            f"generate: {n_tokens} tokens{f' behind {before} of a prompt or prefix' if before else ''} and {n_new} new "
            f"ones need {needed} positions, but the model's context has {entry.context}; "
            f"at most {max(entry.context - before - n_tokens + 1, 0)} new tokens fit"
        )


def _check_choice(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0.0 <= temperature < float("inf"):
        raise ValueError(f"generate: temperature must be 0 (the likeliest token) or above, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"generate: top_p must lie in (0, 1], got {top_p}")


def _install() -> None:
    """Give ``generate`` to the models that can generate, as ops/operators.py gives operators to tensors."""
    models: Any = DecoderLM, EncoderDecoder
    for model in models:
        model.generate = generate


_install()
