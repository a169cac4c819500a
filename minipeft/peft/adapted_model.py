"""A frozen model that methods adapt: modules are swapped in and out, and the base model is never edited.

A method swaps a module for one that wraps it, a parameter for a trainable copy, an empty slot for a prompt. Each swap
is remembered. To disable an adapter is to put the old parts back, and to switch to another adapter is to put its parts
in, so the base model is always what it was, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import generator
from minipeft.nn.module import HAS_METHOD, Module, find, replace
from minipeft.peft.config import PeftConfig, PeftError, check_values
from minipeft.peft.merge import checksums
from minipeft.peft.select import heads
from minipeft.peft.swaps import AdapterState, Applied, Swap


class AdaptedModel(Module):
    """A frozen base model and the adapters on it, one of them active: what the methods know of a `PeftModel`.

    Raises TypeError for anything but a model, PeftError for a model that already has a method.
    """

    def __init__(self, base_model: Module):
        given: Any = base_model
        if not isinstance(given, Module):
            what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
            raise TypeError(
                f"expected a model first, got {what}; make or load one, for example DecoderLM.from_pretrained(folder)"
            )
        if any(isinstance(m, AdaptedModel) or vars(m).get(HAS_METHOD) for _, m in base_model.named_modules()):
            raise PeftError(
                f"this {type(base_model).__name__} already has a method; call add_adapter or load_adapter of its "
                "PeftModel for another adapter, or unload() to remove it"
            )
        self.base_model = base_model
        vars(base_model)[HAS_METHOD] = True
        self._state = AdapterState([(p, p.requires_grad) for p in base_model.parameters()])
        base_model.requires_grad_(False)

    @property
    def active_adapter(self) -> str:
        """The name of the active adapter."""
        return self._state.active

    @property
    def adapters(self) -> list[str]:
        """The names of all adapters."""
        return list(self._state.adapters)

    @property
    def peft_config(self) -> Any:
        """The configuration of the active adapter."""
        return self._active.config

    @property
    def _active(self) -> Applied:
        return self._state.adapters[self._state.active]

    def swap(self, path: str, new: Any) -> Any:
        """Put ``new`` at ``path`` of the base model, remember it, and return the part that was there."""
        parent, _, key = path.rpartition(".")
        owner = find(self.base_model, parent)
        old = replace(self.base_model, path, new)
        self._active.swaps.append(Swap(path, owner, int(key) if isinstance(owner, list) else key, old, new))
        return old

    def train_copy(self, path: str, within: str = "") -> Tensor:
        """Put a trainable copy of the parameter at ``path`` wherever the model, or its module ``within``, uses it."""
        old = find(self.base_model, path)
        new = Tensor(old.data.copy(), requires_grad=True)
        found = [
            Swap(path, module, key, old, new)
            for _, module in find(self.base_model, within).named_modules()
            for key, value in vars(module).items()
            if value is old
        ]
        for s in found:
            s.put(new)
        self._active.swaps += found
        return new

    def trained(self) -> dict[str, Tensor]:
        """Return the trainable parameters by their path in the base model."""
        return {name: p for name, p in self.base_model.named_parameters() if p.requires_grad}

    def origin(self, tensor: Tensor) -> str | None:
        """Return whose parameter a tensor is: "" for the base model's own, the name of an adapter, None for neither."""
        if any(tensor is p for p, _ in self._state.trainable):
            return ""
        for name, adapter in self._state.adapters.items():
            parts = (s.new.parameters() if isinstance(s.new, Module) else [s.new] for s in adapter.swaps)
            if any(tensor is p for part in parts for p in part):
                return name
        return None

    def add_adapter(self, adapter_name: str, config: PeftConfig, rng: int | np.random.Generator = 0) -> None:
        """Apply another method, or the same again, to the base under ``adapter_name``, and make it the active one.

        Raises PeftError if the name is taken or the configuration does not fit; nothing is changed then.
        """
        with self._new_adapter(adapter_name, config):
            self._apply(config, rng)

    @contextmanager
    def _new_adapter(self, name: str, config: PeftConfig) -> Iterator[None]:
        """Make an empty adapter the active one; if the body fails, remove it and activate the one before."""
        self.check_active()
        if name in self._state.adapters:
            raise PeftError(f"there is an adapter {name!r} already; delete it first, or choose another name")
        if not isinstance(config, PeftConfig):
            raise TypeError(f"expected a configuration such as LoraConfig(r=8), got {type(config).__name__}")
        check_values(config)
        state, before = self._state, self._state.active
        if state.adapters:
            self._active.detach()
        state.adapters[name] = Applied(config)
        state.active = name
        try:
            yield
        except BaseException:
            state.adapters.pop(name).detach()
            state.active = before
            if state.adapters:
                self._active.attach()
            raise

    def _apply(self, config: PeftConfig, rng: int | np.random.Generator) -> None:
        """Swap in the parts of the method and of the modules that are trained in full."""
        self.train_modules_to_save(config)
        try:
            config.apply(self, generator(rng))
        except PeftError:
            raise
        except ValueError as error:  # of a layer that cannot be built so
            raise PeftError(f"{type(config).__name__}: {error}") from error
        if not self.trained():
            raise PeftError(f"{type(config).__name__} leaves nothing to train in {type(self.base_model).__name__}")

    def train_modules_to_save(self, config: PeftConfig) -> None:
        """Train copies of the modules that the configuration trains in full.

        A weight that such a module shares with another module is no longer shared: the other one keeps the base's.
        """
        for path in heads(self.base_model, config.modules_to_save):
            for own, _ in list(find(self.base_model, path).named_parameters()):
                self.train_copy(f"{path}.{own}", within=path)

    def set_adapter(self, adapter_name: str) -> None:
        """Make another adapter the active one: its parts are swapped in, nothing is computed or copied."""
        self.check_active()
        self._known(adapter_name)
        self._active.detach()
        self._state.active = adapter_name
        self._active.attach()

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter that is not active."""
        self._known(adapter_name)
        if adapter_name == self._state.active:
            raise PeftError(f"{adapter_name!r} is the active adapter; set another one first, or call unload()")
        del self._state.adapters[adapter_name]

    def _known(self, name: str) -> Applied:
        if name not in self._state.adapters:
            raise PeftError(f"there is no adapter {name!r}; there are {self.adapters}")
        return self._state.adapters[name]

    def check_active(self) -> None:
        """Raise PeftError if the adapter is merged or disabled, so that it can neither be trained nor changed."""
        if self._state.merged:
            raise PeftError("the adapter is merged; call unmerge_adapter() first")
        if self._state.disabled:
            raise PeftError("the adapter is disabled here; leave disable_adapter() first")

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Switch to the base model, to the bit; switch back to the adapter at the end.

        All callers of the model get the base meanwhile, not only those inside.
        """
        self.check_active()
        self._active.detach()
        self._state.disabled = True
        try:
            yield
        finally:
            self._state.disabled = False
            self._active.attach()

    def unload(self) -> Module:
        """Remove all adapters for good: the base model as it was, trainable where it was."""
        if self._state.adapters:
            self._active.detach()
        self._state.adapters.clear()
        self._state.merged = None
        for p, flag in self._state.trainable:
            p.requires_grad_(flag)
        vars(self.base_model).pop(HAS_METHOD, None)
        return self.base_model

    def to(self, target: Any) -> Self:
        """Move the base and all adapters, the active one and the others, and the parts that they replace."""
        super().to(target)
        if self._state.merged:
            self._state.merged.checksums = checksums(self._state.merged.layers)
        for adapter in self._state.adapters.values():
            for s in adapter.swaps:
                for part in (s.old, s.new):
                    if isinstance(part, Tensor):
                        holder = Module()
                        holder.__dict__["it"] = part
                        holder.to(target)
                    elif isinstance(part, Module):
                        part.to(target)
        return self
