"""Training: one step, and a loop around it that can be stopped and resumed to the same bits."""

from __future__ import annotations

import hashlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import Forecast, bytes_of
from minipeft.array import (
    Array,
    array_module,
    device_of,
    has_kernels,
    in_threads,
    is_array,
    read,
    row_blocks,
    side_by_side,
    to_device,
    to_numpy,
)
from minipeft.autograd import Tensor, no_grad
from minipeft.data.batches import as_batches
from minipeft.files.atomic import check_writable
from minipeft.files.config import read_json, write_json
from minipeft.files.errors import FileError
from minipeft.files.safetensors import read_safetensors, write_safetensors
from minipeft.files.sets import current, file_set, remove_set
from minipeft.nn.layers import random_stream
from minipeft.nn.module import Module
from minipeft.ops.loss import IGNORED
from minipeft.optim import ENOUGH_BLOCKS, Optimizer, gradients, scale_gradients, squared_norm
from minipeft.peft.base import PeftModel
from minipeft.peft.saving import base_checksum
from minipeft.peft.untrained import MAKE_IT_AFTER, inactive, strangers, why_nothing_trains

Batch = Mapping[str, Any]
Evaluate = Callable[[Any], Any]
Row = dict[str, float]
Seed = tuple[int, ...] | int

FEW_GRADIENTS = 256 << 20  # bytes
ARRAYS_FILE, FACTS_FILE = "training.safetensors", "training.json"  # of a checkpoint


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what went wrong first."""


class CheckpointError(FileError):
    """A checkpoint that is broken, or of another run."""


def has_checkpoint(folder: str | Path) -> bool:
    """True if `fit` has written a checkpoint into ``folder``."""
    return current(Path(folder) / FACTS_FILE).exists()


def remove_checkpoint(folder: str | Path) -> None:
    """Remove the checkpoint that `fit` wrote into ``folder``; also the folder, if nothing else is in it."""
    remove_set(folder, FACTS_FILE, ARRAYS_FILE)


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
    _check_kinds("train_step(model, batch, optimizer)", model, optimizer)
    if not isinstance(batch, Mapping):
        raise TypeError(f"train_step: expected one batch, a dict of arrays, got {type(batch).__name__}")
    batch = {name: np.asarray(x) if isinstance(x, list) else x for name, x in batch.items()}
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    seed = (0, optimizer.steps) if rng is None else rng
    optimizer.zero_grad()
    with _lent(optimizer, shards):
        result = _accumulated(model, batch, shards, seed, at_once)
    grads = gradients(optimizer.params.values())
    if len(grads) < len(optimizer.params):
        _check_gradients(model, optimizer, grads)
    loss, *squares = read(result, *([] if max_norm is None else [squared_norm(grads)]))  # one wait for a GPU
    if not math.isfinite(loss):
        bad = _blame(model, batch, seed)
        advice = "" if bad.startswith("the batch") else f"; {_slower(optimizer)}"
        raise TrainingError(f"the loss became {loss}; first tensor that is not finite: {bad}{advice}")
    if max_norm is not None:
        norm = math.sqrt(squares[0])
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradients' norm became {norm}; first tensor that is not finite: {_bad_gradient(model)}; "
                f"{_slower(optimizer)}"
            )
        if norm > max_norm:
            scale_gradients(grads, max_norm / (norm + 1e-6))
    optimizer.step(threads=shards)
    optimizer.zero_grad()
    return loss


def _check_kinds(call: str, model: Any, optimizer: Any) -> None:
    """Raise TypeError for swapped arguments of ``call``, PeftError if the model's adapter is merged or disabled."""
    if not isinstance(model, Module) or not hasattr(model, "loss"):
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
        raise TrainingError(f"{_not_in_model(optimizer, others)}; {MAKE_IT_AFTER}")


def _not_in_model(optimizer: Optimizer, others: Sequence[Tensor]) -> str:
    first = next(name for name, p in optimizer.params.items() if p is others[0])
    return f"{len(others)} of the optimizer's {len(optimizer.params)} parameters are not in this model, first {first!r}"


