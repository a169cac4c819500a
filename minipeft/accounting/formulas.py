"""Closed formulas of a decoder, and of the number of parameters that each method trains in it.

With L layers, width d, d_kv the width of all keys, d_ff that of the feed-forward, V tokens and a rank r:

    full                   all of them                           top K           K layers and the last normalization
    BitFit                 every bias (and β)                    LayerNorm       (γ and β) of every normalization
    adapters               2 d r + r + d each, + 2 d with a LayerNorm of its own
    prompt                 P d                                   prefix          L · 2 P d_kv
    projected prefix       P d + m d + m + L (m + 1) 2 d_kv
    LoRA                   Σ r (k + out) over the targets        LNLoRA          + 2 k for each target
    FacT-TT, FacT-TK       2 d r + n r²,   2 d r + n r + r³      IA3             Σ out, or k inside the feed-forward
    intrinsic dimension    d, the scales of SAID included

k and out are the sizes of a target's matrix (out, k), n the number of d × d blocks in all targets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minipeft.backend import FlopCount
from minipeft.models.decoder import DecoderConfig
from minipeft.models.encoder import EncoderConfig
from minipeft.models.vit import ViTConfig
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    FacTConfig,
    IA3Config,
    IntrinsicConfig,
    LayerNormConfig,
    LNLoraConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
)


def linear_flops(rows: int, in_features: int, out_features: int) -> int:
    """FLOPs of x Wᵀ for x (rows, in_features), W (out_features, in_features); its two gradients take as many each."""
    return 2 * rows * in_features * out_features


def key_width(config: DecoderConfig) -> int:
    """d_kv, the width of all keys of a layer: below d where query heads share them."""
    return (config.n_kv_heads or config.n_heads) * (config.d_model // config.n_heads)


def norm_parameters(config: DecoderConfig) -> int:
    """Of one normalization: γ and β, or γ alone."""
    return (2 if config.norm == "layer" else 1) * config.d_model


def layer_biases(config: DecoderConfig) -> int:
    """The biases of a layer's linear layers."""
    c = config
    return 3 * c.d_model + 2 * key_width(c) + (2 if c.gated else 1) * c.d_ff if c.bias else 0


def layer_parameters(config: DecoderConfig) -> int:
    """Of one layer: attention, feed-forward, two normalizations."""
    c, d = config, config.d_model
    matrices = 2 * d * d + 2 * d * key_width(c) + (3 if c.gated else 2) * d * c.d_ff
    return matrices + layer_biases(c) + 2 * norm_parameters(c)


def decoder_parameters(config: DecoderConfig) -> int:
    """The number of parameters of a `DecoderLM`, by formula."""
    c = config
    tables = c.vocab_size * (1 if c.tied else 2) + (0 if c.rotary else c.context)
    return c.n_layers * layer_parameters(c) + tables * c.d_model + (norm_parameters(c) if c.norm_first else 0)


def decoder_flops(config: DecoderConfig, batch: int, length: int, labels: int | None = None) -> FlopCount:
    """FLOPs of the loss of a `DecoderLM` for ids (batch, length) and of its gradients for all parameters, by formula.

    labels: how many of the tokens have one (all by default); the vocabulary head is computed for those alone.
    """
    c, d, R = config, config.d_model, batch * length
    projections = 2 * linear_flops(R, d, d) + 2 * linear_flops(R, d, key_width(c))
    scores = 2 * (2 * batch * length * length * d)  # Q Kᵀ and P V, over all heads
    feed_forward = (3 if c.gated else 2) * linear_flops(R, d, c.d_ff)
    head = linear_flops(R if labels is None else labels, d, c.vocab_size)
    forward = c.n_layers * (projections + scores + feed_forward) + head
    return FlopCount(forward, 2 * forward)


