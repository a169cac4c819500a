"""Hugging Face folders: their configurations and their names, as tables of rows (path, name, how)."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.files.errors import FileError
from minipeft.models.layouts.fields import Asked, check_fields, values_of

Settings = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of a name table.

    Attributes:
        path: minipeft's path; "{l}" is the layer.
        name: Hugging Face's name.
        how: how that tensor becomes minipeft's: "" as it is; "T" transposed, for a layer that stores (in, out); "0/3"
            the first of three equal parts of the last axis, "0/3T" the same and then transposed; "from 2" without the
            first two rows; "matrix" flattened to (rows, rest); "vector" flattened.
        optional: the file may lack the tensor; the parameter then keeps its initial value.
    """

    path: str
    name: str
    how: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Layout:
    """How one model_type is read.

    Attributes:
        fields: minipeft's settings, each the name of a field in config.json, or a function of all fields.
        rows: the tensors of the base model, without the prefix ``base``, and of the head.
        fixed: {field: the values that are implemented, the default first}. A field that is named nowhere here must be
            off, unless it changes no output (`fields.NO_EFFECT`).
        constructor: the class method of the configuration class that takes the settings; "" for the class itself.
        same: {field: the field that it is another name of}.
        base: the prefix that the base model's tensors have in a model with a head.
        heads: the beginnings of the names of the head's tensors.
        bare: the class here is the base model without a head.
        architecture: the name of Hugging Face's class of the model with that head.
        aliases: (pattern, replacement) for names of other versions.
        tied: (name, name) of tensors that are one in a tied model. A file may hold either; if it holds both, they must
            be equal.
        untied: the rows of these tensors in a model that is not tied, each under the name of its own module.
        unused: modules that exist at Hugging Face and compute nothing.
        ignored: patterns of names of tensors that are not read.
    """

    fields: Mapping[str, str | Callable[[Settings], Any]]
    rows: tuple[Row, ...]
    fixed: Mapping[str, tuple[Any, ...]]
    constructor: str = ""
    same: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    heads: tuple[str, ...] = ()
    bare: bool = False
    architecture: str = ""
    aliases: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    untied: tuple[Row, ...] = ()
    unused: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def config(self, config_class: type, settings: Settings, path: Path) -> Any:
        """Return the configuration, of ``config_class``; FileError for a field that is missing or not implemented."""
        asked = Asked(settings)
        values = values_of(self.fields, typing.get_type_hints(config_class), asked, path)
        check_fields(asked, self.fixed, self.same, path)
        make = getattr(config_class, self.constructor) if self.constructor else config_class
        return make(**values)

    def told(self, settings: Settings) -> str:
        """Return the sizes in the settings for a message, by Hugging Face's names."""
        names = [name for name in self.fields.values() if isinstance(name, str) and name in settings]
        return Asked(settings).told(names)

    def expanded(self, n_layers: int, tied: bool = True) -> Iterator[Row]:
        """Yield the rows of a tied model, or of one that is not, with every layer written out."""
        untied = {} if tied else {row.path: row for row in self.untied}
        for row in (*(r for r in self.rows if r.path not in untied), *untied.values()):
            for i in range(n_layers) if "{l}" in row.path else (0,):
                yield Row(row.path.replace("{l}", str(i)), row.name.replace("{l}", str(i)), row.how, row.optional)

    def full_name(self, name: str) -> str:
        """Return a row's name as it is in Hugging Face's model."""
        return name if self.bare or name.startswith(self.heads) else self.base + name

    def arrays(
        self, model: Any, tensors: Mapping[str, np.ndarray], folder: Path, new: str = ""
    ) -> dict[str, np.ndarray]:
        """Return the model's arrays by path, made of the file's.

        Args:
            model: gives the paths and shapes.
            tensors: the tensors of the file by name.
            folder: where the file is, for messages.
            new: the prefix of the paths that are not read but keep their initial values; "" for none.

        Raises:
            FileError: a tensor of the file is missing, left over, of another shape, or not equal to one that it should
                be tied to; the message names it.
        """
        found = {self._plain(name): x for name, x in tensors.items()}
        wanted = dict(model.named_parameters())
        tied = is_tied(model)
        rows = [row for row in self.expanded(model.config.n_layers, tied) if row.path in wanted]
        used = {row.name for row in rows} | {name for pair in self.tied for name in pair}
        for name, other in self.tied:
            if tied and name in found and not np.array_equal(found[name], found.setdefault(other, found[name])):
                raise FileError(
                    f"{folder}: {name!r} and {other!r} differ, but the configuration says tie_word_embeddings, so this "
                    "model has one tensor for both; if they were trained apart, set tie_word_embeddings to false in "
                    "config.json"
                )
            if not tied and name.endswith(".bias") and other in found:  # before version 5 these two are always tied
                found.setdefault(name, found[other])
        arrays: dict[str, np.ndarray] = {}
        for row in rows:
            drawn = bool(new) and row.path.startswith(new)
            if drawn or (row.optional and row.name not in found):
                arrays[row.path] = wanted[row.path].data
                continue
            if row.name not in found:
                raise FileError(f"{folder}: the tensor {row.name!r} is missing")
            arrays[row.path] = x = taken(found[row.name], row.how)
            if x.shape != wanted[row.path].shape or x.dtype.kind != "f":
                raise FileError(
                    f"{folder}: the tensor {row.name!r} is {found[row.name].dtype} of shape "
                    f"{found[row.name].shape}, which does not make {row.path} of shape {wanted[row.path].shape}"
                )
        left = sorted(n for n in found.keys() - used if not self.ignores(n))
        if left:
            raise FileError(f"{folder}: {len(left)} tensors have no place in this model, the first is {left[0]!r}")
        return arrays

    def ignores(self, name: str) -> bool:
        """Return whether a tensor of that name in the file is one that is not read."""
        return any(re.fullmatch(pattern, self._plain(name)) for pattern in self.ignored)

    def _plain(self, name: str) -> str:
        name = name.removeprefix(self.base)
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name


