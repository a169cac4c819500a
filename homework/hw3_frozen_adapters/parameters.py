"""The parameters an optimizer holds: only trainable ones, each tensor once, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minipeft.autograd import Tensor
from minipeft.backend import Array
from minipeft.nn.module import Module

Parameters = Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


def named_trainables(params: Parameters) -> dict[str, Tensor]:
    """Return the parameters that require a gradient, by name, in their order; each tensor once, under its first name.

    Args:
        params: a Module, tensors, or (name, tensor) pairs. A tensor without a name is named after its position among
            all that are given, "0", "1", …; frozen ones are counted too.

    Raises:
        TypeError: an item is not a tensor.
        ValueError: nothing is trainable, two trainable tensors have the same name, or a trainable one is not
            contiguous (`flat` raises this).
    """
    raise NotImplementedError("hw3.3: named_trainables")


def flat(name: str, x: Array) -> Array:
    """Return x as a view (n,). Raises ValueError if x is not contiguous: an update of the copy would be lost."""
    if not x.flags.c_contiguous:
        raise ValueError(f"the parameter {name} is not contiguous; it could not be updated in place")
    return x.reshape(-1)
