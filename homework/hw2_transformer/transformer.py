"""The one Transformer layer: every model here is a stack of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, array_module, device_of, is_array, to_device
from minipeft.nn.attention import Angles, LayerCache, MultiHeadAttention
from minipeft.nn.layers import Dropout, Embedding, LayerNorm, Linear, RMSNorm, Seed, normal
from minipeft.nn.module import Module

NORMS = {"layer": LayerNorm, "rms": RMSNorm}


class FeedForward(Module):
    """down(f(up(x))), or down(f(gate(x)) ∘ up(x)) when gated: x (B, T, d) -> (B, T, d) through a width of d_ff."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: str = "gelu",
        gated: bool = False,
        bias: bool = True,
        rng: Seed = None,
    ):
        self.activation = activation
        self.gate_proj = Linear(d_model, d_ff, bias, rng) if gated else None
        self.up_proj = Linear(d_model, d_ff, bias, rng)
        self.down_proj = Linear(d_ff, d_model, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, d) -> (B, T, d); gated where ``gate_proj`` is there."""
        raise NotImplementedError("hw2.11: FeedForward.forward")


class Cache:
    """What one layer keeps while generating: the cache of its attention and of its cross-attention."""

    def __init__(self) -> None:
        self.attention = LayerCache()
        self.cross_attention = LayerCache()


def new_cache(n_layers: int) -> list[Cache]:
    """An empty cache for a stack of ``n_layers``."""
    return [Cache() for _ in range(n_layers)]


class TransformerLayer(Module):
    """Attention, (cross-attention,) feed-forward, each with its normalization and residual.

    norm_first: x + sublayer(norm(x)) as in GPT-2, Llama and ViT; otherwise norm(x + sublayer(x)) as in BERT.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        n_kv_heads: int | None = None,
        causal: bool = False,
        cross: bool = False,
        norm: str = "layer",
        eps: float = 1e-5,
        norm_first: bool = True,
        activation: str = "gelu",
        gated: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        rng: Seed = None,
    ):
        if norm not in NORMS:
            raise ValueError(f"unknown normalization {norm!r}; expected one of {sorted(NORMS)}")
        self.norm_first = norm_first
        self.attention = MultiHeadAttention(d_model, n_heads, n_kv_heads, causal, bias, rng)
        self.attention_norm = NORMS[norm](d_model, eps)
        self.cross_attention = MultiHeadAttention(d_model, n_heads, n_kv_heads, False, bias, rng) if cross else None
        self.cross_attention_norm = NORMS[norm](d_model, eps) if cross else None
        self.feed_forward = FeedForward(d_model, d_ff, activation, gated, bias, rng)
        self.feed_forward_norm = NORMS[norm](d_model, eps)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Array | None = None,
        memory: Tensor | None = None,
        memory_mask: Array | None = None,
        angles: Angles | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """x (B, T, d) -> (B, T, d); memory (B, S, d) for cross-attention, masks True where a query may look."""
        own, other = (None, None) if cache is None else (cache.attention, cache.cross_attention)
        x = self._residual(x, self.attention, self.attention_norm, mask=mask, angles=angles, cache=own)
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            crossed = {"memory": memory, "mask": memory_mask, "cache": other}
            x = self._residual(x, self.cross_attention, self.cross_attention_norm, **crossed)
        return self._residual(x, self.feed_forward, self.feed_forward_norm)

    def _residual(self, x: Tensor, sublayer: Module, norm: Module, **kwargs: Any) -> Tensor:
        """x and what the sublayer makes of it (called with ``kwargs``): normalized before it or behind the sum.

        The dropout acts on what the sublayer returns, not on x.
        """
        raise NotImplementedError("hw2.11: TransformerLayer._residual")


class SequenceInput(Module):
    """What makes a sequence of vectors; ``prompt`` may put rows before it, ``position_offset`` moves its positions.

    Both are empty here. Prompt tuning sets the one, prefix tuning (whose prefix takes the first positions) the other.
    """

    prompt: Module | None
    position_offset: int

    def __init__(self) -> None:
        self.prompt = None
        self.position_offset = 0

    def prompted(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, P + T, d), P the prompt's length, 0 without one."""
        return x if self.prompt is None else self.prompt(x)


@dataclass
class Inputs:
    """A sequence ready for the layers: x (B, T', d), its mask, its positions (T',) or (B, T')."""

    x: Tensor
    mask: Array | None
    positions: np.ndarray


