"""What the studies on text share: two tasks, one run, rates chosen on validation, and tests against a margin.

``prose``: a model of characters pretrained on Python's documentation and adapted to its source code, judged in nats per
character; sizes "tiny" and "small", both of our own making and without a download. ``sentiment``: MiniLM and labelled
sentences of at most 20 tokens, judged by accuracy. Each has three parts that share no example.

Every variant of a study is tried with the same number of learning rates on the same seeds, judged on the validation
part. Then its best rate is run on other seeds, and these use the test part once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import count_parameters
from minipeft.autograd import Tensor, no_grad
from minipeft.backend import to_numpy
from minipeft.data.batches import Batches, LanguageModelBatches
from minipeft.data.fetch import fetch
from minipeft.data.sentiment import load_sentiment, split_sentiment
from minipeft.data.text import characters, stretches
from minipeft.data.wordpiece import WordPiece
from minipeft.lab.framework import training
from minipeft.lab.framework.experiment import UNDECIDED, Config, Row, Verdict, chosen, decided, select, tuned
from minipeft.lab.framework.training import adapted, train
from minipeft.lab.framework.welch import welch
from minipeft.models import DecoderConfig, DecoderLM, EncoderClassifier
from minipeft.nn.attention import MultiHeadAttention
from minipeft.nn.module import Module
from minipeft.peft import PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from minipeft.peft.config import METHODS
from minipeft.peft.prefix import FlatPrefix, PrefixedCore

PROSE, SENTIMENT = "prose", "sentiment"
MARGIN = {PROSE: 0.02, SENTIMENT: 0.01}  # nats per character, accuracy: what counts as "nearly"
UNITS = {PROSE: "nats/char", SENTIMENT: "% correct"}
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"d_model": 64, "n_layers": 2, "n_heads": 4, "context": 96},
    "small": {"d_model": 96, "n_layers": 4, "n_heads": 4, "context": 96},
}
WINDOW = 64  # characters of a window of prose
LONGEST = 20  # tokens of a sentence
WORDS = "this review is positive or negative : good or bad, great or terrible"
RANDOM, FROM_WORDS = "random", "words"


@dataclass(frozen=True)
class Variant:
    """One thing to compare: a method (None trains everything), where its prompt or prefix starts, and its rates."""

    name: str
    method: PeftConfig | None
    rates: tuple[float, ...]
    start: str | None = None


@dataclass(frozen=True)
class Plan:
    """How the variants of a task are run. size: of the prose model. n: numbers of training examples, None for all."""

    task: str
    variants: tuple[Variant, ...]
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = (101,)
    size: str = "small"
    n: tuple[int | None, ...] = (None,)
    judged: Mapping[str, int] = field(default_factory=lambda: {"val": 128, "test": 256})  # windows or sentences


def as_json(method: PeftConfig | None) -> dict[str, Any] | None:
    """Return a method as plain values: its type, and every option that differs from the default."""
    if method is None:
        return None
    plain = asdict(type(method)())
    return {"peft_type": method.peft_type, **{k: v for k, v in asdict(method).items() if v != plain[k]}}


def from_json(options: Mapping[str, Any] | None) -> PeftConfig | None:
    """Return the method that `as_json` wrote."""
    if options is None:
        return None
    return METHODS[options["peft_type"]](**{k: v for k, v in options.items() if k != "peft_type"})


def runs(plans: Sequence[Plan], rows: Sequence[Row]) -> list[Config]:
    """Return every rate of every variant on validation; once these have finished, the best rate on the test seeds."""
    wanted = []
    for plan in plans:
        for n in plan.n:
            for variant in plan.variants:
                tuning = [
                    _config(plan, variant, n, rate, s, "val") for rate in variant.rates for s in plan.tuning_seeds
                ]
                wanted += tuning
                rate = tuned(tuning, rows, "rate", higher_is_better=plan.task == SENTIMENT)
                if rate is not None:
                    wanted += [_config(plan, variant, n, rate, s, "test") for s in plan.seeds]
    return wanted


def _config(plan: Plan, variant: Variant, n: int | None, rate: float, seed: int, split: str) -> Config:
    return {
        "task": plan.task, "arm": variant.name, "method": as_json(variant.method), "start": variant.start,
        "size": plan.size, "n": n, "steps": plan.steps, "batch_size": plan.batch_size, "rate": rate, "seed": seed,
        "split": split, "judged": plan.judged[split],
    }  # fmt: skip


@dataclass
class Sample:
    """One seed's share: a fresh pretrained model, training batches, how to judge it, and ids of words to start from."""

    model: Any
    batches: Any
    judge: Callable[[Any], dict[str, float]]
    words: list[int]