def _slower(optimizer: Optimizer) -> str:
    return f"try a smaller learning rate (now {optimizer.lr:g})"


def _lent(optimizer: Optimizer, shards: int) -> AbstractContextManager[None]:
    """Where a step may take its memory again: with few gradients.

    They come as activations go, in other sizes. With many of them, what is free would rarely fit what is asked for, and
    memory break into pieces: a full step of GPT-2 small was 5 % faster, in 600 MB more.
    """
    gradients = sum(p.data.nbytes for p in optimizer.params.values() if p.requires_grad) * shards
    return optimizer.buffers.lent() if gradients <= FEW_GRADIENTS else nullcontext()


def backward(model: Any, batch: Batch, shards: int = 1, rng: Seed = 0) -> float:
    """The mean loss of a batch, its gradients added to ``.grad``; see `train_step` for the arguments."""
    return read(_backward(model, batch, shards, rng))[0]


def _accumulated(model: Any, batch: Batch, shards: int, rng: Seed, at_once: int | None) -> Array | float:
    """`_backward` of a batch in parts of at most ``at_once`` rows, one after the other."""
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
    """`backward`, whose loss stays on the device; loss and gradients times ``share``."""
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
    for _, grads in results[1:]:
        _add(summed, grads, len(parts))
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
        reason = "every parameter of the model is frozen" if frozen else "the step runs inside no_grad()"
        raise TrainingError(f"nothing is trained: {inactive(model) or reason}")
    return loss


def _add(total: dict[Tensor, Array], grads: dict[Tensor, Array], threads: int) -> None:
    """Add gradients to those in ``total``, in place, by blocks shared out among threads."""
    pairs = [(total[p], g) for p, g in grads.items() if p in total and g.ndim]
    blocks = [(x, g, block) for x, g in pairs for block in row_blocks(x)]

    def work(part: Sequence[tuple[Array, Array, slice]]) -> None:
        for x, g, block in part:
            x[block] += g[block]

    in_threads(work, blocks, threads if len(blocks) >= ENOUGH_BLOCKS else 1)
    for p, g in grads.items():
        if p not in total:
            total[p] = g
        elif not g.ndim:
            total[p] += g


def _shard_rng(seed: Seed, shard: int) -> np.random.Generator:
    return np.random.default_rng((*seed, shard) if isinstance(seed, tuple) else (seed, shard))


