"""The Vision Transformer: an image is a sequence of patches (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, generator
from minipeft.models.base import Config, Folder, Model, Stack, last_rows
from minipeft.models.fields import activation
from minipeft.models.fields import n_classes as classes_of
from minipeft.models.huggingface import Layout, Row, both
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
        self.stack = Stack(config, causal=False, cross=False, rng=rng)
        self.classifier = Linear(config.d_model, config.n_classes, rng=rng)

    def hidden(self, images: Array) -> Tensor:
        """The last hidden states (B, 1 + T, d), class token first; rows of a prompt are used and dropped."""
        return last_rows(self.stack(self.input(images)), self.input.positions.shape[1])

    def forward(self, images: Array) -> Tensor:
        """Logits (B, n_classes)."""
        return self.classifier(self.hidden(images)[:, 0])

    def loss(self, images: Array, labels: np.ndarray) -> Tensor:
        """The mean cross-entropy in nats of labels (B,)."""
        return ops.cross_entropy(self.forward(images), labels)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, n_classes: int | None = None, rng: int | np.random.Generator = 0
    ) -> Self:
        """The model in a folder; with ``n_classes`` given, under a new head of so many classes, drawn from ``rng``.

        Raises FileError as `Model.from_pretrained` does.
        """
        folder = Folder.open(source)
        config = folder.config_of(cls)
        if n_classes is None:
            return folder.build(cls, config).filled(folder)
        model = folder.build(cls, replace(config, n_classes=n_classes))
        model.classifier = Linear(config.d_model, n_classes, rng=generator(rng))
        return model.filled(folder, new="classifier.")

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        return {"vit": VIT}


VIT = Layout(
    make=ViTConfig,
    fields={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "channels": "num_channels",
        "n_classes": classes_of,
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "eps": "layer_norm_eps",
        "activation": activation("hidden_act"),
    },
    fixed={"qkv_bias": (True,)},
    rows=(
        Row("input.class_token", "embeddings.cls_token"),
        Row("input.positions", "embeddings.position_embeddings"),
        *both("input.patches", "embeddings.patch_embeddings.projection", "matrix"),
        *both("stack.layers.{l}.attention_norm", "layers.{l}.layernorm_before"),
        *both("stack.layers.{l}.attention.q_proj", "layers.{l}.attention.q_proj"),
        *both("stack.layers.{l}.attention.k_proj", "layers.{l}.attention.k_proj"),
        *both("stack.layers.{l}.attention.v_proj", "layers.{l}.attention.v_proj"),
        *both("stack.layers.{l}.attention.out_proj", "layers.{l}.attention.o_proj"),
        *both("stack.layers.{l}.feed_forward_norm", "layers.{l}.layernorm_after"),
        *both("stack.layers.{l}.feed_forward.up_proj", "layers.{l}.mlp.fc1"),
        *both("stack.layers.{l}.feed_forward.down_proj", "layers.{l}.mlp.fc2"),
        *both("stack.norm", "layernorm"),
        *both("classifier", "classifier"),
    ),
    base="vit.",
    heads=("classifier.",),
    ignored=(r"pooler\..*",),
    aliases=(  # names of transformers before version 5
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    ),
)
