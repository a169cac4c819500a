"""The decoder-only language model, as GPT-2 has it and as Llama has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import generator
from minipeft.models.base import Config, Model
from minipeft.models.layouts.gpt2 import GPT2
from minipeft.models.layouts.layout import Layout
from minipeft.models.layouts.llama import LLAMA
from minipeft.models.stack import TransformerStack, head_loss, last_rows, rotary_tables
from minipeft.nn.layers import Linear
from minipeft.nn.transformer import Cache, TextInput


@dataclass(frozen=True)
class DecoderConfig(Config):
    """Sizes and choices of a decoder; `gpt2` and `llama` fill in the two known sets of choices."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    context: int = 1024
    n_kv_heads: int | None = None
    rotary: bool = False
    rope_theta: float = 10000.0
    norm: str = "layer"
    eps: float = 1e-5
    norm_first: bool = True
    activation: str = "gelu_tanh"
    gated: bool = False
    bias: bool = True
    tied: bool = True
    dropout: float = 0.0

    @classmethod
    def gpt2(
        cls,
        vocab_size: int = 50257,
        d_model: int = 768,
        n_layers: int = 12,
        n_heads: int = 12,
        context: int = 1024,
        **changes: Any,
    ) -> Self:
        """Return the choices of GPT-2: learned positions, LayerNorm, GELU by tanh, biases; GPT-2 small by default.

        Args:
            vocab_size: tokens, V.
            d_model: width, d.
            n_layers: layers, L.
            n_heads: attention heads.
            context: the longest sequence.
            changes: other fields of the class; d_ff is 4 d by default.

        Source: Radford et al. 2019.
        """
        return cls(vocab_size, d_model, n_layers, n_heads, changes.pop("d_ff", 4 * d_model), context, **changes)

    @classmethod
    def llama(
        cls,
        vocab_size: int = 49152,
        d_model: int = 576,
        n_layers: int = 30,
        n_heads: int = 9,
        n_kv_heads: int = 3,
        d_ff: int = 1536,
        context: int = 2048,
        **changes: Any,
    ) -> Self:
        """Return the choices of Llama: rotary positions, RMSNorm, SwiGLU, grouped queries; SmolLM2-135M by default.

        Args:
            vocab_size: tokens, V.
            d_model: width, d.
            n_layers: layers, L.
            n_heads: query heads.
            n_kv_heads: heads of keys and values; each serves n_heads / n_kv_heads query heads.
            d_ff: width of the feed-forward.
            context: the longest sequence.
            changes: other fields of the class.

        Source: Touvron et al. 2023.
        """
        choices: dict[str, Any] = {
            **{"rotary": True, "norm": "rms", "eps": 1e-5, "activation": "silu", "gated": True, "bias": False},
            **changes,
        }
        return cls(vocab_size, d_model, n_layers, n_heads, d_ff, context, n_kv_heads, **choices)


class DecoderLM(Model):
    """A causal language model: ids (B, T) -> logits (B, T, V)."""

    config_class = DecoderConfig
    tied_weights = ("input.tokens.weight", "lm_head.weight")
    labels_note = "labels are not shifted here: labels[:, t] is the token after ids[:, t]"

    if TYPE_CHECKING:  # generate.py gives it to the models that can generate

        def generate(self, ids: np.ndarray, mask: np.ndarray | None = None, **options: Any) -> np.ndarray: ...

    def __init__(self, config: DecoderConfig, rng: int | np.random.Generator = 0):
        rng = generator(rng)
        self.config = config
        self.input = TextInput(
            config.vocab_size, config.d_model, config.context, not config.rotary, dropout=config.dropout, rng=rng
        )
        self.stack = TransformerStack(config, causal=True, cross=False, rng=rng)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False, rng=rng)
        if config.tied:
            self.lm_head.weight = self.input.tokens.weight

    def hidden(self, ids: np.ndarray, mask: np.ndarray | None = None, cache: list[Cache] | None = None) -> Tensor:
        """Return the last hidden states (B, T, d) of ids (B, T); rows of a prompt are used and dropped.

        mask (B, T_all): True for real tokens, the cached ones included; padding may stand on either side.
        cache: from `nn.new_cache`, extended by these tokens.
        """
        start = cache[0].attention.length if cache else 0
        inputs = self.input(ids, mask, start)
        angles = None
        if self.config.rotary:
            head_dim = self.config.d_model // self.config.n_heads
            angles = rotary_tables(inputs.positions, head_dim, self.config.rope_theta, inputs.x.data)
        x = self.stack(inputs.x, inputs.mask, angles=angles, cache=cache)  # (B, P + T, d)
        return last_rows(x, ids.shape[1])

    def forward(self, ids: np.ndarray, mask: np.ndarray | None = None, cache: list[Cache] | None = None) -> Tensor:
        """Return the logits (B, T, V) of the next token after each of ids (B, T)."""
        return self.lm_head(self.hidden(ids, mask, cache))

    def loss(self, ids: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None) -> Tensor:
        """Return the mean cross-entropy in nats of labels (B, T): labels[:, t] follows ids[:, t], -100 is ignored."""
        return head_loss(self.hidden(ids, mask), self.lm_head, labels)

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        return {"gpt2": GPT2, "llama": LLAMA}

    def huggingface_type(self) -> str:
        c = self.config
        if c.norm_first and (c.rotary, c.norm, c.gated, c.bias) == (True, "rms", True, False):
            return "llama"
        if c.norm_first and (c.rotary, c.norm, c.gated, c.bias) == (False, "layer", False, True):
            return "gpt2"
        raise ValueError("Hugging Face has no layout for this DecoderLM: its choices are neither GPT-2's nor Llama's")
