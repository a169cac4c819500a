"""Fine-tuning a language model on prose: `minipeft train`, from the text to a saved adapter and what it gained.

The text has three parts: train, validation (the best step is chosen by it) and test, looked at twice: once with
the base model, once at the end. Of Jane Austen these are whole novels, of a file its first 80, next 10 and last 10 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import Forecast, bytes_of
from minipeft.autograd import no_grad
from minipeft.data.austen import load_austen
from minipeft.data.batches import LanguageModelBatches
from minipeft.data.fetch import fetch
from minipeft.files.errors import FileError
from minipeft.optim import AdamW, CosineSchedule
from minipeft.peft import PeftConfig, PeftModel, get_peft_model
from minipeft.train import fit

TRAIN_NOVELS = ("emma", "mansfield_park", "pride_and_prejudice", "sense_and_sensibility")
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Prose:
    """A text in three parts that share nothing."""

    name: str
    train: str
    validation: str
    test: str


@dataclass(frozen=True)
class Plan:
    """How to train: steps of ``batch_size`` windows of ``length`` tokens, the peak rate, and how much to judge by.

    judge_tokens: of validation and of test, in windows spread evenly over each. shards, memory_budget: of a step, as
    `fit` takes them; the batch stays what it is.
    """

    steps: int = 100
    batch_size: int = 4
    length: int = 128
    lr: float = 1e-3
    seed: int = 0
    judge_tokens: int = 4096
    judge_every: int = 25
    shards: int = 1
    memory_budget: str | None = None


def read_prose(source: str) -> Prose:
    """Return ``austen`` (fetched if necessary) or a text file in UTF-8; FileError for anything else."""
    if source == "austen":
        novels = load_austen(fetch("austen"))
        return Prose(
            source, "\n\n".join(novels[n] for n in TRAIN_NOVELS), novels["northanger_abbey"], novels["persuasion"]
        )
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: expected the name austen, or a text file in UTF-8 ({error})") from error
    if not text:
        raise FileError(f"{path} is empty; expected a text to train on")
    a, b = len(text) * 8 // 10, len(text) * 9 // 10
    return Prose(path.name, text[:a], text[a:b], text[b:])


def windows(tokens: np.ndarray, length: int, n_tokens: int) -> np.ndarray:
    """Return about ``n_tokens`` of a text as windows (n, length + 1), spread evenly, without overlap.

    A text shorter than one window is one shorter window. Raises ValueError for fewer than two tokens.
    """
    if len(tokens) < 2:
        raise ValueError(f"a text of {len(tokens)} tokens is too short to be judged by; at least 2 are needed")
    length = min(length, len(tokens) - 1)
    fit_in = (len(tokens) - 1) // length
    n = max(1, min(fit_in, n_tokens // length))
    starts = np.arange(n) * fit_in // n * length  # (n,)
    return tokens[starts[:, None] + np.arange(length + 1)]


def perplexity(model: Any, rows: np.ndarray, batch_size: int = 4) -> float:
    """Return exp of the mean negative log-likelihood of each next token in the windows (n, T + 1), without a graph."""
    modes = [(m, m.training) for _, m in model.named_modules()]
    model.eval()
    total = 0.0
    try:
        with no_grad():
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                total += model.loss(ids=part[:, :-1], labels=part[:, 1:]).item() * len(part)
    finally:
        for m, training in modes:
            m.training = training
    return math.exp(total / len(rows))


def finetune(
    model: Any,
    encode: Encode,
    prose: Prose,
    config: PeftConfig,
    plan: Plan,
    checkpoint: Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[PeftModel, dict[str, Any]]:
    """Train ``config`` on the prose; return the model with the best adapter by validation, and the report.

    checkpoint: a folder, written at every evaluation and on Ctrl-C, from which the next call with the same arguments
    goes on.

    Raises ValueError for a text too short for a window and for a memory budget that is too small, before any work, and
    what `fit` raises.
    """
    peft = get_peft_model(model, config, rng=plan.seed)  # first: a configuration that does not fit is told at once
    optimizer = AdamW(peft, lr=CosineSchedule(plan.lr, plan.steps, warmup=plan.steps // 10))
    if plan.memory_budget is not None:
        ids = np.zeros((plan.batch_size, plan.length), dtype=np.int64)
        forecast = Forecast(peft, optimizer, {"ids": ids, "labels": ids}, plan.shards)
        forecast.at_once(plan.batch_size, bytes_of(plan.memory_budget))
    parts = {part: np.array(encode(getattr(prose, part))) for part in ("train", "validation", "test")}
    for part, tokens in parts.items():
        needed = plan.length + 1 if part == "train" else 2
        if len(tokens) < needed:
            raise ValueError(
                f"{prose.name} is too short: its {part} part has {len(tokens)} tokens, expected at least {needed}"
            )
    batches = LanguageModelBatches(parts["train"], plan.batch_size, plan.length, plan.seed)
    validation = windows(parts["validation"], plan.length, plan.judge_tokens)
    test = windows(parts["test"], plan.length, plan.judge_tokens)
    trained, total = peft.trainable_counts()
    say(f"{config.peft_type}: {trained:,} of {total:,} parameters are trained, on {len(parts['train']):,} tokens")
    with peft.disable_adapter():
        before = {"validation": perplexity(peft, validation), "test": perplexity(peft, test)}
    say(f"base: perplexity {before['validation']:.2f} on validation, {before['test']:.2f} on test")
    start = time.perf_counter()
    history = fit(
        peft,
        batches,
        optimizer,
        steps=plan.steps,
        shards=plan.shards,
        evaluate=lambda m: perplexity(m, validation),
        evaluate_every=plan.judge_every,
        checkpoint=checkpoint,
        checkpoint_every=None if checkpoint is None else plan.judge_every,
        resume=checkpoint is not None,
        max_norm=1.0,
        seed=plan.seed,
        progress=progress,
        memory_budget=plan.memory_budget,
    )
    seconds = time.perf_counter() - start
    after = {"validation": perplexity(peft, validation), "test": perplexity(peft, test)}
    return peft, {
        "data": prose.name,
        "tokens": {name: len(x) for name, x in parts.items()},
        "plan": asdict(plan),
        "trained": trained,
        "parameters": total,
        "perplexity_before": before,
        "perplexity_after": after,
        "lower_by": 1.0 - after["test"] / before["test"],
        "best_step": history.best_step,
        "at_once": history.at_once,
        "evaluations": history.evaluations,
        "losses": [row["loss"] for row in history.steps],
        "resumed_at": history.resumed_at,
        "seconds": round(seconds, 1),  # since then
    }
