"""The backward pass of a batch in parts: shards side by side, or one part after the other."""

from __future__ import annotations

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
    read,
    row_blocks,
    side_by_side,
    use_threads,
)
from minipeft.nn.layers import random_stream
from minipeft.ops.loss import IGNORED
from minipeft.peft.untrained import inactive

Batch = Mapping[str, Any]
Seed = tuple[int, ...] | int


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what went wrong first."""


def backward(model: Any, batch: Batch, shards: int = 1, rng: Seed = 0) -> float:
    """Return the mean loss of a batch and add its gradients to ``.grad``; the arguments are those of `train_step`."""
    return read(_backward(model, batch, shards, rng))[0]


def accumulated(model: Any, batch: Batch, shards: int, rng: Seed, at_once: int | None) -> Array | float:
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
        loss = _recorded_loss(model, batch, shard_rng(rng, 0))
        loss.backward(None if share == 1.0 else array_module(loss.data).full_like(loss.data, share))
        return loss.data if share == 1.0 else loss.data * share
    if any(has_kernels(p.data) for p in model.parameters()):
        raise ValueError(f"shards share the cores of a processor; on a GPU a batch stays whole: shards=1, not {shards}")
    parts = _shards(batch, shards)
    total = sum(n for _, n in parts) / share

    def work(index: int) -> tuple[float, dict[Tensor, Array]]:
        part, n = parts[index]
        grads: dict[Tensor, Array] = {}
        loss = _recorded_loss(model, part, shard_rng(rng, index))
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


def shard_rng(seed: Seed, shard: int) -> np.random.Generator:
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
