"""The Vision Transformer: an image is a sequence of patches (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, generator
from minipeft.models.base import Config, Model
from minipeft.models.layouts.layout import Layout
from minipeft.models.layouts.vit import VIT
from minipeft.models.pretrained import PretrainedSource
from minipeft.models.stack import TransformerStack, last_rows
from minipeft.nn.layers import Linear
from minipeft.nn.transformer import PatchInput


@dataclass(frozen=True)
class ViTConfig(Config):
    """Sizes of a ViT; the defaults are ViT-B/16's. image_size and patch_size in pixels."""

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    n_classes: int = 1000
    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 12
    d_ff: int = 3072
    norm: str = "layer"
    eps: float = 1e-12
    norm_first: bool = True
    activation: str = "gelu"
    dropout: float = 0.0


class ViT(Model):
    """Images (B, C, H, W) -> logits (B, n_classes), read off the class token."""

    config_class = ViTConfig

    def __init__(self, config: ViTConfig, rng: int | np.random.Generator = 0):
        rng = generator(rng)
        self.config = config
        self.input = PatchInput(config.image_size, config.patch_size, config.channels, config.d_model, rng)
        self.stack = TransformerStack(config, causal=False, cross=False, rng=rng)
        self.classifier = Linear(config.d_model, config.n_classes, rng=rng)

    def hidden(self, images: Array) -> Tensor:
        """Return the last hidden states (B, 1 + T, d), class token first; rows of a prompt are used and dropped."""
        return last_rows(self.stack(self.input(images)), self.input.positions.shape[1])

    def forward(self, images: Array) -> Tensor:
        """Return the logits (B, n_classes)."""
        return self.classifier(self.hidden(images)[:, 0])

    def loss(self, images: Array, labels: np.ndarray) -> Tensor:
        """Return the mean cross-entropy in nats of labels (B,)."""
        return ops.cross_entropy(self.forward(images), labels)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, n_classes: int | None = None, rng: int | np.random.Generator = 0
    ) -> Self:
        """Return the model in a folder; if ``n_classes`` is given, under a new head of n classes, drawn from ``rng``.

        Raises FileError as `Model.from_pretrained` does.
        """
        opened = PretrainedSource.open(source)
        config = opened.config_of(cls)
        if n_classes is None:
            return opened.build(cls, config).filled(opened)
        model = opened.build(cls, replace(config, n_classes=n_classes))
        model.classifier = Linear(config.d_model, n_classes, rng=generator(rng))
        return model.filled(opened, new="classifier.")

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        return {"vit": VIT}
