"""Gradient clipping by the norm of all gradients together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minipeft.backend import Array, array_module, read
from minipeft.nn.module import Module
from minipeft.optim.parameters import Parameters


def clip_grad_norm_(params: Parameters, max_norm: float, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients in place so that their common norm, √Σ g², is at most ``max_norm``; return the norm before.

    Gradients within the norm are not changed, and a parameter whose gradient is None is skipped. A parameter that is
    given twice counts once. The norm of no gradients is 0.0. The factor is max_norm / (norm + 1e-6).

    Raises:
        ValueError: max_norm is not positive.
        FloatingPointError: ``error_if_nonfinite`` and the norm is not finite; nothing is scaled then.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    grads = gradients(params)
    norm = math.sqrt(read(sum(map(_squares, grads)))[0])
    if error_if_nonfinite and not math.isfinite(norm):
        raise FloatingPointError(f"the gradients' norm is {norm}; nothing was clipped")
    if norm > max_norm:
        for g in grads:
            g *= max_norm / (norm + 1e-6)
    return norm


def gradients(params: Parameters) -> list[Array]:
    """Return the gradients that are not None, each parameter's once."""
    items: Any = params.parameters() if isinstance(params, Module) else params
    tensors = {id(p): p for p in (i[1] if isinstance(i, tuple) else i for i in items)}
    return [p.grad for p in tensors.values() if p.grad is not None]


def _squares(x: Array) -> Any:
    """Return Σ x² in float64, where squares of float32 do not overflow: a scalar array on the device of x."""
    flat = x.reshape(-1).astype(np.float64)
    return array_module(x).matmul(flat, flat)