def run(config: Config, folder: Path) -> Row:
    """Train once and judge once: value (None where the training diverged), and what was trained.

    value: nats per character, or the share of right answers, with the loss in nats beside it.
    """
    sampled = sample(config, folder)
    method = from_json(config["method"])
    model = adapt(sampled.model, method, config["seed"], sampled.words if config["start"] == FROM_WORDS else None)
    counts = count_parameters(model)
    counted = {"trained": counts.trainable, "parameters": counts.total}
    done = train(model, sampled.batches, config["rate"], config["steps"], seed=config["seed"], max_norm=1.0)
    return {**counted, **(sampled.judge(model.eval()) if done else {"value": None, "loss": None})}


def adapt(model: Any, method: PeftConfig | None, seed: int, words: list[int] | None = None) -> Any:
    """Return the model with the method applied, or with every parameter trainable for None.

    words: token ids from which a prompt or a prefix starts: as embeddings, or as the keys and values that the model
    itself has for them at the first positions of a text.
    """
    if method is None or words is None:
        return adapted(model, method, seed)
    if isinstance(method, PromptTuningConfig):
        method.prompt_tuning_init, method.prompt_tuning_init_ids = "TEXT", words
        return get_peft_model(model, method, rng=seed)
    if not isinstance(method, PrefixTuningConfig) or method.prefix_projection:
        raise ValueError(f"only a prompt or a flat prefix starts from words, got {method}")
    seen = keys_and_values(model, np.resize(np.asarray(words), method.num_virtual_tokens))
    peft = get_peft_model(model, method, rng=seed)
    cores = [m for _, m in peft.base_model.named_modules() if isinstance(m, PrefixedCore)]
    for core, (k, v) in zip(cores, seen, strict=True):
        assert isinstance(core.prefix, FlatPrefix)
        core.prefix.values.data[...] = np.stack([k[0].swapaxes(0, 1), v[0].swapaxes(0, 1)])  # (2, P, Hk, D)
    return peft


class _Recorder(Module):
    """Stands before an attention's core and remembers the keys and values that it was given."""

    def __init__(self, base: Module, seen: list[tuple[np.ndarray, np.ndarray]]):
        self.base = base
        self.seen = seen

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
        self.seen.append((to_numpy(k.data), to_numpy(v.data)))
        z: Tensor = self.base(q, k, v, mask)
        return z


