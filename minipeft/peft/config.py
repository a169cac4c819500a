"""What a configuration is, and the error of one that does not fit."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, ClassVar, TypeVar

import numpy as np

from minipeft import hints
from minipeft.autograd import Tensor
from minipeft.backend import Array, device_of, to_device
from minipeft.files.config import FLOAT32_MAX, check_types


class PeftError(ValueError):
    """A configuration or an adapter file that does not fit the model; the message says what would."""


@dataclass
class PeftConfig:
    """Options that all methods have.

    modules_to_save: names of modules that are trained in full besides the method, as copies; the base keeps its own.
    None means the classification head of a model that has one, an empty list means nothing. A module that is tied to
    another one (a head to an embedding) is trained alone, as in Hugging Face PEFT; name both to train both, apart.
    task_type: what the model is for, as in Hugging Face PEFT, for example "CAUSAL_LM"; it changes nothing here, because
    the model itself says so.
    """

    peft_type: ClassVar[str] = ""
    modules_to_save: list[str] | None = field(default=None, kw_only=True)
    task_type: str | None = field(default=None, kw_only=True)

    def apply(self, peft: Any, rng: np.random.Generator) -> None:
        """Swap the method's parts into ``peft.base_model`` through ``peft.swap`` and ``peft.train_copy``."""
        raise NotImplementedError(f"{type(self).__name__} defines no apply")


C = TypeVar("C", bound=PeftConfig)
METHODS: dict[str, type[PeftConfig]] = {}
TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
# Options of Hugging Face PEFT that change nothing here, with the values of which this is true; None stands for any.
WITHOUT_EFFECT: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("base_model_name_or_path", "revision", "auto_mapping", "fan_in_fan_out"), None),
    **dict.fromkeys(("inference_mode", "use_dora", "lora_bias"), (False,)),
    **dict.fromkeys(("layers_pattern", "layer_replication", "megatron_config"), (None,)),
}


def method(config: type[C]) -> type[C]:
    """Make a configuration known under its ``peft_type``, for loading (a class decorator).

    Its options may also be given with those of Hugging Face PEFT that change nothing here; any other name raises a
    TypeError with a hint.
    """
    METHODS[config.peft_type] = config
    kind: Any = config
    own_init = kind.__init__

    @wraps(own_init)
    def init(self: C, *args: Any, **options: Any) -> None:
        known = [f.name for f in fields(config)]
        for name in options.keys() - set(known):
            _check_without_effect(config, name, options.pop(name), known)
        own_init(self, *args, **options)

    kind.__init__ = init
    return config


def _check_without_effect(config: type[PeftConfig], name: str, value: Any, known: list[str]) -> None:
    """Raise TypeError unless the option, which the configuration does not have, would change nothing here."""
    harmless = (config.peft_type,) if name == "peft_type" else WITHOUT_EFFECT.get(name, ())
    if harmless is None or value in harmless:
        return
    near = [n for n in (hints.OPTIONS.get(name),) if n in known] or difflib.get_close_matches(name, known, n=1)
    hint = hints.OTHER_OPTIONS.get(name) or (f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}")
    raise TypeError(f"{config.__name__} has no option {name}={value!r}; {hint}")


def trainable(values: Array, like: Tensor) -> Tensor:
    """A trainable tensor with ``values``, in the type and on the device of ``like``."""
    return Tensor(to_device(values.astype(like.dtype), device_of(like.data)), requires_grad=True)


def check_values(config: PeftConfig) -> None:
    """Raise PeftError for a field of another type than it declares, or a number that is not finite in float32."""
    try:
        check_types(config)
    except TypeError as error:
        raise PeftError(f"{type(config).__name__}: {error}") from None
    if config.task_type not in (None, *TASKS):
        raise PeftError(f"{type(config).__name__}: task_type is one of {TASKS}, got {config.task_type!r}")
    for name, value in vars(config).items():
        for number in value.values() if isinstance(value, dict) else (value,):
            if isinstance(number, float) and not abs(number) <= FLOAT32_MAX:
                raise PeftError(
                    f"{type(config).__name__}: {name} must be finite, got {value!r}; float32 ends at 3.4e38"
                )


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
