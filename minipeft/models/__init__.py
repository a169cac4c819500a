"""Models: the five families of the lecture."""

from minipeft.models.base import Model
from minipeft.models.decoder import DecoderConfig, DecoderLM
from minipeft.models.encoder import Encoder, EncoderClassifier, EncoderConfig, EncoderMaskedLM, mask_tokens
from minipeft.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minipeft.models.mlp import MLP, MLPConfig
from minipeft.models.vit import ViT, ViTConfig

__all__ = [
    "MLP",
    "DecoderConfig",
    "DecoderLM",
    "Encoder",
    "EncoderClassifier",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "EncoderMaskedLM",
    "MLPConfig",
    "Model",
    "ViT",
    "ViTConfig",
    "mask_tokens",
]
