"""What all models share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from minipeft import ops
from minipeft.array import Array, device_of, to_device, to_numpy
from minipeft.autograd import Tensor
from minipeft.files.atomic import atomic_folder
from minipeft.files.cache import cached
from minipeft.files.config import dataclass_from_json, read_json, write_json
from minipeft.files.errors import FileError
from minipeft.files.safetensors import read_safetensors, write_safetensors
from minipeft.models.huggingface import Layout, read_checkpoint
from minipeft.nn.attention import Angles
from minipeft.nn.layers import LayerNorm, Linear, RMSNorm
from minipeft.nn.module import Module
from minipeft.nn.transformer import NORMS, Cache, TransformerLayer


class Model(Module):
    """A model with a configuration: ``config``, of type ``config_class``, holds all that is needed to build it again."""

    config: Any
    config_class: ClassVar[type]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, under our own names, to ``folder``, all or nothing."""
        settings = {"model_type": "minipeft", "model_class": type(self).__name__, **asdict(self.config)}
        arrays = {name: to_numpy(x) for name, x in self.state_dict().items()}
        with atomic_folder(folder) as target:
            write_json(target / "config.json", settings)
            write_safetensors(target / "model.safetensors", arrays, {"format": "minipeft"})

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """The model in a folder: ours (from `save_pretrained`), or Hugging Face's (config.json and safetensors).

        ``source`` is a folder, or the name of something that `minipeft fetch` got.
        Raises FileError for a folder that is missing, broken, or of another kind of model.
        """
        folder = Path(source)
        if not folder.exists():
            folder = cached(str(source)) or folder
        if not folder.is_dir():
            raise FileError(f"{source}: expected a folder with config.json, or a name that `minipeft fetch` got")
        settings = read_json(folder / "config.json")
        kind = settings.pop("model_type", None)
        if kind == "minipeft":
            name = settings.pop("model_class", None)
            if name != cls.__name__:
                raise FileError(f"{folder} holds a {name}; load it with {name}.from_pretrained")
            model = cls(dataclass_from_json(cls.config_class, settings, folder / "config.json"))
            arrays, _ = read_safetensors(folder / "model.safetensors")
        else:
            layout = cls.layouts().get(kind)
            if layout is None:
                raise FileError(
                    f"{folder / 'config.json'}: model_type {kind!r} is no {cls.__name__}; "
                    f"expected one of {['minipeft', *cls.layouts()]}"
                )
            model = cls(layout.config(settings, folder / "config.json"))
            arrays = layout.arrays(model, read_checkpoint(folder), folder)
        try:
            model.load_state_dict(arrays)
        except (KeyError, ValueError) as error:
            raise FileError(f"{folder}: {error.args[0]}") from error
        return model.eval()

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """The Hugging Face layouts that this class reads, by their model_type."""
        return {}


class Stack(Module):
    """Transformer layers on top of each other, and the normalization after the last (none for post-norm)."""

    def __init__(self, config: Any, causal: bool, cross: bool, rng: np.random.Generator):
        self.layers = [
            TransformerLayer(
                config.d_model,
                config.n_heads,
                config.d_ff,
                n_kv_heads=getattr(config, "n_kv_heads", None),
                causal=causal,
                cross=cross,
                norm=config.norm,
                eps=config.eps,
                norm_first=config.norm_first,
                activation=config.activation,
                gated=getattr(config, "gated", False),
                bias=getattr(config, "bias", True),
                dropout=config.dropout,
                rng=rng,
            )
            for _ in range(config.n_layers)
        ]
        self.norm: LayerNorm | RMSNorm | None = NORMS[config.norm](config.d_model, config.eps) if config.norm_first else None

    def forward(
        self,
        x: Tensor,
        mask: Array | None = None,
        memory: Tensor | None = None,
        memory_mask: Array | None = None,
        angles: Angles | None = None,
        cache: list[Cache] | None = None,
    ) -> Tensor:
        """x (B, T, d) -> (B, T, d)."""
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, memory, memory_mask, angles, None if cache is None else cache[i])
        return x if self.norm is None else self.norm(x)


def rotary_tables(positions: np.ndarray, head_dim: int, theta: float, like: Array) -> Angles:
    """cos and sin for ``positions`` (T,) or (B, T), on the device and in the type of ``like``."""
    cos, sin = ops.rotary_angles(positions, head_dim, theta)
    if positions.ndim == 2:
        cos, sin = cos[:, None], sin[:, None]  # (B, 1, T, D/2)
    return to_device(cos.astype(like.dtype), device_of(like)), to_device(sin.astype(like.dtype), device_of(like))


def last_rows(x: Tensor, T: int) -> Tensor:
    """The last T rows of x (B, P + T, d): what remains when a prompt's rows are dropped."""
    return x if x.shape[1] == T else x[:, x.shape[1] - T :]


def head_loss(x: Tensor, head: Any, labels: np.ndarray) -> Tensor:
    """Cross-entropy of ``head(x)``, by blocks of rows where the head is a plain linear layer."""
    if type(head) is Linear:
        return ops.linear_cross_entropy(x, head.weight, labels, head.bias)
    return ops.cross_entropy(head(x), labels)
