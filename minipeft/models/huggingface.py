"""Reading Hugging Face folders: their configurations and names, as tables of rows (ours, theirs, how)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.files.config import read_json
from minipeft.files.errors import FileError
from minipeft.files.safetensors import read_safetensors

INDEX = "model.safetensors.index.json"


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of model.safetensors, or of the shards that model.safetensors.index.json names.

    Raises FileError for a folder without safetensors (pickles are never loaded) or an index that leads outside of it.
    """
    if (folder / "model.safetensors").exists():
        return read_safetensors(folder / "model.safetensors")[0]
    if not (folder / INDEX).exists():
        raise FileError(f"{folder}: expected model.safetensors (or {INDEX}); other formats, pickles among them, are not read")
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
        raise FileError(f"{folder / INDEX}: expected weight_map, from names to files")
    arrays: dict[str, np.ndarray] = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name:
            raise FileError(f"{folder / INDEX}: the shard {name!r} is no plain file name")
        arrays |= read_safetensors(folder / name)[0]
    return arrays


@dataclass(frozen=True)
class Row:
    """One line of a name table: our path, theirs, and how theirs becomes ours.

    "{l}" stands for the layer. how: "" as it is; "T" transposed, for a layer that stores (in, out); "0/3" the first of
    three equal parts of their last axis, "0/3T" and then transposed; "from 2" without the first two rows; "matrix"
    flattened to (rows, rest); "vector" flattened.
    """

    ours: str
    theirs: str
    how: str = ""


@dataclass(frozen=True)
class Layout:
    """How one model_type is read.

    fields: our configuration's fields from theirs (a name, or a function of their whole configuration).
    fixed: what their configuration must say, since nothing else is implemented ({name: accepted values}).
    rows: the names. prefixes: what may stand before their names, the longest that is found is taken off.
    aliases: (pattern, replacement) for names of other versions. ignored: patterns of names that hold nothing of ours.
    """

    make: Callable[..., Any]
    fields: Mapping[str, str | Callable[[dict[str, Any]], Any]]
    rows: tuple[Row, ...]
    fixed: Mapping[str, tuple[Any, ...]]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = ()

    def config(self, settings: dict[str, Any], path: Path) -> Any:
        """Our configuration from theirs; FileError for a missing field or a choice that is not implemented."""
        for name, accepted in self.fixed.items():
            if name in settings and settings[name] not in accepted:
                raise FileError(f"{path}: {name} is {settings[name]!r}; only {' or '.join(map(repr, accepted))} is implemented")
        values = {}
        for ours, theirs in self.fields.items():
            try:
                values[ours] = theirs(settings) if callable(theirs) else settings[theirs]
            except KeyError as error:
                raise FileError(f"{path}: the field {error.args[0]!r} is missing") from None
        return self.make(**values)

    def expanded(self, n_layers: int) -> Iterator[Row]:
        """The rows with every layer written out."""
        for row in self.rows:
            for i in range(n_layers) if "{l}" in row.ours else (0,):
                yield Row(row.ours.replace("{l}", str(i)), row.theirs.replace("{l}", str(i)), row.how)

    def arrays(self, model: Any, theirs: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
        """Our arrays by path, from theirs; FileError for a name that is missing or left over."""
        found = {self._plain(name, theirs): x for name, x in theirs.items()}
        ours: dict[str, np.ndarray] = {}
        used: set[str] = set()
        wanted = {name for name, _ in model.named_parameters()}
        for row in self.expanded(model.config.n_layers):
            if row.ours not in wanted:
                continue
            if row.theirs not in found:
                raise FileError(f"{folder}: the tensor {row.theirs!r} is missing")
            used.add(row.theirs)
            ours[row.ours] = taken(found[row.theirs], row.how)
        left = sorted(n for n in found.keys() - used if not any(re.fullmatch(p, n) for p in self.ignored))
        if left:
            raise FileError(f"{folder}: {len(left)} tensors have no place in this model, the first is {left[0]!r}")
        return ours

    def _plain(self, name: str, all_names: Mapping[str, Any]) -> str:
        for prefix in self.prefixes:
            if name.startswith(prefix):
                name = name[len(prefix) :]
                break
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name


def taken(x: np.ndarray, how: str) -> np.ndarray:
    """Their array as ours: see `Row`."""
    if "/" in how:
        part, count = how.rstrip("T").split("/")
        x = np.split(x, int(count), axis=-1)[int(part)]
    elif how.startswith("from "):
        x = x[int(how[5:]) :]
    elif how == "matrix":
        x = x.reshape(len(x), -1)
    elif how == "vector":
        x = x.reshape(-1)
    return np.ascontiguousarray(x.T if how.endswith("T") else x)


def both(ours: str, theirs: str, how: str = "") -> tuple[Row, Row]:
    """The rows of a weight and its bias; ``how`` holds for the weight, but for a split, which holds for both."""
    bias_how = how.rstrip("T") if "/" in how else ""
    return Row(f"{ours}.weight", f"{theirs}.weight", how), Row(f"{ours}.bias", f"{theirs}.bias", bias_how)
