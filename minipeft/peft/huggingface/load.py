"""Import an adapter of Hugging Face PEFT: minipeft's configuration, and the values of what it trains."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import to_numpy
from minipeft.files.causes import no_weights
from minipeft.files.config import read_json
from minipeft.files.safetensors import read_safetensors
from minipeft.files.sets import current
from minipeft.models import EncoderDecoder
from minipeft.models.layouts.layout import is_tied, taken
from minipeft.nn.layers import Embedding
from minipeft.nn.module import Module, find
from minipeft.peft.config import PeftConfig, PeftError
from minipeft.peft.huggingface.places import (
    HF_CONFIG,
    HF_WEIGHTS,
    TUNER,
    Arrays,
    Place,
    layout_of,
    names_of,
    norm_parameters,
    places_of,
    sequences,
)
from minipeft.peft.huggingface.settings import AdapterSettings
from minipeft.peft.ia3 import IA3Config
from minipeft.peft.layernorm import LayerNormConfig
from minipeft.peft.lora import LoraConfig
from minipeft.peft.prefix import SIDES, PrefixTuningConfig
from minipeft.peft.prompt import PromptTuningConfig
from minipeft.peft.select import is_end, on_sides

TIES = ("embed_tokens", "lm_head")  # the names for which PEFT's ensure_weight_tying acts


def from_huggingface(model: Module, folder: str | Path) -> tuple[PeftConfig, Arrays]:
    """Return minipeft's configuration of the adapter in a folder of PEFT, and the values of what it trains, by path.

    Raises PeftError for a method or option that is not implemented, a tensor that has no place in ``model``, or a model
    without a Hugging Face layout; FileError for a broken file.
    """
    folder = Path(folder)
    path = folder / HF_CONFIG
    importers = {
        **{"LORA": _import_lora, "IA3": _import_ia3, "LN_TUNING": _import_norms},
        **{"PROMPT_TUNING": _import_prompt, "PREFIX_TUNING": _import_prefix},
    }
    settings = AdapterSettings.from_json(read_json(path), path, importers)
    if not current(folder / HF_WEIGHTS).exists():
        raise no_weights(folder, HF_WEIGHTS)
    tensors, _ = read_safetensors(folder / HF_WEIGHTS)
    places = places_of(model)
    if not places:
        raise PeftError(f"{path}: Hugging Face has no layout for a {type(model).__name__} like this")
    reader = Reader(model, places, settings, tensors, path)
    reader.unwrap()
    reader.drop_unused()
    reader.drop_base_layers()
    config, values = importers[settings.peft_type](reader)
    config.modules_to_save = reader.take_whole_modules(values)
    if reader.tensors:
        raise PeftError(f"{folder / HF_WEIGHTS}: {next(iter(reader.tensors))!r} has no place in this model")
    return config, values


@dataclass
class Reader:
    """The tensors of the file, taken out one by one as they find their place."""

    model: Any
    places: Mapping[str, Place]
    settings: AdapterSettings
    tensors: Arrays
    path: Path

    def modules(self, ending: str) -> Iterator[tuple[str, list[tuple[str, Place]]]]:
        """Yield the modules that have a tensor ``ending``, with their paths here; PeftError for an unknown module."""
        for key in [k for k in self.tensors if k.endswith(ending)]:
            if not key.startswith(TUNER):
                raise PeftError(f"{self.path}: the tensor {key!r} should begin with {TUNER!r}; it would be ignored")
            module = key.removeprefix(TUNER).removesuffix(ending)
            ours = [(path, place) for path, place in self.places.items() if place.module == module]
            if not ours or not ours[0][1].is_linear:
                raise PeftError(f"{self.path}: this model has no module {module!r} to adapt")
            yield module, ours

    def take(self, key: str) -> np.ndarray:
        """Remove and return a tensor; PeftError if it is missing."""
        if key not in self.tensors:
            raise PeftError(f"{self.path}: the tensor {key!r} is missing")
        return self.tensors.pop(key)

    def unwrap(self) -> None:
        """Give the tensors of whole modules their plain names, and the biases that are tied one name."""
        tensors = {n: x for n, x in self.tensors.items() if ".original_module." not in n}  # the base's own
        for name in [n for n in tensors if ".modules_to_save." in n]:  # a bias that is stored twice
            plain = name.replace(".modules_to_save", "")
            if not np.array_equal(tensors[name], tensors.get(plain, tensors[name])):
                raise PeftError(f"{self.path}: {name!r} is stored twice, with different values")
            tensors.setdefault(plain, tensors.pop(name))
        layout = layout_of(self.model)
        for name, other in layout.tied:  # BERT computes with the decoder's bias
            other = TUNER + layout.full_name(other)
            if other.endswith(".bias") and other in tensors:
                tensors.setdefault(TUNER + layout.full_name(name), tensors.pop(other))
        self.tensors = tensors

    def drop_unused(self) -> None:
        """Drop what was trained in a module that computes nothing (BART's ``shared``), with a warning."""
        layout = layout_of(self.model)
        for module in map(layout.full_name, layout.unused):
            found = [key for key in self.tensors if key.startswith(f"{TUNER}{module}.")]
            for key in found:
                del self.tensors[key]
            if found and not self.settings.ensure_weight_tying:
                warnings.warn(
                    f"{self.path}: {module!r} was trained alone. In Hugging Face's model it is only a name for the "
                    "table of the embeddings, which have modules of their own, so that it changes no output, there or "
                    "here; it is ignored. Train embed_tokens instead",
                    stacklevel=2,
                )

    def drop_base_layers(self) -> None:
        """Drop the base's own embedding or head, stored next to its LoRA; PeftError if it is of another base."""
        stored = ["weight"] if self.settings.bias != "none" else ["weight", "bias"]
        for own in stored:
            ending = f".base_layer.{own}"
            for key in [k for k in self.tensors if k.startswith(TUNER) and k.endswith(ending)]:
                module = key.removeprefix(TUNER).removesuffix(ending)
                ours = next((path for path, place in self.places.items() if place.module == module), None)
                if ours is None:
                    raise PeftError(f"{self.path}: this model has no module {module!r} to adapt")
                how = self.places[ours].how if own == "weight" else ""
                self.check_base(key, getattr(find(self.model, ours), own), how)

    def check_base(self, key: str, own: Any, how: str) -> None:
        """Take out a tensor of the base; PeftError if this model has another one."""
        x = taken(self.tensors.pop(key), how)
        if own is None or x.shape != own.shape or not np.array_equal(x, to_numpy(own.data)):
            raise PeftError(
                f"{self.path}: {key!r} belongs to other base weights than this model's; load the base model that the "
                "adapter was trained on"
            )

    def take_whole_modules(self, values: Arrays) -> list[str]:
        """Put the tensors of the modules that were trained in full into ``values``; return the modules' paths here."""
        names = names_of(self.model)
        found, used = [], {}  # by key, the module; several of minipeft's modules read a fused one
        for ours, (theirs, how) in names.items():
            for key in (TUNER + theirs, "base_model." + theirs):
                if key in self.tensors:
                    values[ours] = taken(self.tensors[key], how)
                    found.append(ours.rpartition(".")[0])
                    used[key] = theirs.rpartition(".")[0]
        self.tensors = {k: x for k, x in self.tensors.items() if k not in used}
        modules = {theirs.rpartition(".")[0] for theirs, _ in names.values()}
        wanted = self.settings.modules_to_save or []
        unread = modules - set(used.values())
        missing = [n for n in wanted if any(is_end(n, m) for m in unread)]  # heads of other models may be listed
        if not found and self.settings.task_type == "SEQ_CLS":
            missing = ["classifier"]
        if missing:
            raise PeftError(
                f"{self.path}: the adapter should hold the trained module {missing[0]!r}, but its file has no tensor "
                "of it; without the head that it was trained with it computes something else"
            )
        if isinstance(self.model, EncoderDecoder) and "lm_head" in found:  # BART's constant, which has no copy there
            values.setdefault("lm_head.bias", to_numpy(find(self.model, "lm_head.bias").data))
        self._check_tying(values)
        return sorted(set(found))

    def _check_tying(self, values: Arrays) -> None:
        """Raise PeftError if tied weights were trained as one, but the file does not hold all their places."""
        if not (self.settings.ensure_weight_tying and is_tied(self.model)):
            return
        names = names_of(self.model)
        places = {path: names[path][0].rpartition(".")[0] for path in self.model.tied_weights}
        trained = {m for path, m in places.items() if any(n.startswith(path.removesuffix("weight")) for n in values)}
        missing = sorted(set(places.values()) - trained)
        if missing and any(m.rpartition(".")[2] in TIES for m in trained):
            raise PeftError(
                f"{self.path}: ensure_weight_tying is True, but the file has no tensor for {missing[0]!r}, which is "
                f"tied to {min(trained)!r}; save the adapter again, with all tied modules"
            )


def _import_lora(reader: Reader) -> tuple[PeftConfig, Arrays]:
    s = reader.settings
    values: Arrays = {}
    ranks: dict[str, tuple[int, float]] = {}
    for module, ours in list(reader.modules(".lora_A.weight")):
        A, B = (reader.take(f"{TUNER}{module}.lora_{x}.weight") for x in "AB")
        r = _checked_rank(reader, module, A)
        for path, place in ours:
            rows = np.split(B, place.count)[place.part] if len(B) % place.count == 0 else B
            if place.count == 1 or rows.any() or s.bias != "none" or not B.any():
                values[f"{path}.lora_A"], values[f"{path}.lora_B"] = A, rows
                ranks[path] = (r, s.alpha(module))
    for module, ours in list(reader.modules(".lora_embedding_A")):
        path = ours[0][0]
        for x in "AB":
            values[f"{path}.lora_embedding_{x}"] = reader.take(f"{TUNER}{module}.lora_embedding_{x}")
        ranks[path] = (_checked_rank(reader, module, values[f"{path}.lora_embedding_A"]), s.alpha(module))
    if not ranks:
        raise PeftError(f"{reader.path}: the file holds no lora_A; the adapter is empty")
    if s.bias != "none":
        _import_biases(reader, values, ranks)
    r, alpha = next(iter(ranks.values()))
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        target_modules=list(ranks),
        lora_dropout=s.lora_dropout or 0.0,
        use_rslora=s.use_rslora,
        bias=s.bias,
        rank_pattern={re.escape(p): n for p, (n, _) in ranks.items() if n != r},
        alpha_pattern={re.escape(p): a for p, (_, a) in ranks.items() if a != alpha},
    )
    return config, values


