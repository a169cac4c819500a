"""Training: one step, and a loop around it that can be stopped and resumed to the same bits."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.array import Array, array_module, device_of, to_device, to_numpy
from minipeft.autograd import Tensor, no_grad
from minipeft.files.atomic import atomic_folder
from minipeft.files.config import read_json, write_json
from minipeft.files.errors import FileError
from minipeft.files.safetensors import read_safetensors, write_safetensors
from minipeft.nn.layers import random_stream
from minipeft.nn.module import Module
from minipeft.ops.loss import IGNORED
from minipeft.optim import Optimizer, clip_grad_norm_

Batch = Mapping[str, Any]
Evaluate = Callable[[Any], Any]


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what went wrong first."""


def train_step(
    model: Any,
    batch: Batch,
    optimizer: Optimizer,
    shards: int = 1,
    max_norm: float | None = None,
    rng: tuple[int, ...] | int = 0,
) -> float:
    """One step: loss, backward, clipping, update; the loss as a number.

    batch: the arguments of ``model.loss`` by name, arrays of B rows. shards: split the batch over as many threads, each
    with a gradient buffer of its own, summed in a fixed order, so that the result does not depend on timing. rng seeds
    the dropout masks, shard by shard. Raises TrainingError for a loss or a gradient norm that is not finite.
    """
    optimizer.zero_grad()
    loss = backward(model, batch, shards, rng)
    if not math.isfinite(loss):
        raise TrainingError(f"the loss became {loss}; first tensor that is not finite: {_first_bad(model)}")
    if max_norm is not None and not math.isfinite(clip_grad_norm_(optimizer.params.values(), max_norm)):
        raise TrainingError(f"the gradient is not finite; first tensor: {_first_bad(model)}")
    optimizer.step()
    optimizer.zero_grad()
    return loss


def backward(model: Any, batch: Batch, shards: int = 1, rng: tuple[int, ...] | int = 0) -> float:
    """The mean loss of a batch, its gradients added to ``.grad``; see `train_step` for the arguments."""
    seed = rng if isinstance(rng, tuple) else (rng,)
    if shards == 1:
        with random_stream(np.random.default_rng((*seed, 0))):
            loss = model.loss(**batch)
        loss.backward()
        return loss.item()
    from threadpoolctl import threadpool_limits

    parts = _shards(batch, shards)
    total = sum(n for _, n in parts)

    def work(index: int) -> tuple[float, dict[Tensor, Array]]:
        part, n = parts[index]
        grads: dict[Tensor, Array] = {}
        with random_stream(np.random.default_rng((*seed, index))):
            loss = model.loss(**part)
        weight = array_module(loss.data).full_like(loss.data, n / total)
        loss.backward(weight, into=grads)
        return loss.item() * n / total, grads

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(len(parts)) as pool:
        results = list(pool.map(lambda job: job[0].run(work, job[1]), [(copy_context(), i) for i in range(len(parts))]))
    for p in model.parameters():
        for _, grads in results:
            if p in grads:
                p.grad = grads[p] if p.grad is None else p.grad + grads[p]
    return sum(loss for loss, _ in results)


def _shards(batch: Batch, n: int) -> list[tuple[dict[str, Any], int]]:
    """The batch in n parts by rows, each with its number of labels; parts without a label are left out."""
    if n < 1:
        raise ValueError(f"shards must be at least 1, got {n}")
    size = len(batch["labels"])
    parts = []
    for rows in np.array_split(np.arange(size), min(n, size)):
        part = {k: v[rows[0] : rows[-1] + 1] if hasattr(v, "shape") and v.ndim else v for k, v in batch.items()}
        labels = int((np.asarray(part["labels"]) != IGNORED).sum())
        if labels:
            parts.append((part, labels))
    if not parts:
        raise ValueError(f"every label of the batch is {IGNORED}: there is nothing to learn from")
    return parts


