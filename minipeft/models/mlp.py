"""The network of the intrinsic-dimension study: 784-200-200-10 on MNIST, D = 199,210 (Li et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, device_of, generator, to_device
from minipeft.models.base import Config, Model
from minipeft.nn.layers import Linear


@dataclass(frozen=True)
class MLPConfig(Config):
    """sizes: of the input, the hidden layers and the output."""

    sizes: tuple[int, ...] = (784, 200, 200, 10)
    activation: str = "relu"


class MLP(Model):
    """x (B, sizes[0]) -> logits (B, sizes[-1]); takes its sizes or an `MLPConfig`."""

    config_class = MLPConfig

    def __init__(self, config: MLPConfig | Sequence[int] = (784, 200, 200, 10), rng: int | np.random.Generator = 0):
        config = config if isinstance(config, MLPConfig) else MLPConfig(tuple(config))
        if len(config.sizes) < 2:
            raise ValueError(f"an MLP needs at least an input and an output size, got {config.sizes}")
        rng = generator(rng)
        self.config = config
        self.layers = [Linear(k, d, rng=rng) for k, d in zip(config.sizes[:-1], config.sizes[1:], strict=True)]

    def forward(self, x: Array) -> Tensor:
        """Return the logits (B, C) of x (B, ...), flattened to (B, sizes[0])."""
        like = next(self.parameters()).data
        x = to_device(x, device_of(like)).astype(like.dtype)
        z = Tensor(x.reshape(len(x), -1))
        for layer in self.layers[:-1]:
            z = ops.activation(layer(z), self.config.activation)
        return self.layers[-1](z)

    def loss(self, x: Array, labels: np.ndarray) -> Tensor:
        """Return the mean cross-entropy in nats of labels (B,)."""
        return ops.cross_entropy(self.forward(x), labels)
