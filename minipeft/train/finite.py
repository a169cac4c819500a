"""Finding the first tensor that is not finite, for the message of a failed step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minipeft.autograd import Tensor, no_grad
from minipeft.backend import Array, is_array, to_numpy
from minipeft.nn.layers import random_stream
from minipeft.nn.module import Module


def first_nonfinite(model: Any, batch: Mapping[str, Any], rng: np.random.Generator) -> str:
    """Return the name of the first parameter that is not finite, else of the first input, else of the first output.

    rng: draws the dropout masks of the forward that is run to find an output.
    """
    bad = bad_parameter(model.named_parameters())
    if bad is not None:
        return bad
    for name, x in batch.items():
        if is_array(x) and not _finite(x):
            return f"the batch's {name}"
    outputs: list[str] = []

    def watched(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            if not outputs and not all(_finite(x.data) for x in _tensors(out)):
                outputs.append(f"the output of {path or 'the model'}")
            return out

        return run

    modules = list(model.named_modules())
    try:
        for path, module in modules:
            module.forward = watched(path, module.forward)
        with no_grad(), np.errstate(all="ignore"), random_stream(rng):
            model.loss(**batch)
    finally:
        for _, module in modules:
            vars(module).pop("forward", None)
    return outputs[0] if outputs else "the loss itself"


def bad_parameter(named: Iterable[tuple[str, Tensor]]) -> str | None:
    return next((f"parameter {name}" for name, p in named if not _finite(p.data)), None)


def bad_gradient(model: Any) -> str:
    """Return the gradient that became non-finite first: backward runs from the output, so the last in model order."""
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    return f"gradient of {bad[-1]}" if bad else "none, their squares overflow"


def _finite(x: Array) -> bool:
    return x.dtype.kind != "f" or bool(np.isfinite(to_numpy(x)).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)
    elif hasattr(value, "__dict__") and not isinstance(value, Module):
        yield from _tensors(list(vars(value).values()))
