"""One batch, several LoRA adapters: each example goes through its own, and the base's products are computed once.

z = x W₀ᵀ + b,      z[i] += s Bᵢ Aᵢ x[i]  with the adapter of example i
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, device_of, to_device
from minipeft.nn.layers import Linear
from minipeft.nn.module import Module
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftError
from minipeft.peft.lora import LoraLayer
from minipeft.peft.swaps import Swap

BASE = "__base__"


class AddToRows(Function):
    """z = x with y added to the examples ``index``: x (B, ...), y (n, ...), index (n,) of distinct integers.

    dx = dz, dy = dz[index]: of x and y themselves the backward needs nothing.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array, index: Array) -> Array:
        """z (B, ...), a new array: x is not written."""
        ctx.save(index if ctx.needs_grad[1] else None)
        z = x.copy()
        z[index] += y
        return z

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        """dx, dy and None for the index; None for what wants no gradient."""
        (index,) = ctx.saved
        return dz if ctx.needs_grad[0] else None, None if index is None else dz[index], None


class MixedLora(Module):
    """One linear layer for a batch whose examples have different adapters: the base's product is made once for all.

    layers: by name; names: one for each example, of a layer or any other for the base alone. ``rows[name]``: the
    examples of that layer, none where no example names it.
    """

    def __init__(self, base: Linear, layers: dict[str, LoraLayer], names: Sequence[str]):
        self.base = base
        self.layers = layers
        self.rows = {name: np.flatnonzero(np.asarray(names) == name) for name in layers}
        self.n_examples = len(names)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ..., k) -> (B, ..., d): the base's output for all, and each layer's `change` added to its own examples.

        A change is computed for its own examples alone (`AddToRows` puts it in its place); an example of no layer gets
        the base's output. Raises PeftError where x has another number of examples than there are names.
        """
        if x.shape[0] != self.n_examples:
            raise PeftError(f"a mixed batch of {self.n_examples} adapters got {x.shape[0]} examples; give one for each")
        z = self.base(x)
        for name, layer in self.layers.items():
            if len(self.rows[name]):
                index = to_device(self.rows[name], device_of(x.data))
                z = AddToRows.apply(z, layer.change(x[index]), index)
        return z


@contextmanager
def mixed_adapters(peft: AdaptedModel, names: Sequence[str]) -> Iterator[None]:
    """Inside, example i of a batch of ``len(names)`` goes through the adapter ``names[i]`` ("__base__" for none).

    The base's products are computed once for the whole batch. All callers of the model get the mixture meanwhile.
    Raises PeftError for adapters that do not consist of LoRA on linear layers: heads, biases and embeddings belong to
    no single example.
    """
    peft.check_active()
    wanted = sorted(set(names) - {BASE})
    by_path: dict[str, dict[str, LoraLayer]] = {}
    owners: dict[str, Swap] = {}
    for name in wanted:
        adapter = peft._known(name)
        for s in adapter.swaps:
            if not isinstance(s.new, LoraLayer):
                what = f"{name!r} ({adapter.config.peft_type}) changes {s.path}"
                raise PeftError(f"a mixed batch needs LoRA on linear layers only; {what}")
            by_path.setdefault(s.path, {})[name] = s.new
            owners[s.path] = s
    with peft.disable_adapter():
        for path, layers in by_path.items():
            owners[path].put(MixedLora(owners[path].old, layers, names))
        try:
            yield
        finally:
            for s in owners.values():
                s.put(s.old)
