"""What all models share."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from minipeft import hints, ops
from minipeft.autograd import Tensor
from minipeft.backend import Array, device_of, to_device, to_numpy
from minipeft.files.cache import cached
from minipeft.files.causes import no_folder, wrong_folder
from minipeft.files.config import dataclass_from_json, read_json, write_json
from minipeft.files.errors import FileError
from minipeft.files.gguf import GGUF, read_gguf
from minipeft.files.safetensors import read_safetensors, safetensors_header, write_safetensors
from minipeft.files.sets import current, file_set
from minipeft.models.arguments import takes_lists
from minipeft.models.gguf import gguf_arrays, gguf_settings, gguf_sizes
from minipeft.models.huggingface import Layout, Settings, checkpoint_files, read_checkpoint
from minipeft.nn.attention import Angles, ScaledDotProduct
from minipeft.nn.checkpoint import checkpoint
from minipeft.nn.layers import Linear
from minipeft.nn.module import HAS_METHOD, Module, find
from minipeft.nn.transformer import NORMS, Cache, TransformerLayer


class Config:
    """The base class of the models' configurations; it answers Hugging Face's names."""

    if not TYPE_CHECKING:  # a type checker would believe in every attribute

        def __getattr__(self, name: str) -> Any:
            own = {f.name for f in fields(self)}
            raise hints.missing(self, name, {k: f"use config.{v}" for k, v in hints.CONFIG.items() if v in own})


class Model(Module):
    """A model with a configuration: ``config``, of type ``config_class``, holds all that is needed to build it again.

    ``inside``: the other models that contain a model of this class, {class name: path}. ``tied_weights``: the paths
    that hold one tensor if ``config.tied``.
    """

    config: Any
    config_class: ClassVar[type]
    inside: ClassVar[dict[str, str]] = {}
    tied_weights: ClassVar[tuple[str, ...]] = ()
    classes: ClassVar[dict[str, type[Model]]] = {}

    labels_note: ClassVar[str] = ""  # what the labels of `loss` are, where Hugging Face's differ

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
        folder = Folder.open(source)
        if cls is Model:
            return folder.named_class().from_pretrained(source)
        return folder.build(cls, folder.config_of(cls)).filled(folder)

    def filled(self, folder: Folder, new: str = "") -> Self:
        """Load the folder's weights, except for paths that begin with ``new``; return the model in evaluation mode.

        Raises FileError if the weights do not fit; nothing is written then.
        """
        folder.fill(self, folder.arrays_of(self, new))
        return self.eval()

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """The Hugging Face layouts that this class reads, by their model_type."""
        return {}

    def huggingface_type(self) -> str:
        """Return the model_type that this model has at Hugging Face; ValueError if it has none."""
        types = list(self.layouts())
        if len(types) != 1:
            raise ValueError(f"Hugging Face has no layout for this {type(self).__name__}")
        return types[0]

    def set_attention(self, kind: str, block: int = 128) -> Self:
        """How attention works: "full" keeps each head's (N, S) matrix, "blockwise" computes it anew, by ``block`` keys.

        Both are exact. Raises ValueError for another kind or a block below 1.
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
        """Keep only each layer's input for the backward, and compute the rest of it anew there (Chen et al. 2016).

        One forward more in each backward; the same gradients to the bit.
        """
        for _, module in self.named_modules():
            if isinstance(module, Stack):
                module.recompute = on
        return self


M = TypeVar("M", bound=Model)
GGUF_NAME = "model.gguf"  # in the folder of something fetched
ADAPTERS = [
    (name, "an adapter; load the model that it was trained on, and then PeftModel.from_pretrained(model, folder)")
    for name in ("minipeft_config.json", "adapter_config.json")
]


