"""What every method shares: swapping modules, freezing, several adapters on one base, and taking it all back.

A method never edits the base model. It swaps: a module for one that wraps it, a parameter for a trainable copy,
an empty slot for a prompt. Each swap is remembered, so disabling an adapter is putting the old things back, switching
to another is putting in the other's, and the base model is always what it was, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from minipeft.autograd import Tensor, no_grad
from minipeft.backend import generator, to_numpy
from minipeft.nn.module import HAS_METHOD, Module, find, replace
from minipeft.peft.config import PeftConfig, PeftError, check_values
from minipeft.peft.merge import Mergeable, Merged, MergeReport, checksums, merge_error
from minipeft.peft.saving import base_checksum, fill, read_adapter, write_adapter
from minipeft.peft.select import heads
from minipeft.peft.swaps import DEFAULT, Applied, Record, Swap

_combine: list[Callable[..., None]] = []


def register_combination(add_weighted: Callable[..., None]) -> None:
    """Make known how adapters are summed (the method's own file knows)."""
    _combine[:] = [add_weighted]


class PeftModel(Module):
    """A frozen base model and the adapters on it, one of them active; calls, ``loss`` and the like go to the base.

    Raises TypeError for anything but a model, PeftError for a model that has a method already.
    """

    def __init__(self, base_model: Module):
        given: Any = base_model
        if not isinstance(given, Module):
            what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
            raise TypeError(
                f"expected a model first, got {what}; make or load one, for example DecoderLM.from_pretrained(folder)"
            )
        if any(isinstance(m, PeftModel) or vars(m).get(HAS_METHOD) for _, m in base_model.named_modules()):
            raise PeftError(
                f"this {type(base_model).__name__} already has a method; call add_adapter or load_adapter of its "
                "PeftModel for another adapter, or unload() to remove it"
            )
        self.base_model = base_model
        vars(base_model)[HAS_METHOD] = True
        self._record = Record([(p, p.requires_grad) for p in base_model.parameters()])
        base_model.requires_grad_(False)

    def __getattr__(self, name: str) -> Any:
        if name in ("base_model", "_record"):  # not set yet
            raise AttributeError(name)
        return getattr(self.base_model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def described(self) -> str:
        state = ", merged" if self._record.merged else ", disabled" if self._record.disabled else ""
        kinds = {name: adapter.config.peft_type for name, adapter in self._record.adapters.items()}
        return f"({kinds[self.active_adapter]} {self.active_adapter!r}{state})" if kinds else ""

    @property
    def active_adapter(self) -> str:
        """The name of the adapter that is in place."""
        return self._record.active

    @property
    def adapters(self) -> list[str]:
        """The names of all adapters."""
        return list(self._record.adapters)

    @property
    def peft_config(self) -> Any:
        """The configuration of the active adapter."""
        return self._active.config

    @property
    def _active(self) -> Applied:
        return self._record.adapters[self._record.active]

    def swap(self, path: str, new: Any) -> Any:
        """Put ``new`` at ``path`` of the base model, remember it, and return what stood there."""
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

    def add_adapter(self, adapter_name: str, config: PeftConfig, rng: int | np.random.Generator = 0) -> None:
        """Apply another method (or the same again) to the base under ``adapter_name``, and make it the active one.

        Raises PeftError where the name is taken or the configuration does not fit; nothing is changed then.
        """
        self.check_active()
        if adapter_name in self._record.adapters:
            raise PeftError(f"there is an adapter {adapter_name!r} already; delete it first, or choose another name")
        if not isinstance(config, PeftConfig):
            raise TypeError(f"expected a configuration such as LoraConfig(r=8), got {type(config).__name__}")
        check_values(config)
        with self._new_adapter(adapter_name, config):
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

    @contextmanager
    def _new_adapter(self, name: str, config: PeftConfig) -> Iterator[None]:
        """The active adapter taken out and an empty one in its place; put back where the body fails."""
        record = self._record
        before = record.active
        if record.adapters:
            self._active.take_out()
        record.adapters[name] = Applied(config)
        record.active = name
        try:
            yield
        except BaseException:
            record.adapters.pop(name).take_out()
            record.active = before
            if record.adapters:
                self._active.put_in()
            raise

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "cat",
        svd_rank: int | None = None,
    ) -> None:
        """Add the LoRA adapter with ΔW = Σ wᵢ ΔWᵢ, exactly, and make it the active one; see `combine`."""
        _combine[0](self, adapters, weights, adapter_name, combination_type, svd_rank)

    def set_adapter(self, adapter_name: str) -> None:
        """Make another adapter the active one: its modules are swapped in, nothing is computed or copied."""
        self.check_active()
        self._known(adapter_name)
        self._active.take_out()
        self._record.active = adapter_name
        self._active.put_in()

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter that is not active."""
        self._known(adapter_name)
        if adapter_name == self._record.active:
            raise PeftError(f"{adapter_name!r} is the active adapter; set another one first, or call unload()")
        del self._record.adapters[adapter_name]

    def _known(self, name: str) -> Applied:
        if name not in self._record.adapters:
            raise PeftError(f"there is no adapter {name!r}; there are {self.adapters}")
        return self._record.adapters[name]

    def check_active(self) -> None:
        """Raise PeftError if the adapter is merged or disabled, so that it can neither be trained nor changed."""
        if self._record.merged:
            raise PeftError("the adapter is merged; call unmerge_adapter() first")
        if self._record.disabled:
            raise PeftError("the adapter is disabled here; leave disable_adapter() first")

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Switch to the base model, to the bit; switch back to the adapter at the end.

        This holds for the model, not for a thread: another thread that calls the model meanwhile gets the base too.
        """
        self.check_active()
        self._active.take_out()
        self._record.disabled = True
        try:
            yield
        finally:
            self._record.disabled = False
            self._active.put_in()

    def unload(self) -> Module:
        """Remove all adapters for good: the base model as it was, trainable where it was."""
        if self._record.adapters:
            self._active.take_out()
        self._record.adapters.clear()
        self._record.merged = None
        for p, flag in self._record.trainable:
            p.requires_grad_(flag)
        vars(self.base_model).pop(HAS_METHOD, None)
        return self.base_model

    def merge_adapter(self, **batch: Any) -> MergeReport:
        """Replace the active adapter's layers by plain ones with the change built in, until `unmerge_adapter`.

        The adapter and W₀ are kept, so unmerging gives the same bits, however often. Meanwhile nothing is trainable.
        batch: arguments of the model, to report how far its output moves. Raises PeftError for a method that plain
        layers cannot compute.
        """
        self.check_active()
        self._check_mergeable()
        before = self._output(batch)
        trainable = list(self.trained().values())
        errors: dict[str, tuple[float, float]] = {}
        layers: dict[str, Module] = {}
        for s in self._active.swaps:
            if isinstance(s.new, Mergeable):
                layers[s.path] = s.new.merged()
                errors[s.path] = merge_error(s.new, layers[s.path])
                s.put(layers[s.path])
        self.base_model.requires_grad_(False)
        self._record.merged = Merged(layers, checksums(layers), trainable)
        after = self._output(batch)
        return MergeReport(errors, None if before is None or after is None else float(np.abs(after - before).max()))

    def unmerge_adapter(self) -> None:
        """Put the adapter's layers back, next to W₀, to the bit.

        Raises PeftError if a merged weight was changed in the meantime, because that change would be lost.
        """
        merged = self._record.merged
        if merged is None:
            raise PeftError("the adapter is not merged")
        sums = checksums(merged.layers)
        changed = [path for path, known in merged.checksums.items() if sums[path] != known]
        if changed:
            raise PeftError(
                f"{len(changed)} merged weights were changed after merge_adapter(), the first at {changed[0]}; "
                "unmerging would lose that. Keep the change with merge_and_unload(), or drop it with unload()"
            )
        self._record.merged = None
        for s in self._active.swaps:
            s.put(s.new)
        for p in merged.trainable:
            p.requires_grad_(True)

    def merge_and_unload(self) -> Module:
        """The base model with the active adapter's change built in and nothing around it; other adapters are forgotten.

        Wrapped layers become plain ones with new weights, trained copies stay in place of the base's parameters; the
        base's own arrays are not written. Raises PeftError for a method that plain layers cannot compute.
        """
        if not self._record.merged:
            self.merge_adapter()
        copies = [s.new for s in self._active.swaps if isinstance(s.new, Tensor)]
        flags = {id(p): flag for p, flag in self._record.trainable}
        self._record.adapters.clear()
        self._record.merged = None
        vars(self.base_model).pop(HAS_METHOD, None)
        for p in self.base_model.parameters():
            p.requires_grad_(flags.get(id(p), True) or any(p is c for c in copies))
        return self.base_model

    def _check_mergeable(self) -> None:
        for s in self._active.swaps:
            if not isinstance(s.new, (Tensor, Mergeable)):
                raise PeftError(f"{self.peft_config.peft_type} cannot be merged: a plain layer cannot compute it")

    def _output(self, batch: dict[str, Any]) -> np.ndarray | None:
        if not batch:
            return None
        with no_grad():
            return to_numpy(self.base_model(**batch).data).astype(np.float64)

    def to(self, target: Any) -> Self:
        """Move base and adapters, the active one and the others, and what they stand in for."""
        super().to(target)
        if self._record.merged:
            self._record.merged.checksums = checksums(self._record.merged.layers)
        for adapter in self._record.adapters.values():
            for s in adapter.swaps:
                for part in (s.old, s.new):
                    if isinstance(part, Tensor):
                        holder = Module()
                        holder.__dict__["it"] = part
                        holder.to(target)
                    elif isinstance(part, Module):
                        part.to(target)
        return self

    def origin(self, tensor: Tensor) -> str | None:
        """Return whose parameter a tensor is: "" for the base model's own, the name of an adapter, None for neither."""
        if any(tensor is p for p, _ in self._record.trainable):
            return ""
        for name, adapter in self._record.adapters.items():
            parts = (s.new.parameters() if isinstance(s.new, Module) else [s.new] for s in adapter.swaps)
            if any(tensor is p for part in parts for p in part):
                return name
        return None

    def trained(self) -> dict[str, Tensor]:
        """The trainable parameters by their path in the base model."""
        return {name: p for name, p in self.base_model.named_parameters() if p.requires_grad}

    def trainable_counts(self) -> tuple[int, int]:
        """(trainable, all) numbers of parameters, each tensor counted once."""
        sizes = [(p.size, p.requires_grad) for p in self.parameters()]
        return sum(n for n, flag in sizes if flag), sum(n for n, _ in sizes)

    get_nb_trainable_parameters = trainable_counts  # as it is called at Hugging Face

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, of how many."""
        trainable, total = self.trainable_counts()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    def base_checksum(self) -> str:
        """SHA-256 over the names, shapes and bytes of the frozen parameters."""
        return base_checksum(self.base_model)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write exactly the active adapter's trained tensors and its configuration into ``folder``, all or nothing.

        Hugging Face PEFT's files are written as well, if it has a form for the method and the model. Other files of the
        folder, such as the base model's, stay as they are. Raises FileError if the folder cannot be written.
        """
        self.check_active()
        write_adapter(self, folder)

    def load_adapter(self, folder: str | Path, adapter_name: str, allow_zero: bool = False) -> None:
        """Add the adapter saved in ``folder``, ours or Hugging Face PEFT's, as ``adapter_name``, and make it active.

        Raises PeftError for an adapter that was made for another base model, does not fit, or changes nothing since all
        of it is zero (allow_zero takes it), FileError for a broken file; nothing is changed then.
        """
        self.check_active()
        if self._record.adapters:
            with self.disable_adapter():
                config, tensors, checksum = read_adapter(self.base_model, folder)
        else:
            config, tensors, checksum = read_adapter(self.base_model, folder)
        before = self._record.active
        self.add_adapter(adapter_name, config)
        try:
            fill(self.base_model, self.trained(), tensors, checksum, folder, allow_zero)
        except BaseException:
            self._active.take_out()
            del self._record.adapters[adapter_name]
            self._record.active = before
            if self._record.adapters:
                self._active.put_in()
            raise

    @classmethod
    def from_pretrained(
        cls, model: Module, folder: str | Path, adapter_name: str = DEFAULT, allow_zero: bool = False
    ) -> PeftModel:
        """Apply the adapter in ``folder`` to ``model``; raises as `load_adapter` does, with ``model`` as it was."""
        peft = cls(model)
        try:
            peft.load_adapter(folder, adapter_name, allow_zero)
        except BaseException:
            peft.unload()
            raise
        return peft


def get_peft_model(
    model: Module, config: PeftConfig, rng: int | np.random.Generator = 0, adapter_name: str = DEFAULT
) -> PeftModel:
    """Freeze ``model`` and apply the method of ``config``; new parameters are drawn from ``rng``.

    The model's modules are swapped in place (``unload()`` puts them back); its weights are not touched.
    Raises PeftError where the configuration does not fit the model; the model is then as it was.
    """
    peft = PeftModel(model)
    try:
        peft.add_adapter(adapter_name, config, rng)
    except BaseException:
        peft.unload()
        raise
    return peft


__all__ = ["MergeReport", "PeftModel", "Swap", "get_peft_model", "register_combination"]
