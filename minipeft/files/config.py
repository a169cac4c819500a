"""JSON files that hold one object, and dataclasses made from them."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from minipeft.files.atomic import atomic_path
from minipeft.files.causes import HEAD, otherwise
from minipeft.files.errors import FileError
from minipeft.files.names import close_to
from minipeft.files.sets import current

T = TypeVar("T")
FLOAT32_MAX = 3.4028234663852886e38


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file, which may begin with a byte order mark.

    Raises FileError for a file that is missing, is not JSON or not an object, or holds NaN.
    """
    path = current(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        value = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = otherwise(raw[:HEAD], str(error)) if raw.strip() else "the file is empty"
        raise FileError(f"{path}: expected JSON, but {reason}") from error
    if not isinstance(value, dict):
        raise FileError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which JSON does not have")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits} is too large")
    return value


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON, whole or not at all; FileError for NaN, infinity or what JSON cannot hold."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}: nothing was written, {error}") from error
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def dataclass_from_json(cls: type[T], mapping: Mapping[str, Any], path: str | Path) -> T:
    """An instance of the dataclass ``cls`` from a JSON object.

    Raises FileError naming ``path`` and the field, for an unknown field (with near names), a missing one, or a value
    of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in mapping.items():
        if name not in fields:
            guess = close_to(name, fields) or f"; there are: {', '.join(sorted(fields))}"
            raise FileError(f"{path}: {cls.__name__} has no field {name!r}{guess}")
        try:
            values[name] = typed(value, hints[name])
        except TypeError:
            raise FileError(f"{path}: {name} must be {spelled(hints[name])}, got {shown(value)}") from None
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in mapping:
            raise FileError(f"{path}: the field {name!r} of {cls.__name__} is missing")
    return cls(**values)


def shown(value: Any) -> str:
    """Return a value for a message, its start if it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def is_off(value: Any) -> bool:
    """Return whether a JSON value switches an option off: null, false, 0, "", [] or {}."""
    return value is None or (isinstance(value, (bool, int, float, str, list, dict)) and not value)


def check_types(instance: Any) -> None:
    """Raise TypeError naming the first field of a dataclass whose value is not of the type that it declares."""
    hints = typing.get_type_hints(type(instance))
    for f in dataclasses.fields(instance):
        value = getattr(instance, f.name)
        try:
            typed(value, hints[f.name])
        except TypeError:
            raise TypeError(f"{f.name} must be {spelled(hints[f.name])}, got {value!r}") from None


def typed(value: Any, hint: Any) -> Any:
    """Return ``value`` as the type ``hint``, a JSON list as a tuple if it says so; TypeError if it is another type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in args:
            try:
                return typed(value, choice)
            except TypeError:
                continue
    elif origin is typing.Literal:
        if any(value == a and type(value) is type(a) for a in args):
            return value
    elif origin in (list, tuple) and isinstance(value, (list, tuple, range)):
        inner = list(args) if origin is tuple and Ellipsis not in args else [args[0]] * len(value)
        if len(inner) == len(value):
            return origin(typed(v, i) for v, i in zip(value, inner))
    elif origin is dict and isinstance(value, dict):
        return {typed(k, args[0]): typed(v, args[1]) for k, v in value.items()}
    elif hint is Any or (origin is None and _is_a(value, hint)):
        return value
    raise TypeError


def _is_a(value: Any, kind: type) -> bool:
    """As isinstance, but a whole number that a float can hold is a float, and True is not a number."""
    if isinstance(value, bool) and kind in (int, float):
        return False
    if kind is float and isinstance(value, int):
        return abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def spelled(hint: Any) -> str:
    """Return a type for a message."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