@lru_cache(maxsize=1)
def _blas() -> Any:
    """The BLAS libraries that are loaded; looking for them at every step would take 0.4 ms."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _shards(batch: Batch, n: int) -> list[tuple[dict[str, Any], int]]:
    """The batch in n parts by rows, each with its number of labels; parts without a label are left out."""
    if n < 1:
        raise ValueError(f"shards must be at least 1, got {n}")
    rows = _rows(batch)
    return _cut(batch, np.array_split(np.arange(rows), min(n, rows)))


def _parts(batch: Batch, at_once: int) -> list[tuple[dict[str, Any], int]]:
    """The batch in as few parts of at most ``at_once`` rows as there can be, otherwise as `_shards` gives them."""
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


def _blame(model: Any, batch: Batch, seed: Seed) -> str:
    """Which tensor spoiled the loss: the first parameter, or else input, or else output of a module, in this order."""
    bad = _bad_parameter(model.named_parameters())
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
        with no_grad(), np.errstate(all="ignore"), random_stream(_shard_rng(seed, 0)):
            model.loss(**batch)
    finally:
        for _, module in modules:
            vars(module).pop("forward", None)
    return outputs[0] if outputs else "the loss itself"


def _bad_parameter(named: Iterable[tuple[str, Tensor]]) -> str | None:
    return next((f"parameter {name}" for name, p in named if not _finite(p.data)), None)


def _bad_gradient(model: Any) -> str:
    """The gradient that went bad first: the walk goes back, so the last in the order of the model."""
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


@dataclass
class History:
    """What happened: one row a step (step, loss, lr) and one an evaluation (step and the metrics).

    resumed_at: the step of the checkpoint that this call went on from, 0 where it began anew. at_once: under a memory
    budget, the smallest number of examples that a step of this call worked on at a time.
    """

    steps: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    best_step: int | None = None
    stopped_early: bool = False
    resumed_at: int = field(default=0, compare=False)
    at_once: int | None = field(default=None, compare=False)

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
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    higher_is_better: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    max_norm: float | None = None,
    seed: int = 0,
    progress: bool = True,
    restore_best: bool = True,
    memory_budget: int | float | str | None = None,
) -> History:
    """Train for a number of steps or epochs.

    Args:
        model: has ``loss``; an adapter on it must be neither merged nor disabled.
        batches: has ``len()`` and ``epoch(e)``, which yields the batches of epoch e in an order that depends only on
            e; or any iterable of batches, for example a list.
        optimizer: holds every trainable parameter of the model.
        steps: number of steps; give this or epochs.
        epochs: number of passes over the batches.
        shards: as in `train_step`.
        evaluate: evaluate(model) returns a number, or a dict of numbers whose first decides.
        evaluate_every: steps between evaluations, by default one epoch; there is also one at the end.
        patience: stop after this many evaluations without a better one.
        higher_is_better: which evaluation is the better one.
        checkpoint: a folder that gets a checkpoint every ``checkpoint_every`` steps, at the end and on Ctrl-C; other
            files in it stay as they are.
        checkpoint_every: steps between checkpoints.
        resume: continue from the checkpoint, to the same bits; start from scratch if there is none.
        max_norm: as in `train_step`.
        seed: seed of the dropout masks.
        progress: show a progress bar.
        restore_best: put the best weights back at the end, if there is evaluate.
        memory_budget: bytes, or a text such as "2GiB", that a step may hold at its peak: parameters, gradients,
            optimizer state, activations and workspace, as `accounting.Forecast` predicts them. A batch that needs more
            is worked on in parts of the largest number of examples that fit, and their gradients are added up, so each
            step means what it means without a budget. Not counted: evaluate, checkpoints, data, the interpreter.

    Returns:
        One row for each step and one for each evaluation.

    Raises:
        TypeError: arguments of another kind, or in another order.
        ValueError: arguments that do not fit, or an optimizer of other parameters than the model's.
        PeftError: the adapter is merged or disabled.
        TrainingError: something is not finite, or nothing would be trained; the message names the step.
        CheckpointError: the checkpoint is of another run.
        FileError: the folder cannot be written, before the first step.
        KeyboardInterrupt: after writing a checkpoint.
    """
    _check_kinds("fit(model, batches, optimizer)", model, optimizer)
    _check_length(steps, epochs)
    batches = as_batches(batches, steps)
    per_epoch = len(batches)
    if per_epoch < 1:
        raise ValueError("fit: there are no batches")
    total = int(steps or 0) or int(epochs or 0) * per_epoch
    for name, number in (("evaluate_every", evaluate_every), ("checkpoint_every", checkpoint_every)):
        if number is not None and number < 1:
            raise ValueError(f"fit: {name} must be at least 1, got {number}")
    if patience is not None and evaluate is None:
        raise ValueError("fit: patience needs evaluate")
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("fit: resume and checkpoint_every need the checkpoint folder")
    _check_optimizer(model, optimizer)
    limit = _Limit(model, optimizer, shards, memory_budget)
    settings = {"batches": per_epoch, "shards": shards, "max_norm": max_norm, "seed": seed}
    settings |= {} if limit.bytes is None else {"memory_budget": limit.bytes}
    folder = None if checkpoint is None else Path(checkpoint)
    state = _State(model, optimizer, higher_is_better, restore_best, folder)
    if folder is not None:
        check_writable(folder)
        state.identify(settings, next(iter(batches.epoch(0))))
        if resume and has_checkpoint(folder):
            try:
                state.load(total)
            except FileError as error:
                raise CheckpointError(str(error)) from error
    every = evaluate_every or per_epoch
    modes = [(module, module.training) for _, module in model.named_modules()]
    source = _from_step(batches, per_epoch, state.step)
    bar = _bar(total, state.step, progress)
    model.train()
    try:
        while True:
            due = state.step == total or (state.step > 0 and state.step % every == 0)
            if evaluate is not None and due and state.judged_at != state.step:
                with _lent(optimizer, shards):
                    state.judge(_evaluated(model, evaluate))
            if checkpoint_every is not None and state.step > 0 and state.step % checkpoint_every == 0:
                state.save()
            state.history.stopped_early = patience is not None and state.since_best >= patience
            if state.step == total or state.history.stopped_early:
                break
            batch = next(source)
            at_once = limit.at_once(batch)
            if at_once is not None:
                state.history.at_once = min(at_once, state.history.at_once or at_once)
            with state.unbroken_step():
                lr = optimizer.lr
                loss = train_step(model, batch, optimizer, shards, max_norm, (seed, state.step), at_once)
                state.record(loss, lr)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(1)
        state.save()
    except KeyboardInterrupt:
        print(state.interrupted(), file=sys.stderr)
        raise
    finally:
        bar.close()
        optimizer.buffers.clear()
        for module, mode in modes:
            module.training = mode
    if evaluate is not None and restore_best:
        state.restore_best()
    return state.history


class _Limit:
    """How many examples of a batch fit at once into a memory budget, by its shapes alone; None without a budget."""

    def __init__(self, model: Any, optimizer: Optimizer, shards: int, budget: int | float | str | None):
        self.model = model
        self.optimizer = optimizer
        self.shards = shards
        self.bytes = None if budget is None else bytes_of(budget)
        self.forecasts: dict[Any, Forecast] = {}

    def at_once(self, batch: Batch) -> int | None:
        """Raises ValueError where one example of the batch is too much."""
        if self.bytes is None:
            return None
        arrays = {name: x for name, x in batch.items() if is_array(x) and x.ndim}
        shapes = tuple((name, x.shape[1:], x.dtype.str) for name, x in sorted(arrays.items()))
        if shapes not in self.forecasts:
            self.forecasts[shapes] = Forecast(self.model, self.optimizer, batch, self.shards)
        return self.forecasts[shapes].at_once(max(map(len, arrays.values())), self.bytes)


def _check_length(steps: Any, epochs: Any) -> None:
    """Raise ValueError or TypeError unless exactly one of them is given, as a whole number of at least 1."""
    if (steps is None) == (epochs is None):
        raise ValueError("fit needs either steps or epochs")
    name, number = ("epochs", epochs) if steps is None else ("steps", steps)
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
        raise TypeError(f"fit: {name} must be a whole number, got {number!r}")
    if number < 1:
        raise ValueError(f"fit: {name} must be at least 1, got {number}")


def _check_optimizer(model: Module, optimizer: Optimizer) -> None:
    params = list(optimizer.params.values())
    others = strangers(model, params)
    if not any(p.requires_grad for p in params) or len(others) == len(params):
        raise ValueError(f"fit: nothing would be trained; {why_nothing_trains(model, params)}")
    if others:
        raise ValueError(f"fit: {_not_in_model(optimizer, others)}; {MAKE_IT_AFTER}")
    held = {id(p) for p in params}
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if missing:
        raise ValueError(
            f"fit: {len(missing)} trainable parameters of the model are not in the optimizer, the first is "
            f"{missing[0]!r}; {MAKE_IT_AFTER}, or freeze them"
        )


def _bar(total: int, start: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=start, desc="training", unit="step", disable=None if progress else True)


def _from_step(batches: Any, per_epoch: int, start: int) -> Iterator[Batch]:
    """The batches from step start + 1 on, without end."""
    epoch, skip = divmod(start, per_epoch)
    while True:
        n = 0
        for batch in batches.epoch(epoch):
            n += 1
            if n > skip:
                yield batch
        if n != per_epoch:
            raise ValueError(f"fit: len(batches) says {per_epoch}, but epoch {epoch} gave {n} batches")
        epoch, skip = epoch + 1, 0


def _evaluated(model: Module, evaluate: Evaluate) -> dict[str, float]:
    model.eval()
    try:
        with no_grad():
            result = evaluate(model)
    finally:
        model.train()
    return {k: float(v) for k, v in result.items()} if isinstance(result, dict) else {"value": float(result)}


@contextmanager
def _delayed_interrupt() -> Iterator[None]:
    """Ctrl-C inside takes effect at the end, a second one at once. Only the main thread ever receives it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    pressed: list[Any] = []

    def wait(*args: Any) -> None:
        if pressed:
            handler(*args)
        pressed.append(args)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        handler(*pressed[0])


