"""Training: one step, and a loop around it that can be stopped and resumed to the same bits."""

from minipeft.train.loop import fit
from minipeft.train.shards import TrainingError, backward
from minipeft.train.state import CheckpointError, History, has_checkpoint, remove_checkpoint
from minipeft.train.step import train_step

__all__ = [
    "CheckpointError",
    "History",
    "TrainingError",
    "backward",
    "fit",
    "has_checkpoint",
    "remove_checkpoint",
    "train_step",
]
