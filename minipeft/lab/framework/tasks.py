"""The tasks on which methods are compared: a pretrained model, and data that it has not seen.

Every task has three splits that share no example: train (drawn anew for each seed), validation (for choices), and
test (looked at once, at the end).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import no_grad
from minipeft.backend import to_numpy
from minipeft.data.batches import Batches, LanguageModelBatches
from minipeft.data.digits import load_digits
from minipeft.data.fetch import fetch
from minipeft.data.sentiment import load_sentiment, split_sentiment
from minipeft.data.text import characters, stretches
from minipeft.data.wordpiece import WordPiece
from minipeft.lab.framework.training import accuracy, pretrain
from minipeft.models import DecoderConfig, DecoderLM, EncoderClassifier, Model, ViT, ViTConfig
from minipeft.nn.layers import Linear
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
)

Evaluate = Callable[[Any, str], float]


@dataclass
class Trial:
    """One seed's share of a task: a fresh pretrained model, its training batches, and how to judge it."""

    model: Model
    batches: Any
    evaluate: Evaluate


@dataclass(frozen=True)
class Budget:
    """What every method may spend: the same learning rates on the same seeds, and the same number of steps."""

    learning_rates: tuple[float, ...]
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Task:
    """A task by name: how to prepare it (once), how to draw a round from it, what is measured, and the methods.

    prepare(folder, progress): make or fetch the pretrained model; pretrains: whether that takes long.
    """

    name: str
    story: str
    metric: str
    unit: str
    higher_is_better: bool
    methods: dict[str, PeftConfig | None]
    budget: Budget
    prepare: Callable[[Path, bool], None]
    draw: Callable[[Path, int], Trial]
    pretrains: bool = True


def small_methods() -> dict[str, PeftConfig | None]:
    """Return every method at the size of a small model; None trains every parameter."""
    return {
        "full": None,
        "probe": TopLayersConfig(n_layers=0),
        "top-1 layer": TopLayersConfig(n_layers=1),
        "BitFit": BitFitConfig(),
        "adapters": AdapterConfig(r=8),
        "prompt": PromptTuningConfig(num_virtual_tokens=8),
        "prefix": PrefixTuningConfig(num_virtual_tokens=8),
        "LoRA": LoraConfig(r=4, lora_alpha=8),
    }


DIGITS = ViTConfig(image_size=8, patch_size=2, channels=1, n_classes=5, d_model=48, n_layers=4, n_heads=4, d_ff=192)


def _digit_splits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images and labels of the source digits 0 to 4, and of the target digits 5 to 9 (labels again 0 to 4)."""
    images, labels = load_digits()
    source = labels < 5
    return images[source], labels[source], images[~source], labels[~source] - 5


def prepare_digits(folder: Path, progress: bool = False) -> None:
    """Pre-train the ViT on the digits 0 to 4."""
    images, labels, _, _ = _digit_splits()
    model = ViT(DIGITS, rng=0)
    batches = Batches({"images": images, "labels": labels}, batch_size=64, seed=0)
    pretrain(model, batches, 15 * len(batches), folder, rate=2e-3, warmup=20, progress=progress)


def draw_digits(folder: Path, seed: int) -> Trial:
    """Return ten labelled images of each digit 5 to 9, 40 of each for validation, and the rest for the test."""
    _, _, images, labels = _digit_splits()
    order = np.random.default_rng(2024).permutation(len(labels))  # one fixed split; seeds draw from its first part
    images, labels = images[order], labels[order]
    pool, val, test = [], [], []
    for c in range(5):
        of_class = np.flatnonzero(labels == c)
        pool.append(of_class[:60])
        val.append(of_class[60:100])
        test.append(of_class[100:])
    rng = np.random.default_rng((seed, 5))
    train = np.concatenate([rng.choice(p, 10, replace=False) for p in pool])
    model = ViT.from_pretrained(folder)
    model.classifier = Linear(DIGITS.d_model, 5, rng=np.random.default_rng((seed, 6)))
    splits = {"val": np.concatenate(val), "test": np.concatenate(test)}

    def evaluate(m: Any, split: str) -> float:
        return accuracy(m, images[splits[split]], labels[splits[split]])

    return Trial(model, Batches({"images": images[train], "labels": labels[train]}, 25, seed=seed), evaluate)


TEXT = {"d_model": 96, "n_layers": 4, "n_heads": 4, "context": 96}


def prepare_text(folder: Path, progress: bool = False) -> None:
    """Pre-train a character model on Python's documentation."""
    tokenizer, prose, _ = characters()
    model = DecoderLM(DecoderConfig.gpt2(vocab_size=tokenizer.vocab_size, **TEXT), rng=0)
    batches = LanguageModelBatches(prose, batch_size=16, length=64, seed=0)
    pretrain(model, batches, 600, folder, progress=progress)


