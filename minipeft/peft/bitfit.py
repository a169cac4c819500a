"""BitFit: train the biases and nothing else (Ben Zaken et al. 2022, arXiv:2106.10199).

    z = x W₀ᵀ + b      dz known:   db = Σ_rows dz,   dx = dz W₀,   and no dW

The backward is the linear layer's own with W₀ frozen: x is not needed for db, so nothing of the forward is saved for
it. The shifts β of the normalizations are biases too: dβ = Σ_rows dz. Some 0.1 % of a model are biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, method


@method
@dataclass
class BitFitConfig(PeftConfig):
    """norms: also train the shifts of the normalizations."""

    peft_type: ClassVar[str] = "BITFIT"
    norms: bool = True

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        """Train copies (``peft.train_copy(path)``) of all parameters of ``peft.base_model`` that are called "bias".

        A normalization is a module with "norm" in its path. What is trained already (``peft.trained()``, a head) is no
        frozen parameter any more and stays as it is. Raises PeftError where no bias is left to train.
        """
        taken = set(peft.trained())
        biases = [name for name, _ in peft.base_model.named_parameters() if name.rpartition(".")[2] == "bias"]
        chosen = [n for n in biases if n not in taken and (self.norms or "norm" not in n.rpartition(".")[0])]
        if not chosen:
            raise PeftError(f"BitFit: {type(peft.base_model).__name__} has no biases to train")
        for name in chosen:
            peft.train_copy(name)