def _first_bad(model: Any) -> str:
    """The first parameter, or else the first gradient, that holds a value that is not finite."""
    for what, get in (("parameter", lambda p: p.data), ("gradient of", lambda p: p.grad)):
        for name, p in model.named_parameters():
            x = get(p)
            if x is not None and not np.isfinite(to_numpy(x)).all():
                return f"{what} {name}"
    return "none among parameters and gradients; an activation or the input overflowed"


@dataclass
class History:
    """What happened: one row a step (step, loss, lr) and one an evaluation (step and the metrics)."""

    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    stopped_early: bool = False

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.steps]


def fit(
    model: Any,
    batches: Any,
    optimizer: Optimizer,
    steps: int | None = None,
    epochs: int | None = None,
    shards: int = 1,
    max_norm: float | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    higher_is_better: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train for a number of steps or epochs.

    batches: has ``len()`` and ``epoch(e)``, which yields the batches of epoch e in an order that depends on e alone.
    evaluate(model): a number, or a dict of numbers whose first decides; run every ``evaluate_every`` steps (by default
    once an epoch) and at the end. patience: stop after that many evaluations without a better one. With evaluate, the
    best weights are put back at the end. checkpoint: a folder, rewritten whole every ``checkpoint_every`` steps, at the
    end and on Ctrl-C; resume=True goes on from it, to the same bits. seed: of the dropout masks.
    Raises TrainingError naming the step where the loss stops being finite, ValueError for arguments that do not fit,
    FileError for a checkpoint of another run; KeyboardInterrupt after writing a checkpoint.
    """
    if (steps is None) == (epochs is None):
        raise ValueError("fit needs either steps or epochs")
    per_epoch = len(batches)
    if per_epoch < 1:
        raise ValueError("fit: there are no batches")
    total = steps if steps is not None else int(epochs or 0) * per_epoch
    if total < 1:
        raise ValueError(f"fit: the number of steps must be at least 1, got {total}")
    if patience is not None and evaluate is None:
        raise ValueError("fit: patience needs evaluate")
    if resume and checkpoint is None:
        raise ValueError("fit: resume needs the checkpoint folder")
    state = _State(model, optimizer, seed, higher_is_better)
    if resume and checkpoint is not None and (Path(checkpoint) / "training.json").exists():
        state.load(Path(checkpoint))
    every = evaluate_every or per_epoch
    was_training = model.training
    model.train()
    bar = _bar(total, state.step, progress)
    try:
        for batch in _from_step(batches, per_epoch, state.step, total):
            if state.history.stopped_early:
                break
            lr = optimizer.lr
            try:
                loss = train_step(model, batch, optimizer, shards, max_norm, rng=(seed, state.step))
            except TrainingError as error:
                raise TrainingError(
                    f"step {state.step + 1}: {error}; try a smaller learning rate (now {lr:g})"
                ) from None
            state.step += 1
            state.history.steps.append({"step": state.step, "loss": loss, "lr": lr})
            bar.update(1)
            bar.set_postfix(loss=f"{loss:.4f}")
            if evaluate is not None and (state.step % every == 0 or state.step == total):
                state.judge(_evaluated(model, evaluate), patience)
            if checkpoint is not None and checkpoint_every and state.step % checkpoint_every == 0:
                state.save(Path(checkpoint))
        if checkpoint is not None:
            state.save(Path(checkpoint))
    except KeyboardInterrupt:
        if checkpoint is not None:
            state.save(Path(checkpoint))
            print(f"interrupted after step {state.step}; resume from {checkpoint}", file=sys.stderr)
        raise
    finally:
        bar.close()
        model.train(was_training)
    if evaluate is not None:
        state.restore_best()
    return state.history


def _bar(total: int, start: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=start, desc="training", unit="step", disable=None if progress else True)


def _from_step(batches: Any, per_epoch: int, start: int, total: int) -> Iterator[Batch]:
    """The batches of steps start + 1 … total."""
    step = start
    while step < total:
        epoch, skip = divmod(step, per_epoch)
        for i, batch in enumerate(batches.epoch(epoch)):
            if i >= skip and step < total:
                yield batch
                step += 1


def _evaluated(model: Module, evaluate: Evaluate) -> dict[str, float]:
    model.eval()
    try:
        with no_grad():
            result = evaluate(model)
    finally:
        model.train()
    return {k: float(v) for k, v in result.items()} if isinstance(result, dict) else {"value": float(result)}


class _State:
    """All that a checkpoint holds: trained tensors, optimizer state, step, history, the best so far."""

    def __init__(self, model: Module, optimizer: Optimizer, seed: int, higher_is_better: bool):
        self.model = model
        self.optimizer = optimizer
        self.seed = seed
        self.sign = 1.0 if higher_is_better else -1.0
        self.step = 0
        self.history = History()
        self.best: dict[str, np.ndarray] = {}
        self.best_value: float | None = None
        self.since_best = 0

    def trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def judge(self, metrics: dict[str, float], patience: int | None) -> None:
        """Record an evaluation; remember the weights if it is the best."""
        self.history.evaluations.append({"step": self.step, **metrics})
        value = next(iter(metrics.values()))
        if self.best_value is None or self.sign * value > self.sign * self.best_value:
            self.best_value, self.since_best, self.history.best_step = value, 0, self.step
            self.best = {name: np.array(to_numpy(p.data)) for name, p in self.trained().items()}
        else:
            self.since_best += 1
            self.history.stopped_early = patience is not None and self.since_best >= patience

    def restore_best(self) -> None:
        for name, p in self.trained().items():
            if name in self.best:
                p.data[...] = to_device(self.best[name], device_of(p.data))

    def save(self, folder: Path) -> None:
        optimizer = self.optimizer.state_dict()
        arrays = {f"model/{n}": np.array(to_numpy(p.data)) for n, p in self.trained().items()}
        arrays |= {f"optimizer/{n}": x for n, x in optimizer.items() if n != "steps"}
        arrays |= {f"best/{n}": x for n, x in self.best.items()}
        facts = {
            "step": self.step,
            "optimizer": type(self.optimizer).__name__,
            "optimizer_steps": optimizer["steps"],
            "seed": self.seed,
            "best_value": self.best_value,
            "since_best": self.since_best,
            "best_step": self.history.best_step,
            "stopped_early": self.history.stopped_early,
            "steps": self.history.steps,
            "evaluations": self.history.evaluations,
        }
        with atomic_folder(folder) as target:
            write_safetensors(target / "training.safetensors", arrays)
            write_json(target / "training.json", facts)

    def load(self, folder: Path) -> None:
        """Take up a checkpoint; FileError where it belongs to another model, optimizer or seed (nothing is changed)."""
        path = folder / "training.json"
        facts = read_json(path)
        arrays, _ = read_safetensors(folder / "training.safetensors")
        groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "optimizer": {}, "best": {}}
        for key, x in arrays.items():
            kind, _, name = key.partition("/")
            groups.setdefault(kind, {})[name] = x
        trained = self.trained()
        shapes = {n: p.shape for n, p in trained.items()}
        if {n: x.shape for n, x in groups["model"].items()} != shapes:
            raise FileError(
                f"{folder}: this checkpoint holds other trained tensors than this model has; check the method"
            )
        for key, mine in (("optimizer", type(self.optimizer).__name__), ("seed", self.seed)):
            if facts.get(key) != mine:
                raise FileError(f"{path}: the checkpoint has {key} {facts.get(key)!r}, this run {mine!r}")
        try:
            self.optimizer.load_state_dict({"steps": facts["optimizer_steps"], **groups["optimizer"]})
            self.step = facts["step"]
            self.best_value, self.since_best = facts["best_value"], facts["since_best"]
            self.history = History(facts["steps"], facts["evaluations"], facts["best_step"], facts["stopped_early"])
        except (KeyError, ValueError) as error:
            raise FileError(f"{path}: this checkpoint does not fit: {error}") from error
        self.best = groups["best"]
        for name, p in trained.items():
            p.data[...] = to_device(groups["model"][name], device_of(p.data))
