"""Two ways to learn from a few examples: as a prompt (Brown et al. 2020, arXiv:2005.14165), or by fine-tuning on them.

A pattern writes an example as text and a label as a word, so both ways ask the model the same question:

    Review: good\\nSentiment: positive\\n\\nReview: bad\\nSentiment: negative\\n\\nReview: …\\nSentiment:

In context, the examples stand in front and no parameter changes; the answer is the label that is likeliest,

    ŷ = argmax_c Σ_t log p(w_t | prompt, w_<t),      w_1 … w_m the tokens of label c.

Fine-tuning minimizes the negative of that sum for the right label over the examples, one at a time (pattern-based
fine-tuning; Schick & Schütze 2021). A prompt of N tokens costs N² scores in every head of every layer, at each answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.autograd import no_grad
from minipeft.backend import to_numpy
from minipeft.nn.transformer import Cache, new_cache
from minipeft.ops.loss import IGNORED

Encode = Callable[[str], list[int]]
Example = tuple[str, int]  # a text and the number of its label


@dataclass(frozen=True)
class Pattern:
    """How an example becomes text.

    template: the question, with {text} where the example's text goes. labels: the answers by number, each with the
    space that stands before it. separator: between the examples of a prompt.
    Raises ValueError for a template without {text}, or for fewer than two labels or equal ones.
    """

    template: str = "Review: {text}\nSentiment:"
    labels: tuple[str, ...] = (" negative", " positive")
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        if "{text}" not in self.template:
            raise ValueError(f"a pattern's template must hold {{text}}, got {self.template!r}")
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError(f"a pattern needs two labels or more, all different, got {self.labels}")

    def question(self, text: str) -> str:
        """The template with the text in it."""
        raise NotImplementedError("hw8.1: Pattern.question")

    def answered(self, text: str, label: int) -> str:
        """The question and its answer."""
        raise NotImplementedError("hw8.1: Pattern.answered")

    def demonstrations(self, examples: Sequence[Example]) -> str:
        """All examples answered, in their order, each with a separator behind it: what stands before a question."""
        raise NotImplementedError("hw8.1: Pattern.demonstrations")


def continuation_scores(logits: np.ndarray, ids: np.ndarray, start: int) -> np.ndarray:
    """log p(ids[:, start:] | ids[:, :start]) for each row, in nats: logits (B, T, V), ids (B, T) -> (B,).

    logits[:, t] predicts the token at t + 1, so the sum runs over log softmax(logits[:, t - 1])[ids[:, t]], t ≥ start.
    Shifted by the maximum, so that large logits do not overflow. Raises ValueError for start outside 1 … T - 1.
    """
    raise NotImplementedError("hw8.2: continuation_scores")


def predict(scores: np.ndarray, neutral: np.ndarray | None = None) -> np.ndarray:
    """The likeliest label of each question: scores (Q, C) -> (Q,), the first of equal ones.

    neutral (C,): the scores of the labels after a question without content; they are subtracted, so that a label which
    the model prefers whatever is asked loses that advantage (contextual calibration; Zhao et al. 2021).
    """
    raise NotImplementedError("hw8.3: predict")


def label_scores(
    model: Any, before: Sequence[int], questions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> np.ndarray:
    """log p(label | before, question) in nats, for a `DecoderLM`: ids of Q questions and C labels -> (Q, C).

    ``before``, the demonstrations, are read once: their keys and values are kept, and each question goes on from there.
    Raises ValueError for an empty question or label, or for more tokens than the model's context.
    """
    raise NotImplementedError("hw8.4: label_scores")


def _row(ids: Sequence[int]) -> np.ndarray:
    return np.asarray(ids, dtype=np.int64)[None]


def _last_logits(model: Any, ids: Sequence[int], cache: list[Cache]) -> np.ndarray:
    hidden = model.hidden(_row(ids), cache=cache)
    logits: np.ndarray = to_numpy(model.lm_head(hidden[:, -1:]).data).astype(np.float64)
    return logits


def _length(cache: list[Cache]) -> int:
    return cache[0].attention.length if cache else 0


def _rewind(cache: list[Cache], length: int) -> None:
    """Forget what came after the first ``length`` positions."""
    for layer in cache:
        layer.attention.length = length


def in_context(
    model: Any,
    encode: Encode,
    pattern: Pattern,
    examples: Sequence[Example],
    texts: Sequence[str],
    calibrate: bool = False,
) -> np.ndarray:
    """The label of each text, predicted from ``examples`` in the prompt: (Q,) label numbers. No parameter changes.

    calibrate: subtract the scores after the question "N/A" (see `predict`). Raises as `label_scores` does.
    """
    before = encode(pattern.demonstrations(examples)) if examples else []
    labels = [encode(label) for label in pattern.labels]
    questions = [encode(pattern.question(text)) for text in texts]
    scores = label_scores(model, before, questions, labels)
    neutral = label_scores(model, before, [encode(pattern.question("N/A"))], labels)[0] if calibrate else None
    return predict(scores, neutral)


def pattern_batch(encode: Encode, pattern: Pattern, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """A batch for pattern-based fine-tuning of a `DecoderLM`: ids, labels and mask (B, T), padded on the right.

    labels[:, t] is the token after ids[:, t] where that token belongs to the answer, and -100 elsewhere.
    """
    raise NotImplementedError("hw8.5: pattern_batch")


def prompt_scores(length: int, n_layers: int, n_heads: int) -> int:
    """How many attention scores a prompt of N = ``length`` tokens has: n_layers · n_heads · N², the lecture's O(N²)."""
    return n_layers * n_heads * length * length
