"""What a configuration is, and the error of one that does not fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minipeft.array import Array, device_of, to_device
from minipeft.autograd import Tensor


class PeftError(ValueError):
    """A configuration or an adapter file that does not fit the model; the message says what would."""


@dataclass
class PeftConfig:
    """Options that all methods have.

    modules_to_save: names of modules trained in full beside the method (as copies, the base keeps its own);
    None stands for the classification head of a model that has one, an empty list for nothing.
    """

    peft_type: ClassVar[str] = ""
    modules_to_save: list[str] | None = field(default=None, kw_only=True)

    def apply(self, peft: Any, rng: np.random.Generator) -> None:
        """Swap the method's parts into ``peft.base_model`` through ``peft.swap`` and ``peft.train_copy``."""
        raise NotImplementedError(f"{type(self).__name__} defines no apply")


METHODS: dict[str, type[PeftConfig]] = {}


def method(config: type[PeftConfig]) -> type[PeftConfig]:
    """Class decorator: make a configuration known under its ``peft_type``, for loading."""
    METHODS[config.peft_type] = config
    return config


def trainable(values: Array, like: Tensor) -> Tensor:
    """A trainable tensor with ``values``, in the type and on the device of ``like``."""
    return Tensor(to_device(values.astype(like.dtype), device_of(like.data)), requires_grad=True)


def check_fields(config: Any, **at_least: int) -> None:
    """Raise PeftError for a field below its least value."""
    for name, least in at_least.items():
        value = getattr(config, name)
        if not isinstance(value, int) or value < least:
            raise PeftError(f"{type(config).__name__}: {name} must be an integer of at least {least}, got {value!r}")
