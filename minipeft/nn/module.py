"""Modules: plain objects whose tensors are their parameters, found by walking their attributes."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from minipeft import hints
from minipeft.autograd import Tensor
from minipeft.backend import Array, device_of, is_array, to_device

HAS_METHOD = "_has_method"  # the attribute of a model that has a PEFT method, until unload() or merge_and_unload()


class Module:
    """A part of a model. Tensors among its attributes are parameters, modules are parts, arrays are constants.

    Modules and tensors inside lists, tuples and dicts are found too. A subclass defines ``forward``.
    """

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    if not TYPE_CHECKING:  # a type checker would believe in every attribute

        def __getattr__(self, name: str) -> Any:
            raise hints.missing(self, name, hints.MODULE)

    def __repr__(self) -> str:
        head, *parts = _tree(self)
        return "\n".join([f"{head} parameters" if any(p.size for p in self.parameters()) else head, *parts])

    def described(self) -> str:
        """Return what a printed model says of this module: its own tensors' shapes or, without any, its settings."""
        shapes = [f"{name} {x.shape}" for name, x in vars(self).items() if isinstance(x, Tensor)]
        plain = ((name, x) for name, x in vars(self).items() if isinstance(x, (int, float, str)))
        settings = [f"{name}={x}" for name, x in plain if name != "training" and not name.startswith("_")]
        return f"({', '.join(shapes or settings)})" if shapes or settings else ""

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (named ``prefix``) and all below it, each once, with their paths."""
        seen: set[int] = set()
        for path, value in _walk(prefix, self):
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield path, value

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters with their paths; a tensor used in several places comes once, under its first path."""
        seen: set[int] = set()
        for path, value in _walk("", self):
            if isinstance(value, Tensor) and id(value) not in seen:
                seen.add(id(value))
                yield path, value

    def parameters(self) -> Iterator[Tensor]:
        """The parameters, each once."""
        return (p for _, p in self.named_parameters())

    def state_dict(self) -> dict[str, Array]:
        """The arrays of all parameters by path (not copied)."""
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy the arrays of ``state`` into the parameters; nothing is written unless all of them fit.

        Raises KeyError for a missing or unknown name (listing near ones), ValueError for a wrong shape.
        """
        named = dict(self.named_parameters())
        missing = sorted(named.keys() - state.keys())
        unknown = sorted(state.keys() - named.keys())
        if missing or unknown:
            hints = [f"{name!r}{_near(name, named)}" for name in unknown[:3]]
            raise KeyError(
                f"the state does not match {type(self).__name__}: {len(missing)} missing"
                f"{' (' + ', '.join(missing[:3]) + ', …)' if missing else ''}, {len(unknown)} unknown"
                f"{' (' + ', '.join(hints) + ')' if unknown else ''}"
            )
        for name, p in named.items():
            if tuple(state[name].shape) != p.shape:
                raise ValueError(f"{name}: the model has shape {p.shape}, the state {tuple(state[name].shape)}")
        for name, p in named.items():
            p.data[...] = to_device(state[name], device_of(p.data)).astype(p.dtype, copy=False)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on (or off), in all parts; nothing else depends on the mode."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch dropout off."""
        return self.train(False)

    def requires_grad_(self, flag: bool = True) -> Self:
        """Make all parameters trainable or frozen; a frozen one loses its gradient."""
        for p in self.parameters():
            p.requires_grad_(flag)
            if not flag:
                p.grad = None
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def to(self, target: Any) -> Self:
        """Move parameters and constants to a device ("cpu", "cuda"), or change the floating-point type, in place.

        ``target``: a device name, or float32 or float64 as a NumPy dtype or its name. Gradients are forgotten.
        Raises TypeError for another type: the operations do not compute in half precision.
        """
        for p in self.parameters():
            p.data = _converted(p.data, target)
            p.grad = None
        for _, module in self.named_modules():
            for name, value in vars(module).items():
                if is_array(value):
                    setattr(module, name, _converted(value, target))
        return self


