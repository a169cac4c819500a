"""Activation checkpointing: keep a layer's input, compute the rest of it a second time when the backward comes.

Chen et al. 2016 (arXiv:1604.06174). What a layer saves for its backward lives only while that layer's backward runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

from minipeft.autograd import Context, Function, Tensor, no_grad
from minipeft.backend import Array, array_module
from minipeft.nn.layers import current_stream, random_stream
from minipeft.nn.module import Module


class Checkpoint(Function):
    """z = layer(args), recorded as one node whose inputs are the tensors among args and the layer's parameters.

    The backward runs the layer again, recorded, from the same inputs and the same state of the random stream, and walks
    that graph. A frozen input gets no gradient; the layer's own trainable parameters do all the same.
    """

    @staticmethod
    def forward(ctx: Context, run: Callable[[list[Tensor]], Tensor], parameters: list[Tensor], *arrays: Array) -> Array:
        inputs = len(arrays) - len(parameters)
        rng = current_stream()
        state = None if rng is None else deepcopy(rng)
        ctx.save(run, parameters, arrays[:inputs], state)
        with no_grad():
            return run([Tensor(x) for x in arrays[:inputs]]).data

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        run, parameters, arrays, rng = ctx.saved
        inputs = [
            Tensor(x, requires_grad=needed)
            for x, needed in zip(arrays, ctx.needs_grad[2 : 2 + len(arrays)], strict=True)
        ]
        around: AbstractContextManager[Any] = nullcontext() if rng is None else random_stream(deepcopy(rng))
        with around:
            z = run(inputs)
        grads: dict[Tensor, Array] = {}
        z.backward(dz, into=grads)
        tensors = zip([*inputs, *parameters], ctx.needs_grad[2:], strict=True)
        return None, None, *((_or_zeros(grads, t) if needed else None) for t, needed in tensors)


def _or_zeros(grads: dict[Tensor, Array], t: Tensor) -> Array:
    """The gradient of t; zeros where the layer did not use it."""
    return grads[t] if t in grads else array_module(t.data).zeros_like(t.data)


def checkpoint(
    layer: Module,
    x: Tensor,
    mask: Array | None = None,
    memory: Tensor | None = None,
    memory_mask: Array | None = None,
    angles: Any = None,
) -> Tensor:
    """``layer(x, mask, memory, memory_mask, angles)``, saving x and memory alone where a gradient is recorded."""

    def run(tensors: list[Tensor]) -> Tensor:
        other = tensors[1] if memory is not None else None
        result: Tensor = layer(tensors[0], mask, other, memory_mask, angles)
        return result

    parameters = [p for p in layer.parameters() if p.requires_grad]
    tensors = [x] if memory is None else [x, memory]
    return Checkpoint.apply(run, parameters, *tensors, *parameters)
