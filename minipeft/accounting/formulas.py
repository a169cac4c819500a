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

from typing import Any

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
from minipeft.peft.select import match_paths


def linear_flops(rows: int, in_features: int, out_features: int) -> int:
    """Return the FLOPs of x Wᵀ, x (rows, in_features), W (out_features, in_features); each gradient takes as many."""
    return 2 * rows * in_features * out_features


def key_width(config: DecoderConfig) -> int:
    """Return d_kv, the width of all keys of a layer: below d if query heads share them."""
    return (config.n_kv_heads or config.n_heads) * (config.d_model // config.n_heads)


def norm_parameters(config: DecoderConfig) -> int:
    """Return how many parameters one normalization has: γ and β, or only γ."""
    return (2 if config.norm == "layer" else 1) * config.d_model


def norms(config: DecoderConfig) -> int:
    """Return how many normalizations there are."""
    return 2 * config.n_layers + config.norm_first


def layer_biases(config: DecoderConfig) -> int:
    """Return how many biases the linear layers of one layer have."""
    c = config
    return 3 * c.d_model + 2 * key_width(c) + (2 if c.gated else 1) * c.d_ff if c.bias else 0


def layer_parameters(config: DecoderConfig) -> int:
    """Return how many parameters one layer has: attention, feed-forward, two normalizations."""
    c, d = config, config.d_model
    matrices = 2 * d * d + 2 * d * key_width(c) + (3 if c.gated else 2) * d * c.d_ff
    return matrices + layer_biases(c) + 2 * norm_parameters(c)


def decoder_parameters(config: DecoderConfig) -> int:
    """Return the number of parameters of a `DecoderLM`."""
    c = config
    tables = c.vocab_size * (1 if c.tied else 2) + (0 if c.rotary else c.context)
    return c.n_layers * layer_parameters(c) + tables * c.d_model + (norm_parameters(c) if c.norm_first else 0)


def decoder_flops(config: DecoderConfig, batch: int, length: int, labels: int | None = None) -> FlopCount:
    """Return the FLOPs of a `DecoderLM`'s loss and of its gradients for all parameters.

    Args:
        config: sizes of the decoder.
        batch: number of examples.
        length: tokens an example.
        labels: how many of the tokens have a label, by default all; the vocabulary head is computed only for those.
    """
    c, d, R = config, config.d_model, batch * length
    projections = 2 * linear_flops(R, d, d) + 2 * linear_flops(R, d, key_width(c))
    scores = 2 * (2 * batch * length * length * d)  # Q Kᵀ and P V, over all heads
    feed_forward = (3 if c.gated else 2) * linear_flops(R, d, c.d_ff)
    head = linear_flops(R if labels is None else labels, d, c.vocab_size)
    forward = c.n_layers * (projections + scores + feed_forward) + head
    return FlopCount(forward, 2 * forward)


def matrices(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Return the linear layers of a `DecoderLM` by path, each with the shape (out, k) of its matrix."""
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
    """Return the embeddings of a `DecoderLM` by path, each with the shape (n, d) of its table."""
    c = config
    shapes = {"input.tokens": (c.vocab_size, c.d_model)}
    return shapes if c.rotary else shapes | {"input.positions": (c.context, c.d_model)}


def same_layers(config: EncoderConfig | ViTConfig) -> DecoderConfig:
    """Return the decoder with the layers of an encoder or a ViT: a method inside the layers trains as much in both."""
    return DecoderConfig(
        vocab_size=getattr(config, "vocab_size", 1),
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        d_ff=config.d_ff,
        norm=config.norm,
        norm_first=config.norm_first,
    )


def targets(config: DecoderConfig, method: Any, default: list[str]) -> list[str]:
    """Return the paths of the linear layers and embeddings that a method is put on."""
    wanted = default if method.target_modules is None else method.target_modules
    paths = list(matrices(config)) if wanted == "all-linear" else [*matrices(config), *tables(config)]
    layers, exclude = (getattr(method, name, None) for name in ("layers_to_transform", "exclude_modules"))
    return match_paths(paths, wanted, layers=layers, exclude=exclude)


def lora_parameters(config: DecoderConfig, method: LoraConfig) -> int:
    """Return the size of A and B of every target, and of the biases that are trained with them."""
    c, shapes = config, matrices(config) | tables(config)
    paths = targets(c, method, ["q_proj", "v_proj"])
    biases = 0
    if method.bias == "lora_only" and c.bias:
        biases = sum(shapes[p][0] for p in paths if "layers." in p)
    elif method.bias == "all":
        biases = c.n_layers * layer_biases(c) + norms(c) * (c.d_model if c.norm == "layer" else 0)
    return sum(method.rank(p) * sum(shapes[p]) for p in paths) + biases


def fact_parameters(config: DecoderConfig, method: FacTConfig) -> int:
    """Return the size of U, V and Σ; a matrix (out, k) has out · k / d² blocks, d the smallest side of all targets."""
    shapes = [matrices(config)[p] for p in targets(config, method, [])]
    d, r = min(map(min, shapes)), method.r
    n = sum(out * k // d**2 for out, k in shapes)
    return 2 * d * r + (n * r**2 if method.factorization == "tt" else n * r + r**3)


def ia3_parameters(config: DecoderConfig, method: IA3Config) -> int:
    """Return the size of a scale of every target's output, or of its input for a feed-forward target."""
    paths = targets(config, method, ["k_proj", "v_proj", "down_proj"])
    if method.feedforward_modules is None:
        inside = [p for p in paths if p.endswith(".down_proj")]
    else:
        inside = match_paths(paths, method.feedforward_modules) if method.feedforward_modules else []
    return sum(matrices(config)[p][1 if p in inside else 0] for p in paths)


def trained_parameters(config: DecoderConfig, method: PeftConfig | None) -> int:
    """Return how many parameters a method trains in a `DecoderLM`; None for full fine-tuning.

    Raises ValueError for modules_to_save and for a method without a formula, PeftError if a target matches nothing.
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
            return c.n_layers * layer_biases(c) + (norms(c) * d if c.norm == "layer" and method.norms else 0)
        case LayerNormConfig():
            return norms(c) * norm_parameters(c)
        case AdapterConfig(r=r, layers_to_transform=layers):
            count = c.n_layers if layers is None else 1 if isinstance(layers, int) else len(layers)
            return count * len(set(method.after)) * (2 * d * r + r + d + (2 * d if method.layer_norm else 0))
        case PromptTuningConfig(num_virtual_tokens=P):
            return P * d
        case PrefixTuningConfig(num_virtual_tokens=P) if not method.prefix_projection:
            return c.n_layers * 2 * P * key_width(c)
        case PrefixTuningConfig(num_virtual_tokens=P):
            m = method.encoder_hidden_size or d
            return P * d + m * d + m + c.n_layers * (m + 1) * 2 * key_width(c)
        case LoraConfig():
            return lora_parameters(c, method)
        case LNLoraConfig(r=r):
            shapes = [matrices(c)[p] for p in targets(c, method, ["q_proj", "v_proj"])]
            return sum(r * (out + k) + 2 * k for out, k in shapes)
        case FacTConfig():
            return fact_parameters(c, method)
        case IA3Config():
            return ia3_parameters(c, method)
        case IntrinsicConfig():
            return method.d
    raise ValueError(f"there is no formula for {type(method).__name__}")
