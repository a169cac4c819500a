"""Adapters to and from Hugging Face PEFT: adapter_config.json and adapter_model.safetensors, under its names.

Five methods have a form there: LoRA, IA3, prompt tuning, prefix tuning and the tuning of normalizations. Where their
layer is fused (GPT-2's c_attn holds W_q, W_k and W_v), our low-rank changes become one whose B is block-diagonal, of
the sum of the ranks and the same scale; theirs becomes one for each part, with the same A and its rows of B. Both are
exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.array import to_numpy
from minipeft.autograd import Tensor, no_grad
from minipeft.files.config import read_json
from minipeft.files.safetensors import read_safetensors
from minipeft.models import DecoderLM, Encoder, EncoderClassifier, EncoderDecoder
from minipeft.models.huggingface import huggingface_names, taken
from minipeft.nn.layers import Embedding, LayerNorm, RMSNorm
from minipeft.nn.module import Module, find
from minipeft.peft.config import PeftConfig, PeftError
from minipeft.peft.ia3 import IA3Config, IA3Layer
from minipeft.peft.layernorm import LayerNormConfig
from minipeft.peft.lora import LoraConfig, LoraEmbedding, LoraLayer
from minipeft.peft.prefix import SIDES, PrefixedCore, PrefixTuningConfig
from minipeft.peft.prompt import Prompt, PromptTuningConfig
from minipeft.peft.saving import THEIR_CONFIG, THEIR_WEIGHTS, register_exchange
from minipeft.peft.select import on_sides

TUNER = "base_model.model."
TUNERS = ("LORA", "IA3", "LN_TUNING")  # the methods whose tensors begin so
SEQUENCES = (
    DecoderLM,
    Encoder,
    EncoderDecoder,
)  # their classifier reads the first row, which with a prompt is the prompt's own
TASKS = {"DecoderLM": "CAUSAL_LM", "EncoderClassifier": "SEQ_CLS", "EncoderDecoder": "SEQ_2_SEQ_LM"}
THEIR_SIDES = {"PROMPT_TUNING": ["encoder"], "PREFIX_TUNING": ["decoder"]}  # where theirs are in an encoder-decoder
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where a weight of ours stands in their model: their module, and which of how many equal parts of its output."""

    module: str
    part: int
    count: int
    how: str


def _places(model: Module) -> dict[str, Place]:
    """By our module path, for every weight that their model has; empty for a model that they have no layout for."""
    try:
        names = huggingface_names(model)
    except (ValueError, AttributeError):
        return {}
    places = {}
    for ours, (theirs, how) in names.items():
        if ours.endswith(".weight"):
            part, _, count = how.rstrip("T").partition("/")
            fused = bool(count)
            module = theirs.removesuffix(".weight")
            places[ours.removesuffix(".weight")] = Place(module, int(part) if fused else 0, int(count or 1), how)
    if isinstance(model, (DecoderLM, EncoderDecoder)):  # a module there too where its weight is the embedding's
        places.setdefault("lm_head", Place("lm_head", 0, 1, ""))
    if isinstance(model, EncoderDecoder):  # one table under three names: it is looked up under those of the two sides
        for side in ("encoder", "decoder"):
            places[f"{side}_input.tokens"] = Place(f"model.{side}.embed_tokens", 0, 1, "")
    return places


