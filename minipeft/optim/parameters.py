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
    items: list[Any] = list(params.named_parameters() if isinstance(params, Module) else params)
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for i, item in enumerate(items):
        name, p = item if isinstance(item, tuple) else (str(i), item)
        if not isinstance(p, Tensor):
            raise TypeError(f"expected a Module, tensors or (name, tensor) pairs, got {type(p).__name__}")
        if p.requires_grad and id(p) not in seen:
            if name in named:
                raise ValueError(f"two parameters are called {name!r}; the state is kept by name")
            flat(name, p.data)
            seen.add(id(p))
            named[name] = p
    if not named:
        raise ValueError(
            f"nothing to train: none of the {len(items)} parameters requires a gradient; "
            "call requires_grad_() on what is to be trained, or unmerge_adapter() if an adapter is merged"
        )
    return named


def flat(name: str, x: Array) -> Array:
    """Return x as a view (n,). Raises ValueError if x is not contiguous: an update of the copy would be lost."""
    if not x.flags.c_contiguous:
        raise ValueError(f"the parameter {name} is not contiguous; it could not be updated in place")
    return x.reshape(-1)