def matrices(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """The linear layers of a `DecoderLM` by path, each with the shape (out, k) of its matrix."""
    c, d = config, config.d_model
    kv = key_width(c)
    attention = {"q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "out_proj": (d, d)}
    feed_forward = {"gate_proj": (c.d_ff, d)} if c.gated else {}
    feed_forward |= {"up_proj": (c.d_ff, d), "down_proj": (d, c.d_ff)}
    inside = {f"attention.{n}": s for n, s in attention.items()} | {
        f"feed_forward.{n}": s for n, s in feed_forward.items()
    }
    shapes = {f"stack.layers.{i}.{n}": s for i in range(c.n_layers) for n, s in inside.items()}
    return shapes | {"lm_head": (c.vocab_size, d)}


def tables(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """The embeddings of a `DecoderLM` by path, each with the shape (n, d) of its table."""
    c = config
    shapes = {"input.tokens": (c.vocab_size, c.d_model)}
    return shapes if c.rotary else shapes | {"input.positions": (c.context, c.d_model)}


def same_layers(config: EncoderConfig | ViTConfig) -> DecoderConfig:
    """The decoder that has the layers of an encoder or a ViT: a method inside the layers trains as much in both."""
    return DecoderConfig(
        vocab_size=getattr(config, "vocab_size", 1),
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        d_ff=config.d_ff,
        norm=config.norm,
        norm_first=config.norm_first,
    )


def chosen(paths: Sequence[str], targets: Sequence[str] | str, layers: Sequence[int] | int | None = None) -> list[str]:
    """Of ``paths`` those that ``targets`` choose: ends of paths, a regular expression, or "all-linear"."""
    if targets == "all-linear":
        found = [p for p in paths if "layers." in p]
    elif isinstance(targets, str):
        found = [p for p in paths if re.fullmatch(targets, p)]
    else:
        found = [p for p in paths if any(p == t or p.endswith("." + t) for t in targets)]
    return found if layers is None else [p for p in found if any(f".layers.{i}." in p for i in _listed(layers))]


def _listed(layers: Sequence[int] | int) -> list[int]:
    return [layers] if isinstance(layers, int) else list(layers)


def lora_ranks(config: DecoderConfig, method: LoraConfig) -> dict[str, int]:
    """The rank at each target of a LoRA."""
    targets = ["q_proj", "v_proj"] if method.target_modules is None else method.target_modules
    paths = list(matrices(config)) if targets == "all-linear" else [*matrices(config), *tables(config)]
    found = chosen(paths, targets, method.layers_to_transform)
    if method.exclude_modules is not None:
        found = [p for p in found if p not in chosen(paths, method.exclude_modules)]
    return {p: method.rank(p) for p in found}


def lnlora_targets(config: DecoderConfig, method: LNLoraConfig) -> list[str]:
    """Where an LNLoRA stands."""
    targets = ["q_proj", "v_proj"] if method.target_modules is None else method.target_modules
    return chosen(list(matrices(config)), targets, method.layers_to_transform)


def ia3_targets(config: DecoderConfig, method: IA3Config) -> dict[str, bool]:
    """Where an IA3 stands, and whether it rescales the input there."""
    targets = ["k_proj", "v_proj", "down_proj"] if method.target_modules is None else method.target_modules
    inner = ["down_proj"] if method.feedforward_modules is None else method.feedforward_modules
    paths = chosen(list(matrices(config)), targets)
    return {p: p in chosen(paths, inner) for p in paths}


def fact_blocks(config: DecoderConfig, method: FacTConfig) -> tuple[int, dict[str, int]]:
    """The side d of FacT's blocks, and how many of them each target has."""
    shapes = matrices(config)
    paths = chosen(list(shapes), method.target_modules)
    d = min(min(shapes[p]) for p in paths)
    return d, {p: shapes[p][0] * shapes[p][1] // d**2 for p in paths}


def adapted_layers(config: DecoderConfig, method: AdapterConfig) -> list[int]:
    """The layers that get adapters."""
    layers = method.layers_to_transform
    return list(range(config.n_layers)) if layers is None else _listed(layers)


def trained_parameters(config: DecoderConfig, method: PeftConfig | None) -> int:
    """How many parameters a method trains in a `DecoderLM`; None for full fine-tuning.

    Raises ValueError for modules trained in full beside the method, and for a method without a formula.
    """
    c, d = config, config.d_model
    if method is not None and method.modules_to_save:
        raise ValueError("the formulas know no modules_to_save; count with accounting.count_parameters")
    match method:
        case None:
            return decoder_parameters(c)
        case TopLayersConfig(n_layers=K):
            return K * layer_parameters(c) + (norm_parameters(c) if c.norm_first else 0)
        case BitFitConfig():
            shifts = (2 * c.n_layers + c.norm_first) * d if c.norm == "layer" and method.norms else 0
            return c.n_layers * layer_biases(c) + shifts
        case LayerNormConfig():
            return (2 * c.n_layers + c.norm_first) * norm_parameters(c)
        case AdapterConfig(r=r):
            each = 2 * d * r + r + d + (2 * d if method.layer_norm else 0)
            return len(adapted_layers(c, method)) * len(set(method.after)) * each
        case PromptTuningConfig(num_virtual_tokens=P):
            return P * d
        case PrefixTuningConfig(num_virtual_tokens=P) if not method.prefix_projection:
            return c.n_layers * 2 * P * key_width(c)
        case PrefixTuningConfig(num_virtual_tokens=P):
            m = method.encoder_hidden_size or d
            return P * d + m * d + m + c.n_layers * (m + 1) * 2 * key_width(c)
        case LoraConfig():
            shapes, ranks = matrices(c) | tables(c), lora_ranks(c, method)
            biases = c.n_layers * layer_biases(c) if method.bias != "none" else 0
            if method.bias == "lora_only" and c.bias:
                biases = sum(shapes[p][0] for p in ranks if "layers." in p)
            elif method.bias == "all" and c.norm == "layer":
                biases += (2 * c.n_layers + c.norm_first) * d
            return sum(r * sum(shapes[p]) for p, r in ranks.items()) + biases
        case LNLoraConfig(r=r):
            return sum(r * sum(s) + 2 * s[1] for p, s in matrices(c).items() if p in lnlora_targets(c, method))
        case FacTConfig(r=r):
            side, blocks = fact_blocks(c, method)
            n = sum(blocks.values())
            return 2 * side * r + (n * r**2 if method.factorization == "tt" else n * r + r**3)
        case IA3Config():
            return sum(matrices(c)[p][1 if inside else 0] for p, inside in ia3_targets(c, method).items())
        case IntrinsicConfig():
            return method.d
    raise ValueError(f"there is no formula for {type(method).__name__}")
