"""The model that users hold: a base with adapters, that is called, merged, saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import Tensor, no_grad
from minipeft.backend import to_numpy
from minipeft.nn.module import HAS_METHOD, Module
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.combine import add_weighted_adapter
from minipeft.peft.config import PeftConfig, PeftError
from minipeft.peft.merge import Mergeable, Merged, MergeReport, checksums, merge_error
from minipeft.peft.saving import base_checksum, fill, read_adapter, write_adapter
from minipeft.peft.swaps import DEFAULT


class PeftModel(AdaptedModel):
    """A frozen base model and the adapters on it, one of them active; what it does not have itself is the base's."""

    def __getattr__(self, name: str) -> Any:
        if name in ("base_model", "_state"):  # not set yet
            raise AttributeError(name)
        return getattr(self.base_model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the base model with the active adapter."""
        return self.base_model(*args, **kwargs)

    def loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of the base model with the active adapter; AttributeError if the base has no loss."""
        base: Any = self.base_model
        loss: Tensor = base.loss(*args, **kwargs)
        return loss

    def described(self) -> str:
        state = ", merged" if self._state.merged else ", disabled" if self._state.disabled else ""
        kinds = {name: adapter.config.peft_type for name, adapter in self._state.adapters.items()}
        return f"({kinds[self.active_adapter]} {self.active_adapter!r}{state})" if kinds else ""

    def trainable_counts(self) -> tuple[int, int]:
        """(trainable, all) numbers of parameters, each tensor counted once."""
        sizes = [(p.size, p.requires_grad) for p in self.parameters()]
        return sum(n for n, flag in sizes if flag), sum(n for n, _ in sizes)

    get_nb_trainable_parameters = trainable_counts  # as it is called at Hugging Face

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, of how many."""
        trainable, total = self.trainable_counts()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "cat",
        svd_rank: int | None = None,
    ) -> None:
        """Add the LoRA adapter with ΔW = Σ wᵢ ΔWᵢ, exactly, and make it the active one; see `combine`."""
        add_weighted_adapter(self, adapters, weights, adapter_name, combination_type, svd_rank)

    def merge_adapter(self, **batch: Any) -> MergeReport:
        """Replace the active adapter's layers by plain ones with the change built in, until `unmerge_adapter`.

        The adapter and W₀ are kept, so unmerging gives the same bits, however often. Meanwhile nothing is trainable.
        batch: arguments of the model, to report how far its output moves. Raises PeftError for a method that plain
        layers cannot compute.
        """
        self.check_active()
        swaps = self._active.swaps
        if not all(isinstance(s.new, (Tensor, Mergeable)) for s in swaps):
            raise PeftError(f"{self.peft_config.peft_type} cannot be merged: a plain layer cannot compute it")
        before = self._output(batch)
        trainable = list(self.trained().values())
        layers = {s.path: s.new.merged() for s in swaps if isinstance(s.new, Mergeable)}
        errors = {s.path: merge_error(s.new, layers[s.path]) for s in swaps if s.path in layers}
        for s in swaps:
            if s.path in layers:
                s.put(layers[s.path])
        self.base_model.requires_grad_(False)
        self._state.merged = Merged(layers, checksums(layers), trainable)
        after = self._output(batch)
        return MergeReport(errors, None if before is None or after is None else float(np.abs(after - before).max()))

    def unmerge_adapter(self) -> None:
        """Put the adapter's layers back, next to W₀, to the bit.

        Raises PeftError if a merged weight was changed in the meantime, because that change would be lost.
        """
        merged = self._state.merged
        if merged is None:
            raise PeftError("the adapter is not merged")
        sums = checksums(merged.layers)
        changed = [path for path, known in merged.checksums.items() if sums[path] != known]
        if changed:
            raise PeftError(
                f"{len(changed)} merged weights were changed after merge_adapter(), the first at {changed[0]}; "
                "unmerging would lose that. Keep the change with merge_and_unload(), or drop it with unload()"
            )
        self._state.merged = None
        self._active.attach()
        for p in merged.trainable:
            p.requires_grad_(True)

    def merge_and_unload(self) -> Module:
        """Return the base model with the active adapter's change built in; other adapters are forgotten.

        Wrapped layers become plain ones with new weights, and trained copies replace the base's parameters; the base's
        own arrays are not written. Raises PeftError for a method that plain layers cannot compute.
        """
        if not self._state.merged:
            self.merge_adapter()
        copies = [s.new for s in self._active.swaps if isinstance(s.new, Tensor)]
        flags = {id(p): flag for p, flag in self._state.trainable}
        self._state.adapters.clear()
        self._state.merged = None
        vars(self.base_model).pop(HAS_METHOD, None)
        for p in self.base_model.parameters():
            p.requires_grad_(flags.get(id(p), True) or any(p is c for c in copies))
        return self.base_model

    def _output(self, batch: dict[str, Any]) -> np.ndarray | None:
        if not batch:
            return None
        with no_grad():
            return to_numpy(self.base_model(**batch).data).astype(np.float64)

    def base_checksum(self) -> str:
        """Return the SHA-256 of the names, shapes and bytes of the frozen parameters."""
        return base_checksum(self.base_model)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write exactly the active adapter's trained tensors and its configuration into ``folder``, all or nothing.

        Hugging Face PEFT's files are written as well, if it has a form for the method and the model. Other files of the
        folder, such as the base model's, stay as they are. Raises FileError if the folder cannot be written.
        """
        self.check_active()
        write_adapter(self, folder)

    def load_adapter(self, folder: str | Path, adapter_name: str, allow_zero: bool = False) -> None:
        """Add the adapter in ``folder``, minipeft's or Hugging Face PEFT's, as ``adapter_name``, and make it active.

        Raises PeftError for an adapter that was made for another base model, does not fit, or changes nothing since all
        of it is zero (allow_zero takes it), FileError for a broken file; nothing is changed then.
        """
        with self.disable_adapter() if self.adapters else nullcontext():
            config, tensors, checksum = read_adapter(self.base_model, folder)
        with self._new_adapter(adapter_name, config):
            self._apply(config, rng=0)
            fill(self.base_model, self.trained(), tensors, checksum, folder, allow_zero)

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
    """Freeze ``model`` and apply the method of ``config``.

    The model's modules are swapped in place (``unload()`` puts them back); its weights are not touched.

    Args:
        model: to adapt.
        config: of the method, for example a `LoraConfig`.
        rng: a seed or generator for the new parameters.
        adapter_name: under which the adapter is switched and saved.

    Raises:
        PeftError: the configuration does not fit the model; the model is then as it was.
    """
    peft = PeftModel(model)
    try:
        peft.add_adapter(adapter_name, config, rng)
    except BaseException:
        peft.unload()
        raise
    return peft