class _State:
    """All that a checkpoint holds: trained tensors, optimizer state, step, history, the best so far."""

    def __init__(
        self, model: Module, optimizer: Optimizer, higher_is_better: bool, keep_best: bool, folder: Path | None
    ):
        self.model = model
        self.optimizer = optimizer
        self.sign = 1.0 if higher_is_better else -1.0
        self.keep_best = keep_best
        self.folder = folder
        self.run: dict[str, Any] = {}
        self.step = 0
        self.saved_at: int | None = None
        self.half_done = False
        self.history = History()
        self.best: dict[str, np.ndarray] = {}
        self.best_value: float | None = None
        self.since_best = 0

    def identify(self, settings: dict[str, Any], first_batch: Batch) -> None:
        """What tells this run from others: its settings, the optimizer's, the data, the frozen base."""
        digest = hashlib.sha256()
        for name, x in first_batch.items():
            if is_array(x):
                digest.update(f"{name} {x.shape} {x.dtype}\n".encode())
                digest.update(np.ascontiguousarray(to_numpy(x)).data)
        self.run = {
            **settings,
            "optimizer": self.optimizer.settings(),
            "first_batch": digest.hexdigest(),
            "frozen_base": base_checksum(self.model),
        }

    @property
    def judged_at(self) -> float | None:
        return self.history.evaluations[-1]["step"] if self.history.evaluations else None

    def trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    def unbroken_step(self) -> Iterator[None]:
        """Inside, Ctrl-C waits for the end of the step, so that it is never half-done; a second Ctrl-C does not wait.

        Raises TrainingError with the number of the step.
        """
        self.half_done = True
        try:
            with _delayed_interrupt():
                yield
                self.half_done = False
        except TrainingError as error:
            raise TrainingError(f"step {self.step + 1}: {error}") from None

    def record(self, loss: float, lr: float) -> None:
        self.step += 1
        self.history.steps.append({"step": self.step, "loss": loss, "lr": lr})

    @_delayed_interrupt()
    def judge(self, metrics: dict[str, float]) -> None:
        """Record an evaluation; remember the weights if it is the best."""
        name, value = next(iter(metrics.items()))
        if math.isnan(value):
            raise TrainingError(f"step {self.step}: evaluate gave {name} = nan, which nothing can be judged by")
        self.history.evaluations.append({"step": self.step, **metrics})
        if self.best_value is None or self.sign * value > self.sign * self.best_value:
            self.best_value, self.since_best, self.history.best_step = value, 0, self.step
            if self.keep_best:
                self.best = {n: np.array(to_numpy(p.data)) for n, p in self.trained().items()}
        else:
            self.since_best += 1

    def restore_best(self) -> None:
        for name, p in self.trained().items():
            if name in self.best:
                p.data[...] = to_device(self.best[name], device_of(p.data))

    def interrupted(self) -> str:
        """Save what Ctrl-C leaves, and say where it is."""
        if self.half_done:  # by a second Ctrl-C: these tensors belong to no step
            kept = "" if self.saved_at is None else f"; the checkpoint of step {self.saved_at} is in {self.folder}"
            return f"interrupted inside step {self.step + 1}{kept}"
        self.save()
        kept = "" if self.folder is None else f"; resume from {self.folder}"
        return f"interrupted after step {self.step}{kept}"

    def save(self) -> None:
        """Write the checkpoint, where one is wanted; TrainingError for parameters that are not finite."""
        if self.saved_at == self.step:
            return
        bad = _bad_parameter(self.trained().items())
        if bad is not None:
            raise TrainingError(f"step {self.step}: {bad} is not finite any more; try a smaller learning rate")
        if self.folder is None:
            return
        optimizer = self.optimizer.state_dict()
        arrays = {f"model/{n}": to_numpy(p.data) for n, p in self.trained().items()}
        arrays |= {f"optimizer/{n}": x for n, x in optimizer.items() if n != "steps"}
        arrays |= {f"best/{n}": x for n, x in self.best.items()}
        facts = {
            "step": self.step,
            "optimizer_steps": optimizer["steps"],
            "epoch": self.step // self.run["batches"],
            "batch_of_epoch": self.step % self.run["batches"],
            "run": self.run,
            "best_value": _to_json(self.best_value),
            "best_step": self.history.best_step,
            "since_best": self.since_best,
            "evaluations": [{k: _to_json(v) for k, v in row.items()} for row in self.history.evaluations],
            "steps": self.history.steps,
        }
        with _delayed_interrupt():
            with file_set(self.folder) as target:
                write_safetensors(target / ARRAYS_FILE, arrays)
                write_json(target / FACTS_FILE, facts)
            self.saved_at = self.step

    def load(self, total: int) -> None:
        """Take up the checkpoint; FileError where it is broken or of another run (nothing is changed then)."""
        assert self.folder is not None
        path = self.folder / FACTS_FILE
        facts = read_json(path)
        arrays, _ = read_safetensors(self.folder / ARRAYS_FILE)
        groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "optimizer": {}, "best": {}}
        for key, x in arrays.items():
            kind, _, name = key.partition("/")
            groups.setdefault(kind, {})[name] = x
        trained = self.trained()
        mine = {name: (p.shape, p.dtype) for name, p in trained.items()}
        theirs = {name: (x.shape, x.dtype) for name, x in groups["model"].items()}
        if mine != theirs:
            odd = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
            raise FileError(
                f"{self.folder}: this checkpoint holds other trained tensors than this model has, {len(odd)} differ, "
                f"the first is {odd[0]!r}; check the model and the method"
            )
        differences = list(_differences(facts.get("run"), self.run))
        if differences:
            raise FileError(
                f"{path}: the checkpoint is of another run: {'; '.join(differences[:3])}. "
                "Resume with the settings of then, or choose another folder"
            )
        try:
            step, best_value, since_best = facts["step"], facts["best_value"], facts["since_best"]
            evaluations = [{k: float(v) if k != "step" else v for k, v in row.items()} for row in facts["evaluations"]]
            history = History(facts["steps"], evaluations, facts["best_step"], resumed_at=step)
            if not isinstance(step, int) or len(history.steps) != step or set(groups["best"]) - set(trained):
                raise ValueError("its parts do not agree")
            best_value = None if best_value is None else float(best_value)
            self.optimizer.load_state_dict({"steps": facts["optimizer_steps"], **groups["optimizer"]})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"{path}: this checkpoint is broken: {error!r}") from error
        if step > total:
            raise FileError(f"{path}: the checkpoint is of step {step}, beyond the {total} steps asked for")
        self.step, self.best_value, self.since_best, self.history = step, best_value, since_best, history
        self.saved_at = step
        self.best = groups["best"]
        for name, p in trained.items():
            p.data[...] = to_device(groups["model"][name], device_of(p.data))


def _to_json(value: float | None) -> float | str | None:
    """JSON knows no infinity and no NaN: they are written as words, which ``float`` reads."""
    return value if value is None or math.isfinite(value) else str(value)


def _differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*now, *then]):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then!r}, now {now!r}"