def keys_and_values(model: Any, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return k and v (1, Hk, P, D) that every attention of a model computes for the tokens ids (P,)."""
    attentions = [m for _, m in model.named_modules() if isinstance(m, MultiHeadAttention)]
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    cores = [a.core for a in attentions]
    try:
        for a in attentions:
            a.core = _Recorder(a.core, seen)
        with no_grad():
            model(ids[None])
    finally:
        for a, core in zip(attentions, cores, strict=True):
            a.core = core
    return seen


def sample(config: Config, folder: Path) -> Sample:
    """Return the sample of the task that the config names."""
    return (_sample_prose if config["task"] == PROSE else _sample_sentiment)(config, folder)


def runs_of(plans: Mapping[str, Sequence[Plan]]) -> Callable[[str, Sequence[Row]], list[Config]]:
    """Return the ``runs`` of an experiment with these plans by mode: rates on validation, then the seeds."""
    return lambda mode, rows: runs(plans[mode], rows)


def preparation(plans: Mapping[str, Sequence[Plan]]) -> Callable[[str, Path], None]:
    """Return the ``prepare`` of an experiment with these plans: 1,200 steps of pretraining in full, 200 in quick."""
    return lambda mode, folder: prepare(plans[mode], folder, steps=1200 if mode == "full" else 200)


def prepare(plans: Sequence[Plan], folder: Path, steps: int) -> None:
    """Pretrain the prose models that the plans use; get what the sentiment task needs, unless it is in the cache."""
    for size in dict.fromkeys(p.size for p in plans if p.task == PROSE):
        pretrain(size, folder / size, steps)
    if any(p.task == SENTIMENT for p in plans):
        fetch("minilm")
        fetch("sentiment")


def pretrain(size: str, folder: Path, steps: int) -> None:
    """Train a model of characters on Python's documentation and save it."""
    tokenizer, documentation, _ = characters()
    model = DecoderLM(DecoderConfig.gpt2(vocab_size=tokenizer.vocab_size, **SIZES[size]), rng=0)
    batches = LanguageModelBatches(documentation, batch_size=16, length=WINDOW, seed=0)
    training.pretrain(model, batches, steps, folder)


def _sample_prose(config: Config, folder: Path) -> Sample:
    """Return random windows of the source code to train on, and the held-out windows of the part."""
    _, _, code = characters()
    parts = stretches(code)
    train = parts["train"]
    rng = np.random.default_rng((config["seed"], 5))
    n = int(config["n"] or train.size // WINDOW)
    rows = rng.integers(0, len(train), n)
    at = rng.integers(0, train.shape[1] - WINDOW, n)
    windows: np.ndarray = train[rows[:, None], at[:, None] + np.arange(WINDOW + 1)]  # (n, T + 1)
    batches = Batches({"ids": windows[:, :-1], "labels": windows[:, 1:]}, min(n, config["batch_size"]), config["seed"])
    held_out = parts[config["split"]].reshape(-1, WINDOW)
    spread = np.arange(config["judged"]) * len(held_out) // config["judged"]
    held_out = held_out[spread]  # evenly over the part

    def judge(model: Any) -> dict[str, float]:
        total = 0.0
        for part in np.array_split(held_out, -(-len(held_out) // 64)):
            with no_grad():
                total += model.loss(ids=part[:, :-1], labels=part[:, 1:]).item() * len(part)
        return {"value": total / len(held_out), "loss": total / len(held_out)}

    return Sample(DecoderLM.from_pretrained(folder / config["size"]), batches, judge, windows[0, :32].tolist())


@lru_cache(maxsize=1)
def sentences() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return ids and mask (n, T) and labels (n,) of the sentences of at most `LONGEST` tokens, by part."""
    texts, labels = split_sentiment(load_sentiment(), seed=2024)
    tokenizer = WordPiece.from_file(fetch("minilm") / "vocab.txt")
    parts = {}
    for name in texts:
        ids, mask = tokenizer.batch(texts[name])
        short = np.flatnonzero(mask.sum(axis=1) <= LONGEST)
        short = short[np.random.default_rng(7).permutation(len(short))]  # any first k of them are of all sources
        parts[name] = (ids[short, :LONGEST], mask[short, :LONGEST], labels[name][short])
    return parts


def _sample_sentiment(config: Config, folder: Path) -> Sample:
    """Return the first ``judged`` sentences of the part, and n others to train on, chosen by the seed."""
    home = fetch("minilm")
    ids, mask, labels = sentences()["train"]
    rng = np.random.default_rng((config["seed"], 5))
    rows = rng.permutation(len(ids))[: config["n"]]
    train = {"ids": ids[rows], "mask": mask[rows], "labels": labels[rows]}
    batches = Batches(train, min(len(rows), config["batch_size"]), config["seed"], trim="mask")
    model = EncoderClassifier.from_pretrained(
        home, n_classes=2, pool="mean", rng=np.random.default_rng((config["seed"], 6))
    )
    held_ids, held_mask, held_labels = (x[: config["judged"]] for x in sentences()[config["split"]])

    def judge(m: Any) -> dict[str, float]:
        lengths = held_mask.sum(axis=1)
        right, loss = 0, 0.0
        order = np.argsort(lengths, kind="stable")  # sentences of one length together
        for part in np.array_split(order, max(1, len(order) // 50)):
            width = lengths[part].max()
            with no_grad():
                s = to_numpy(m(held_ids[part, :width], mask=held_mask[part, :width]).data).astype(np.float64)
            s -= s.max(axis=1, keepdims=True)
            log_p = s - np.log(np.exp(s).sum(axis=1, keepdims=True))
            right += int((s.argmax(axis=1) == held_labels[part]).sum())
            loss -= float(log_p[np.arange(len(part)), held_labels[part]].sum())
        return {"value": right / len(order), "loss": loss / len(order)}

    words = WordPiece.from_file(home / "vocab.txt").batch([WORDS])[0][0, 1:-1].tolist()
    return Sample(model, batches, judge, words)


def values(rows: Sequence[Row], **wanted: Any) -> list[float]:
    """Return the test values of one variant in seed order, without those that diverged."""
    found = sorted(select(rows, split="test", **wanted), key=lambda r: r["seed"])
    return [r["value"] for r in found if r["value"] is not None]


def gain(task: str, a: Sequence[float], b: Sequence[float]) -> float:
    """Return by how much a's mean is better than b's: fewer nats, or more right answers."""
    difference = float(np.mean(a) - np.mean(b))
    return -difference if task == PROSE else difference


def at_least(task: str, a: Sequence[float], b: Sequence[float], margin: float = 0.0) -> str:
    """Return whether a is at least as good as b, less the margin, by Welch's one-sided test at 5 %.

    The margin is in the unit of the values. With margin 0: is a better than b?
    """
    if min(len(a), len(b)) < 2:
        return UNDECIDED
    sign = -1.0 if task == PROSE else 1.0
    test = welch([sign * x + margin for x in a], [sign * x for x in b])
    return decided(test.difference, test.p, 0.1)


def shown(task: str, found: Sequence[float]) -> str:
    """Return mean ± standard deviation in the unit of the task."""
    if not found:
        return "diverged"
    scale, digits = (100.0, 1) if task == SENTIMENT else (1.0, 3)
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    return f"{scale * float(np.mean(found)):.{digits}f} ± {scale * spread:.{digits}f}"


def at_edge(rows: Sequence[Row], **wanted: Any) -> str:
    """Return the chosen rate, with a star if it is at the edge of those that were tried."""
    tried = sorted({r["rate"] for r in select(rows, split="val", **wanted)})
    rate = next((r["rate"] for r in select(rows, split="test", **wanted)), None)
    if rate is None:
        return ""
    return f"{rate:g}{'*' if len(tried) > 1 and rate in (tried[0], tried[-1]) else ''}"


def axis(task: str) -> str:
    """Return the label of a figure's axis: unit and direction."""
    return f"test, {UNITS[task]} ({'lower' if task == PROSE else 'higher'} is better)"


def in_words(task: str, difference: float) -> str:
    """Return a difference with its unit: points of accuracy, or nats per character."""
    return f"{100 * difference:+.1f} points" if task == SENTIMENT else f"{difference:+.4f} nats/char"


def claim(task: str, text: str, a: Sequence[float], b: Sequence[float], because: str, margin: float = 0.0) -> Verdict:
    """Return the verdict on a claim: is a at least as good as b, less the margin? {} in ``because`` is a's gain."""
    return Verdict(f"{task}: {text}", at_least(task, a, b, margin), because.format(in_words(task, gain(task, a, b))))


def nearly(task: str) -> str:
    """Return `MARGIN` in words."""
    return "1 point" if task == SENTIMENT else f"{MARGIN[task]} nats/char"


def scaled(rows: Sequence[Row], task: str, variant: str, **wanted: Any) -> list[float]:
    """Return the values of a variant in the unit of a figure's axis: percent, or nats per character."""
    return [(100.0 if task == SENTIMENT else 1.0) * v for v in values(rows, task=task, arm=variant, **wanted)]


def best_on_validation(rows: Sequence[Row], task: str, variants: Sequence[str]) -> str | None:
    """Return the variant with the best validation value at its own best rate; None if none has finished."""
    means = []
    for variant in variants:
        done = select(rows, task=task, arm=variant, split="val")
        if done and any(r["value"] is not None for r in done):
            rate = chosen(done, "rate", higher_is_better=task == SENTIMENT)
            means += [{"arm": variant, "value": r["value"]} for r in select(done, rate=rate)]
    return None if not means else str(chosen(means, "arm", higher_is_better=task == SENTIMENT))


def tasks_of(rows: Sequence[Row]) -> list[str]:
    """Return the tasks in the rows, in their order."""
    return list(dict.fromkeys(r["task"] for r in rows if "task" in r))


DATA = (
    "prose: a character model of our own, pretrained on Python's documentation and adapted to its source code (both "
    "come with Python); sentiment: MiniLM on sentences about films, goods and restaurants of at most 20 tokens "
    "(Kotzias et al. 2015)."
)


def note(rows: Sequence[Row], task: str) -> str:
    """Return what was used: model, examples, steps, and how the rate was chosen."""
    r = next(r for r in rows if r.get("task") == task and r.get("split") == "test")
    judged = f"{r['judged']:,} {'windows of 64 characters' if task == PROSE else 'sentences'}"
    model = f"our {r['size']} model" if task == PROSE else "MiniLM"
    rates = {len({x["rate"] for x in select(rows, task=task, arm=r["arm"], n=r["n"], split="val")})}
    return (
        f"Mean ± standard deviation over seeds; {model}, {r['parameters']:,} parameters with this variant, "
        f"{r['steps']} steps of {r['batch_size']}, judged on {judged}. Rate: the best of {rates.pop()} on "
        "validation; * at the edge."
    )