class TextInput(SequenceInput):
    """Token ids -> vectors: token embedding, prompt, positions, token types, normalization, as far as each is there."""

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        context: int,
        learned_positions: bool = True,
        n_token_types: int = 0,
        norm: Module | None = None,
        dropout: float = 0.0,
        rng: Seed = None,
    ):
        super().__init__()
        self.context = context
        self.tokens = Embedding(vocab_size, d_model, rng)
        self.positions = Embedding(context, d_model, rng) if learned_positions else None
        self.token_types = Embedding(n_token_types, d_model, rng) if n_token_types else None
        self.norm = norm
        self.dropout = Dropout(dropout)

    def forward(
        self, ids: np.ndarray, mask: np.ndarray | None = None, start: int = 0, token_types: np.ndarray | None = None
    ) -> Inputs:
        """ids (B, T) -> Inputs.

        mask (B, T_all): boolean, True for real tokens, over the cached tokens and these; positions count real tokens,
        so padding on the left moves nothing. start: how many positions a cache holds already, the prompt's included.
        Raises ValueError for ids or a mask of another shape, a mask of other numbers than 0 and 1, and a sequence that
        is longer than the context.
        """
        if getattr(ids, "ndim", None) != 2:
            got = ids.shape if is_array(ids) else type(ids).__name__
            raise ValueError(f"ids must be an array of token ids of shape (B, T), one row a text; got {got}")
        x = self.tokens(ids)  # (B, T, d)
        if start == 0:
            x = self.prompted(x)  # (B, P + T, d)
        T = x.shape[1]
        if mask is not None:
            prompt = T - ids.shape[1] if start == 0 else self.prompted(x[:, :0]).shape[1]
            mask = checked_mask(mask, (len(ids), start + T - prompt))
            mask = np.pad(mask, ((0, 0), (prompt, 0)), constant_values=True)
            positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -T:]
        else:
            positions = np.arange(start, start + T)
        positions = positions + self.position_offset
        last = int(positions.max(initial=0))
        if last >= self.context:
            before = f", {self.position_offset} of them a prefix" if self.position_offset else ""
            raise ValueError(
                f"the sequence needs {last + 1} positions{before}, but the model's context has {self.context}; "
                "shorten the text, the prompt or the prefix"
            )
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.token_types is not None:
            types = np.zeros(ids.shape, dtype=np.int64) if token_types is None else token_types
            types = np.pad(types, ((0, 0), (T - ids.shape[1], 0)))
            x = x + self.token_types(types)
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x)
        return Inputs(x, None if mask is None else to_device(mask, device_of(x.data)), positions)


def checked_mask(mask: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return ``mask`` as booleans, True for real tokens.

    Raises ValueError for another shape, and for anything but booleans and whole numbers 0 and 1: in a mask that is
    added to scores, 0 means the opposite.
    """
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(f"the mask must have one entry for each token, shape {shape}, got {mask.shape}")
    whole = mask.dtype.kind in "biu"
    if not whole or (mask.size and not 0 <= mask.min() <= mask.max() <= 1):
        values = f" from {mask.min()} to {mask.max()}" if mask.size and mask.dtype.kind in "iuf" else ""
        raise ValueError(
            f"the mask must be boolean, or whole numbers 0 and 1, with True for real tokens; got {mask.dtype}{values}; "
            "for a mask that is added to scores, give mask == 0"
        )
    return mask.astype(bool)


class PatchInput(SequenceInput):
    """Images -> vectors: patches of p × p pixels, a class token in front, learned positions, then the prompt."""

    def __init__(self, image_size: int, patch_size: int, channels: int, d_model: int, rng: Seed = None):
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"an image of {image_size} pixels does not divide into patches of {patch_size}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.channels = channels
        self.patches = Linear(channels * patch_size**2, d_model, True, rng)
        self.class_token = normal(rng, (1, 1, d_model), 0.02)
        self.positions = normal(rng, (1, 1 + (image_size // patch_size) ** 2, d_model), 0.02)

    def forward(self, images: Array) -> Tensor:
        """images (B, C, H, W), or (B, H, W) for one channel -> (B, P + 1 + T, d), T = (H / p)(W / p)."""
        like = self.class_token.data
        images = to_device(images, device_of(like)).astype(like.dtype)
        if images.ndim == 3:
            images = images[:, None]
        expected = (self.channels, self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images must have shape (B, {', '.join(map(str, expected))}), got {images.shape}")
        B, C, H, W = images.shape
        p = self.patch_size
        grid = images.reshape(B, C, H // p, p, W // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(B, -1, C * p * p)
        x = self.patches(Tensor(array_module(grid).ascontiguousarray(grid)))  # (B, T, d)
        first = ops.broadcast_to(self.class_token, (B, 1, x.shape[2]))
        x = ops.concatenate([first, x], axis=1) + self.positions  # (B, 1 + T, d)
        return self.prompted(x)
