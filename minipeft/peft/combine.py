"""A weighted sum of LoRA adapters, which is one adapter again.

The sum is exact: with A' = [w₁ s₁ A₁; w₂ s₂ A₂; …] and B' = [B₁, B₂, …] the change is B' A' = Σ wᵢ sᵢ Bᵢ Aᵢ = Σ wᵢ ΔWᵢ,
of rank Σ rᵢ. Cut to a smaller rank by its singular values it is the nearest change of that rank. Averaging the factors
themselves is something else, since (Σ Bᵢ)(Σ Aᵢ) has the cross terms Bᵢ Aⱼ; it is offered under a name that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import to_numpy
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftError, trainable
from minipeft.peft.lora import LoraConfig, LoraLayer
from minipeft.peft.lora_embedding import LoraEmbedding
from minipeft.peft.swaps import Swap

COMBINATIONS = ("cat", "svd", "average_factors")
Layer = LoraLayer | LoraEmbedding


def _lora_swaps(peft: AdaptedModel, name: str, what: str) -> dict[str, Swap]:
    applied = peft._known(name)
    if not isinstance(applied.config, LoraConfig):
        raise PeftError(f"{what} is for LoRA adapters; {name!r} is {applied.config.peft_type}")
    return {s.path: s for s in applied.swaps if isinstance(s.new, (LoraLayer, LoraEmbedding))}


def add_weighted_adapter(
    peft: AdaptedModel,
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    combination_type: str = "cat",
    svd_rank: int | None = None,
) -> None:
    """Add the adapter with ΔW = Σ wᵢ ΔWᵢ and make it the active one; trained copies become W + Σ wᵢ (Wᵢ - W).

    combination_type: "cat" is exact, of rank Σ rᵢ; "svd" is its best approximation of rank ``svd_rank``;
    "average_factors" sums √(wᵢ sᵢ) Aᵢ and √(wᵢ sᵢ) Bᵢ, which is not the sum (equal ranks, positive weights).
    Raises PeftError for adapters that are not LoRA, or arguments that do not fit; nothing is changed then.
    """
    if combination_type not in COMBINATIONS:
        hint = " (theirs sums factors, not changes: that is average_factors)" if combination_type == "linear" else ""
        raise PeftError(f"combination_type is one of {COMBINATIONS}, got {combination_type!r}{hint}")
    if not adapters or len(adapters) != len(weights) or len(set(adapters)) != len(adapters):
        raise PeftError(f"give different adapters and a weight for each, got {list(adapters)} and {list(weights)}")
    if (svd_rank is None) == (combination_type == "svd"):
        raise PeftError("svd_rank belongs to combination_type 'svd', and to it alone")
    swaps = [_lora_swaps(peft, a, "a weighted sum") for a in adapters]
    layers: dict[str, Layer] = {}
    for path in dict.fromkeys(path for each in swaps for path in each):
        parts = [(each[path].new, w) for each, w in zip(swaps, weights, strict=True) if path in each]
        old = next(each[path].old for each in swaps if path in each)
        layers[path] = _combined(path, old, parts, combination_type, svd_rank)
    ranks = {path: _factors(layer)[0].shape[0] for path, layer in layers.items()}
    r = max(ranks.values())
    configs = [peft._known(a).config for a in adapters]
    if len({str(c.modules_to_save) for c in configs}) != 1:
        raise PeftError("the adapters differ in modules_to_save: their sum has no modules_to_save of its own")
    patterns = {p.replace(".", r"\."): n for p, n in ranks.items() if n != r}
    config = LoraConfig(
        r=r,
        lora_alpha=r,
        target_modules=list(layers),
        modules_to_save=configs[0].modules_to_save,
        rank_pattern=patterns,
        alpha_pattern=dict(patterns),
        bias="none" if all(getattr(c, "bias", "none") == "none" for c in configs) else "all",
    )
    copies = _combined_copies(peft, adapters, weights)
    with peft._new_adapter(adapter_name, config):
        peft.train_modules_to_save(config)
        for path, layer in layers.items():
            peft.swap(path, layer)
        config.train_biases(peft, list(layers))
        for s in peft._active.swaps:
            if isinstance(s.new, Tensor) and _on_the_base(s.path) in copies:
                s.new.data[...] = copies[_on_the_base(s.path)]


def _on_the_base(path: str) -> str:
    """A parameter's path on the base without wrappers, "q_proj.bias" for "q_proj.base.bias"."""
    return path.replace(".base.", ".")


def _factors(layer: Layer) -> tuple[Tensor, Tensor]:
    if isinstance(layer, LoraLayer):
        return layer.lora_A, layer.lora_B
    return layer.lora_embedding_A, layer.lora_embedding_B


def _combined(path: str, base: Any, parts: list[tuple[Any, float]], kind: str, svd_rank: int | None) -> Layer:
    host = [(*(to_numpy(t.data).astype(np.float64) for t in _factors(layer)), w * layer.scale) for layer, w in parts]
    if kind == "average_factors":
        if len({A.shape for A, _, _ in host}) != 1 or min(c for _, _, c in host) <= 0:
            raise PeftError(f"average_factors needs equal ranks and positive weights (at {path})")
        A = sum(np.sqrt(c) * A for A, _, c in host)
        B = sum(np.sqrt(c) * B for _, B, c in host)
    else:
        A = np.concatenate([c * A for A, _, c in host])
        B = np.concatenate([B for _, B, _ in host], axis=1)
        if svd_rank is not None:
            if not 1 <= svd_rank <= min(A.shape[1], B.shape[0]):
                raise PeftError(
                    f"svd_rank must lie between 1 and {min(A.shape[1], B.shape[0])} at {path}, got {svd_rank}"
                )
            U, sigma, V = np.linalg.svd(B @ A, full_matrices=False)
            A, B = V[:svd_rank] * sigma[:svd_rank, None], U[:, :svd_rank]
    layer: Layer = type(parts[0][0])(base, A.shape[0], 1.0)
    like = _factors(layer)[0]
    if isinstance(layer, LoraLayer):
        layer.lora_A, layer.lora_B = trainable(A, like), trainable(B, like)
    else:
        layer.lora_embedding_A, layer.lora_embedding_B = trainable(A, like), trainable(B, like)
    return layer


def _combined_copies(peft: AdaptedModel, adapters: Sequence[str], weights: Sequence[float]) -> dict[str, Any]:
    """W + Σ wᵢ (Wᵢ - W) for every parameter that some adapter trains as a copy, by its path on the base."""
    values: dict[str, Any] = {}
    for name, w in zip(adapters, weights, strict=True):
        seen: set[int] = set()
        for s in peft._known(name).swaps:
            if isinstance(s.new, Tensor) and id(s.new) not in seen:
                seen.add(id(s.new))
                path = _on_the_base(s.path)
                values[path] = values.get(path, s.old.data) + w * (s.new.data - s.old.data)
    return values
