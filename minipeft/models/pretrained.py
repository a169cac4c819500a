"""Where a pretrained model comes from: a folder of minipeft or of Hugging Face, or a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import to_numpy
from minipeft.files.cache import cached
from minipeft.files.causes import no_folder, no_weights, wrong_folder
from minipeft.files.config import dataclass_from_json, read_json
from minipeft.files.errors import FileError
from minipeft.files.gguf import GGUF, read_gguf
from minipeft.files.safetensors import read_safetensors, safetensors_header
from minipeft.files.sets import current
from minipeft.models.layouts.gguf import gguf_arrays, gguf_settings, gguf_sizes
from minipeft.models.layouts.layout import Layout, Settings
from minipeft.nn.module import Module

INDEX = "model.safetensors.index.json"
GGUF_NAME = "model.gguf"  # in the folder of something fetched
ADAPTERS = [
    (name, "an adapter; load the model that it was trained on, and then PeftModel.from_pretrained(model, folder)")
    for name in ("minipeft_config.json", "adapter_config.json")
]


@dataclass(frozen=True)
class PretrainedSource:
    """A folder with a model, or a GGUF file: its path, model_type, class in minipeft or None, and other settings."""

    path: Path
    model_type: str | None
    model_class: str | None
    settings: Settings
    gguf: GGUF | None = None

    @classmethod
    def open(cls, source: str | Path) -> PretrainedSource:
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
        model_type, model_class = (
            x if isinstance(x := settings.pop(key, None), str) else None for key in ("model_type", "model_class")
        )
        return cls(path, model_type, model_class, settings)

    @property
    def settings_file(self) -> Path:
        return self.path / "config.json" if self.gguf is None else self.path

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return the tensors of a Hugging Face folder or a GGUF file, under Hugging Face's names."""
        return read_checkpoint(self.path) if self.gguf is None else gguf_arrays(self.gguf)

    @property
    def is_minipeft(self) -> bool:
        return self.model_type == "minipeft"

    def named_class(self, classes: Mapping[str, Any]) -> Any:
        """Return minipeft's class for the settings out of all ``classes`` by name; FileError if there is none."""
        if self.is_minipeft and self.model_class is not None and self.model_class in classes:
            return classes[self.model_class]
        fitting = {c: c.layouts()[self.model_type] for c in classes.values() if self.model_type in c.layouts()}
        for model_class, layout in fitting.items():
            if self.is_a(layout.architecture):
                return model_class
        for model_class, layout in fitting.items():
            if layout.bare or len(fitting) == 1:
                return model_class
        if self.is_minipeft:
            what, known = f"model_class {self.model_class!r}", set(classes)
        else:
            kinds = (kind for c in classes.values() for kind in c.layouts())
            what, known = f"model_type {self.model_type!r}", {"minipeft", *kinds}
        raise FileError(f"{self.settings_file}: nothing is known of {what}; expected one of {sorted(known)}")

    def is_a(self, architecture: str) -> bool:
        """Return whether a Hugging Face folder says that it holds a model of the class ``architecture``."""
        architectures = self.settings.get("architectures")
        return isinstance(architectures, list) and architecture in architectures

    def config_of(self, model_class: Any) -> Any:
        """Return the configuration of the model of this class in the folder; FileError if there is none."""
        file = self.settings_file
        if not self.is_minipeft:
            return self._layout(model_class).config(model_class.config_class, self.settings, file)
        settings = self.settings
        if self._part(model_class):  # the whole model's settings, the part's own among them
            own = {f.name for f in fields(model_class.config_class)}
            settings = {name: value for name, value in settings.items() if name in own}
        return dataclass_from_json(model_class.config_class, settings, file)

    def build(self, model_class: Any, *args: Any) -> Any:
        """Return the model of the arguments, with zeros for weights; FileError if its sizes make no model."""
        try:
            self._check_sizes(args[0])
            return model_class(*args, **{"rng": ZeroInit()})
        except (ValueError, ArithmeticError, MemoryError) as error:
            raise FileError(
                f"{self.settings_file}: no {model_class.__name__} has these sizes ({error}){self._told(model_class)}"
            ) from error

    def _check_sizes(self, config: Any) -> None:
        """Raise ValueError for sizes that the tensors cannot fill, before anything is built of them."""
        if self.gguf is not None:
            sizes = [math.prod(entry.shape) for entry in self.gguf.entries.values()]
        else:
            own = self.path / "model.safetensors"
            files = [own] if self.is_minipeft else checkpoint_files(self.path)
            sizes = [math.prod(entry.shape) for f in files for entry in safetensors_header(f)[0].values()]
        free = {"context"} if getattr(config, "rotary", False) else set()  # it has no table of positions
        for name in {f.name for f in fields(config)} - free if sizes else ():
            value, bound = getattr(config, name), len(sizes) if name == "n_layers" else sum(sizes)
            if isinstance(value, int) and value > bound:
                raise ValueError(
                    f"{name} is {value}, but the {len(sizes)} tensors have {sum(sizes)} numbers in all; the settings "
                    "are of another model, or damaged"
                )

    def _told(self, model_class: Any) -> str:
        """Return the sizes in a foreign file, by the names that they have there, for a message."""
        if self.gguf is not None:
            return f": {gguf_sizes(self.gguf)}"
        layout = model_class.layouts().get(self.model_type)
        return f": {layout.told(self.settings)}" if layout else ""

    def arrays_of(self, model: Module, new: str = "") -> dict[str, np.ndarray]:
        """Return the model's arrays by path; those whose paths begin with ``new`` are the model's own."""
        if not self.is_minipeft:
            return self._layout(type(model)).arrays(model, self.checkpoint(), self.path, new)
        part = self._part(type(model))
        arrays = {name.removeprefix(part): x for name, x in self.own_arrays().items() if name.startswith(part)}
        if new:
            own = {name: to_numpy(x) for name, x in model.state_dict().items() if name.startswith(new)}
            arrays = {name: x for name, x in arrays.items() if not name.startswith(new)} | own
        return arrays

    def own_arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays of a minipeft folder, by their paths in the model that was saved."""
        return read_safetensors(self.path / "model.safetensors")[0]

    def fill(self, module: Module, arrays: dict[str, np.ndarray]) -> None:
        """Copy arrays of this source into a module, all or none; FileError if they do not fit."""
        try:
            module.load_state_dict(arrays)
        except (KeyError, ValueError) as error:
            raise FileError(f"{self.path}: {error.args[0]}") from error

    def _layout(self, model_class: Any) -> Layout:
        layouts: dict[str | None, Layout] = model_class.layouts()
        if self.model_type not in layouts:
            raise FileError(
                f"{self.settings_file}: model_type {self.model_type!r} is not a {model_class.__name__}; "
                f"expected one of {['minipeft', *layouts]}"
            )
        return layouts[self.model_type]

    def _part(self, model_class: Any) -> str:
        """Return the prefix of the model's paths in a folder of minipeft's: "", or the path of the part that it is."""
        if self.model_class == model_class.__name__:
            return ""
        if self.model_class not in model_class.inside:
            name = self.named_class(model_class.classes).__name__
            raise FileError(f"{self.path} holds a {name}; load it with {name}.from_pretrained")
        return f"{model_class.inside[self.model_class]}."


class ZeroInit(np.random.Generator):
    """A generator that returns zeros, to skip initialising parameters that are about to be loaded."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size: Any = None, *_: Any, **__: Any) -> Any:
        return np.zeros(() if size is None else size)


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Return all arrays of the files that `checkpoint_files` names; raises FileError as it does."""
    files = checkpoint_files(folder)
    arrays = {name: x for file in files for name, x in read_safetensors(file)[0].items()}
    if files[0].name != "model.safetensors":
        missing = sorted(read_json(folder / INDEX)["weight_map"].keys() - arrays.keys())
        if missing:
            raise FileError(f"{folder / INDEX}: the tensor {missing[0]!r} is in none of the shards")
    return arrays


def checkpoint_files(folder: Path) -> list[Path]:
    """Return model.safetensors, or the shards that model.safetensors.index.json names.

    Raises FileError for a folder without safetensors (pickles are never loaded) or an index that leads outside of it.
    """
    whole = current(folder / "model.safetensors")
    if whole.exists():
        return [whole]
    if not (folder / INDEX).exists():
        raise no_weights(folder, f"model.safetensors (or {INDEX})")
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
        raise FileError(f"{folder / INDEX}: expected weight_map, from names to files")
    for name in shards.values():
        if Path(name).name != name:
            raise FileError(f"{folder / INDEX}: the shard {name!r} is not a plain file name")
    return [folder / name for name in sorted(set(shards.values()))]
