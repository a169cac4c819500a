"""Adapters as files: exactly the trained tensors, the configuration, and the checksum of the base they stand on.

A folder has our own pair of files, minipeft_config.json and minipeft_model.safetensors, and beside it Hugging Face's,
adapter_config.json and adapter_model.safetensors, where that ecosystem has a form for the method and the model. Ours
is read where it is there, theirs otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.array import device_of, to_device, to_numpy
from minipeft.autograd import Tensor
from minipeft.files.atomic import atomic_folder
from minipeft.files.config import dataclass_from_json, read_json, write_json
from minipeft.files.safetensors import read_safetensors, write_safetensors
from minipeft.nn.module import Module
from minipeft.peft.config import METHODS, PeftConfig, PeftError

WEIGHTS_FILE = "minipeft_model.safetensors"
CONFIG_FILE = "minipeft_config.json"
THEIR_WEIGHTS = "adapter_model.safetensors"
THEIR_CONFIG = "adapter_config.json"

Arrays = dict[str, np.ndarray]
ToTheirs = Callable[[Any], tuple[Arrays, dict[str, Any]] | None]
FromTheirs = Callable[[Module, str | Path], tuple[PeftConfig, Arrays]]
_exchange: list[tuple[ToTheirs, FromTheirs]] = []


def register_exchange(to_theirs: ToTheirs, from_theirs: FromTheirs) -> None:
    """Make known how adapters go to and from Hugging Face's form (the methods' own floor knows)."""
    _exchange[:] = [(to_theirs, from_theirs)]


def base_checksum(model: Module) -> str:
    """SHA-256 over the names, shapes and bytes of the frozen parameters: what the adapter stands on."""
    digest = hashlib.sha256()
    for name, p in model.named_parameters():
        if not p.requires_grad:
            digest.update(f"{name} {p.shape} {p.dtype}\n".encode())
            digest.update(np.ascontiguousarray(to_numpy(p.data)).data)
    return digest.hexdigest()


def write_adapter(peft: Any, folder: str | Path) -> None:
    """Write the active adapter of ``peft`` in every form there is for it, all or nothing."""
    config, model = peft.peft_config, peft.base_model
    tensors = {name: np.asarray(to_numpy(p.data), order="C") for name, p in peft.trained().items()}
    settings = {"peft_type": config.peft_type, **asdict(config)}
    with atomic_folder(Path(folder)) as target:
        write_safetensors(target / WEIGHTS_FILE, tensors, {"format": "minipeft", "base": base_checksum(model)})
        write_json(target / CONFIG_FILE, settings)
        for to_theirs, _ in _exchange:
            theirs = to_theirs(peft)
            if theirs is not None:
                write_safetensors(target / THEIR_WEIGHTS, theirs[0], {"format": "pt"})
                write_json(target / THEIR_CONFIG, theirs[1])


def read_adapter(model: Module, folder: str | Path) -> tuple[PeftConfig, Arrays, str | None]:
    """Configuration, tensors by our names, and checksum of the base (None where the file does not say).

    Raises FileError or PeftError for a folder that holds no adapter, or a broken one.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).exists() and (folder / THEIR_CONFIG).exists():
        return *_exchange[0][1](model, folder), None
    config = read_config(folder / CONFIG_FILE)
    tensors, metadata = read_safetensors(folder / WEIGHTS_FILE)
    return config, tensors, metadata.get("base", "none in the file")


def read_config(path: str | Path) -> PeftConfig:
    """The configuration in a minipeft_config.json; FileError or PeftError where it is none, naming what is wrong."""
    settings = read_json(Path(path))
    kind = settings.pop("peft_type", None)
    if kind not in METHODS:
        raise PeftError(f"{path}: unknown peft_type {kind!r}; expected one of {sorted(METHODS)}")
    return dataclass_from_json(METHODS[kind], settings, Path(path))


def fill(
    model: Module,
    trained: Mapping[str, Tensor],
    tensors: Arrays,
    checksum: str | None,
    folder: str | Path,
    allow_zero: bool = False,
) -> None:
    """Copy the tensors of an adapter into the trained parameters, all or none; PeftError where they do not fit."""
    path = Path(folder)
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
    if checksum is not None and checksum != base_checksum(model):
        raise PeftError(
            f"{path}: this adapter was trained on other base weights (their checksums differ); "
            "load the base model that it was trained on"
        )
    if not allow_zero and _changes_nothing(tensors):
        raise PeftError(
            f"{path}: this adapter changes nothing: every tensor, or one of each pair A and B, is zero. It was never "
            "trained, or its weights were lost when it was saved; allow_zero=True loads it all the same"
        )
    for name, p in trained.items():
        p.data[...] = to_device(tensors[name].astype(p.dtype), device_of(p.data))


PAIRS = {"lora_A": "lora_B", "lora_B": "lora_A", "lora_embedding_A": "lora_embedding_B"}
PAIRS["lora_embedding_B"] = "lora_embedding_A"


def _changes_nothing(tensors: Arrays) -> bool:
    zero = {name for name, x in tensors.items() if not x.any()}

    def partner(name: str) -> str:
        owner, _, own = name.rpartition(".")
        return f"{owner}.{PAIRS.get(own, own)}"

    return all(name in zero or partner(name) in zero for name in tensors)