def to_huggingface(peft: Any) -> tuple[Arrays, dict[str, Any]] | None:
    """The active adapter as their tensors and configuration; None where they have no form for it."""
    places = _places(peft.base_model)
    config = peft.peft_config
    writers = {
        **{"LORA": _lora_out, "IA3": _ia3_out, "LN_TUNING": _norms_out},
        **{"PROMPT_TUNING": _prompt_out, "PREFIX_TUNING": _prefix_out},
    }
    if not places or config.peft_type not in writers:
        return None
    if config.peft_type not in TUNERS and not isinstance(peft.base_model, sequences(config.peft_type)):
        return None
    if isinstance(peft.base_model, EncoderDecoder) and not _fits_bart(peft):
        return None
    swaps = peft._active.swaps
    if any(isinstance(s.new, (LoraLayer, LoraEmbedding, IA3Layer)) and _odd(places, s.path) for s in swaps):
        return None
    tensors, settings = writers[config.peft_type](peft, places)
    heads = {s.path: s.new for s in swaps if isinstance(s.new, Tensor) and not s.path.endswith("base.bias")}
    if config.peft_type == "LN_TUNING":
        heads = {path: t for path, t in heads.items() if path not in _norms(peft.base_model)}
    if config.peft_type == "LORA" and config.bias != "none":
        heads = {path: t for path, t in heads.items() if path.startswith("classifier.")}
    prefix = TUNER if config.peft_type in TUNERS else "base_model."
    names = huggingface_names(peft.base_model)
    adapted = {places[s.path].module for s in swaps if isinstance(s.new, (LoraLayer, LoraEmbedding, IA3Layer))}
    for path in heads:
        if path not in names or names[path][0].rpartition(".")[0] in adapted:
            return None
        whole = _whole(peft, names, names[path][0])
        if whole is None:
            return None
        tensors[prefix + names[path][0]] = whole
    kind = TASKS.get(type(peft.base_model).__name__)
    if kind == "SEQ_CLS" and not any(path.startswith("classifier.") for path in heads):
        kind = None  # with it they expect the head in the file
    modules = sorted({names[path][0].rpartition(".")[0] for path in heads}) or None
    common = {"peft_type": config.peft_type, "task_type": kind, "inference_mode": True, "base_model_name_or_path": None}
    if config.peft_type in TUNERS:
        common["modules_to_save"] = modules
    return {k: np.ascontiguousarray(x) for k, x in tensors.items()}, {**common, "revision": None, **settings}


def _fits_bart(peft: Any) -> bool:
    """Whether their BART can hold the adapter: on the sides that theirs are on, no bias that is a constant there."""
    config = peft.peft_config
    if getattr(config, "sides", None) != THEIR_SIDES.get(config.peft_type):
        return False
    if config.peft_type == "PREFIX_TUNING":
        return _paired(_prefixes(peft)) is not None
    return getattr(config, "bias", "none") != "all"  # it would train lm_head.bias, their final_logits_bias


def _odd(places: Mapping[str, Place], path: str) -> bool:
    """Whether their model has another kind of layer there (a convolution), or none."""
    return path not in places or places[path].how in ("matrix", "vector") or places[path].how.startswith("from")


