"""What a training run has reached, and its checkpoint: enough to continue to the same bits."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import device_of, is_array, to_device, to_numpy
from minipeft.files.config import read_json, write_json
from minipeft.files.errors import FileError
from minipeft.files.safetensors import read_safetensors, write_safetensors
from minipeft.files.sets import current, file_set, remove_set
from minipeft.nn.module import Module
from minipeft.optim import Optimizer
from minipeft.peft.saving import base_checksum
from minipeft.train.finite import bad_parameter
from minipeft.train.shards import Batch, TrainingError

Row = dict[str, float]
ARRAYS_FILE, FACTS_FILE = "training.safetensors", "training.json"  # of a checkpoint


class CheckpointError(FileError):
    """A checkpoint that is broken, or of another run."""


def has_checkpoint(folder: str | Path) -> bool:
    """True if `fit` has written a checkpoint into ``folder``."""
    return current(Path(folder) / FACTS_FILE).exists()


def remove_checkpoint(folder: str | Path) -> None:
    """Remove the checkpoint that `fit` wrote into ``folder``; also the folder, if nothing else is in it."""
    remove_set(folder, FACTS_FILE, ARRAYS_FILE)


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


@contextmanager
def _delayed_interrupt() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block; a second one acts at once. Only the main thread receives it."""
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


class State:
    """What a checkpoint holds: trained tensors, optimizer state, step, history, the best so far."""

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
        """Record what identifies this run: its settings, the optimizer's, the data, the frozen base."""
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
        """Delay Ctrl-C to the end of the step, so that no step is half done; a second Ctrl-C acts at once.

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
        """Save the state after Ctrl-C and return a message that says where it is."""
        if self.half_done:  # by a second Ctrl-C: these tensors belong to no step
            kept = "" if self.saved_at is None else f"; the checkpoint of step {self.saved_at} is in {self.folder}"
            return f"interrupted inside step {self.step + 1}{kept}"
        self.save()
        kept = "" if self.folder is None else f"; resume from {self.folder}"
        return f"interrupted after step {self.step}{kept}"

    def save(self) -> None:
        """Write the checkpoint if there is a folder for it; TrainingError for parameters that are not finite."""
        if self.saved_at == self.step:
            return
        bad = bad_parameter(self.trained().items())
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
    """Return infinity and NaN, which JSON does not have, as words that ``float`` reads."""
    return value if value is None or math.isfinite(value) else str(value)


def _differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*now, *then]):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then!r}, now {now!r}"