def draw_text(folder: Path, seed: int) -> Trial:
    """Return ten stretches of 4,096 characters of source code: eight for training, one each to validate and test."""
    _, _, code = characters()
    parts = stretches(code)
    splits = {"val": parts["val"][:3].reshape(-1, 64), "test": parts["test"][:8].reshape(-1, 64)}
    model = DecoderLM.from_pretrained(folder)

    def evaluate(m: Any, split: str) -> float:
        ids = splits[split]
        labels = np.concatenate([ids[:, 1:], np.full((len(ids), 1), -100)], axis=1)
        with no_grad():
            return m.loss(ids, labels).item()

    return Trial(model, LanguageModelBatches(parts["train"].reshape(-1), 16, 64, seed=seed), evaluate)


def prepare_sentiment(folder: Path, progress: bool = False) -> None:
    """Get MiniLM's weights and the labelled sentences, unless they are in the cache."""
    fetch("minilm", progress=progress)
    fetch("sentiment", progress=progress)


def draw_sentiment(folder: Path, seed: int) -> Trial:
    """Return 600 of some 1,500 labelled sentences to train on, some 300 for validation and 1,200 for the test."""
    home = fetch("minilm")
    sentences, labels = split_sentiment(load_sentiment(), seed=2024)
    tokenizer = WordPiece.from_file(home / "vocab.txt")
    chosen = np.random.default_rng((seed, 5)).permutation(len(sentences["train"]))[:600]
    ids, mask = tokenizer.batch([sentences["train"][i] for i in chosen], max_length=64)
    model = EncoderClassifier.from_pretrained(home, n_classes=2, pool="mean", rng=np.random.default_rng((seed, 6)))
    train = {"ids": ids, "mask": mask, "labels": labels["train"][chosen]}

    def evaluate(m: Any, split: str) -> float:
        order = np.argsort([len(s) for s in sentences[split]], kind="stable")  # sentences of one length together
        right = 0
        for part in np.array_split(order, max(1, len(order) // 50)):
            part_ids, part_mask = tokenizer.batch([sentences[split][i] for i in part], max_length=64)
            with no_grad():
                guesses = to_numpy(m(part_ids, mask=part_mask).data).argmax(axis=1)
            right += int((guesses == labels[split][part]).sum())
        return right / len(order)

    return Trial(model, Batches(train, 16, seed=seed, trim="mask"), evaluate)


TASKS = {
    "digits": Task(
        "digits",
        "a ViT pretrained on the handwritten digits 0 to 4, adapted to 5 to 9 with ten labels of each",
        "test accuracy",
        "%",
        True,
        small_methods(),
        Budget((1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (101, 102), (0, 1, 2, 3, 4), 80),
        prepare_digits,
        draw_digits,
    ),
    "text": Task(
        "text",
        "a character model pretrained on Python's documentation, adapted to Python's source code",
        "test loss",
        "nats/char",
        False,
        {name: config for name, config in small_methods().items() if name != "probe"},  # no head of its own to probe
        Budget((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (101,), (0, 1, 2), 150),
        prepare_text,
        draw_text,
    ),
    "sentiment": Task(
        "sentiment",
        "MiniLM (22.7 M parameters, BERT layout), adapted to sentences about films, goods and restaurants",
        "test accuracy",
        "%",
        True,
        {**small_methods(), "adapters": AdapterConfig(r=16), "LoRA": LoraConfig(r=8, lora_alpha=16)},
        Budget((2e-5, 1e-4, 5e-4, 2e-3, 1e-2, 5e-2), (101,), (0, 1, 2), 75),
        prepare_sentiment,
        draw_sentiment,
        pretrains=False,
    ),
}