def _lora_out(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
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
        count = places[by_module[module]].count
        first = parts[min(parts)]
        scale = first.scale
        if isinstance(first, LoraEmbedding):
            tensors[f"{TUNER}{module}.lora_embedding_A"] = to_numpy(first.lora_embedding_A.data)
            tensors[f"{TUNER}{module}.lora_embedding_B"] = to_numpy(first.lora_embedding_B.data)
            r = first.lora_embedding_A.shape[0]
        else:
            A = np.concatenate([to_numpy(p.lora_A.data) for p in parts.values()])
            r, d = len(A), first.lora_B.shape[0]
            B = np.zeros((count * d, r), dtype=A.dtype)
            column = 0
            for part, layer in parts.items():
                width = layer.lora_A.shape[0]
                B[part * d : (part + 1) * d, column : column + width] = to_numpy(layer.lora_B.data) * (
                    layer.scale / scale
                )
                column += width
            tensors[f"{TUNER}{module}.lora_A.weight"], tensors[f"{TUNER}{module}.lora_B.weight"] = A, B
        ranks[module] = (r, scale * (r**0.5 if config.use_rslora else r))
    for path in [s.path for s in peft._active.swaps if isinstance(s.new, Tensor) and s.path.endswith("bias")]:
        plain = path.replace(".base.bias", "")
        if path.startswith("classifier.") or config.bias == "none":
            continue
        place = places[plain.removesuffix(".bias")]
        wrapped = ".base_layer" if place.module in groups else ""
        whole = _whole(peft, huggingface_names(peft.base_model), f"{place.module}.bias")
        assert whole is not None, "a bias is as it is, or a part of one"
        tensors[f"{TUNER}{place.module}{wrapped}.bias"] = whole
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


def _whole(peft: Any, names: Mapping[str, tuple[str, str]], theirs: str) -> np.ndarray | None:
    """Their tensor of that name, all parts of a fused one together; None where it is no plain layer's."""
    parts = []
    for how, path in sorted((how, path) for path, (name, how) in names.items() if name == theirs):
        if how in ("matrix", "vector") or how.startswith("from"):
            return None
        owner, _, own = path.rpartition(".")
        layer = find(peft.base_model, owner)
        x = to_numpy(getattr(getattr(layer, "base", layer), own).data)
        parts.append(x.T if how.endswith("T") else x)
    return np.concatenate(parts, axis=-1) if parts else None


def _ia3_out(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
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


def _norms(model: Module) -> list[str]:
    """The paths of the gains and shifts of all normalizations."""
    norms = [(path, m) for path, m in model.named_modules() if isinstance(m, (LayerNorm, RMSNorm))]
    return [f"{path}.{name}" for path, m in norms for name, _ in m.named_parameters()]


def _norms_out(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    tensors: Arrays = {}
    for path in _norms(peft.base_model):
        owner, _, own = path.rpartition(".")
        tensors[f"{TUNER}{places[owner].module}.ln_tuning_layers.{own}"] = to_numpy(find(peft.base_model, path).data)
    return tensors, {"target_modules": sorted({n.removeprefix(TUNER).rpartition(".ln_t")[0] for n in tensors})}


def _exactly(modules: list[str]) -> str:
    """A regular expression for just these modules (a list of names would match by their ends)."""
    return "|".join(re.escape(m) for m in modules)


def _shape_of(peft: Any) -> dict[str, Any]:
    c = peft.base_model.config
    heads = getattr(c, "n_kv_heads", None) or c.n_heads
    return {
        "num_layers": c.n_layers,
        "token_dim": c.d_model,
        "num_attention_heads": heads,
        "num_transformer_submodules": 2 if isinstance(peft.base_model, EncoderDecoder) else 1,
    }


def _prompt_out(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    rows = next(to_numpy(s.new.rows.data) for s in peft._active.swaps if isinstance(s.new, Prompt))
    settings = {"num_virtual_tokens": len(rows), "prompt_tuning_init": "RANDOM", **_shape_of(peft)}
    if isinstance(peft.base_model, EncoderDecoder):  # theirs keeps as many rows again, which nothing reads
        rows = np.concatenate([rows, np.zeros_like(rows)])
    return {"prompt_embeddings": rows}, settings


def _prefixes(peft: Any) -> Arrays:
    """By path, the prefix of each attention: (P, 2, Hk, D)."""
    found = {}
    for s in peft._active.swaps:
        if isinstance(s.new, PrefixedCore):
            with no_grad():
                found[s.path] = to_numpy(s.new.prefix().data).swapaxes(0, 1)
    return found


def _paired(prefixes: Arrays) -> list[np.ndarray] | None:
    """The prefixes of L decoder layers in the order that their encoder-decoder reads; None where it has no room.

    PEFT 0.21 lays the L pairs of keys and values behind themselves and deals them out by fours, the second half of each
    to a cache that it drops: layer i gets pair 2 i mod L. With an even L the odd pairs are read by nobody, and layers
    i and i + L / 2 share one, so that two different prefixes have no place.
    """
    layers = list(prefixes.values())
    pairs = [np.zeros_like(x) for x in layers]
    for i, x in enumerate(layers):
        j = 2 * i % len(layers)
        if 2 * i >= len(layers) and len(layers) % 2 == 0 and not np.array_equal(pairs[j], x):
            return None
        pairs[j] = x
    return pairs


def _prefix_out(peft: Any, places: Mapping[str, Place]) -> tuple[Arrays, dict[str, Any]]:
    prefixes = _prefixes(peft)
    pairs = _paired(prefixes) if isinstance(peft.base_model, EncoderDecoder) else list(prefixes.values())
    assert pairs is not None
    flat = np.concatenate([x.reshape(len(x), -1) for x in pairs], axis=1)  # (P, L 2 Hk D): K₀ V₀ K₁ V₁ …
    shape = _shape_of(peft)
    shape["token_dim"] = flat.shape[1] // (2 * shape["num_layers"])
    hidden = {"encoder_hidden_size": shape["token_dim"], "prefix_projection": False}
    return {"prompt_embeddings": flat}, {"num_virtual_tokens": len(flat), **shape, **hidden}


def from_huggingface(model: Module, folder: str | Path) -> tuple[PeftConfig, Arrays]:
    """Their adapter as a configuration of ours and the values of what it trains, by our names.

    Raises PeftError for a method or option that is not implemented, a tensor that has no place in ``model``, or a model
    that they have no layout for; FileError for a broken file.
    """
    folder = Path(folder)
    path = folder / THEIR_CONFIG
    settings = read_json(path)
    tensors, _ = read_safetensors(folder / THEIR_WEIGHTS)
    places = _places(model)
    if not places:
        raise PeftError(
            f"{path}: Hugging Face has no layout for a {type(model).__name__} like this, nor for its adapters"
        )
    readers = {
        **{"LORA": _lora_in, "IA3": _ia3_in, "LN_TUNING": _norms_in},
        **{"PROMPT_TUNING": _prompt_in, "PREFIX_TUNING": _prefix_in},
    }
    kind = settings.get("peft_type")
    if kind not in readers:
        raise PeftError(f"{path}: peft_type {kind!r} is not implemented; expected one of {sorted(readers)}")
    for name, value in settings.items():
        if name not in READ | WITHOUT_EFFECT and value not in (None, False, [], {}):
            raise PeftError(f"{path}: {name} is {value!r}; only its absence is implemented")
    if settings.get("init_lora_weights") not in KEEP_THE_BASE:
        raise PeftError(
            f"{path}: init_lora_weights is {settings['init_lora_weights']!r}, which also changed the base weights; "
            "convert the adapter to a plain LoRA there (path_initial_model_for_weight_conversion when saving)"
        )
    tensors = {n: x for n, x in tensors.items() if ".original_module." not in n}  # the base's own, beside the trained
    for name in [n for n in tensors if ".modules_to_save." in n]:  # a bias that they store twice
        if not np.array_equal(tensors[name], tensors.get(name.replace(".modules_to_save", ""), tensors[name])):
            raise PeftError(f"{folder / THEIR_WEIGHTS}: {name!r} is stored twice, with different values")
        tensors.setdefault(name.replace(".modules_to_save", ""), tensors.pop(name))
    reader = Reader(model, places, settings, dict(tensors), path)
    reader.drop_base_layers()
    config, values = readers[kind](reader)
    config.modules_to_save = reader.take_heads(values)
    if reader.tensors:
        raise PeftError(f"{folder / THEIR_WEIGHTS}: {next(iter(reader.tensors))!r} has no place in this model")
    return config, values


# What we read of their configuration, and what changes nothing here: any other option that is set is refused.
READ = {
    *("peft_type", "task_type", "modules_to_save", "num_virtual_tokens", "r", "lora_alpha", "lora_dropout", "bias"),
    *("use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"),
}
WITHOUT_EFFECT = {
    *("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    # Which modules are adapted is read off the tensors, and how they are stored off the base.
    *("target_modules", "exclude_modules", "feedforward_modules", "layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "init_ia3_weights"),
    # Of prompts and prefixes: sizes that the tensor has, and how it came to be.
    *("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers", "encoder_hidden_size"),
    *("prefix_projection", "init_weights", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path"),
    "tokenizer_kwargs",
}
# The others (PiSSA and its like) subtract the first B A from the base weights, which the file does not hold.
KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass
class Reader:
    """Their tensors, taken out one by one as they find their place."""

    model: Module
    places: Mapping[str, Place]
    settings: dict[str, Any]
    tensors: Arrays
    path: Path

    def modules(self, ending: str) -> Iterator[tuple[str, list[tuple[str, Place]]]]:
        """Their modules that have a tensor ``ending``, with our paths; PeftError for one that we do not have."""
        for key in [k for k in self.tensors if k.endswith(ending)]:
            if not key.startswith(TUNER):
                raise PeftError(f"{self.path}: the tensor {key!r} should begin with {TUNER!r}; it would be ignored")
            module = key.removeprefix(TUNER).removesuffix(ending)
            ours = [(path, place) for path, place in self.places.items() if place.module == module]
            if not ours or _odd(self.places, ours[0][0]):
                raise PeftError(f"{self.path}: this model has no module {module!r} to adapt")
            yield module, ours

    def take(self, key: str) -> np.ndarray:
        if key not in self.tensors:
            raise PeftError(f"{self.path}: the tensor {key!r} is missing")
        return self.tensors.pop(key)

    def drop_base_layers(self) -> None:
        """Drop the base's own embedding or head, which they store beside its LoRA; PeftError where it is another's."""
        for key in [k for k in self.tensors if k.startswith(TUNER) and k.endswith(".base_layer.weight")]:
            module = key.removeprefix(TUNER).removesuffix(".base_layer.weight")
            ours = next((path for path, place in self.places.items() if place.module == module), None)
            if ours is None:
                raise PeftError(f"{self.path}: this model has no module {module!r} to adapt")
            own = to_numpy(find(self.model, ours).weight.data)
            x = taken(self.tensors.pop(key), self.places[ours].how)
            if x.shape != own.shape or not np.array_equal(x, own):
                raise PeftError(
                    f"{self.path}: {module!r} was adapted on other base weights than this model's; load the base model "
                    "that it was trained on"
                )

    def take_heads(self, values: Arrays) -> list[str]:
        """Put the tensors of whole modules into ``values``; the names of these modules."""
        found, used = [], {}  # by key, their module; a fused one is read by several of ours
        for ours, (theirs, how) in huggingface_names(self.model).items():
            for key in (TUNER + theirs, "base_model." + theirs):
                if key in self.tensors:
                    values[ours] = taken(self.tensors[key], how)
                    found.append(ours.rpartition(".")[0])
                    used[key] = theirs.rpartition(".")[0]
        self.tensors = {k: x for k, x in self.tensors.items() if k not in used}
        modules = {theirs.rpartition(".")[0] for theirs, _ in huggingface_names(self.model).values()}
        wanted = [str(name) for name in self.settings.get("modules_to_save") or []]
        missing = [n for n in wanted if _named(n, modules) - set(used.values())]  # they list heads of other models too
        if not found and self.settings.get("task_type") == "SEQ_CLS":
            missing = ["classifier"]
        if missing:
            raise PeftError(
                f"{self.path}: the adapter should hold the trained module {missing[0]!r}, but its file has no tensor "
                "of it; without the head that it was trained with it computes something else"
            )
        return sorted(set(found))

    def pattern(self, name: str, module: str, default: Any) -> Any:
        """Their option of a module: the first pattern that its name ends in, or the default."""
        for pattern, value in (self.settings.get(name) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return default


def _named(end: str, modules: set[str]) -> set[str]:
    """The modules that ``end`` names: in full, or by the last parts of their path."""
    return {m for m in modules if m == end or m.endswith("." + end)}


def _lora_in(reader: Reader) -> tuple[PeftConfig, Arrays]:
    s = reader.settings
    rslora = bool(s.get("use_rslora", False))
    bias = s.get("bias", "none")
    values: Arrays = {}
    ranks: dict[str, tuple[int, float]] = {}
    for module, ours in list(reader.modules(".lora_A.weight")):
        A, B = (reader.take(f"{TUNER}{module}.lora_{x}.weight") for x in "AB")
        alpha = reader.pattern("alpha_pattern", module, s.get("lora_alpha", 8))
        for path, place in ours:
            rows = np.split(B, place.count)[place.part] if len(B) % place.count == 0 else B
            if place.count == 1 or rows.any() or bias != "none" or not B.any():
                values[f"{path}.lora_A"], values[f"{path}.lora_B"] = A, rows
                ranks[path] = (len(A), alpha)
    for module, ours in list(reader.modules(".lora_embedding_A")):
        path = ours[0][0]
        for x in "AB":
            values[f"{path}.lora_embedding_{x}"] = reader.take(f"{TUNER}{module}.lora_embedding_{x}")
        ranks[path] = (
            len(values[f"{path}.lora_embedding_A"]),
            reader.pattern("alpha_pattern", module, s.get("lora_alpha", 8)),
        )
    if not ranks:
        raise PeftError(f"{reader.path}: the file holds no lora_A; the adapter is empty")
    if bias != "none":
        for name, (theirs, how) in huggingface_names(reader.model).items():
            for key in (f"{TUNER}{theirs}", f"{TUNER}{theirs.removesuffix('bias')}base_layer.bias"):
                if name.endswith(".bias") and key in reader.tensors and not name.startswith("classifier."):
                    own = name.removesuffix(".bias")
                    values[f"{own}.base.bias" if own in ranks else name] = taken(reader.tensors[key], how)
        reader.tensors = {k: x for k, x in reader.tensors.items() if not k.endswith(".bias") or ".classifier." in k}
    r, alpha = next(iter(ranks.values()))
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        target_modules=list(ranks),
        lora_dropout=float(s.get("lora_dropout") or 0.0),
        use_rslora=rslora,
        bias=bias,
        rank_pattern={re.escape(p): n for p, (n, _) in ranks.items() if n != r},
        alpha_pattern={re.escape(p): a for p, (_, a) in ranks.items() if a != alpha},
    )
    return config, values


def _ia3_in(reader: Reader) -> tuple[PeftConfig, Arrays]:
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


def _norms_in(reader: Reader) -> tuple[PeftConfig, Arrays]:
    norms = _norms(reader.model)
    values = {
        path: to_numpy(find(reader.model, path).data) for path in norms
    }  # what they left as it is, ours trains too
    read = 0
    for own in ("weight", "bias"):
        for module, ours in list(reader.modules(f".ln_tuning_layers.{own}")):
            path = f"{ours[0][0]}.{own}"
            if path not in norms:
                raise PeftError(f"{reader.path}: {module!r} is no normalization; only those can be trained so")
            values[path] = reader.take(f"{TUNER}{module}.ln_tuning_layers.{own}")
            read += 1
    if not read:
        raise PeftError(f"{reader.path}: the file holds no ln_tuning_layers; the adapter is empty")
    return LayerNormConfig(), values


def sequences(peft_type: str) -> tuple[type[Module], ...]:
    """The models whose prompts or prefixes mean the same there and here."""
    return SEQUENCES if peft_type == "PROMPT_TUNING" else (*SEQUENCES, EncoderClassifier)


def _virtual_tokens(reader: Reader) -> np.ndarray:
    known = sequences(reader.settings["peft_type"])
    if not isinstance(reader.model, known):
        raise PeftError(
            f"{reader.path}: {reader.settings['peft_type']} means the same there and here for "
            f"{', '.join(c.__name__ for c in known)}, not for a {type(reader.model).__name__}"
        )
    return reader.take("prompt_embeddings")


def _prompt_in(reader: Reader) -> tuple[PeftConfig, Arrays]:
    rows = _virtual_tokens(reader)
    sides = None
    if isinstance(reader.model, EncoderDecoder):
        rows, sides = rows[: reader.settings.get("num_virtual_tokens")], ["encoder"]
    entry = next(p for p, m in reader.model.named_modules() if isinstance(m, Embedding) and p.endswith("input.tokens"))
    return PromptTuningConfig(len(rows), sides=sides), {entry.replace("tokens", "prompt.rows"): rows}


def _prefix_in(reader: Reader) -> tuple[PeftConfig, Arrays]:
    flat = _virtual_tokens(reader)
    sides = ["decoder"] if isinstance(reader.model, EncoderDecoder) else None
    queries = [p for p in reader.places if p.endswith(".attention.q_proj")]
    attentions = [p.removesuffix(".q_proj") for p in on_sides(queries, sides, SIDES)]
    P = len(flat)
    if flat.ndim != 2 or flat.shape[1] % (2 * len(attentions)):
        raise PeftError(f"{reader.path}: prompt_embeddings has shape {flat.shape}, for {len(attentions)} layers")
    values = {}
    parts = np.split(flat, len(attentions), axis=1)
    if sides is not None:  # as _paired says
        parts = [parts[2 * i % len(parts)] for i in range(len(parts))]
    for part, path in zip(parts, attentions, strict=True):
        own = find(reader.model, path)
        pair = part.reshape(P, 2, -1).swapaxes(0, 1)
        if pair.shape[2] != own.n_kv_heads * own.head_dim:
            raise PeftError(
                f"{reader.path}: prompt_embeddings has {pair.shape[2]} numbers a key, this model other sizes"
            )
        values[f"{path}.core.prefix.values"] = pair.reshape(2, P, own.n_kv_heads, own.head_dim)
    return PrefixTuningConfig(P, sides=sides), values


register_exchange(to_huggingface, from_huggingface)

__all__ = ["from_huggingface", "to_huggingface"]
