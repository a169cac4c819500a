"""Adapters as files: exactly the trained tensors, the configuration, and the checksum of the base they stand on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "minipeft_config.json"


def base_checksum(model: Module) -> str:
    """SHA-256 over the names, shapes and bytes of the frozen parameters: what the adapter stands on."""
    digest = hashlib.sha256()
    for name, p in model.named_parameters():
        if not p.requires_grad:
            digest.update(f"{name} {p.shape} {p.dtype}\n".encode())
            digest.update(np.ascontiguousarray(to_numpy(p.data)).data)
    return digest.hexdigest()


def write_adapter(model: Module, config: PeftConfig, trained: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write the trained tensors and the configuration, all or nothing."""
    tensors = {name: np.ascontiguousarray(to_numpy(p.data)) for name, p in trained.items()}
    settings = {"peft_type": config.peft_type, **asdict(config)}
    with atomic_folder(Path(folder)) as target:
        write_safetensors(target / WEIGHTS_FILE, tensors, {"format": "minipeft", "base": base_checksum(model)})
        write_json(target / CONFIG_FILE, settings)


def read_adapter(folder: str | Path) -> tuple[PeftConfig, dict[str, np.ndarray], dict[str, str]]:
    """Configuration, tensors and metadata of a saved adapter; FileError or PeftError where they are none."""
    folder = Path(folder)
    settings = read_json(folder / CONFIG_FILE)
    kind = settings.pop("peft_type", None)
    if kind not in METHODS:
        raise PeftError(f"{folder / CONFIG_FILE}: unknown peft_type {kind!r}; expected one of {sorted(METHODS)}")
    tensors, metadata = read_safetensors(folder / WEIGHTS_FILE)
    return dataclass_from_json(METHODS[kind], settings, folder / CONFIG_FILE), tensors, metadata


def fill(
    model: Module, trained: Mapping[str, Tensor], tensors: Mapping[str, np.ndarray], metadata: Any, folder: str | Path
) -> None:
    """Copy the tensors of an adapter into the trained parameters, all or none; PeftError where they do not fit."""
    path = Path(folder) / WEIGHTS_FILE
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
    if metadata.get("base") != base_checksum(model):
        raise PeftError(
            f"{path}: this adapter was trained on other base weights (their checksums differ); "
            "load the base model that it was trained on"
        )
    for name, p in trained.items():
        p.data[...] = to_device(tensors[name].astype(p.dtype), device_of(p.data))
