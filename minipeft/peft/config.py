"""What a configuration is, and the error of one that does not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minipeft.array import Array, device_of, to_device
from minipeft.autograd import Tensor
from minipeft.files.config import check_types


class PeftError(ValueError):
    """A configuration or an adapter file that does not fit the model; the message says what would."""


@dataclass
class PeftConfig:
    """Options that all methods have.

    modules_to_save: names of modules that are trained in full besides the method, as copies; the base keeps its own.
    None means the classification head of a model that has one, an empty list means nothing. A module that is tied to
    another one (a head to an embedding) is trained alone, as in Hugging Face PEFT; name both to train both, apart.
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


def check_values(config: PeftConfig) -> None:
    """Raise PeftError for a field of another type than it declares, or a number that is not finite."""
    try:
        check_types(config)
    except TypeError as error:
        raise PeftError(f"{type(config).__name__}: {error}") from None
    for name, value in vars(config).items():
        for number in value.values() if isinstance(value, dict) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise PeftError(f"{type(config).__name__}: {name} must be finite, got {value!r}")


def check_not_zero(config: PeftConfig, name: str) -> None:
    """Raise PeftError for a factor of the whole change that is zero: nothing would ever be learnt."""
    if getattr(config, name) == 0:
        raise PeftError(f"{type(config).__name__}: {name} is 0, so that nothing would be changed or learnt")


def check_fields(config: PeftConfig, **at_least: int) -> None:
    """Raise PeftError for a field below its least value; None is no value."""
    for name, least in at_least.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise PeftError(f"{type(config).__name__}: {name} must be at least {least}, got {value!r}")
