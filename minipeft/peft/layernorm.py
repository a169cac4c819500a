"""Tuning the normalizations: train every γ and β and nothing else.

    z = γ ∘ x̂ + β      dγ = Σ_rows dz ∘ x̂,   dβ = Σ_rows dz

The backward is the normalization's own; of the linear layers between, nothing is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minipeft.nn.layers import LayerNorm, RMSNorm
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, method


@method
@dataclass
class LayerNormConfig(PeftConfig):
    """All normalizations of the model are trained, and nothing is to be chosen."""

    peft_type: ClassVar[str] = "LN_TUNING"

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        norms = [(path, m) for path, m in peft.base_model.named_modules() if isinstance(m, (LayerNorm, RMSNorm))]
        if not norms:
            raise PeftError(f"{type(peft.base_model).__name__} has no normalization to train")
        for path, norm in norms:
            for name, _ in list(norm.named_parameters()):
                peft.train_copy(f"{path}.{name}")