def _checked_rank(reader: Reader, module: str, A: np.ndarray) -> int:
    """Return the rank that A has; PeftError if the configuration claims another, with which the scale would differ."""
    claimed = reader.settings.rank(module)
    if A.ndim != 2 or (claimed is not None and claimed != len(A)):
        raise PeftError(
            f"{reader.path}: r (or rank_pattern) says rank {claimed} for {module!r}, but its lora_A has shape {A.shape}"
        )
    return len(A)


def _import_biases(reader: Reader, values: Arrays, adapted: Mapping[str, Any]) -> None:
    """Put the biases that ``bias`` trained into ``values``; the file also holds those that this model has no place for.

    PEFT stores every tensor with "bias" in its name, constants as well.
    """
    used = set()  # several of minipeft's modules read a fused one
    for name, (theirs, how) in names_of(reader.model).items():
        own = name.removesuffix(".bias")
        for key in (f"{TUNER}{theirs}", f"{TUNER}{theirs.removesuffix('bias')}base_layer.bias"):
            if not name.endswith(".bias") or key not in reader.tensors or name.startswith("classifier."):
                continue
            if theirs == "final_logits_bias":
                reader.check_base(key, find(reader.model, name), how)
            else:
                values[f"{own}.base.bias" if own in adapted else name] = taken(reader.tensors[key], how)
                used.add(key)
    layout, known = layout_of(reader.model), {theirs for theirs, _ in names_of(reader.model).values()}
    others = {key: key.removeprefix(TUNER) for key in reader.tensors if key.endswith("bias")}
    used |= {key for key, name in others.items() if name not in known and layout.ignores(name)}
    reader.tensors = {k: x for k, x in reader.tensors.items() if k not in used}


