"""The small layers: linear, normalization, embedding, dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

import numpy as np

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, generator
from minipeft.nn.module import Module

Seed = int | np.random.Generator | None


def parameter(values: Array) -> Tensor:
    """A trainable tensor, float32."""
    return Tensor(values.astype(np.float32), requires_grad=True)


def normal(rng: Seed, shape: tuple[int, ...], std: float) -> Tensor:
    """A trainable tensor drawn from N(0, std²); ``rng`` None takes fresh entropy."""
    return parameter(generator(np.random.default_rng() if rng is None else rng).standard_normal(shape) * std)


class Linear(Module):
    """z = x Wᵀ + b: x (..., in_features) -> (..., out_features); W (out, in) ~ N(0, 1/in), b = 0."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, rng: Seed = None):
        if in_features < 1 or out_features < 1:
            raise ValueError(f"Linear needs positive sizes, got {in_features} and {out_features}")
        self.in_features = in_features
        self.out_features = out_features
        self.weight = normal(rng, (out_features, in_features), in_features**-0.5)
        self.bias = parameter(np.zeros(out_features)) if bias else None

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> Self:
        """Return the layer with weight (out, in) and bias (out,), which are not copied."""
        layer = cls.__new__(cls)
        layer.out_features, layer.in_features = weight.shape
        layer.weight = weight
        layer.bias = bias
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class LayerNorm(Module):
    """γ (x - mean) / √(var + ε) + β over the last axis, of size d."""

    def __init__(self, d: int, eps: float = 1e-5):
        self.eps = eps
        self.weight = parameter(np.ones(d))
        self.bias = parameter(np.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """γ x / √(mean(x²) + ε) over the last axis, of size d."""

    def __init__(self, d: int, eps: float = 1e-6):
        self.eps = eps
        self.weight = parameter(np.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class Embedding(Module):
    """Rows of a table (n, d) ~ N(0, 0.02²): ids (...) -> (..., d)."""

    def __init__(self, n: int, d: int, rng: Seed = None):
        self.weight = normal(rng, (n, d), 0.02)

    @classmethod
    def from_weight(cls, weight: Tensor) -> Self:
        """Return the embedding with the table weight (n, d), which is not copied."""
        layer = cls.__new__(cls)
        layer.weight = weight
        return layer

    def forward(self, ids: Array) -> Tensor:
        return ops.embedding(self.weight, ids)


_stream: ContextVar[np.random.Generator | None] = ContextVar("dropout_stream", default=None)


@contextmanager
def random_stream(rng: int | np.random.Generator) -> Iterator[None]:
    """The generator that dropout draws from inside (in this thread)."""
    token = _stream.set(generator(rng))
    try:
        yield
    finally:
        _stream.reset(token)


def current_stream() -> np.random.Generator | None:
    """The generator of the `random_stream` around the call, None outside of one."""
    return _stream.get()


class Dropout(Module):
    """Zero a fraction p of the entries in training mode; the masks come from the `random_stream` around the call.

    Raises RuntimeError in training mode outside a `random_stream` (training steps open one from their seed).
    """

    def __init__(self, p: float = 0.0):
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout: p must lie in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        rng = _stream.get()
        if rng is None:
            raise RuntimeError(
                "dropout in training mode needs a generator: call inside `with nn.random_stream(seed):`, "
                "or switch it off with model.eval()"
            )
        return ops.dropout(x, self.p, rng)
