"""Fine-tuning the top K layers only: the simplest method, and the baseline of the others.

The K layers nearest the output are trained, with the normalization after them; the L layers below are frozen.
There is no formula of its own: where nothing below needs a gradient, the engine records nothing below, so no
activation of those L layers is kept and the backward stops at the lowest trained layer. "Stop gradient here" is not
an operation, it is what is left when no parameter asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minipeft.nn.module import find
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, method


@method
@dataclass
class TopLayersConfig(PeftConfig):
    """n_layers: K, from 0 to the model's number of layers; with 0 only the head is trained: the linear probe."""

    peft_type: ClassVar[str] = "TOP_LAYERS"
    n_layers: int = 1

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        """Train copies (``peft.train_copy(path)``) of all parameters of the last K layers of ``peft.base_model``.

        The layers are the list ``layers`` of some module in it; where there are several such modules, as in an
        encoder-decoder, of the last one. The normalization behind them, that module's ``norm``, is trained too where it
        has one and K > 0. Embeddings and heads stay frozen (heads are ``modules_to_save``'s matter).
        Raises PeftError for a model without such a list, and for more layers than there are.
        """
        check_fields(self, n_layers=0)
        model = peft.base_model
        stacks = [path for path, m in model.named_modules() if isinstance(vars(m).get("layers"), list)]
        if not stacks:
            raise PeftError(f"top layers: {type(model).__name__} has no list of layers")
        top = stacks[-1]  # of an encoder-decoder, the decoder's
        count = len(find(model, f"{top}.layers" if top else "layers"))
        if self.n_layers > count:
            raise PeftError(f"top layers: n_layers={self.n_layers}, but the model has {count}")
        if self.n_layers == 0:
            return
        chosen = {f"layers.{i}." for i in range(count - self.n_layers, count)} | {"norm."}
        prefix = f"{top}." if top else ""
        for name, _ in list(model.named_parameters()):
            if name.startswith(prefix) and any(name[len(prefix) :].startswith(c) for c in chosen):
                peft.train_copy(name)