def _import_ia3(reader: Reader) -> tuple[PeftConfig, Arrays]:
    values: Arrays = {}
    inside = []
    for module, ours in list(reader.modules(".ia3_l")):
        x = reader.take(f"{TUNER}{module}.ia3_l")
        if x.ndim != 2 or 1 not in x.shape:
            raise PeftError(f"{reader.path}: {module}.ia3_l has shape {x.shape}, expected (out, 1) or (1, in)")
        for path, place in ours:
            scales_input = x.shape[0] == 1
            values[f"{path}.ia3_l"] = x[0] if scales_input else np.split(x[:, 0], place.count)[place.part]
            inside += [path] if scales_input else []
    return IA3Config(target_modules=[n.removesuffix(".ia3_l") for n in values], feedforward_modules=inside), values


def _import_norms(reader: Reader) -> tuple[PeftConfig, Arrays]:
    norms = norm_parameters(reader.model)
    values = {path: to_numpy(find(reader.model, path).data) for path in norms}  # PEFT may have trained only some
    read = 0
    for own in ("weight", "bias"):
        for module, ours in list(reader.modules(f".ln_tuning_layers.{own}")):
            path = f"{ours[0][0]}.{own}"
            if path not in norms:
                raise PeftError(f"{reader.path}: {module!r} is not a normalization; only those can be trained so")
            values[path] = reader.take(f"{TUNER}{module}.ln_tuning_layers.{own}")
            read += 1
    if not read:
        raise PeftError(f"{reader.path}: the file holds no ln_tuning_layers; the adapter is empty")
    return LayerNormConfig(), values


