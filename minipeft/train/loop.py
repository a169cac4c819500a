"""The loop around training steps; it can be stopped and resumed to the same bits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import Forecast, bytes_of
from minipeft.autograd import no_grad
from minipeft.backend import give_back, is_array
from minipeft.data.batches import as_batches
from minipeft.files.atomic import check_writable
from minipeft.files.errors import FileError
from minipeft.nn.module import Module
from minipeft.optim import Optimizer
from minipeft.peft.untrained import MAKE_IT_AFTER, strangers, why_nothing_trains
from minipeft.train.shards import Batch
from minipeft.train.state import CheckpointError, History, State, has_checkpoint
from minipeft.train.step import check_kinds, not_in_model, train_step

Evaluate = Callable[[Any], Any]


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
    check_kinds("fit(model, batches, optimizer)", model, optimizer)
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
    limit = MicroBatcher(model, optimizer, shards, memory_budget)
    settings = {"batches": per_epoch, "shards": shards, "max_norm": max_norm, "seed": seed}
    settings |= {} if limit.bytes is None else {"memory_budget": limit.bytes}
    folder = None if checkpoint is None else Path(checkpoint)
    state = State(model, optimizer, higher_is_better, restore_best, folder)
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
        give_back()
        for module, mode in modes:
            module.training = mode
    if evaluate is not None and restore_best:
        state.restore_best()
    return state.history


class MicroBatcher:
    """How many examples of a batch fit into a memory budget at once; this depends only on the batch's shapes."""

    def __init__(self, model: Any, optimizer: Optimizer, shards: int, budget: int | float | str | None):
        self.model = model
        self.optimizer = optimizer
        self.shards = shards
        self.bytes = None if budget is None else bytes_of(budget)
        self.forecasts: dict[Any, Forecast] = {}

    def at_once(self, batch: Batch) -> int | None:
        """Return that number, None without a budget; ValueError if a single example needs more."""
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
        raise ValueError(f"fit: {not_in_model(optimizer, others)}; {MAKE_IT_AFTER}")
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
    """Yield the batches from step start + 1 on, without end."""
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
