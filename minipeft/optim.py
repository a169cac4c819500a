"""Optimizers and learning-rate schedules. What is frozen has no state, takes no decay and is never touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minipeft import fused
from minipeft.array import (
    Array,
    array_module,
    device_of,
    has_kernels,
    in_threads,
    read,
    row_blocks,
    to_device,
    to_numpy,
)
from minipeft.autograd import Tensor
from minipeft.buffers import Buffers
from minipeft.nn.module import Module

Schedule = Callable[[int], float]
Parameters = Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
NoDecay = Callable[[str], bool] | Sequence[str]


ENOUGH_BLOCKS = 16  # below, starting a thread takes longer than it saves


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
        if not 0.0 <= floor <= lr:
            raise ValueError(f"a schedule needs 0 <= floor <= lr, got floor={floor}, lr={lr}")
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
    """What SGD and AdamW share: the trainable parameters by name, the step count, the current rate.

    params: a Module, tensors, or (name, tensor) pairs; tensors without a name are called 0, 1, …. no_decay: which of
    them take no weight decay, as a function of the name or a list of endings ("bias", "norm"), compared with each part
    of the dotted name. Raises ValueError where nothing is trainable or a name comes twice, TypeError for other things.
    """

    slots: tuple[str, ...] = ()
    options: tuple[str, ...] = ("weight_decay",)

    def __init__(self, params: Parameters, lr: float | Schedule, weight_decay: float, no_decay: NoDecay = ()):
        if not isinstance(params, Iterable) and not isinstance(params, Module):
            raise TypeError(f"expected a model or its parameters first, got {type(params).__name__}")
        if not callable(lr) and not isinstance(lr, (int, float, np.number)):
            raise TypeError(f"expected the learning rate as a number or a schedule, got {lr!r}")
        self.params = _named_trainables(params)
        if not callable(lr) and not lr > 0:
            raise ValueError(f"the learning rate must be positive, got {lr}")
        if not weight_decay >= 0:
            raise ValueError(f"the weight decay must not be negative, got {weight_decay}")
        self.schedule = lr
        self.weight_decay = float(weight_decay)  # a Python number: one of NumPy's would promote float32
        self.decays = {name: 0.0 if _excluded(name, no_decay) else self.weight_decay for name in self.params}
        self.steps = 0
        self.state: dict[str, dict[str, Array]] = {}
        self.buffers = Buffers()

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

    def step(self, threads: int = 1) -> None:
        """Update every trainable parameter that has a gradient, in place, by blocks that stay in the cache.

        threads: share the blocks among this many threads, if there are enough blocks; the result is the same.
        Raises RuntimeError if no parameter has a gradient.
        """
        if all(p.grad is None for p in self.params.values()):
            raise RuntimeError(
                f"none of the optimizer's {len(self.params)} parameters has a gradient: call backward() on the loss "
                "first, and make the optimizer after get_peft_model()"
            )
        lr = self.lr
        self.steps += 1
        on_gpu: list[tuple[str, Array, Array]] = []
        blocks: list[tuple[str, slice]] = []
        flat: dict[str, tuple[Array, Array, dict[str, Array]]] = {}
        for name, p in self.params.items():
            if not p.requires_grad or p.grad is None:
                continue
            if name not in self.state:
                self.state[name] = {slot: array_module(p.data).zeros_like(p.data) for slot in self.slots}
            x, g = _flat(name, p.data), p.grad.reshape(-1)
            if has_kernels(x):
                on_gpu.append((name, x, g))
                continue
            flat[name] = x, g, {slot: value.reshape(-1) for slot, value in self.state[name].items()}
            blocks += [(name, block) for block in row_blocks(x)]

        def work(part: Sequence[tuple[str, slice]]) -> None:
            scratch = None
            for name, block in part:
                x, g, state = flat[name]
                xb = x[block]
                if scratch is None or len(scratch) < len(xb) or scratch.dtype != xb.dtype:
                    scratch = array_module(x).empty_like(xb)
                parts = {slot: value[block] for slot, value in state.items()}
                self.update(xb, g[block], parts, lr, self.decays[name], scratch[: len(xb)])

        in_threads(work, blocks, threads if len(blocks) >= ENOUGH_BLOCKS else 1)
        self.update_on_gpu(on_gpu, lr)

    def update_on_gpu(self, parameters: list[tuple[str, Array, Array]], lr: float) -> None:
        """`update` for the parameters on a GPU, (name, x (n,), g (n,)) each."""
        for name, x, g in parameters:
            state = {slot: value.reshape(-1) for slot, value in self.state[name].items()}
            self.update(x, g, state, lr, self.decays[name], array_module(x).empty_like(x))

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float, decay: float, work: Array) -> None:
        """Change x (n,), a part of a parameter, by its gradient g (n,), in place; ``work`` (n,) may be overwritten."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def settings(self) -> dict[str, Any]:
        """What decides the steps, as plain values: the kind, its options, the schedule, what takes no decay."""
        options = {name: getattr(self, name) for name in self.options}
        no_decay = [name for name, decay in self.decays.items() if decay != self.weight_decay]
        return {"kind": type(self).__name__, "lr": _described(self.schedule), **options, "no_decay": no_decay}

    def state_dict(self) -> dict[str, Any]:
        """{"steps": int, "name/slot": array on the host}, for a checkpoint."""
        arrays = {f"{name}/{slot}": to_numpy(x).copy() for name, s in self.state.items() for slot, x in s.items()}
        return {"steps": self.steps, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; ValueError where it belongs to other parameters (nothing is changed then)."""
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


def _flat(name: str, x: Array) -> Array:
    """A view of x as one row; ValueError where only a copy could be had, which an update would not reach."""
    if not x.flags.c_contiguous:
        raise ValueError(f"the parameter {name} is not contiguous; it could not be updated in place")
    return x.reshape(-1)


def _excluded(name: str, no_decay: NoDecay) -> bool:
    if callable(no_decay):
        return bool(no_decay(name))
    if isinstance(no_decay, str):
        raise TypeError(f"no_decay must be a function or a list of endings, got the string {no_decay!r}")
    return any(part.endswith(tuple(no_decay)) for part in name.split("."))


def _described(schedule: float | Schedule) -> Any:
    if not callable(schedule):
        return float(schedule)
    if isinstance(schedule, (LinearSchedule, CosineSchedule)):
        return {"schedule": type(schedule).__name__, **vars(schedule)}
    return {"schedule": getattr(schedule, "__qualname__", type(schedule).__qualname__)}


def _named_trainables(params: Parameters) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name, in their order; each tensor once, under its first name.

    params: as `Optimizer` takes them; a tensor without a name is called by its place among all that were given, "0",
    "1", …, frozen ones counted. Raises TypeError for what is no tensor, ValueError where nothing is trainable, where
    one name stands for two trainable tensors, or where one is not contiguous (`_flat` says so).
    """
    items: list[Any] = list(params.named_parameters() if isinstance(params, Module) else params)
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for i, item in enumerate(items):
        name, p = item if isinstance(item, tuple) else (str(i), item)
        if not isinstance(p, Tensor):
            raise TypeError(f"expected a Module, tensors or (name, tensor) pairs, got {type(p).__name__}")
        if p.requires_grad and id(p) not in seen:
            if name in named:
                raise ValueError(f"two parameters are called {name!r}; the state is kept by name")
            _flat(name, p.data)
            seen.add(id(p))
            named[name] = p
    if not named:
        raise ValueError(
            f"nothing to train: none of the {len(items)} parameters requires a gradient; "
            "call requires_grad_() on what is to be trained, or unmerge_adapter() if an adapter is merged"
        )
    return named


class SGD(Optimizer):
    """x ← x - η v, v = μ v + g + λ x (with Nesterov's look-ahead: x ← x - η (g + λ x + μ v)).

    μ is ``momentum`` and may be 0, then there is no state; λ is the weight decay of the parameter, v its ``velocity``.
    """

    options = ("weight_decay", "momentum", "nesterov")

    def __init__(
        self,
        params: Parameters,
        lr: float | Schedule,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        no_decay: NoDecay = (),
    ):
        super().__init__(params, lr, weight_decay, no_decay)
        if not 0.0 <= momentum < 1.0 or (nesterov and momentum == 0.0):
            raise ValueError(f"SGD: momentum must lie in [0, 1), and above 0 for Nesterov's; got {momentum}")
        self.momentum = float(momentum)
        self.nesterov = nesterov
        self.slots = ("velocity",) if momentum else ()

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float, decay: float, work: Array) -> None:
        xp = array_module(x)
        if decay:
            g = g + decay * x
        if self.momentum:
            v = state["velocity"]
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        xp.multiply(g, lr, out=work)
        x -= work


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    x ← x - η λ x;  m = β₁ m + (1 - β₁) g;  v = β₂ v + (1 - β₂) g²;
    x ← x - η m̂ / (√v̂ + ε), m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).
    t is ``steps``, 1 in the first step; λ is the weight decay of the parameter, which the gradient never sees.
    """

    slots = ("m", "v")
    options = ("weight_decay", "betas", "eps")

    def __init__(
        self,
        params: Parameters,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        no_decay: NoDecay = (),
    ):
        super().__init__(params, lr, weight_decay, no_decay)
        if not (0.0 <= betas[0] < 1.0 and 0.0 <= betas[1] < 1.0) or not eps > 0:
            raise ValueError(f"AdamW: betas must lie in [0, 1) and eps be positive, got {betas} and {eps}")
        self.betas = [float(beta) for beta in betas]
        self.eps = float(eps)

    def update(self, x: Array, g: Array, state: dict[str, Array], lr: float, decay: float, work: Array) -> None:
        xp = array_module(x)
        beta1, beta2 = self.betas
        m, v = state["m"], state["v"]
        xp.multiply(g, 1.0 - beta1, out=work)
        m *= beta1
        m += work
        xp.multiply(g, g, out=work)
        work *= 1.0 - beta2
        v *= beta2
        v += work
        # m̂ / (√v̂ + ε) = c m / (√v + c₂ ε) with c₂ = √(1 - β₂ᵗ), c = c₂ / (1 - β₁ᵗ): one pass over the block less
        c2 = math.sqrt(1.0 - beta2**self.steps)
        xp.sqrt(v, out=work)
        work += c2 * self.eps
        xp.divide(m, work, out=work)
        work *= lr * c2 / (1.0 - beta1**self.steps)
        if decay:
            x *= 1.0 - lr * decay
        x -= work

    def update_on_gpu(self, parameters: list[tuple[str, Array, Array]], lr: float) -> None:
        """`update` for all of them in one launch a type."""
        for dtype in {x.dtype for _, x, _ in parameters}:
            chosen = [(name, x, g) for name, x, g in parameters if x.dtype == dtype and x.size]
            tensors = [(x, g, self.state[name]["m"], self.state[name]["v"]) for name, x, g in chosen]
            decays = [self.decays[name] for name, _, _ in chosen]
            if tensors:
                fused.adamw(tensors, decays, lr, self.betas, self.eps, self.steps)


def clip_grad_norm_(params: Parameters, max_norm: float, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients in place so that their common norm, √Σ g², is at most ``max_norm``; returns the norm before.

    Gradients within the norm are not touched, those of None are skipped, and 0.0 is the norm of none at all. The same
    parameter counts once; from a GPU a single number is read. Raises ValueError for a max_norm that is not positive
    and, where asked, FloatingPointError for a norm that is not finite (nothing is scaled then).
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    grads = gradients(params)
    norm = math.sqrt(read(squared_norm(grads))[0])
    if error_if_nonfinite and not math.isfinite(norm):
        raise FloatingPointError(f"the gradients' norm is {norm}; nothing was clipped")
    if norm > max_norm:
        scale_gradients(grads, max_norm / (norm + 1e-6))
    return norm


def gradients(params: Parameters) -> list[Array]:
    """The gradients that there are, each parameter's once."""
    items: Any = params.parameters() if isinstance(params, Module) else params
    tensors = {id(p): p for p in (i[1] if isinstance(i, tuple) else i for i in items)}
    return [p.grad for p in tensors.values() if p.grad is not None]


def squared_norm(grads: list[Array]) -> Array | float:
    """Σ g² over all gradients in float64, a scalar that stays on the device; 0 for none."""
    if grads and has_kernels(grads[0]):
        by_type = [[g.reshape(-1) for g in grads if g.dtype == dtype] for dtype in {g.dtype for g in grads}]
        return sum(map(fused.squares, by_type))
    return sum(map(_squares, grads)) if grads else 0.0


def scale_gradients(grads: list[Array], c: float) -> None:
    """g *= c for each, in place."""
    if grads and has_kernels(grads[0]):
        for dtype in {g.dtype for g in grads}:
            fused.scale([g for g in grads if g.dtype == dtype], c)
        return
    for g in grads:
        g *= c


def _squares(x: Array) -> Any:
    """Σ x² in float64, where squares of float32 do not overflow: a scalar array that stays on the device."""
    xp = array_module(x)
    flat = x.reshape(-1)
    total = xp.zeros((), dtype=np.float64)
    for block in row_blocks(flat):
        part = flat[block].astype(np.float64)
        total = total + xp.matmul(part, part)
    return total
