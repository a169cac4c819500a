"""JSON files that hold one object, and dataclasses made from them."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from minipeft.files.atomic import atomic_path
from minipeft.files.errors import FileError

T = TypeVar("T")


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; FileError where the file is missing, no JSON, no object, or holds NaN."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: expected JSON, but {error}") from error
    if not isinstance(value, dict):
        raise FileError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which JSON does not have")


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON, whole or not at all; ValueError for NaN or infinity."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def dataclass_from_json(cls: type[T], mapping: Mapping[str, Any], path: str | Path) -> T:
    """An instance of the dataclass ``cls`` from a JSON object.

    Raises FileError naming ``path`` and the field, for an unknown field (with near names), a missing one, or a value
    of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name, value in mapping.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=2)
            raise FileError(f"{path}: {cls.__name__} has no field {name!r}; near: {near or sorted(fields)}")
        if not _fits(value, hints[name]):
            raise FileError(f"{path}: {name} must be {_spelled(hints[name])}, got {value!r}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in mapping:
            raise FileError(f"{path}: the field {name!r} of {cls.__name__} is missing")
    return cls(**{n: tuple(v) if typing.get_origin(hints[n]) is tuple else v for n, v in mapping.items()})


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if origin in (list, tuple):
        inner = args[0] if args else Any
        return isinstance(value, (list, tuple)) and all(_fits(v, inner) for v in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint if isinstance(hint, type) else type(hint))


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
