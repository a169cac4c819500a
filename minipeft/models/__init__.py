"""Models: the five families of the lecture."""

from minipeft.models.base import Model
from minipeft.models.decoder import DecoderConfig, DecoderLM
from minipeft.models.encoder import (
    ClassifierConfig,
    Encoder,
    EncoderClassifier,
    EncoderConfig,
    EncoderMaskedLM,
    MaskedLMConfig,
    mask_tokens,
)
from minipeft.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minipeft.models.layouts.layout import huggingface_names
from minipeft.models.mlp import MLP, MLPConfig
from minipeft.models.vit import ViT, ViTConfig

__all__ = [
    "MLP",
    "ClassifierConfig",
    "DecoderConfig",
    "DecoderLM",
    "Encoder",
    "EncoderClassifier",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "EncoderMaskedLM",
    "MLPConfig",
    "MaskedLMConfig",
    "Model",
    "ViT",
    "ViTConfig",
    "huggingface_names",
    "mask_tokens",
]