def taken(x: np.ndarray, how: str) -> np.ndarray:
    """Return an array of the file as minipeft's (see `Row`), a view if possible; unchanged if ``how`` does not fit."""
    if "/" in how:
        part, count = map(int, how.rstrip("T").split("/"))
        if x.ndim and x.shape[-1] % count == 0:
            size = x.shape[-1] // count
            x = x[..., part * size : (part + 1) * size]
    elif how.startswith("from "):
        x = x[int(how[5:]) :] if x.ndim else x
    elif how == "matrix":
        x = x.reshape(len(x), -1) if x.ndim and x.size else x
    elif how == "vector":
        x = x.reshape(-1)
    return x.T if how.endswith("T") else x


def both(path: str, name: str, how: str = "") -> tuple[Row, Row]:
    """Return the rows of a weight and its bias; ``how`` holds only for the weight, but a split for both."""
    bias_how = how.rstrip("T") if "/" in how else ""
    return Row(f"{path}.weight", f"{name}.weight", how), Row(f"{path}.bias", f"{name}.bias", bias_how)


def within(part: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return the rows of a model that is the part ``part`` of another."""
    return tuple(Row(f"{part}.{row.path}", row.name, row.how, row.optional) for row in rows)


def is_tied(model: Any) -> bool:
    """Return whether the model's configuration ties its embedding and its head; True for a model that has no head."""
    return bool(getattr(model.config, "tied", True))


def huggingface_names(model: Any, tied: bool | None = None) -> dict[str, tuple[str, str]]:
    """Map minipeft's paths to (the name in the Hugging Face model, how its tensor becomes minipeft's); see `Row`.

    All tensors that the configuration calls for are named, also those that a method has wrapped. In a tied model the
    shared tensor has one name; ``tied=False`` names it in each module that uses it.
    Raises ValueError for a model that Hugging Face has no layout for.
    """
    layout = model.layouts()[model.huggingface_type()]
    rows = layout.expanded(model.config.n_layers, is_tied(model) if tied is None else tied)
    return {row.path: (layout.full_name(row.name), row.how) for row in rows}
