"""Models: the five families of the lecture."""

from minipeft.models.base import Model
from minipeft.models.decoder import DecoderConfig, DecoderLM

__all__ = ["DecoderConfig", "DecoderLM", "Model"]