@dataclass(frozen=True)
class Folder:
    """A folder with a model, or a GGUF file: its path, model_type, class in minipeft or None, and other settings."""

    path: Path
    model_type: str | None
    model_class: str | None
    settings: Settings
    gguf: GGUF | None = None

    @classmethod
    def open(cls, source: str | Path) -> Folder:
        """Read the settings of a folder, or of something fetched, by its name; FileError if there is none."""
        path = Path(source)
        if not path.exists():
            path = cached(str(source)) or path
        gguf = path / GGUF_NAME if path.is_dir() else path
        if gguf.is_file():
            opened = read_gguf(gguf)
            settings = gguf_settings(opened)
            return cls(gguf, settings.pop("model_type"), None, settings, opened)
        if not path.is_dir():
            raise no_folder(source, "a folder with config.json, a GGUF file, or a name that `minipeft fetch` got")
        if not current(path / "config.json").exists():
            ggufs = [(f.name, f"a GGUF file is given by its own name, {f}") for f in sorted(path.glob("*.gguf"))]
            raise wrong_folder(path, ["config.json"], [*ADAPTERS, *ggufs], "from_pretrained('{}')")
        settings = read_json(path / "config.json")
        kind, ours = (
            x if isinstance(x := settings.pop(key, None), str) else None for key in ("model_type", "model_class")
        )
        return cls(path, kind, ours, settings)

    @property
    def settings_file(self) -> Path:
        return self.path / "config.json" if self.gguf is None else self.path

    def checkpoint(self) -> dict[str, np.ndarray]:
        """The tensors of a folder or file that is not ours, under Hugging Face's names."""
        return read_checkpoint(self.path) if self.gguf is None else gguf_arrays(self.gguf)

    @property
    def is_ours(self) -> bool:
        return self.model_type == "minipeft"

    def named_class(self) -> Any:
        """Return minipeft's class for the settings; FileError if there is none."""
        if self.is_ours and self.model_class in Model.classes:
            return Model.classes[self.model_class]
        fitting = {c: c.layouts()[self.model_type] for c in Model.classes.values() if self.model_type in c.layouts()}
        for model_class, layout in fitting.items():
            if self.is_a(layout.architecture):
                return model_class
        for model_class, layout in fitting.items():
            if layout.bare or len(fitting) == 1:
                return model_class
        if self.is_ours:
            what, known = f"model_class {self.model_class!r}", set(Model.classes)
        else:
            kinds = (kind for c in Model.classes.values() for kind in c.layouts())
            what, known = f"model_type {self.model_type!r}", {"minipeft", *kinds}
        raise FileError(f"{self.settings_file}: nothing is known of {what}; expected one of {sorted(known)}")

    def is_a(self, architecture: str) -> bool:
        """Return whether a Hugging Face folder says that it holds a model of the class ``architecture``."""
        architectures = self.settings.get("architectures")
        return isinstance(architectures, list) and architecture in architectures

    def config_of(self, model_class: type[Model]) -> Any:
        """Return the configuration of the model of this class in the folder; FileError if there is none."""
        file = self.settings_file
        if not self.is_ours:
            return self._layout(model_class).config(model_class.config_class, self.settings, file)
        settings = self.settings
        if self._part(model_class):  # the whole model's settings, the part's own among them
            own = {f.name for f in fields(model_class.config_class)}
            settings = {name: value for name, value in settings.items() if name in own}
        return dataclass_from_json(model_class.config_class, settings, file)

    def build(self, model_class: type[M], *args: Any) -> M:
        """Return the model of the arguments, with zeros for weights; FileError if its sizes make no model."""
        try:
            self._check_sizes(args[0])
            return model_class(*args, **{"rng": Undrawn()})
        except (ValueError, ArithmeticError, MemoryError) as error:
            raise FileError(
                f"{self.settings_file}: no {model_class.__name__} has these sizes ({error}){self._told()}"
            ) from error

    def _check_sizes(self, config: Any) -> None:
        """Raise ValueError for sizes that the tensors cannot fill, before anything is built of them."""
        if self.gguf is not None:
            sizes = [math.prod(entry.shape) for entry in self.gguf.entries.values()]
        else:
            own = self.path / "model.safetensors"
            files = [own] if self.is_ours else checkpoint_files(self.path)
            sizes = [math.prod(entry.shape) for f in files for entry in safetensors_header(f)[0].values()]
        free = {"context"} if getattr(config, "rotary", False) else set()  # it has no table of positions
        for name in {f.name for f in fields(config)} - free if sizes else ():
            value, bound = getattr(config, name), len(sizes) if name == "n_layers" else sum(sizes)
            if isinstance(value, int) and value > bound:
                raise ValueError(
                    f"{name} is {value}, but the {len(sizes)} tensors have {sum(sizes)} numbers in all; the settings "
                    "are of another model, or damaged"
                )

    def _told(self) -> str:
        """Return the sizes in a foreign file, by the names that they have there, for a message."""
        if self.gguf is not None:
            return f": {gguf_sizes(self.gguf)}"
        layouts = [c.layouts()[self.model_type] for c in Model.classes.values() if self.model_type in c.layouts()]
        return f": {layouts[0].told(self.settings)}" if layouts else ""

    def arrays_of(self, model: Model, new: str = "") -> dict[str, np.ndarray]:
        """The model's arrays by our paths; those whose paths begin with ``new`` as the model has them."""
        if not self.is_ours:
            return self._layout(type(model)).arrays(model, self.checkpoint(), self.path, new)
        part = self._part(type(model))
        arrays = {name.removeprefix(part): x for name, x in self.own_arrays().items() if name.startswith(part)}
        if new:
            own = {name: to_numpy(x) for name, x in model.state_dict().items() if name.startswith(new)}
            arrays = {name: x for name, x in arrays.items() if not name.startswith(new)} | own
        return arrays

    def own_arrays(self) -> dict[str, np.ndarray]:
        """All arrays in a folder of ours, by their paths in the model that was saved."""
        return read_safetensors(self.path / "model.safetensors")[0]

    def fill(self, module: Module, arrays: dict[str, np.ndarray]) -> None:
        """Copy arrays of this folder into a module, all or none; FileError if they do not fit."""
        try:
            module.load_state_dict(arrays)
        except (KeyError, ValueError) as error:
            raise FileError(f"{self.path}: {error.args[0]}") from error

    def _layout(self, model_class: type[Model]) -> Layout:
        layouts = model_class.layouts()
        if self.model_type not in layouts:
            raise FileError(
                f"{self.settings_file}: model_type {self.model_type!r} is no {model_class.__name__}; "
                f"expected one of {['minipeft', *layouts]}"
            )
        return layouts[self.model_type]

    def _part(self, model_class: type[Model]) -> str:
        """Return the prefix of the model's paths in a folder of minipeft's: "", or the path of the part that it is."""
        if self.model_class == model_class.__name__:
            return ""
        if self.model_class not in model_class.inside:
            name = self.named_class().__name__
            raise FileError(f"{self.path} holds a {name}; load it with {name}.from_pretrained")
        return model_class.inside[self.model_class] + "."


class Undrawn(np.random.Generator):
    """A generator that returns zeros, to skip initialising parameters that are about to be loaded."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size: Any = None, *_: Any, **__: Any) -> Any:
        return np.zeros(() if size is None else size)


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
        self.recompute = False
        self.norm: Module | None = NORMS[config.norm](config.d_model, config.eps) if config.norm_first else None

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
            if self.recompute and cache is None:
                x = checkpoint(layer, x, mask, memory, memory_mask, angles)
            else:
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