def _virtual_tokens(reader: Reader, copies: int = 1) -> np.ndarray:
    """Return prompt_embeddings; PeftError if it has another length than the configuration says, times ``copies``."""
    known = sequences(reader.settings.peft_type)
    if not isinstance(reader.model, known):
        raise PeftError(
            f"{reader.path}: {reader.settings.peft_type} means the same there and here for "
            f"{', '.join(c.__name__ for c in known)}, not for a {type(reader.model).__name__}"
        )
    rows, n = reader.take("prompt_embeddings"), reader.settings.num_virtual_tokens
    if rows.ndim != 2 or (n is not None and len(rows) != n * copies):
        raise PeftError(f"{reader.path}: num_virtual_tokens is {n}, but prompt_embeddings has shape {rows.shape}")
    return rows


def _import_prompt(reader: Reader) -> tuple[PeftConfig, Arrays]:
    copies = 2 if isinstance(reader.model, EncoderDecoder) else 1  # nothing reads the second half
    rows = _virtual_tokens(reader, copies)
    rows, sides = rows[: len(rows) // copies], ["encoder"] if copies == 2 else None
    entry = next(p for p, m in reader.model.named_modules() if isinstance(m, Embedding) and p.endswith("input.tokens"))
    return PromptTuningConfig(len(rows), sides=sides), {entry.replace("tokens", "prompt.rows"): rows}


def _import_prefix(reader: Reader) -> tuple[PeftConfig, Arrays]:
    flat = _virtual_tokens(reader)
    sides = ["decoder"] if isinstance(reader.model, EncoderDecoder) else None
    queries = [p for p in reader.places if p.endswith(".attention.q_proj")]
    attentions = [p.removesuffix(".q_proj") for p in on_sides(queries, sides, SIDES)]
    P = len(flat)
    if flat.shape[1] % (2 * len(attentions)):
        raise PeftError(f"{reader.path}: prompt_embeddings has shape {flat.shape}, for {len(attentions)} layers")
    values = {}
    parts = np.split(flat, len(attentions), axis=1)
    if sides is not None:  # as `paired` says
        parts = [parts[2 * i % len(parts)] for i in range(len(parts))]
    for part, path in zip(parts, attentions, strict=True):
        own = find(reader.model, path)
        pair = part.reshape(P, 2, -1).swapaxes(0, 1)
        if pair.shape[2] != own.n_kv_heads * own.head_dim:
            raise PeftError(
                f"{reader.path}: prompt_embeddings has {pair.shape[2]} numbers a key, this model "
                f"{own.n_kv_heads * own.head_dim}"
            )
        values[f"{path}.core.prefix.values"] = pair.reshape(2, P, own.n_kv_heads, own.head_dim)
    return PrefixTuningConfig(P, sides=sides), values
