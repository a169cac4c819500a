"""The encoder-only Transformer, as BERT has it, with a masked-LM head and a classification head."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from minipeft import ops
from minipeft.autograd import Tensor
from minipeft.backend import generator
from minipeft.files.errors import FileError
from minipeft.models.base import Config, Model
from minipeft.models.layouts.bert import BERT, BERT_CLASSIFIER, BERT_MASKED_LM
from minipeft.models.layouts.layout import Layout
from minipeft.models.pretrained import PretrainedSource
from minipeft.models.stack import TransformerStack, head_loss, last_rows
from minipeft.nn.layers import Dropout, LayerNorm, Linear, parameter
from minipeft.nn.transformer import TextInput
from minipeft.ops.loss import IGNORED


@dataclass(frozen=True)
class EncoderConfig(Config):
    """Sizes and choices of an encoder; the defaults are BERT-base's (Devlin et al. 2019)."""

    vocab_size: int = 30522
    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 12
    d_ff: int = 3072
    context: int = 512
    n_token_types: int = 2
    norm: str = "layer"
    eps: float = 1e-12
    norm_first: bool = False
    activation: str = "gelu"
    dropout: float = 0.0


def bare(config: EncoderConfig) -> EncoderConfig:
    """Return the encoder's own configuration, without the choices of a head."""
    return EncoderConfig(**{f.name: getattr(config, f.name) for f in fields(EncoderConfig)})


class Encoder(Model):
    """ids (B, T) -> hidden states (B, T, d), each token looking at all others."""

    config_class = EncoderConfig
    inside: ClassVar[dict[str, str]] = {"EncoderMaskedLM": "encoder", "EncoderClassifier": "encoder"}

    def __init__(self, config: EncoderConfig, rng: int | np.random.Generator = 0):
        rng = generator(rng)
        self.config = config
        self.input = TextInput(
            config.vocab_size,
            config.d_model,
            config.context,
            n_token_types=config.n_token_types,
            norm=None if config.norm_first else LayerNorm(config.d_model, config.eps),
            dropout=config.dropout,
            rng=rng,
        )
        self.stack = TransformerStack(config, causal=False, cross=False, rng=rng)

    def forward(self, ids: np.ndarray, mask: np.ndarray | None = None, token_types: np.ndarray | None = None) -> Tensor:
        """Return the hidden states (B, T, d), without the rows of a prompt; mask (B, T) is True for real tokens."""
        inputs = self.input(ids, mask, token_types=token_types)
        return last_rows(self.stack(inputs.x, inputs.mask), ids.shape[1])

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        return {"bert": BERT}


@dataclass(frozen=True)
class MaskedLMConfig(EncoderConfig):
    """An encoder and the head on it; tied: the head's matrix is the token embedding."""

    tied: bool = True


class EncoderMaskedLM(Model):
    """Masked-LM pre-training: logits (B, T, V) from the hidden states through BERT's head.

    Takes an `EncoderConfig`, for a head that is tied to the embedding, or a `MaskedLMConfig`.
    """

    config_class = MaskedLMConfig
    tied_weights = ("encoder.input.tokens.weight", "lm_head.weight")

    def __init__(self, config: EncoderConfig, rng: int | np.random.Generator = 0):
        rng = generator(rng)
        self.config = MaskedLMConfig(**asdict(config))
        self.encoder = Encoder(bare(config), rng)
        self.transform = Linear(config.d_model, config.d_model, rng=rng)
        self.transform_norm = LayerNorm(config.d_model, config.eps)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False, rng=rng)
        if self.config.tied:
            self.lm_head.weight = self.encoder.input.tokens.weight
        self.lm_head.bias = parameter(np.zeros(config.vocab_size))

    def hidden(self, ids: np.ndarray, mask: np.ndarray | None = None, token_types: np.ndarray | None = None) -> Tensor:
        """Return what the vocabulary matrix is applied to, (B, T, d)."""
        x = self.transform(self.encoder(ids, mask, token_types))
        return self.transform_norm(ops.activation(x, self.config.activation))

    def forward(self, ids: np.ndarray, mask: np.ndarray | None = None, token_types: np.ndarray | None = None) -> Tensor:
        """Return the logits (B, T, V) of the token at each place."""
        return self.lm_head(self.hidden(ids, mask, token_types))

    def loss(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        mask: np.ndarray | None = None,
        token_types: np.ndarray | None = None,
    ) -> Tensor:
        """Return the mean cross-entropy in nats.

        Args:
            ids: (B, T), some of them masked.
            labels: (B, T), the original token where one was masked, -100 elsewhere.
            mask: (B, T), True for real tokens; by default all.
            token_types: (B, T), by default 0.
        """
        return head_loss(self.hidden(ids, mask, token_types), self.lm_head, labels)

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        return {"bert": BERT_MASKED_LM}


