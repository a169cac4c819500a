"""Optimizers and learning-rate schedules. What is frozen has no state, takes no decay and is never touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minipeft.array import Array, array_module, device_of, row_blocks, to_device, to_numpy
from minipeft.autograd import Tensor
from minipeft.nn.module import Module

Schedule = Callable[[int], float]
Parameters = Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


class LinearSchedule:
    """From 0 up to ``lr`` over ``warmup`` steps, then down to 0 at ``steps``, in straight lines."""

    def __init__(self, lr: float, steps: int, warmup: int = 0):
        _check_schedule(lr, steps, warmup)
        self.lr, self.steps, self.warmup = lr, steps, warmup

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * max(0.0, (self.steps - step) / max(1, self.steps - self.warmup))


class CosineSchedule:
    """From 0 up to ``lr`` over ``warmup`` steps, then down to ``floor`` at ``steps`` along half a cosine."""

    def __init__(self, lr: float, steps: int, warmup: int = 0, floor: float = 0.0):
        _check_schedule(lr, steps, warmup)
        self.lr, self.steps, self.warmup, self.floor = lr, steps, warmup, floor

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (self.lr - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def _check_schedule(lr: float, steps: int, warmup: int) -> None:
    if lr <= 0 or steps < 1 or not 0 <= warmup <= steps:
        raise ValueError(
            f"a schedule needs lr > 0 and 0 <= warmup <= steps, got lr={lr}, warmup={warmup}, steps={steps}"
        )


class Optimizer:
    """What SGD and AdamW share: the trainable parameters by name, the step count, the current rate."""

    slots: tuple[str, ...] = ()

    def __init__(self, params: Parameters, lr: float | Schedule, weight_decay: float):
        self.params = _named_trainables(params)
        if not callable(lr) and not lr > 0:
            raise ValueError(f"the learning rate must be positive, got {lr}")
        if weight_decay < 0:
            raise ValueError(f"the weight decay must not be negative, got {weight_decay}")
        self.schedule = lr
        self.weight_decay = weight_decay
        self.steps = 0
        self.state: dict[str, dict[str, Array]] = {}

    @property
    def lr(self) -> float:
        """The rate of the step to come."""
        return float(self.schedule(self.steps) if callable(self.schedule) else self.schedule)

    @property
    def state_bytes(self) -> int:
        """Bytes of all state held for the parameters."""
        return sum(x.nbytes for slots in self.state.values() for x in slots.values())

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params.values():
            p.grad = None

    def step(self) -> None:
        """Update every trainable parameter that has a gradient, in place."""
        lr = self.lr
        self.steps += 1
        for name, p in self.params.items():
            if p.requires_grad and p.grad is not None:
                state = self.state.get(name)
                if state is None:
                    state = self.state[name] = {s: array_module(p.data).zeros_like(p.data) for s in self.slots}
                for block in row_blocks(_flat(p.data)):
                    rows = {s: _flat(x)[block] for s, x in state.items()}
                    self.update(_flat(p.data)[block], _flat(p.grad)[block], rows, lr)

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float) -> None:
        """Change x (a block of a parameter) by its gradient g, in place."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def state_dict(self) -> dict[str, Any]:
        """{"steps": int, "name/slot": array on the host}, for a checkpoint."""
        arrays = {f"{name}/{slot}": to_numpy(x).copy() for name, s in self.state.items() for slot, x in s.items()}
        return {"steps": self.steps, **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state; ValueError where it belongs to other parameters."""
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
        self.steps = int(state["steps"])


def _flat(x: Array) -> Array:
    """A view of x as rows of at most 4096 entries where its size allows, for blocks that fit the cache."""
    width = next((w for w in (4096, 1024, 256, 64) if x.size % w == 0), 1) if x.size else 1
    return x.reshape(-1, width)


def _named_trainables(params: Parameters) -> dict[str, Tensor]:
    items: list[Any] = list(params.named_parameters() if isinstance(params, Module) else params)
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for i, item in enumerate(items):
        name, p = item if isinstance(item, tuple) else (str(i), item)
        if not isinstance(p, Tensor):
            raise TypeError(f"expected a Module, tensors or (name, tensor) pairs, got {type(p).__name__}")
        if p.requires_grad and id(p) not in seen:
            if not p.data.flags.c_contiguous:
                raise ValueError(f"the parameter {name} is not contiguous; it could not be updated in place")
            seen.add(id(p))
            named[name] = p
    if not named:
        raise ValueError(f"nothing to train: none of the {len(items)} parameters requires a gradient")
    return named


class SGD(Optimizer):
    """x ← x - η v, v = μ v + g + λ x (with Nesterov's look-ahead: x ← x - η (g + λ x + μ v))."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Schedule,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__(params, lr, weight_decay)
        if not 0.0 <= momentum < 1.0 or (nesterov and momentum == 0.0):
            raise ValueError(f"SGD: momentum must lie in [0, 1), and above 0 for Nesterov's; got {momentum}")
        self.momentum = momentum
        self.nesterov = nesterov
        self.slots = ("velocity",) if momentum else ()

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * x
        if self.momentum:
            v = state["velocity"]
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        x -= lr * g


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    x ← x - η λ x;  m = β₁ m + (1 - β₁) g;  v = β₂ v + (1 - β₂) g²;
    x ← x - η m̂ / (√v̂ + ε), m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).
    """

    slots = ("m", "v")

    def __init__(
        self,
        params: Parameters,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, lr, weight_decay)
        if not (0.0 <= betas[0] < 1.0 and 0.0 <= betas[1] < 1.0) or eps <= 0:
            raise ValueError(f"AdamW: betas must lie in [0, 1) and eps be positive, got {betas} and {eps}")
        self.betas = betas
        self.eps = eps

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float) -> None:
        xp = array_module(x)
        beta1, beta2 = self.betas
        m, v = state["m"], state["v"]
        if self.weight_decay:
            x *= 1.0 - lr * self.weight_decay
        m *= beta1
        m += (1.0 - beta1) * g
        v *= beta2
        v += (1.0 - beta2) * (g * g)
        correction = math.sqrt(1.0 - beta2**self.steps)
        step = xp.sqrt(v)
        step *= 1.0 / correction
        step += self.eps
        xp.divide(m, step, out=step)
        step *= lr / (1.0 - beta1**self.steps)
        x -= step


def clip_grad_norm_(params: Parameters, max_norm: float) -> float:
    """Scale all gradients so that their common norm is at most ``max_norm``; the norm before.

    The same parameter counts once. Raises ValueError for a max_norm that is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    items: Any = params.parameters() if isinstance(params, Module) else params
    tensors = {id(p): p for p in (i[1] if isinstance(i, tuple) else i for i in items)}
    grads = [p.grad for p in tensors.values() if p.grad is not None]
    if not grads:
        return 0.0
    total = sum((g.astype(np.float64) ** 2).sum() for g in grads)
    norm = math.sqrt(total.item())
    if norm > max_norm:
        for g in grads:
            g *= max_norm / (norm + 1e-6)
    return norm
