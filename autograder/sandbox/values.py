"""What two processes call the same by name, and an array's memory as bytes."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np

from autograder.sandbox.frames import NAMES

PACKAGE = "minipeft"


class ProtocolError(Exception):
    """The other side sent something that is not a message."""


def named(name: str) -> Any:
    """Return the class or function of the library with that name, "module:qualified.name"."""
    module, _, path = name.partition(":")
    if module.partition(".")[0] != PACKAGE or module not in sys.modules:
        raise ProtocolError(f"no module {module[:80]!r}")
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = vars(found).get(part)
        found = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    if not isinstance(found, (type, types.FunctionType)) or name_of(found) != name:
        raise ProtocolError(f"{name[:80]!r} is not a class or function of the library")
    return found


def name_of(x: Any) -> str:
    """Return the name by which the other side finds a class or function of the library; "" if it is none."""
    module, path = getattr(x, "__module__", None) or "", getattr(x, "__qualname__", "")
    return f"{module}:{path}" if module.partition(".")[0] == PACKAGE and "<" not in path else ""


def owner_of(x: np.ndarray) -> np.ndarray:
    """Return the array whose memory ``x`` lies in; ``x`` itself if that cannot be sent as one piece."""
    top: Any = x
    while isinstance(base := getattr(top, "base", None), np.ndarray) or hasattr(base, "__array_interface__"):
        top = base
    fits = isinstance(top, np.ndarray) and top.dtype.kind != "O" and (top.flags.c_contiguous or top.flags.f_contiguous)
    return top if fits else x


def raw(owner: np.ndarray) -> np.ndarray:
    """Return the memory of a contiguous array as bytes, without a copy."""
    flat = owner if owner.flags.c_contiguous else owner.T
    return flat.reshape(-1).view(np.uint8)


def number_type(name: Any) -> np.dtype[Any]:
    """Return the dtype of numbers or booleans with that name; ProtocolError for another."""
    dtype = np.dtype(name) if isinstance(name, str) else None
    if dtype is None or dtype.newbyteorder("<") not in NAMES:
        raise ProtocolError("expected a type of numbers")
    return dtype


def attributes(x: Any) -> dict[str, Any]:
    """Return the attributes of an instance, in its dictionary and in slots."""
    slots = [s for c in type(x).__mro__ for s in getattr(c, "__slots__", ()) if not s.startswith("__")]
    return {**{s: getattr(x, s) for s in slots if hasattr(x, s)}, **getattr(x, "__dict__", {})}


def shadows(x: Any, name: str, value: Any) -> bool:
    """Return whether an attribute would hide a method of an object that is not hidden by the same value already."""
    return callable(getattr(type(x), name, None)) and getattr(x, "__dict__", {}).get(name) is not value
