"""What every method shares: choosing modules, swapping them, freezing, saving, and taking it all back.

A method never edits the base model. It swaps: a module for one that wraps it, a parameter for a trainable copy,
an empty slot for a prompt. Each swap is remembered, so disabling an adapter is putting the old things back, and the
base model is then what it was, to the bit.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from minipeft.array import Array, device_of, generator, to_device, to_numpy
from minipeft.autograd import Tensor
from minipeft.files.atomic import atomic_folder
from minipeft.files.config import dataclass_from_json, read_json, write_json
from minipeft.files.safetensors import read_safetensors, write_safetensors
from minipeft.nn.layers import Linear
from minipeft.nn.module import Module, find, replace

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "minipeft_config.json"


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

    def apply(self, peft: PeftModel, rng: np.random.Generator) -> None:
        """Swap the method's parts into ``peft.base_model`` through ``peft.swap`` and its relatives."""
        raise NotImplementedError(f"{type(self).__name__} defines no apply")


_methods: dict[str, type[PeftConfig]] = {}


def method(config: type[PeftConfig]) -> type[PeftConfig]:
    """Class decorator: make a configuration known under its ``peft_type``, for loading."""
    _methods[config.peft_type] = config
    return config


class Mergeable(Module):
    """A module that a plain layer can stand in for."""

    def merged(self) -> Module:
        """The plain layer that computes the same."""
        raise NotImplementedError(f"{type(self).__name__} defines no merged")


@dataclass
class Swap:
    """One change: at ``key`` of ``owner`` stands ``new`` where the base has ``old``."""

    owner: Any
    key: str | int
    old: Any
    new: Any

    def put(self, value: Any) -> None:
        if isinstance(self.owner, (list, dict)):
            self.owner[self.key] = value  # type: ignore[index]
        else:
            setattr(self.owner, str(self.key), value)


@dataclass
class Record:
    """What was done to a base model: the swaps in their order, and which parameters were trainable before."""

    swaps: list[Swap]
    trainable: list[tuple[Tensor, bool]]


