"""One view of all methods (He et al. 2022, arXiv:2110.04366): each changes some hidden state h by a Δh.

Four choices tell them apart: the form of Δh, where it is inserted (in sequence: computed from h, in parallel: from the
input x), which representation it changes, and how the two are combined. Prefix tuning fits as well: for one head, with
λ the softmax mass that a query gives to the prefix,

    Attn(q, [P_k; K], [P_v; V]) = (1 - λ) Attn(q, K, V) + λ softmax(s q P_kᵀ) P_v

which is a gated adapter in parallel, whose two matrices are P_kᵀ and P_v and whose activation is the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Design:
    """A method as Δh: its form, how it is inserted, what it modifies, and how it is combined with h."""

    method: str
    delta_h: str
    insertion: str
    modified: str
    composition: str


DESIGNS = (
    Design("prefix tuning", "softmax(s x W_q P_kᵀ) P_v", "parallel", "attention heads", "h ← (1 - λ) h + λ Δh"),
    Design("adapter (AdapterH)", "f(h W_dᵀ) W_uᵀ", "sequential", "attention and feed-forward", "h ← h + Δh"),
    Design("AdapterL", "f(LN(h) W_dᵀ) W_uᵀ", "sequential", "feed-forward", "h ← h + Δh"),
    Design("parallel adapter", "f(x W_dᵀ) W_uᵀ", "parallel", "feed-forward", "h ← h + s Δh"),
    Design("LoRA", "x Aᵀ Bᵀ", "parallel", "query and value projections", "h ← h + s Δh"),
    Design("LNLoRA", "LN(x) Aᵀ Bᵀ", "parallel", "query and value projections", "h ← h + s Δh"),
    Design("FacT", "x Uᵀ Σᵀ Vᵀ", "parallel", "all projections", "h ← h + s Δh"),
    Design("BitFit", "Δb", "parallel", "all projections and normalizations", "h ← h + Δh"),
    Design("LayerNorm tuning", "Δγ ∘ x̂ + Δβ", "parallel", "normalizations", "h ← h + Δh"),
    Design("IA3", "(l - 1) ∘ h", "sequential", "keys, values and the feed-forward", "h ← h + Δh"),
    Design(
        "prompt tuning",
        "prefix tuning's, P_k and P_v computed by the layers below",
        "parallel",
        "all",
        "gated, by layer",
    ),
)


def softmax(s: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention_with_prefix(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, prefix_k: np.ndarray, prefix_v: np.ndarray, scale: float
) -> np.ndarray:
    """Return attention behind a prefix, as it is, (N, D).

    Args:
        q: (N, D).
        k: (S, D).
        v: (S, D).
        prefix_k: (P, D).
        prefix_v: (P, D).
        scale: s of the scores.
    """
    keys, values = np.concatenate([prefix_k, k]), np.concatenate([prefix_v, v])
    return softmax(scale * q @ keys.T) @ values


def gate(q: np.ndarray, k: np.ndarray, prefix_k: np.ndarray, scale: float) -> np.ndarray:
    """λ (N, 1): the share of the softmax's mass that each query gives to the prefix."""
    own, prefix = scale * q @ k.T, scale * q @ prefix_k.T
    top = np.maximum(own.max(-1, keepdims=True), prefix.max(-1, keepdims=True))
    a, b = np.exp(prefix - top).sum(-1, keepdims=True), np.exp(own - top).sum(-1, keepdims=True)
    return a / (a + b)


def gated_parallel_adapter(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, prefix_k: np.ndarray, prefix_v: np.ndarray, scale: float
) -> np.ndarray:
    """The same, as (1 - λ) h + λ Δh with h the attention without a prefix and Δh = softmax(s q P_kᵀ) P_v."""
    h = softmax(scale * q @ k.T) @ v
    delta_h = softmax(scale * q @ prefix_k.T) @ prefix_v
    share = gate(q, k, prefix_k, scale)
    return (1.0 - share) * h + share * delta_h
