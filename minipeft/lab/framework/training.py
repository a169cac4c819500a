"""One training as all experiments make it: apply a method, train with a linear schedule, and count right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import no_grad
from minipeft.backend import to_numpy
from minipeft.optim import AdamW, CosineSchedule, LinearSchedule
from minipeft.peft import PeftConfig, get_peft_model
from minipeft.train import TrainingError, fit


def adapted(base: Any, method: PeftConfig | None, seed: int) -> Any:
    """Return the base with the method applied; None trains every parameter (full fine-tuning)."""
    return base.requires_grad_(True) if method is None else get_peft_model(base, method, rng=seed)


def train(
    model: Any,
    batches: Any,
    rate: float,
    steps: int,
    warmup: int | None = None,
    seed: int = 0,
    max_norm: float | None = None,
) -> bool:
    """Train with AdamW and return True, or False if training diverged, which is a result and not an error.

    Args:
        model: the model, whose trainable parameters are trained.
        batches: the training batches.
        rate: the highest learning rate.
        steps: how many steps.
        warmup: the steps over which the rate rises linearly before it falls linearly to zero; by default a tenth.
        seed: of the dropout.
        max_norm: the norm to which gradients are clipped; None does not clip.
    """
    warmup = steps // 10 if warmup is None else warmup
    optimizer = AdamW(model, lr=LinearSchedule(rate, steps, warmup=warmup))
    try:
        fit(model, batches, optimizer, steps=steps, seed=seed, max_norm=max_norm, progress=False)
    except TrainingError:
        return False
    return True


def pretrain(
    model: Any,
    batches: Any,
    steps: int,
    folder: Path,
    rate: float = 3e-3,
    warmup: int | None = None,
    progress: bool = False,
) -> None:
    """Train all parameters and save the model in ``folder``.

    Args:
        model: the model, with its initial weights.
        batches: the training batches.
        steps: how many steps.
        folder: where the model is saved.
        rate: the highest learning rate.
        warmup: the steps over which the rate rises before it falls as a cosine; by default a twentieth, at least one.
        progress: show a bar if stderr is a terminal.
    """
    schedule = CosineSchedule(rate, steps, warmup=max(1, steps // 20) if warmup is None else warmup)
    fit(model, batches, AdamW(model, lr=schedule), steps=steps, progress=progress)
    model.save_pretrained(folder)


def accuracy(model: Any, x: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of inputs x (n, …) whose largest logit is that of the label (n,)."""
    with no_grad():
        guesses = to_numpy(model(x).data).argmax(axis=1)
    return float((guesses == labels).mean())
