"""Optimizers, learning-rate schedules and gradient clipping."""

from minipeft.optim.clip import clip_grad_norm_, gradients
from minipeft.optim.optimizer import Optimizer
from minipeft.optim.rules import SGD, AdamW
from minipeft.optim.schedules import CosineSchedule, LinearSchedule, Schedule

__all__ = [
    "SGD",
    "AdamW",
    "CosineSchedule",
    "LinearSchedule",
    "Optimizer",
    "Schedule",
    "clip_grad_norm_",
    "gradients",
]
