"""Export an adapter: the tensors and the configuration of Hugging Face PEFT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from minipeft.autograd import Tensor, no_grad
from minipeft.backend import to_numpy
from minipeft.models import EncoderDecoder
from minipeft.nn.module import find
from minipeft.peft.huggingface.places import (
    HF_SIDES,
    TASKS,
    TUNER,
    TUNERS,
    Arrays,
    Place,
    fits,
    names_of,
    norm_parameters,
    places_of,
    sequences,
)
from minipeft.peft.ia3 import IA3Layer
from minipeft.peft.lora import LoraConfig, LoraLayer
from minipeft.peft.lora_embedding import LoraEmbedding
from minipeft.peft.prefix import PrefixedCore
from minipeft.peft.prompt import Prompt
from minipeft.peft.select import heads

WRAPPERS = (LoraLayer, LoraEmbedding, IA3Layer)


def to_huggingface(peft: Any) -> tuple[Arrays, dict[str, Any]] | None:
    """Return the active adapter as PEFT's tensors and configuration, or None if it has no form there."""
    model, config, swaps = peft.base_model, peft.peft_config, peft._active.swaps
    places = places_of(model)
    exporters = {
        **{"LORA": _export_lora, "IA3": _export_ia3, "LN_TUNING": _export_norms},
        **{"PROMPT_TUNING": _export_prompt, "PREFIX_TUNING": _export_prefix},
    }
    if not places or config.peft_type not in exporters:
        return None
    if config.peft_type not in TUNERS and not isinstance(model, sequences(config.peft_type)):
        return None
    if isinstance(model, EncoderDecoder) and not _fits_bart(peft):
        return None
    if any(isinstance(s.new, WRAPPERS) and not fits(places, s.path) for s in swaps):
        return None
    whole = _whole_modules(peft, places)
    if whole is None:
        return None
    tensors, settings = exporters[config.peft_type](peft, places)
    task = TASKS.get(type(model).__name__)
    modules = sorted({name.rpartition(".")[0] for name in whole})
    if task == "SEQ_CLS" and "classifier" not in modules:
        task = None  # with it PEFT expects the head in the file
    common = {"peft_type": config.peft_type, "task_type": task, "inference_mode": True, "base_model_name_or_path": None}
    prefix = "base_model."
    if config.peft_type in TUNERS:
        prefix, common["modules_to_save"] = TUNER, modules or None
    tensors |= {prefix + name: x for name, x in whole.items()}
    return {k: np.ascontiguousarray(x) for k, x in tensors.items()}, {**common, "revision": None, **settings}


def _fits_bart(peft: Any) -> bool:
    """Return whether PEFT's BART can hold the adapter: on its sides, and with no bias that is a constant there."""
    config = peft.peft_config
    if getattr(config, "sides", None) != HF_SIDES.get(config.peft_type):
        return False
    if config.peft_type == "PREFIX_TUNING":
        return paired(_prefixes(peft)) is not None
    return getattr(config, "bias", "none") != "all"  # it would train lm_head.bias, their final_logits_bias


def _whole_modules(peft: Any, places: Mapping[str, Place]) -> Arrays | None:
    """Return the tensors of the modules that are trained in full, by their names; None if one has no form there."""
    model, swaps = peft.base_model, peft._active.swaps
    trained = tuple(f"{path}." for path in heads(model, peft.peft_config.modules_to_save))
    adapted = {places[s.path].module for s in swaps if isinstance(s.new, WRAPPERS)}
    norms = norm_parameters(model) if peft.peft_config.peft_type == "LN_TUNING" else []
    names = names_of(model)
    tensors: Arrays = {}
    for s in swaps:
        if not isinstance(s.new, Tensor) or not s.path.startswith(trained) or s.path in norms:
            continue
        name = names[s.path][0] if s.path in names else ""
        if name == "final_logits_bias" and np.array_equal(to_numpy(s.new.data), to_numpy(s.old.data)):
            continue  # BART's constant, which no adapter there changes
        x = None if name.rpartition(".")[0] in adapted else _joined(peft, names, name)
        if x is None or (peft.peft_config.peft_type not in TUNERS and not name.startswith("classifier.")):
            return None
        tensors[name] = x
    return tensors


