"""The encoder-decoder Transformer, in BART's layout (Lewis et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import Array, generator
from minipeft.models.base import Config, Model
from minipeft.models.layouts.bart import BART
from minipeft.models.layouts.layout import Layout
from minipeft.models.stack import TransformerStack, head_loss, last_rows
from minipeft.nn.layers import LayerNorm, Linear, parameter
from minipeft.nn.transformer import Cache, TextInput
from minipeft.ops.loss import IGNORED


@dataclass(frozen=True)
class EncoderDecoderConfig(Config):
    """Sizes and choices; n_layers of each, encoder and decoder.

    start: the id that a target begins with. tied: one token table for the encoder, the decoder and the head.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    context: int = 1024
    norm: str = "layer"
    eps: float = 1e-5
    norm_first: bool = False
    activation: str = "gelu"
    dropout: float = 0.0
    start: int = 2
    pad: int = 1
    tied: bool = True


class EncoderDecoder(Model):
    """Source ids (B, S) and target ids (B, T) -> logits (B, T, V)."""

    config_class = EncoderDecoderConfig
    tied_weights = ("encoder_input.tokens.weight", "decoder_input.tokens.weight", "lm_head.weight")

    if TYPE_CHECKING:  # generate.py gives it to the models that can generate

        def generate(self, ids: np.ndarray, mask: np.ndarray | None = None, **options: Any) -> np.ndarray: ...

    def __init__(self, config: EncoderDecoderConfig, rng: int | np.random.Generator = 0):
        rng = generator(rng)
        self.config = config
        self.encoder_input = self._text_input(rng)
        self.encoder = TransformerStack(config, causal=False, cross=False, rng=rng)
        self.decoder_input = self._text_input(rng)
        self.decoder = TransformerStack(config, causal=True, cross=True, rng=rng)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False, rng=rng)
        if config.tied:
            self.decoder_input.tokens.weight = self.lm_head.weight = self.encoder_input.tokens.weight
        self.lm_head.bias = parameter(np.zeros(config.vocab_size))

    def _text_input(self, rng: np.random.Generator) -> TextInput:
        c = self.config
        norm = None if c.norm_first else LayerNorm(c.d_model, c.eps)
        return TextInput(c.vocab_size, c.d_model, c.context, norm=norm, dropout=c.dropout, rng=rng)

    def encode(self, ids: np.ndarray, mask: np.ndarray | None = None) -> tuple[Tensor, Array | None]:
        """Return the memory (B, S', d) of source ids (B, S), the rows of a prompt included, and its mask (B, S')."""
        inputs = self.encoder_input(ids, mask)
        return self.encoder(inputs.x, inputs.mask), inputs.mask

    def decode(
        self,
        target_ids: np.ndarray,
        memory: Tensor,
        memory_mask: Array | None = None,
        target_mask: np.ndarray | None = None,
        cache: list[Cache] | None = None,
    ) -> Tensor:
        """Return the hidden states (B, T, d) of target ids that attend to the memory.

        Args:
            target_ids: (B, T).
            memory: (B, S', d), from `encode`.
            memory_mask: (B, S'), from `encode`.
            target_mask: (B, T), True for real tokens; by default all.
            cache: from `nn.new_cache`, extended by these tokens.
        """
        start = cache[0].attention.length if cache else 0
        inputs = self.decoder_input(target_ids, target_mask, start)
        x = self.decoder(inputs.x, inputs.mask, memory, memory_mask, cache=cache)
        return last_rows(x, target_ids.shape[1])

    def forward(
        self,
        ids: np.ndarray,
        target_ids: np.ndarray,
        mask: np.ndarray | None = None,
        target_mask: np.ndarray | None = None,
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each of target_ids.

        Args:
            ids: the source, (B, S).
            target_ids: (B, T).
            mask: (B, S), True for real tokens; by default all.
            target_mask: (B, T), True for real tokens; by default all.
        """
        return self.lm_head(self.decode(target_ids, *self.encode(ids, mask), target_mask=target_mask))

    def loss(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        mask: np.ndarray | None = None,
        target_ids: np.ndarray | None = None,
    ) -> Tensor:
        """Return the mean cross-entropy in nats.

        Args:
            ids: the source, (B, S).
            labels: (B, T), -100 is ignored.
            mask: (B, S), True for real tokens; by default all.
            target_ids: (B, T), what the decoder reads; by default the labels `shifted`.
        """
        if target_ids is None:
            target_ids = self.shifted(labels)
        return head_loss(self.decode(target_ids, *self.encode(ids, mask)), self.lm_head, labels)

    def shifted(self, labels: np.ndarray) -> np.ndarray:
        """Return what the decoder reads to predict ``labels``: the start token, then all but the last, -100 as pad."""
        first = np.full((len(labels), 1), self.config.start, dtype=labels.dtype)
        moved = np.concatenate([first, labels[:, :-1]], axis=1)
        return np.where(moved == IGNORED, self.config.pad, moved)

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        return {"bart": BART}