def mask_tokens(
    ids: np.ndarray,
    mask_id: int,
    vocab_size: int,
    rng: int | np.random.Generator,
    keep: np.ndarray | None = None,
    fraction: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """Return masked ids and labels (B, T) for masked-LM pre-training.

    Args:
        ids: (B, T).
        mask_id: the id of the mask token, which 80 % of the chosen tokens become.
        vocab_size: 10 % of the chosen tokens become a random id below this; 10 % stay.
        rng: seed or generator of the choice.
        keep: (B, T), True for tokens that are never chosen, such as padding and special tokens.
        fraction: the share of tokens that is chosen, at least one if any may be.

    Returns:
        The masked ids; the labels, -100 for tokens that were not chosen.

    Source: Devlin et al. 2019, section 3.1.
    """
    rng = generator(rng)
    dice = rng.random(ids.shape)
    if keep is not None:
        dice[keep] = 1.0
    chosen = dice < fraction
    if not chosen.any() and not (keep is not None and keep.all()):
        chosen = dice == dice.min()  # a loss over no token at all would be none
    dice = rng.random(ids.shape)
    masked = np.where(chosen & (dice < 0.8), mask_id, ids)
    masked = np.where(chosen & (dice >= 0.8) & (dice < 0.9), rng.integers(0, vocab_size, ids.shape), masked)
    return masked, np.where(chosen, ids, IGNORED)


POOLS = ("mean", "first", "pooler")


@dataclass(frozen=True)
class ClassifierConfig(EncoderConfig):
    """An encoder and the head on it: n_classes, and ``pool`` as in `EncoderClassifier`."""

    n_classes: int = 2
    pool: str = "mean"


class EncoderClassifier(Model):
    """Sentences -> logits (B, n_classes).

    pool: "mean" over the real tokens (as sentence encoders are trained), "first" the first token, "pooler" the first
    token through BERT's tanh layer. Takes an `EncoderConfig` and the head's two choices, or a `ClassifierConfig`.
    """

    config_class = ClassifierConfig

    def __init__(
        self,
        config: EncoderConfig,
        n_classes: int | None = None,
        pool: str | None = None,
        rng: int | np.random.Generator = 0,
    ):
        rng = generator(rng)
        head = {name: value for name, value in (("n_classes", n_classes), ("pool", pool)) if value is not None}
        self.config = ClassifierConfig(**{**asdict(config), **head})
        if self.config.pool not in POOLS:
            raise ValueError(f"unknown pool {self.config.pool!r}; expected one of {POOLS}")
        d = config.d_model
        self.encoder = Encoder(bare(config), rng)
        self.pooler = Linear(d, d, rng=rng) if self.config.pool == "pooler" else None
        self.dropout = Dropout(config.dropout)
        self.classifier = Linear(d, self.config.n_classes, rng=rng)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        n_classes: int | None = None,
        pool: str | None = None,
        rng: int | np.random.Generator = 0,
    ) -> Self:
        """Return the classifier in a folder; or the encoder in it under a new head.

        Args:
            source: a folder, or the name of something that `minipeft fetch` got.
            n_classes: the classes of a new head, two by default.
            pool: the pooling of a new head, "mean" by default. If neither of the two is given, a folder with a head
                keeps it.
            rng: seed or generator of a new head.

        Raises:
            FileError: as `Model.from_pretrained`, and for "pooler" if the folder has no such layer.
        """
        opened = PretrainedSource.open(source)
        if n_classes is None and pool is None and _has_head(opened):
            return opened.build(cls, opened.config_of(cls)).filled(opened)
        model = opened.build(cls, opened.config_of(Encoder), n_classes, pool)
        model.classifier = Linear(model.config.d_model, model.config.n_classes, rng=generator(rng))
        if not opened.is_minipeft:
            return model.filled(opened, new="classifier.")
        model.encoder.filled(opened)
        if model.pooler is not None:
            pooler = {name: x for name, x in opened.own_arrays().items() if name.startswith("pooler.")}
            if not pooler:
                raise FileError(
                    f"{opened.path}: this {opened.model_class} has no pooler; choose pool 'mean' or 'first'"
                )
            opened.fill(model.pooler, {name.removeprefix("pooler."): x for name, x in pooler.items()})
        return model.eval()

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        return {"bert": BERT_CLASSIFIER}

    def pooled(self, ids: np.ndarray, mask: np.ndarray | None = None, token_types: np.ndarray | None = None) -> Tensor:
        """Return one vector a sentence, (B, d)."""
        x = self.encoder(ids, mask, token_types)
        if self.config.pool == "mean":
            weights = np.ones(ids.shape) if mask is None else np.asarray(mask, dtype=np.float64)
            return ops.weighted_mean(x, weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0))
        first = x[:, 0]
        return first if self.pooler is None else ops.tanh(self.pooler(first))

    def forward(self, ids: np.ndarray, mask: np.ndarray | None = None, token_types: np.ndarray | None = None) -> Tensor:
        """Return the logits (B, n_classes)."""
        return self.classifier(self.dropout(self.pooled(ids, mask, token_types)))

    def loss(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        mask: np.ndarray | None = None,
        token_types: np.ndarray | None = None,
    ) -> Tensor:
        """Return the mean cross-entropy in nats.

        Args:
            ids: (B, T).
            labels: (B,), the class of each sentence.
            mask: (B, T), True for real tokens; by default all.
            token_types: (B, T), by default 0.
        """
        return ops.cross_entropy(self.forward(ids, mask, token_types), labels)


def _has_head(opened: PretrainedSource) -> bool:
    """Return whether a folder of minipeft or of Hugging Face says that it holds a whole classifier."""
    if opened.is_minipeft:
        return opened.model_class == "EncoderClassifier"
    return opened.is_a(BERT_CLASSIFIER.architecture)