class PeftModel(Module):
    """A frozen base model with one method applied. Calls, ``loss`` and the like go to the base model."""

    def __init__(self, base_model: Module, peft_config: PeftConfig):
        self.base_model = base_model
        self.peft_config = peft_config
        self._record = Record([], [(p, p.requires_grad) for p in base_model.parameters()])

    def __getattr__(self, name: str) -> Any:
        if name == "base_model":  # not set yet
            raise AttributeError(name)
        return getattr(self.base_model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def swap(self, path: str, new: Any) -> Any:
        """Put ``new`` at ``path`` of the base model, remember it, and return what stood there."""
        parent, _, key = path.rpartition(".")
        owner = find(self.base_model, parent)
        old = replace(self.base_model, path, new)
        self._record.swaps.append(Swap(owner, int(key) if isinstance(owner, list) else key, old, new))
        return old

    def train_copy(self, path: str) -> Tensor:
        """Put a trainable copy of the parameter at ``path`` wherever the model uses that parameter."""
        old = find(self.base_model, path)
        new = Tensor(old.data.copy(), requires_grad=True)
        for _, module in list(self.base_model.named_modules()):
            for key, value in vars(module).items():
                if value is old:
                    self._record.swaps.append(Swap(module, key, old, new))
        for swap in self._record.swaps:
            if swap.new is new:
                swap.put(new)
        return new

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The base model inside, to the bit; the adapter again afterwards."""
        for swap in reversed(self._record.swaps):
            swap.put(swap.old)
        try:
            yield
        finally:
            for swap in self._record.swaps:
                swap.put(swap.new)

    def unload(self) -> Module:
        """Remove the method for good: the base model as it was, trainable where it was."""
        for swap in reversed(self._record.swaps):
            swap.put(swap.old)
        self._record.swaps = []
        for p, flag in self._record.trainable:
            p.requires_grad_(flag)
        return self.base_model

    def merge_and_unload(self) -> Module:
        """The base model with the learnt change built in and no method around it.

        Wrapped layers that can merge (LoRA) become plain ones with new weights; trained copies stay in place of
        the base's parameters. The base's own arrays are not written. Raises PeftError for a method that computes
        something that plain layers cannot (adapters, prompts, prefixes).
        """
        for s in self._record.swaps:
            if isinstance(s.new, Module) and not isinstance(s.new, Mergeable):
                raise PeftError(f"{self.peft_config.peft_type} cannot be merged: a plain layer cannot compute it")
        for s in self._record.swaps:
            if isinstance(s.new, Mergeable):
                s.put(s.new.merged())
        self._record.swaps = []
        for p in self.base_model.parameters():
            p.requires_grad_(True)
        return self.base_model

    def trained(self) -> dict[str, Tensor]:
        """The trainable parameters by their path in the base model."""
        return {name: p for name, p in self.base_model.named_parameters() if p.requires_grad}

    def trainable_counts(self) -> tuple[int, int]:
        """(trainable, all) numbers of parameters, each tensor counted once."""
        sizes = [(p.size, p.requires_grad) for p in self.parameters()]
        return sum(n for n, flag in sizes if flag), sum(n for n, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, of how many."""
        trainable, total = self.trainable_counts()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write exactly the trained tensors and the configuration to ``folder``, all or nothing."""
        tensors = {name: np.ascontiguousarray(to_numpy(p.data)) for name, p in self.trained().items()}
        settings = {"peft_type": self.peft_config.peft_type, **asdict(self.peft_config)}
        with atomic_folder(Path(folder)) as target:
            write_safetensors(target / WEIGHTS_FILE, tensors, {"format": "minipeft", "base": self.base_checksum()})
            write_json(target / CONFIG_FILE, settings)

    @classmethod
    def from_pretrained(cls, model: Module, folder: str | Path) -> PeftModel:
        """Apply the method saved in ``folder`` to ``model`` and load its tensors.

        Raises PeftError for an adapter that was made for another base model or does not fit, FileError for a
        broken file; ``model`` is then as it was.
        """
        folder = Path(folder)
        settings = read_json(folder / CONFIG_FILE)
        kind = settings.pop("peft_type", None)
        if kind not in _methods:
            raise PeftError(f"{folder / CONFIG_FILE}: unknown peft_type {kind!r}; expected one of {sorted(_methods)}")
        tensors, metadata = read_safetensors(folder / WEIGHTS_FILE)
        config = dataclass_from_json(_methods[kind], settings, folder / CONFIG_FILE)
        peft = get_peft_model(model, config)
        try:
            _load(peft, tensors, metadata, folder / WEIGHTS_FILE)
        except BaseException:
            peft.unload()
            raise
        return peft

    def base_checksum(self) -> str:
        """SHA-256 over the names, shapes and bytes of the frozen parameters: what the adapter stands on."""
        digest = hashlib.sha256()
        for name, p in self.base_model.named_parameters():
            if not p.requires_grad:
                digest.update(f"{name} {p.shape} {p.dtype}\n".encode())
                digest.update(np.ascontiguousarray(to_numpy(p.data)).data)
        return digest.hexdigest()


def _load(peft: PeftModel, tensors: dict[str, np.ndarray], metadata: dict[str, str], path: Path) -> None:
    trained = peft.trained()
    missing, unknown = sorted(trained.keys() - tensors.keys()), sorted(tensors.keys() - trained.keys())
    if missing or unknown:
        raise PeftError(
            f"{path}: the tensors do not match this model and configuration: missing {missing[:3] or 'none'}, "
            f"unknown {unknown[:3] or 'none'}"
        )
    for name, p in trained.items():
        if tensors[name].shape != p.shape:
            raise PeftError(f"{path}: {name} has shape {tensors[name].shape}, the model needs {p.shape}")
        if not np.isfinite(tensors[name]).all():
            raise PeftError(f"{path}: {name} holds values that are not finite")
    if metadata.get("base") != peft.base_checksum():
        raise PeftError(
            f"{path}: this adapter was trained on other base weights (their checksums differ); "
            "load the base model that it was trained on"
        )
    for name, p in trained.items():
        p.data[...] = to_device(tensors[name].astype(p.dtype), device_of(p.data))


def get_peft_model(model: Module, config: PeftConfig, rng: int | np.random.Generator = 0) -> PeftModel:
    """Freeze ``model`` and apply the method of ``config``; new parameters are drawn from ``rng``.

    The model's modules are swapped in place (``unload()`` puts them back); its weights are not touched.
    Raises PeftError where the configuration does not fit the model; the model is then as it was.
    """
    if isinstance(model, PeftModel):
        raise PeftError("this model has a method applied already; call unload() or merge_and_unload() first")
    if not isinstance(config, PeftConfig):
        raise TypeError(f"expected a configuration such as LoraConfig(r=8), got {type(config).__name__}")
    peft = PeftModel(model, config)
    try:
        model.requires_grad_(False)
        for path in _heads(model, config.modules_to_save):
            for name, _ in find(model, path).named_parameters():
                peft.train_copy(f"{path}.{name}")
        config.apply(peft, generator(rng))
        if not peft.trained():
            raise PeftError(f"{type(config).__name__} leaves nothing to train in {type(model).__name__}")
    except BaseException:
        peft.unload()
        raise
    return peft


def _heads(model: Module, names: Sequence[str] | None) -> list[str]:
    if names is None:
        return [path for path, _ in model.named_modules() if path.rpartition(".")[2] == "classifier"]
    return match_modules(model, list(names), Module, "modules_to_save") if names else []


def match_modules(
    model: Module,
    targets: Sequence[str] | str,
    kind: type[Module] = Linear,
    option: str = "target_modules",
    layers: Sequence[int] | None = None,
) -> list[str]:
    """The paths of the modules of ``kind`` that ``targets`` choose.

    A list holds full paths or their ends ("q_proj", "attention.q_proj"); a string is a regular expression for the
    full path, or "all-linear" for every linear layer inside the Transformer layers. ``layers``: only these layer
    indices. Raises PeftError for an entry that matches nothing, naming what is near.
    """
    paths = [path for path, module in model.named_modules() if path and isinstance(module, kind)]
    if isinstance(targets, str):
        if targets == "all-linear":
            chosen = [p for p in paths if layer_index(p) is not None]
        else:
            try:
                pattern = re.compile(targets)
            except re.error as error:
                raise PeftError(f"{option}: {targets!r} is no regular expression: {error}") from None
            chosen = [p for p in paths if pattern.fullmatch(p)]
        if not chosen:
            raise PeftError(f"{option}: {targets!r} matches no {kind.__name__}; there are: {_listed(paths)}")
    else:
        if not targets:
            raise PeftError(f"{option} is empty; name modules, for example {_listed(paths)}")
        wanted = set()
        for t in targets:
            found = {p for p in paths if p == t or p.endswith("." + t)}
            if not found:
                ends = sorted({p.rpartition(".")[2] for p in paths})
                near = difflib.get_close_matches(t, [*ends, *paths], n=3, cutoff=0.5)
                raise PeftError(f"{option}: {t!r} matches no {kind.__name__}; near: {near or _listed(paths)}")
            wanted |= found
        chosen = [p for p in paths if p in wanted]
    if layers is None:
        return chosen
    there = sorted({i for p in chosen if (i := layer_index(p)) is not None})
    absent = sorted(set(layers) - set(there))
    if absent or not layers:
        raise PeftError(f"layers_to_transform: {absent or list(layers)} chooses no layer; the targets are in {there}")
    return [p for p in chosen if layer_index(p) in set(layers)]


def layer_index(path: str) -> int | None:
    """The first numbered segment of a path: 3 for "stack.layers.3.attention"."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def _listed(paths: Sequence[str]) -> str:
    ends = sorted({p if p.rpartition(".")[2].isdigit() else p.rpartition(".")[2] for p in paths})
    return ", ".join(ends[:12]) or "none of that kind"


def trainable(values: Array, like: Tensor) -> Tensor:
    """A trainable tensor with ``values``, in the type and on the device of ``like``."""
    return Tensor(to_device(values.astype(like.dtype), device_of(like.data)), requires_grad=True)


def check_fields(config: Any, **at_least: int) -> None:
    """Raise PeftError for a field below its least value."""
    for name, least in at_least.items():
        value = getattr(config, name)
        if not isinstance(value, int) or value < least:
            raise PeftError(f"{type(config).__name__}: {name} must be an integer of at least {least}, got {value!r}")


__all__ = ["PeftConfig", "PeftError", "PeftModel", "get_peft_model"]