def _joined(peft: Any, names: Mapping[str, tuple[str, str]], theirs: str) -> np.ndarray | None:
    """Return their tensor of that name, all parts of a fused one together; None if it is not a plain layer's."""
    parts = []
    for how, path in sorted((how, path) for path, (name, how) in names.items() if name == theirs):
        if how in ("matrix", "vector") or how.startswith("from"):
            return None
        owner, _, own = path.rpartition(".")
        layer = find(peft.base_model, owner)
        x = to_numpy(getattr(getattr(layer, "base", layer), own).data)
        parts.append(x.T if how.endswith("T") else x)
    return np.concatenate(parts, axis=-1) if parts else None


def _export_lora(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    config: LoraConfig = peft.peft_config
    groups: dict[str, dict[int, Any]] = {}
    by_module: dict[str, str] = {}
    for s in peft._active.swaps:
        if isinstance(s.new, (LoraLayer, LoraEmbedding)):
            groups.setdefault(places[s.path].module, {})[places[s.path].part] = s.new
            by_module[places[s.path].module] = s.path
    tensors: Arrays = {}
    ranks: dict[str, tuple[int, float]] = {}
    for module, parts in groups.items():
        first = parts[min(parts)]
        if isinstance(first, LoraEmbedding):
            tensors[f"{TUNER}{module}.lora_embedding_A"] = to_numpy(first.lora_embedding_A.data)
            tensors[f"{TUNER}{module}.lora_embedding_B"] = to_numpy(first.lora_embedding_B.data)
            r = first.lora_embedding_A.shape[0]
        else:
            A, B = _block_diagonal(parts, places[by_module[module]].count)
            r = len(A)
            tensors[f"{TUNER}{module}.lora_A.weight"], tensors[f"{TUNER}{module}.lora_B.weight"] = A, B
        ranks[module] = (r, first.scale * (r**0.5 if config.use_rslora else r))
    tensors |= _biases(peft, places, groups)
    r, alpha = max(ranks.values(), key=list(ranks.values()).count)
    return tensors, {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {m: n for m, (n, _) in ranks.items() if n != r},
        "alpha_pattern": {m: a for m, (_, a) in ranks.items() if a != alpha},
        "target_modules": sorted(groups),
        "lora_dropout": config.lora_dropout,
        "bias": config.bias,
        "fan_in_fan_out": any(places[p].how.endswith("T") for p in by_module.values()),
        "init_lora_weights": True,
        "use_rslora": config.use_rslora,
        "use_dora": False,
        "lora_bias": False,
        "layers_to_transform": None,
        "layers_pattern": None,
    }


def _block_diagonal(parts: Mapping[int, LoraLayer], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return A and B of a fused layer of ``count`` parts, of which ``parts`` are adapted; the scale is the first's."""
    A = np.concatenate([to_numpy(p.lora_A.data) for p in parts.values()])
    d, scale = parts[min(parts)].lora_B.shape[0], parts[min(parts)].scale
    B = np.zeros((count * d, len(A)), dtype=A.dtype)
    column = 0
    for part, layer in parts.items():
        width = layer.lora_A.shape[0]
        B[part * d : (part + 1) * d, column : column + width] = to_numpy(layer.lora_B.data) * (layer.scale / scale)
        column += width
    return A, B


def _biases(peft: Any, places: Mapping[str, Place], groups: Mapping[str, Any]) -> Arrays:
    """Return the biases that a LoRA with ``bias`` trains; those of modules trained in full are not among them."""
    if peft.peft_config.bias == "none":
        return {}
    whole = tuple(f"{path}." for path in heads(peft.base_model, peft.peft_config.modules_to_save))
    tensors: Arrays = {}
    for s in peft._active.swaps:
        if not isinstance(s.new, Tensor) or not s.path.endswith("bias") or s.path.startswith(whole):
            continue
        module = places[s.path.replace(".base.bias", ".bias").removesuffix(".bias")].module
        wrapped = ".base_layer" if module in groups else ""
        x = _joined(peft, names_of(peft.base_model), f"{module}.bias")
        assert x is not None, "a bias is as it is, or a part of one"
        tensors[f"{TUNER}{module}{wrapped}.bias"] = x
    return tensors


def _export_ia3(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    tensors: Arrays = {}
    inside = []
    for s in peft._active.swaps:
        if not isinstance(s.new, IA3Layer):
            continue
        place, values = places[s.path], to_numpy(s.new.ia3_l.data)
        name = f"{TUNER}{place.module}.ia3_l"
        if s.new.inside:
            tensors[name] = values[None]
            inside.append(place.module)
        else:
            whole = tensors.setdefault(name, np.ones((place.count * len(values), 1), dtype=values.dtype))
            whole[place.part * len(values) : (place.part + 1) * len(values), 0] = values
    modules = sorted(n.removeprefix(TUNER).removesuffix(".ia3_l") for n in tensors)
    return tensors, {
        "target_modules": _exactly(modules),
        "feedforward_modules": _exactly(sorted(inside)) if inside else [],
        "fan_in_fan_out": any(p.how.endswith("T") for p in places.values()),
        "init_ia3_weights": True,
    }


def _exactly(modules: list[str]) -> str:
    """Return a regular expression for just these modules (a list of names would match by their ends)."""
    return "|".join(re.escape(m) for m in modules)


def _export_norms(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    tensors: Arrays = {}
    for path in norm_parameters(peft.base_model):
        owner, _, own = path.rpartition(".")
        tensors[f"{TUNER}{places[owner].module}.ln_tuning_layers.{own}"] = to_numpy(find(peft.base_model, path).data)
    return tensors, {"target_modules": sorted({n.removeprefix(TUNER).rpartition(".ln_t")[0] for n in tensors})}


def _shape_of(peft: Any) -> dict[str, Any]:
    c = peft.base_model.config
    return {
        "num_layers": c.n_layers,
        "token_dim": c.d_model,
        "num_attention_heads": getattr(c, "n_kv_heads", None) or c.n_heads,
        "num_transformer_submodules": 2 if isinstance(peft.base_model, EncoderDecoder) else 1,
    }


def _export_prompt(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    rows = next(to_numpy(s.new.rows.data) for s in peft._active.swaps if isinstance(s.new, Prompt))
    settings = {"num_virtual_tokens": len(rows), "prompt_tuning_init": "RANDOM", **_shape_of(peft)}
    if isinstance(peft.base_model, EncoderDecoder):  # PEFT stores as many rows again, which nothing reads
        rows = np.concatenate([rows, np.zeros_like(rows)])
    return {"prompt_embeddings": rows}, settings


def _export_prefix(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    prefixes = _prefixes(peft)
    pairs = paired(prefixes) if isinstance(peft.base_model, EncoderDecoder) else list(prefixes.values())
    assert pairs is not None
    flat = np.concatenate([x.reshape(len(x), -1) for x in pairs], axis=1)  # (P, L 2 Hk D): K₀ V₀ K₁ V₁ …
    shape = _shape_of(peft)
    shape["token_dim"] = flat.shape[1] // (2 * shape["num_layers"])
    hidden = {"encoder_hidden_size": shape["token_dim"], "prefix_projection": False}
    return {"prompt_embeddings": flat}, {"num_virtual_tokens": len(flat), **shape, **hidden}


def _prefixes(peft: Any) -> Arrays:
    """Return the prefix of each attention, (P, 2, Hk, D), by path."""
    found = {}
    for s in peft._active.swaps:
        if isinstance(s.new, PrefixedCore):
            with no_grad():
                found[s.path] = to_numpy(s.new.prefix().data).swapaxes(0, 1)
    return found


def paired(prefixes: Arrays) -> list[np.ndarray] | None:
    """Return the prefixes of L decoder layers in the order in which PEFT's encoder-decoder reads them, or None.

    PEFT 0.21 stores the L pairs of keys and values one after the other and deals them out by fours, the second half of
    each to a cache that it drops: layer i gets pair 2 i mod L. With an even L nothing reads the odd pairs, and layers
    i and i + L / 2 share one, so two different prefixes cannot be stored.
    """
    layers = list(prefixes.values())
    pairs = [np.zeros_like(x) for x in layers]
    for i, x in enumerate(layers):
        j = 2 * i % len(layers)
        if 2 * i >= len(layers) and len(layers) % 2 == 0 and not np.array_equal(pairs[j], x):
            return None
        pairs[j] = x
    return pairs
