"""Formulas of the literature: the model states of ZeRO, the sizes of GPT-3."""

from __future__ import annotations

from dataclasses import dataclass


def zero_memory(psi: float, k: float = 12, n: int = 1, stage: int = 0) -> float:
    """Return the bytes of model states a device, (2 + 2 + K) Ψ without ZeRO, for mixed precision and Adam.

    Args:
        psi: Ψ, the number of parameters.
        k: K, bytes of optimizer state a parameter.
        n: N_d, the number of devices.
        stage: what is spread over the devices: 0 nothing, 1 the optimizer state, 2 also the gradients, 3 also the
            parameters.

    Raises:
        ValueError: a stage outside 0 to 3, or n below 1.

    Source: Rajbhandari et al. 2020, Figure 1.
    """
    if stage not in (0, 1, 2, 3) or n < 1:
        raise ValueError(f"zero_memory: stage is 0 to 3 and n at least 1, got stage {stage}, n {n}")
    parts = (2.0, 2.0, float(k))  # parameters, gradients, optimizer state
    return psi * sum(part / n if stage >= 3 - i else part for i, part in enumerate(parts))


def gpt3_parameters(
    n_layers: int, d_model: int, vocab_size: int = 50257, context: int = 2048, d_attention: int | None = None
) -> int:
    """Return the exact number of parameters of a GPT-2/3 decoder with tied embeddings.

    12 d² + 13 d a layer: four attention matrices with biases, two feed-forward ones, two normalizations; then the token
    and position tables and the last normalization.

    Args:
        n_layers: layers.
        d_model: width, d.
        vocab_size: rows of the token table.
        context: rows of the position table.
        d_attention: n_heads · d_head, if that is not d_model.

    Source: Brown et al. 2020, Table 2.1.
    """
    a = d_model if d_attention is None else d_attention
    attention = 4 * d_model * a + 3 * a + d_model
    feed_forward = 8 * d_model**2 + 5 * d_model
    return n_layers * (attention + feed_forward + 4 * d_model) + (vocab_size + context) * d_model + 2 * d_model


@dataclass(frozen=True)
class Gpt3Size:
    """A row of Table 2.1 of Brown et al. 2020; ``printed`` is its number of parameters."""

    name: str
    printed: float
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int


# As printed, oddities included: 24 · 128 is not 2048 and 40 · 128 is not 5140. The printed counts are those of
# attention matrices of d_model rows.
GPT3_SIZES = (
    Gpt3Size("GPT-3 Small", 125e6, 12, 768, 12, 64),
    Gpt3Size("GPT-3 Medium", 350e6, 24, 1024, 16, 64),
    Gpt3Size("GPT-3 Large", 760e6, 24, 1536, 16, 96),
    Gpt3Size("GPT-3 XL", 1.3e9, 24, 2048, 24, 128),
    Gpt3Size("GPT-3 2.7B", 2.7e9, 32, 2560, 32, 80),
    Gpt3Size("GPT-3 6.7B", 6.7e9, 32, 4096, 32, 128),
    Gpt3Size("GPT-3 13B", 13.0e9, 40, 5140, 40, 128),
    Gpt3Size("GPT-3 175B", 175.0e9, 96, 12288, 96, 128),
)
