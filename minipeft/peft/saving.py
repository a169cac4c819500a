"""Adapters as files: exactly the trained tensors, the configuration, and the checksum of the base they stand on.

A folder has our own pair of files, minipeft_config.json and minipeft_model.safetensors, and beside it Hugging Face's,
adapter_config.json and adapter_model.safetensors, where that ecosystem has a form for the method and the model. Ours
is read where it is there, theirs otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import device_of, to_device, to_numpy
from minipeft.files.causes import no_folder, wrong_folder
from minipeft.files.config import dataclass_from_json, read_json, shown, write_json
from minipeft.files.errors import FileError
from minipeft.files.safetensors import read_safetensors, safetensors_header, write_safetensors
from minipeft.files.sets import current, file_set, sha256
from minipeft.nn.module import Module
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import METHODS, PeftConfig, PeftError
from minipeft.peft.huggingface import from_huggingface, to_huggingface
from minipeft.peft.huggingface.places import HF_CONFIG, HF_WEIGHTS

WEIGHTS_FILE = "minipeft_model.safetensors"
CONFIG_FILE = "minipeft_config.json"

MODELS = [("config.json", "a model, not an adapter; load it with Model.from_pretrained")]

Arrays = dict[str, np.ndarray]


def base_checksum(model: Module) -> str:
    """Return the SHA-256 of the names, shapes and bytes of the frozen parameters, which the adapter was trained on."""
    digest = hashlib.sha256()
    for name, p in model.named_parameters():
        if not p.requires_grad:
            digest.update(f"{name} {p.shape} {p.dtype}\n".encode())
            digest.update(np.ascontiguousarray(to_numpy(p.data)).data)
    return digest.hexdigest()


def write_adapter(peft: AdaptedModel, folder: str | Path) -> None:
    """Write the active adapter of ``peft`` into ``folder`` in every form there is for it, all or nothing.

    The metadata of minipeft's tensors hold the SHA-256 of Hugging Face's files: if the next adapter saved there has no
    such form, those files are removed, unless someone changed them.
    """
    folder = Path(folder)
    config, model = peft.peft_config, peft.base_model
    tensors = {name: np.asarray(to_numpy(p.data), order="C") for name, p in peft.trained().items()}
    settings = {"peft_type": config.peft_type, **asdict(config)}
    metadata = {"format": "minipeft", "base": base_checksum(model)}
    with file_set(folder, obsolete=_written_files(folder)) as target:
        exported = to_huggingface(peft)
        if exported is not None:
            write_safetensors(target / HF_WEIGHTS, exported[0], {"format": "pt"})
            write_json(target / HF_CONFIG, exported[1])
            metadata |= {name: sha256(target / name) for name in (HF_WEIGHTS, HF_CONFIG)}
        write_safetensors(target / WEIGHTS_FILE, tensors, metadata)
        write_json(target / CONFIG_FILE, settings)


def _written_files(folder: Path) -> dict[str, str]:
    """Return Hugging Face's files that were saved with the adapter in ``folder``, {name: SHA-256}."""
    try:
        _, metadata = safetensors_header(folder / WEIGHTS_FILE)
    except FileError:  # no adapter of minipeft is there
        return {}
    return {name: metadata[name] for name in (HF_WEIGHTS, HF_CONFIG) if name in metadata}


def holds_adapter(folder: str | Path) -> bool:
    """True if an adapter is saved in ``folder``, minipeft's or Hugging Face's."""
    return any(current(Path(folder) / name).exists() for name in (CONFIG_FILE, HF_CONFIG))


def read_adapter(model: Module, folder: str | Path) -> tuple[PeftConfig, Arrays, str | None]:
    """Return the configuration, the tensors by our names, and the checksum of the base (None if the file has none).

    Raises FileError or PeftError for a folder that holds no adapter, or a broken one.
    """
    source, folder = folder, Path(folder)
    if not folder.exists():
        raise no_folder(source, f"the folder of an adapter, with {CONFIG_FILE} or {HF_CONFIG}")
    if not current(folder / CONFIG_FILE).exists():
        if not current(folder / HF_CONFIG).exists():
            raise wrong_folder(folder, [CONFIG_FILE, HF_CONFIG], MODELS, "PeftModel.from_pretrained(model, '{}')")
        return *from_huggingface(model, folder), None
    config = read_config(folder / CONFIG_FILE)
    tensors, metadata = read_safetensors(folder / WEIGHTS_FILE)
    theirs = current(folder / HF_WEIGHTS)
    if HF_WEIGHTS in metadata and theirs.exists() and sha256(theirs) != metadata[HF_WEIGHTS]:
        raise PeftError(
            f"{folder}: {HF_WEIGHTS} was changed by another program after {WEIGHTS_FILE} was saved with it; to load "
            f"the changed adapter, remove {CONFIG_FILE} and {WEIGHTS_FILE}; to load the earlier one, remove the other"
        )
    return config, tensors, metadata.get("base", "none in the file")


def read_config(path: str | Path) -> PeftConfig:
    """Return the configuration in a minipeft_config.json; FileError or PeftError, with the field, if it is broken."""
    settings = read_json(Path(path))
    kind = settings.pop("peft_type", None)
    if not isinstance(kind, str) or kind not in METHODS:
        raise PeftError(f"{path}: unknown peft_type {shown(kind)}; expected one of {sorted(METHODS)}")
    return dataclass_from_json(METHODS[kind], settings, Path(path))


def fill(
    model: Module,
    trained: Mapping[str, Tensor],
    tensors: Arrays,
    checksum: str | None,
    folder: str | Path,
    allow_zero: bool = False,
) -> None:
    """Copy the tensors of an adapter into the trained parameters, all or none; PeftError if they do not fit."""
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
