"""Prompt tuning: trainable vectors before the input embeddings (Lester et al. 2021; PrefixEmbed in the LoRA paper).

    X' = [P; X],      P (P, d) trained,  X (B, T, d) the embedded tokens

The model sees P more tokens that no vocabulary holds. Positions count on: the text starts at position P. The rows of
the prompt are dropped from the output.

    dP = Σ_batch dX'[:, :P]          dX = dX'[:, P:]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.autograd import Context, Function, Tensor
from minipeft.backend import Array, array_module, to_numpy
from minipeft.nn.module import Module
from minipeft.nn.transformer import SequenceInput, TextInput
from minipeft.peft.adapted_model import AdaptedModel
from minipeft.peft.config import PeftConfig, PeftError, check_fields, method, trainable
from minipeft.peft.select import on_sides


class Prepend(Function):
    """z = [p; x] for every example: p (P, d), x (B, T, d) -> (B, P + T, d);  dp = Σ_batch dz[:, :P], dx = dz[:, P:]."""

    @staticmethod
    def forward(ctx: Context, p: Array, x: Array) -> Array:
        raise NotImplementedError("hw4.1: Prepend.forward")

    @staticmethod
    def backward(ctx: Context, dz: Array) -> Any:
        raise NotImplementedError("hw4.1: Prepend.backward")


class Prompt(Module):
    """P trainable rows (P, d)."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return Prepend.apply(self.rows, x)


@method
@dataclass
class PromptTuningConfig(PeftConfig):
    """num_virtual_tokens: P. prompt_tuning_init: where P starts.

    "SAMPLE_VOCAB": rows of the embedding table, drawn at random (the default for text); "TEXT": the rows of
    prompt_tuning_init_ids, repeated or cut to P; "RANDOM": N(0, σ²) with σ the table's own standard deviation, or
    ``init_std`` where given (Hugging Face PEFT draws with 1.0, some fifty times the table's).
    sides: of an encoder-decoder, "encoder" for a prompt before the source, "decoder" for one before the target; None
    for both.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    num_virtual_tokens: int = 10
    prompt_tuning_init: str | None = None
    prompt_tuning_init_ids: list[int] | None = None
    init_std: float | None = None
    sides: list[str] | None = None

    def apply(self, peft: AdaptedModel, rng: np.random.Generator) -> None:
        check_fields(self, num_virtual_tokens=1, init_std=0)
        entries = {path: m for path, m in peft.base_model.named_modules() if isinstance(m, SequenceInput)}
        if not entries:
            raise PeftError(f"prompt tuning needs a sequence; {type(peft.base_model).__name__} has none")
        for path in on_sides(list(entries), self.sides, ("encoder", "decoder")):
            entry = entries[path]
            check_context("prompt", entry, self.num_virtual_tokens)
            table = entry.tokens.weight if isinstance(entry, TextInput) else entry.positions  # type: ignore[attr-defined]
            rows = self._start(to_numpy(table.data).reshape(-1, table.shape[-1]), isinstance(entry, TextInput), rng)
            peft.swap(f"{path}.prompt" if path else "prompt", Prompt(trainable(rows, table)))

    def _start(self, table: np.ndarray, is_text: bool, rng: np.random.Generator) -> np.ndarray:
        """The first P rows, by prompt_tuning_init: table (V, d) -> (P, d), every random number from ``rng``.

        "RANDOM": standard normal draws (P, d) times init_std, or times the table's standard deviation where that is
        None (an init_std of 0 is a value like others). "SAMPLE_VOCAB": the rows ``rng.integers(0, V, P)``. "TEXT": the
        rows prompt_tuning_init_ids, repeated from the start or cut off to P. None: SAMPLE_VOCAB for text, RANDOM
        otherwise. Raises PeftError for another name, for ids that are missing or outside of 0 … V - 1, and for all but
        RANDOM where is_text is False.
        """
        raise NotImplementedError("hw4.2: PromptTuningConfig._start")


def check_context(what: str, entry: SequenceInput, P: int) -> None:
    """Raise PeftError for a prompt or prefix that leaves no room for text."""
    if isinstance(entry, TextInput) and entry.context <= P:
        raise PeftError(f"a {what} of {P} tokens leaves no room for text in a context of {entry.context}")
