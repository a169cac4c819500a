"""Layers: modules that hold parameters and call operations."""

from minipeft.nn.attention import LayerCache, MultiHeadAttention, ScaledDotProduct
from minipeft.nn.layers import Dropout, Embedding, LayerNorm, Linear, RMSNorm, normal, parameter, random_stream
from minipeft.nn.module import Module, find, replace
from minipeft.nn.transformer import (
    FeedForward,
    Inputs,
    PatchInput,
    SequenceInput,
    TextInput,
    TransformerLayer,
    new_cache,
)

__all__ = [
    "Dropout",
    "Embedding",
    "FeedForward",
    "Inputs",
    "LayerCache",
    "LayerNorm",
    "Linear",
    "Module",
    "MultiHeadAttention",
    "PatchInput",
    "RMSNorm",
    "ScaledDotProduct",
    "SequenceInput",
    "TextInput",
    "TransformerLayer",
    "find",
    "new_cache",
    "normal",
    "parameter",
    "random_stream",
    "replace",
]
