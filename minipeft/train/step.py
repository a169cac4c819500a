"""One training step: loss, backward, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minipeft.autograd import Tensor
from minipeft.backend import (
    Array,
    keep_freed_memory,
    read,
    use_threads,
)
from minipeft.data.batches import as_arrays
from minipeft.nn.module import Module
from minipeft.optim import Optimizer, gradients
from minipeft.peft.model import PeftModel
from minipeft.peft.untrained import MAKE_IT_AFTER, strangers, why_nothing_trains
from minipeft.train.finite import bad_gradient, first_nonfinite
from minipeft.train.gradients import scale_gradients, squared_norm
from minipeft.train.shards import Batch, Seed, TrainingError, accumulated, shard_rng


def train_step(
    model: Any,
    batch: Batch,
    optimizer: Optimizer,
    shards: int = 1,
    max_norm: float | None = None,
    rng: Seed | None = None,
    at_once: int | None = None,
) -> float:
    """Take one training step (loss, backward, clipping, update) and return the loss.

    Args:
        model: has ``loss``; an adapter on it must be neither merged nor disabled.
        batch: the arguments of ``model.loss`` by name, arrays of B rows.
        optimizer: holds the parameters to train.
        shards: threads that share the batch. Each has its own gradient buffer, and these are summed in a fixed order,
            so the result does not depend on timing.
        max_norm: the largest norm of all gradients together; larger ones are scaled down.
        rng: seed of the dropout masks, shard by shard; by default the optimizer's step number.
        at_once: work on at most this many rows at a time and add up the gradients, each part weighted by its number of
            labels: the same step up to rounding, in the memory of a part.

    Raises:
        TypeError: arguments of another kind, or in another order.
        PeftError: the adapter is merged or disabled.
        TrainingError: nothing would be trained, or the loss or the gradients' norm is not finite. The parameters are as
            they were.
    """
    check_kinds("train_step(model, batch, optimizer)", model, optimizer)
    if not isinstance(batch, Mapping):
        raise TypeError(f"train_step: expected one batch, a dict of arrays, got {type(batch).__name__}")
    batch = as_arrays(batch)
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    seed = (0, optimizer.steps) if rng is None else rng
    optimizer.zero_grad()
    keep_freed_memory()
    result = accumulated(model, batch, shards, seed, at_once)
    grads = gradients(optimizer.params.values())
    if len(grads) < len(optimizer.params):
        _check_gradients(model, optimizer, grads)
    loss, *squares = read(result, *([] if max_norm is None else [squared_norm(grads)]))  # one wait for a GPU
    if not math.isfinite(loss):
        bad = first_nonfinite(model, batch, shard_rng(seed, 0))
        advice = "" if bad.startswith("the batch") else f"; {_slower(optimizer)}"
        raise TrainingError(f"the loss became {loss}; first tensor that is not finite: {bad}{advice}")
    if max_norm is not None:
        norm = math.sqrt(squares[0])
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradients' norm became {norm}; first tensor that is not finite: {bad_gradient(model)}; "
                f"{_slower(optimizer)}"
            )
        if norm > max_norm:
            scale_gradients(grads, max_norm / (norm + 1e-6))
    with use_threads(shards):
        optimizer.step()
    optimizer.zero_grad()
    return loss


def check_kinds(call: str, model: Any, optimizer: Any) -> None:
    """Raise TypeError for swapped arguments of ``call``, PeftError if the model's adapter is merged or disabled."""
    base = model.base_model if isinstance(model, PeftModel) else model
    if not isinstance(base, Module) or not hasattr(base, "loss"):
        raise TypeError(f"{call}: expected a model that has a loss first, got {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{call}: expected an optimizer third, got {type(optimizer).__name__}")
    if isinstance(model, PeftModel):
        model.check_active()


def _check_gradients(model: Module, optimizer: Optimizer, grads: Sequence[Array]) -> None:
    """Raise TrainingError if no parameter of the optimizer received a gradient, or some are not the model's."""
    params = optimizer.params
    if not grads:
        raise TrainingError(
            f"nothing is trained: none of the optimizer's {len(params)} parameters received a gradient; "
            f"{why_nothing_trains(model, params.values())}"
        )
    others = strangers(model, params.values())
    if others:
        raise TrainingError(f"{not_in_model(optimizer, others)}; {MAKE_IT_AFTER}")


def not_in_model(optimizer: Optimizer, others: Sequence[Tensor]) -> str:
    first = next(name for name, p in optimizer.params.items() if p is others[0])
    return f"{len(others)} of the optimizer's {len(optimizer.params)} parameters are not in this model, first {first!r}"


def _slower(optimizer: Optimizer) -> str:
    return f"try a smaller learning rate (now {optimizer.lr:g})"
