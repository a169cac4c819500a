"""Learning-rate schedules: functions from the step number, counted from 0, to the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Schedule = Callable[[int], float]


class LinearSchedule:
    """Rise linearly from 0 to ``lr`` over ``warmup`` steps, then fall linearly to 0 at ``steps``."""

    def __init__(self, lr: float, steps: int, warmup: int = 0):
        _check_schedule(lr, steps, warmup)
        self.lr, self.steps, self.warmup = lr, steps, warmup

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * max(0.0, (self.steps - step) / max(1, self.steps - self.warmup))


class CosineSchedule:
    """Rise linearly from 0 to ``lr`` over ``warmup`` steps, then fall along half a cosine to ``floor`` at ``steps``."""

    def __init__(self, lr: float, steps: int, warmup: int = 0, floor: float = 0.0):
        _check_schedule(lr, steps, warmup)
        if not 0.0 <= floor <= lr:
            raise ValueError(f"a schedule needs 0 <= floor <= lr, got floor={floor}, lr={lr}")
        self.lr, self.steps, self.warmup, self.floor = lr, steps, warmup, floor

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (self.lr - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def described(lr: float | Schedule) -> Any:
    """Return a learning rate or a schedule as plain values, to compare the settings of two runs."""
    if not callable(lr):
        return float(lr)
    if isinstance(lr, (LinearSchedule, CosineSchedule)):
        return {"schedule": type(lr).__name__, **vars(lr)}
    return {"schedule": getattr(lr, "__qualname__", type(lr).__qualname__)}


def _check_schedule(lr: float, steps: int, warmup: int) -> None:
    if lr <= 0 or steps < 1 or not 0 <= warmup <= steps:
        raise ValueError(
            f"a schedule needs lr > 0 and 0 <= warmup <= steps, got lr={lr}, warmup={warmup}, steps={steps}"
        )