TYPES = ("float32", "float64")


def _converted(x: Array, target: Any) -> Array:
    if isinstance(target, str) and target not in (*TYPES, "float16", "bfloat16"):
        return to_device(x, target)
    if target == "bfloat16" or np.dtype(target) not in TYPES:
        raise TypeError(f"to: expected a device name, float32 or float64, got {target!r}")
    return x.astype(target) if x.dtype.kind == "f" else x


def _walk(path: str, value: Any) -> Iterator[tuple[str, Module | Tensor]]:
    """Depth first, in the order in which attributes were set."""
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, Module):
        yield path, value
        items: Any = vars(value).items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    else:
        return
    for name, child in items:
        yield from _walk(f"{path}.{name}" if path else str(name), child)


def _tree(value: Any, indent: str = "  ") -> list[str]:
    """Return the lines of a printed module, tensor, list or dict; equal neighbours in a list share theirs."""
    if isinstance(value, Tensor):
        return [f"Tensor {value.shape}{_counted([value])}"]
    lines, inside = [""], value
    if isinstance(value, Module):
        lines = [f"{type(value).__name__}{value.described()}{_counted(value.parameters())}"]
        inside = {name: x for name, x in vars(value).items() if not isinstance(x, Tensor)}  # tensors are in its line
    items: Any = inside.items() if isinstance(inside, dict) else enumerate(inside)
    parts = [(name, _tree(x, indent + "  ")) for name, x in items if any(_walk("", x))]
    for _, group in itertools.groupby(parts, lambda part: part[1] if isinstance(value, (list, tuple)) else part):
        run = list(group)
        (name, (head, *rest)), n = run[0], len(run)
        part = f"({name}): {head}" if n == 1 else f"({name}-{run[-1][0]}): {n} x {head}"
        lines += [f"{indent}{part}".rstrip(), *rest]
    return lines


def _counted(tensors: Iterable[Tensor]) -> str:
    """Return how many numbers the tensors have and how many of these are trainable; nothing for no tensors."""
    sizes = [(p.size, p.requires_grad) for p in tensors]
    total, trained = sum(n for n, _ in sizes), sum(n for n, flag in sizes if flag)
    if 0 < trained < total:
        return f": {trained:,} of {total:,} trainable"
    return f": {total:,} {'trainable' if trained else 'frozen'}" if sizes else ""


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" (near: {', '.join(near)})" if near else ""


def _child(owner: Any, name: str, path: str) -> Any:
    if isinstance(owner, (list, tuple)):
        if not name.isdigit() or int(name) >= len(owner):
            raise KeyError(f"{path}: there is no {name!r} in a list of {len(owner)}")
        return owner[int(name)]
    known = owner if isinstance(owner, dict) else vars(owner)
    if name not in known:
        raise KeyError(f"{path}: {type(owner).__name__} has no {name!r}{_near(name, known)}")
    return known[name]


def find(model: Module, path: str) -> Any:
    """What stands at ``path`` ("layers.0.attention.q_proj"); KeyError naming near names where nothing does."""
    value: Any = model
    for name in path.split(".") if path else ():
        value = _child(value, name, path)
    return value


def replace(model: Module, path: str, new: Any) -> Any:
    """Put ``new`` at ``path`` and return what stood there: an attribute, an entry of a list or of a dict.

    Raises KeyError where there is no such place, TypeError for a place in a tuple; nothing is changed then.
    """
    parent, _, name = path.rpartition(".")
    owner = find(model, parent)
    old = _child(owner, name, path)
    if isinstance(owner, tuple):
        raise TypeError(f"{path}: a tuple cannot be changed; keep modules in a list")
    if isinstance(owner, list):
        owner[int(name)] = new
    elif isinstance(owner, dict):
        owner[name] = new
    else:
        setattr(owner, name, new)
    return old
