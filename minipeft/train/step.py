"""One training step: loss, backward, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import (
    Array,
    array_module,
    block_threads,
    has_kernels,
    in_threads,
    is_array,
    keep_freed_memory,
    read,
    row_blocks,
    side_by_side,
    use_threads,
)
from minipeft.data.batches import as_arrays
from minipeft.nn.layers import random_stream
from minipeft.nn.module import Module
from minipeft.ops.loss import IGNORED
from minipeft.optim import Optimizer, gradients
from minipeft.peft.model import PeftModel
from minipeft.peft.untrained import MAKE_IT_AFTER, inactive, strangers, why_nothing_trains
from minipeft.train.finite import bad_gradient, first_nonfinite
from minipeft.train.gradients import scale_gradients, squared_norm

Batch = Mapping[str, Any]
Seed = tuple[int, ...] | int


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what went wrong first."""


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
    result = _accumulated(model, batch, shards, seed, at_once)
    grads = gradients(optimizer.params.values())
    if len(grads) < len(optimizer.params):
        _check_gradients(model, optimizer, grads)
    loss, *squares = read(result, *([] if max_norm is None else [squared_norm(grads)]))  # one wait for a GPU
    if not math.isfinite(loss):
        bad = first_nonfinite(model, batch, _shard_rng(seed, 0))
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


def backward(model: Any, batch: Batch, shards: int = 1, rng: Seed = 0) -> float:
    """Return the mean loss of a batch and add its gradients to ``.grad``; the arguments are those of `train_step`."""
    return read(_backward(model, batch, shards, rng))[0]


def _accumulated(model: Any, batch: Batch, shards: int, rng: Seed, at_once: int | None) -> Array | float:
    """Run `_backward` on parts of at most ``at_once`` rows, one after the other."""
    if at_once is None or at_once >= max((len(x) for x in batch.values() if is_array(x) and x.ndim), default=0):
        return _backward(model, batch, shards, rng)
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1 row, got {at_once}")
    parts = _parts(batch, at_once)
    total = sum(n for _, n in parts)
    seed = rng if isinstance(rng, tuple) else (rng,)
    losses = [_backward(model, part, shards, (*seed, i), n / total) for i, (part, n) in enumerate(parts)]
    return sum(losses[1:], losses[0])


def _backward(model: Any, batch: Batch, shards: int, rng: Seed, share: float = 1.0) -> Array | float:
    """Run `backward` with loss and gradients times ``share``; the loss stays on the device."""
    if shards == 1:
        loss = _recorded_loss(model, batch, _shard_rng(rng, 0))
        loss.backward(None if share == 1.0 else array_module(loss.data).full_like(loss.data, share))
        return loss.data if share == 1.0 else loss.data * share
    if any(has_kernels(p.data) for p in model.parameters()):
        raise ValueError(f"shards share the cores of a processor; on a GPU a batch stays whole: shards=1, not {shards}")
    parts = _shards(batch, shards)
    total = sum(n for _, n in parts) / share

    def work(index: int) -> tuple[float, dict[Tensor, Array]]:
        part, n = parts[index]
        grads: dict[Tensor, Array] = {}
        loss = _recorded_loss(model, part, _shard_rng(rng, index))
        loss.backward(array_module(loss.data).full_like(loss.data, n / total), into=grads)
        return loss.item() * n / total, grads

    with _blas().limit(limits=1, user_api="blas"):
        results = side_by_side([partial(work, i) for i in range(len(parts))])
    summed = results[0][1]
    with use_threads(len(parts)):
        for _, grads in results[1:]:
            _add(summed, grads)
    for p, g in summed.items():
        if p.grad is None:
            p.grad = g
        else:
            p.grad += g
    return sum(loss for loss, _ in results)


def _recorded_loss(model: Any, batch: Batch, rng: np.random.Generator) -> Tensor:
    """Return ``model.loss(**batch)``; TrainingError if it depends on nothing trainable."""
    with random_stream(rng):
        loss: Tensor = model.loss(**batch)
    if not loss.requires_grad:
        frozen = not any(p.requires_grad for p in model.parameters())
        reason = (
            "every parameter of the model is frozen"
            if frozen
            else "the step runs inside no_grad(), or the loss depends on no trainable parameter"
        )
        raise TrainingError(f"nothing is trained: {inactive(model) or reason}")
    return loss


def _add(total: dict[Tensor, Array], grads: dict[Tensor, Array]) -> None:
    """Add gradients to those in ``total``, in place, by blocks that threads share."""
    pairs = [(total[p], g) for p, g in grads.items() if p in total and g.ndim]
    blocks = [(x, g, block) for x, g in pairs for block in row_blocks(x)]

    def work(part: Sequence[tuple[Array, Array, slice]]) -> None:
        for x, g, block in part:
            x[block] += g[block]

    in_threads(work, blocks, block_threads(blocks))
    for p, g in grads.items():
        if p not in total:
            total[p] = g
        elif not g.ndim:
            total[p] += g


def _shard_rng(seed: Seed, shard: int) -> np.random.Generator:
    return np.random.default_rng((*seed, shard) if isinstance(seed, tuple) else (seed, shard))


@lru_cache(maxsize=1)
def _blas() -> Any:
    """Return the BLAS libraries that are loaded; finding them at every step would take 0.4 ms."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _shards(batch: Batch, n: int) -> list[tuple[dict[str, Any], int]]:
    """Cut the batch into n parts by rows, each with its number of labels; parts without a label are left out."""
    if n < 1:
        raise ValueError(f"shards must be at least 1, got {n}")
    rows = _rows(batch)
    return _cut(batch, np.array_split(np.arange(rows), min(n, rows)))


def _parts(batch: Batch, at_once: int) -> list[tuple[dict[str, Any], int]]:
    """Cut the batch into as few parts of at most ``at_once`` rows as possible; each is as `_shards` returns it."""
    rows = _rows(batch)
    return _cut(batch, np.array_split(np.arange(rows), -(-rows // at_once)))


def _rows(batch: Batch) -> int:
    rows = {name: len(x) for name, x in batch.items() if is_array(x) and x.ndim}
    if "labels" not in rows or len(set(rows.values())) != 1:
        raise ValueError(f"a batch in parts needs the array labels, and arrays of one length; got the lengths {rows}")
    return rows["labels"]


def _cut(batch: Batch, groups: Sequence[np.ndarray]) -> list[tuple[dict[str, Any], int]]:
    parts = []
    for chosen in groups:
        rows = slice(int(chosen[0]), int(chosen[-1]) + 1)
        part = {name: x[rows] if is_array(x) and x.ndim else x for name, x in batch.items()}
        labels = int((part["labels"] != IGNORED).sum())
        if labels:
            parts.append((part, labels))
    if not parts:
        raise ValueError(f"every label of the batch is {IGNORED}: there is nothing to learn from")
    return parts
