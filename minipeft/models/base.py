"""The base classes of models and their configurations: saving, loading, settings of attention."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from minipeft import hints
from minipeft.backend import Array, to_numpy
from minipeft.files.config import write_json
from minipeft.files.safetensors import write_safetensors
from minipeft.files.sets import file_set
from minipeft.models.arguments import takes_lists
from minipeft.models.layouts.layout import Layout
from minipeft.models.pretrained import PretrainedSource
from minipeft.models.stack import TransformerStack
from minipeft.nn.attention import ScaledDotProduct
from minipeft.nn.module import HAS_METHOD, Module, find


class Config:
    """The base class of the models' configurations; it answers Hugging Face's names."""

    if not TYPE_CHECKING:  # a type checker would believe in every attribute

        def __getattr__(self, name: str) -> Any:
            own = {f.name for f in fields(self)}
            raise hints.missing(self, name, {k: f"use config.{v}" for k, v in hints.CONFIG.items() if v in own})


class Model(Module):
    """A model with a configuration: ``config``, of type ``config_class``, holds all that is needed to build it again.

    Attributes:
        inside: the other models that contain a model of this class, {class name: path}.
        tied_weights: the paths that hold one tensor if ``config.tied``.
        labels_note: what the labels of ``loss`` are, if Hugging Face's differ.
        classes: all models by class name.
    """

    config: Any
    config_class: ClassVar[type]
    inside: ClassVar[dict[str, str]] = {}
    tied_weights: ClassVar[tuple[str, ...]] = ()
    labels_note: ClassVar[str] = ""
    classes: ClassVar[dict[str, type[Model]]] = {}

    def __init_subclass__(cls) -> None:
        Model.classes[cls.__name__] = cls
        own: Any = cls
        if "forward" in vars(cls):
            own.forward = takes_lists(own.forward)
        if "loss" in vars(cls):
            own.loss = takes_lists(own.loss, translate=False, note=cls.labels_note)

    def __init__(self, config: Any, rng: int | np.random.Generator = 0):
        raise NotImplementedError(f"{type(self).__name__} defines no __init__")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, with minipeft's names of tensors, into ``folder``, all or nothing.

        Weights that were tied and have become different tensors (by merging an adapter of one of them) are all written,
        and config.json says that the model is not tied.
        Other files of the folder stay as they are. Raises FileError if it cannot be written.
        """
        config, state = self._saved()
        settings = {"model_type": "minipeft", "model_class": type(self).__name__, **asdict(config)}
        arrays = {name: to_numpy(x) for name, x in state.items()}
        with file_set(folder) as target:
            write_json(target / "config.json", settings)
            write_safetensors(target / "model.safetensors", arrays, {"format": "minipeft"})

    def _saved(self) -> tuple[Any, dict[str, Array]]:
        """Return the configuration and the arrays of the model as it is now; ValueError under an adapter."""
        if vars(self).get(HAS_METHOD):
            raise ValueError(
                f"this {type(self).__name__} has an adapter: save the adapter with PeftModel.save_pretrained, or "
                "merge_and_unload() it first"
            )
        weights = {path: find(self, path) for path in self.tied_weights}
        if not getattr(self.config, "tied", False) or len(set(map(id, weights.values()))) == 1:
            return self.config, self.state_dict()
        state = self.state_dict() | {path: p.data for path, p in weights.items()}
        return replace(self.config, tied=False), state

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Return the model in a folder of `save_pretrained`, or of Hugging Face (config.json and safetensors).

        ``source`` is a folder, a GGUF file, or the name of something that `minipeft fetch` got.
        `Model.from_pretrained` itself takes the class that the folder names.
        Raises FileError for a folder that is missing, broken, or of another kind of model.
        """
        opened = PretrainedSource.open(source)
        if cls is Model:
            loaded: Self = opened.named_class(Model.classes).from_pretrained(source)
        else:
            loaded = opened.build(cls, opened.config_of(cls)).filled(opened)
        return loaded

    def filled(self, source: PretrainedSource, new: str = "") -> Self:
        """Load the source's weights, except for paths that begin with ``new``; return the model in evaluation mode.

        Raises FileError if the weights do not fit; nothing is written then.
        """
        source.fill(self, source.arrays_of(self, new))
        return self.eval()

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """Return the Hugging Face layouts that this class reads, by model_type."""
        return {}

    def huggingface_type(self) -> str:
        """Return the model_type that this model has at Hugging Face; ValueError if it has none."""
        types = list(self.layouts())
        if len(types) != 1:
            raise ValueError(f"Hugging Face has no layout for this {type(self).__name__}")
        return types[0]

    def set_attention(self, kind: str, block: int = 128) -> Self:
        """Choose how attention works: "full" keeps each head's (N, S) matrix, "blockwise" recomputes it block by block.

        Both are exact. block: keys. Raises ValueError for another kind or a block below 1.
        """
        if kind not in ("full", "blockwise") or block < 1:
            raise ValueError(
                f'attention is "full" or "blockwise" with a block of at least 1 key, got {kind!r}, {block}'
            )
        for _, module in self.named_modules():
            if isinstance(module, ScaledDotProduct):
                module.block = block if kind == "blockwise" else None
        return self

    def gradient_checkpointing(self, on: bool = True) -> Self:
        """Keep only each layer's input for the backward, and recompute the rest there (Chen et al. 2016).

        One forward more in each backward; the same gradients to the bit.
        """
        for _, module in self.named_modules():
            if isinstance(module, TransformerStack):
                module.recompute = on
        return self
