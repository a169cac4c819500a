"""Checks of arguments that several operations share."""

from __future__ import annotations

from minipeft.autograd import Tensor


def check_floats(name: str, *xs: Tensor) -> None:
    """Raise TypeError unless every tensor is float32 or float64: integers are cut off, float16 overflows."""
    for x in xs:
        if x.dtype.name not in ("float32", "float64"):
            raise TypeError(f"{name} takes float32 or float64, got {x.dtype}")
