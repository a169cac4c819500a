"""What the optimizers share: parameters by name, their state, and checkpoints of it.

Frozen parameters have no state, no weight decay, and are never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minipeft.backend import Array, array_module, backend_of, device_of, to_device, to_numpy
from minipeft.nn.module import Module
from minipeft.optim.parameters import Parameters, flat, named_trainables
from minipeft.optim.schedules import Schedule, described
from minipeft.specialize import specialized

NoDecay = Callable[[str], bool] | Sequence[str]
Part = tuple[Array, Array, dict[str, Array], float]  # a parameter x, its gradient g, its state, each (n,); its decay


def update_each(optimizer: Optimizer, parts: Sequence[Part], lr: float) -> None:
    """Apply the optimizer's rule to one parameter after the other."""
    for x, g, state, decay in parts:
        optimizer.update(x, g, state, lr, decay)


class Optimizer:
    """Base of the update rules: the trainable parameters by name, their state, the step count, the learning rate.

    Args:
        params: a Module, tensors, or (name, tensor) pairs; tensors without a name are called 0, 1, ….
        lr: the learning rate, or a schedule: a function of the step number.
        weight_decay: λ in the update rule.
        no_decay: the parameters without weight decay: a function of the name, or a list of endings ("bias", "norm"),
            which are compared with each part of the dotted name.

    Raises:
        TypeError: an argument of another kind.
        ValueError: nothing is trainable, a name is given twice, or a number is out of range.
    """

    slots: tuple[str, ...] = ()
    options: tuple[str, ...] = ("weight_decay",)

    def __init__(self, params: Parameters, lr: float | Schedule, weight_decay: float, no_decay: NoDecay = ()):
        if not isinstance(params, Iterable) and not isinstance(params, Module):
            raise TypeError(f"expected a model or its parameters first, got {type(params).__name__}")
        if not callable(lr) and not isinstance(lr, (int, float, np.number)):
            raise TypeError(f"expected the learning rate as a number or a schedule, got {lr!r}")
        self.params = named_trainables(params)
        if not callable(lr) and not lr > 0:
            raise ValueError(f"the learning rate must be positive, got {lr}")
        if not weight_decay >= 0:
            raise ValueError(f"the weight decay must not be negative, got {weight_decay}")
        self.schedule = lr
        self.weight_decay = float(weight_decay)  # a Python number: one of NumPy's would promote float32
        self.decays = {name: 0.0 if _excluded(name, no_decay) else self.weight_decay for name in self.params}
        self.steps = 0
        self.state: dict[str, dict[str, Array]] = {}

    def __repr__(self) -> str:
        schedule = f" by {type(self.schedule).__name__}" if callable(self.schedule) else ""
        options = "".join(f", {name}={getattr(self, name)}" for name in self.options)
        n = sum(p.size for p in self.params.values())
        return (
            f"{type(self).__name__}(lr={self.lr:g}{schedule}{options}): "
            f"{n:,} parameters in {len(self.params)} tensors, step {self.steps}"
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule(self.steps) if callable(self.schedule) else self.schedule)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of all parameters."""
        return sum(x.nbytes for slots in self.state.values() for x in slots.values())

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for p in self.params.values():
            p.grad = None

    def step(self) -> None:
        """Update every trainable parameter that has a gradient, in place.

        Raises RuntimeError if no parameter has a gradient.
        """
        if all(p.grad is None for p in self.params.values()):
            raise RuntimeError(
                f"none of the optimizer's {len(self.params)} parameters has a gradient: call backward() on the loss "
                "first, and make the optimizer after get_peft_model()"
            )
        lr = self.lr
        self.steps += 1
        parts: list[Part] = []
        for name, p in self.params.items():
            if not p.requires_grad or p.grad is None:
                continue
            if name not in self.state:
                self.state[name] = {slot: array_module(p.data).zeros_like(p.data) for slot in self.slots}
            state = {slot: value.reshape(-1) for slot, value in self.state[name].items()}
            parts.append((flat(name, p.data), p.grad.reshape(-1), state, self.decays[name]))
        if parts:
            rule = specialized(type(self), backend_of(parts[0][0]).kind)
            (update_each if rule is type(self) else rule)(self, parts, lr)

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float, decay: float) -> None:
        """Change the parameter x (n,) by its gradient g (n,), in place, and its state: arrays (n,) by slot."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def settings(self) -> dict[str, Any]:
        """Return what determines the steps, as plain values: rule, options, schedule, parameters without decay."""
        options = {name: getattr(self, name) for name in self.options}
        no_decay = [name for name, decay in self.decays.items() if decay != self.weight_decay]
        return {"kind": type(self).__name__, "lr": described(self.schedule), **options, "no_decay": no_decay}

    def state_dict(self) -> dict[str, Any]:
        """Return {"steps": int, "name/slot": array on the host}, for a checkpoint."""
        arrays = {f"{name}/{slot}": to_numpy(x).copy() for name, s in self.state.items() for slot, x in s.items()}
        return {"steps": self.steps, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a saved state. Raises ValueError, and changes nothing, if it does not fit these parameters."""
        steps = state.get("steps")
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"the optimizer state needs steps, a whole number; got {steps!r}")
        loaded: dict[str, dict[str, Array]] = {}
        for key, x in state.items():
            if key == "steps":
                continue
            name, _, slot = key.rpartition("/")
            p = self.params.get(name)
            if p is None or slot not in self.slots or tuple(x.shape) != p.shape:
                raise ValueError(
                    f"the optimizer state {key} {tuple(x.shape)} fits no trainable parameter of this model"
                )
            loaded.setdefault(name, {})[slot] = to_device(np.array(x, dtype=p.dtype), device_of(p.data))
        for name, slots in loaded.items():
            if set(slots) != set(self.slots):
                raise ValueError(f"the optimizer state of {name} has {sorted(slots)}, expected {sorted(self.slots)}")
        self.state = loaded
        self.steps = steps


def _excluded(name: str, no_decay: NoDecay) -> bool:
    if callable(no_decay):
        return bool(no_decay(name))
    if isinstance(no_decay, str):
        raise TypeError(f"no_decay must be a function or a list of endings, got the string {no_decay!r}")
    return any(part.endswith(tuple(no_decay)) for part in name.split("."))
