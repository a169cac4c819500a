"""The runs: every study as a sweep of d, a network and a language model, each trained in d dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import no_grad
from minipeft.backend import to_numpy
from minipeft.data.batches import Batches, LanguageModelBatches
from minipeft.data.digits import load_digits
from minipeft.data.fetch import fetch
from minipeft.data.images import load_mnist
from minipeft.data.text import characters, stretches
from minipeft.lab.experiments.intrinsic_dimension.sparse_projection import store
from minipeft.lab.framework.experiment import Config, Row, chosen, select
from minipeft.lab.framework.training import accuracy, train
from minipeft.models import MLP, DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import IntrinsicConfig, get_peft_model
from minipeft.train import train_step

TUNING_SEED = 100
FULL_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
RATES = {  # of θ_d; the columns of P have length one
    "network": (0.05, 0.15, 0.5, 1.5),
    "language model": (0.015, 0.05, 0.15, 0.5, 1.5),
}

Study = dict[str, Any]  # name, the entries that all its configs share, ds, seeds, and like: whose rates it takes


def _mlp(name: str, sizes: tuple[int, ...], ds: tuple[int, ...], seeds: int, like: str = "", **more: Any) -> Study:
    first = sizes[0]
    data = {"data": "mnist", "n": 7000, "steps": 600, "batch": 128}
    if first == 64:
        data = {"data": "digits", "n": 1000, "steps": 200, "batch": 50}
    fixed = {"kind": "network", "sizes": list(sizes), "change": "none", "judged": "held out", **data, **more}
    return {"name": name, "fixed": fixed, "ds": ds, "seeds": seeds, "like": like}


def _lm(pretrained: int, said: bool, ds: tuple[int, ...], seeds: int, quick: bool) -> Study:
    name = f"language model, {pretrained} steps" + (", SAID" if said else "")
    small = {"steps": 60, "batch": 8, "length": 32} if quick else {"steps": 150, "batch": 12, "length": 48}
    fixed = {"kind": "language model", "pretrained": pretrained, "said": said, **small}
    return {"name": name, "fixed": fixed, "ds": ds, "seeds": seeds, "like": ""}


def studies(mode: str) -> list[Study]:
    """Return every sweep of a mode; the first is the lecture's network."""
    if mode == "quick":
        ds: tuple[int, ...] = (20, 40, 80, 160, 320)
        few: tuple[int, ...] = (40, 160, 320)
        few_labels: dict[str, Any] = {"n": 100, "steps": 120, "judged": "fitted"}
        return [
            _mlp("network", (64, 50, 50, 10), ds, 3),
            _mlp("wider", (64, 100, 100, 10), few, 2, "network"),
            _mlp("deeper", (64, 50, 50, 50, 50, 10), few, 2, "network"),
            _mlp("pixels shuffled", (64, 50, 50, 10), few, 2, "network", change="pixels"),
            _mlp("100 labels", (64, 50, 50, 10), (20, 80, 320), 2, **few_labels),
            _mlp("100 labels shuffled", (64, 50, 50, 10), (80, 320, 640), 2, change="labels", **few_labels),
            *(_lm(steps, False, (60, 200, 600), 2, True) for steps in (0, 60)),
            _lm(60, True, (60, 200, 600), 2, True),
        ]
    ds, few = (100, 200, 300, 450, 600, 750, 1000), (300, 600, 750, 1000)
    few_labels = {"n": 500, "steps": 400, "batch": 100, "judged": "fitted"}
    lm = (100, 300, 1000, 3000)
    return [
        _mlp("network", (784, 200, 200, 10), ds, 5),
        _mlp("narrower", (784, 100, 100, 10), few, 3, "network"),
        _mlp("wider", (784, 400, 400, 10), few, 3, "network"),
        _mlp("deeper", (784, 200, 200, 200, 200, 10), few, 3, "network"),
        _mlp("pixels shuffled", (784, 200, 200, 10), few, 3, "network", change="pixels"),
        _mlp("500 labels", (784, 200, 200, 10), (50, 100, 200, 400), 3, **few_labels),
        _mlp("500 labels shuffled", (784, 200, 200, 10), (200, 400, 800, 1600), 3, change="labels", **few_labels),
        *(_lm(steps, False, lm, 3, False) for steps in PRETRAINED["full"]),
        *(_lm(steps, True, lm, 3, False) for steps in PRETRAINED["full"][-1:]),
    ]


PRETRAINED = {"quick": (0, 60), "full": (0, 100, 300, 1000)}


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Return for each study and d (0: all parameters) each rate on a tuning seed, then the best on every seed.

    A study that is like another takes the rates which that one chose, d by d.
    """
    wanted: list[Config] = []
    for s in studies(mode):
        for d in (0, *s["ds"]):
            one = {"study": s["name"], **s["fixed"], "d": d}
            rates = FULL_RATES if d == 0 else RATES[s["fixed"]["kind"]]
            if not s["like"]:
                wanted += [{**one, "stage": "tune", "rate": rate, "seed": TUNING_SEED} for rate in rates]
            done = select(rows, study=s["like"] or s["name"], d=d, stage="tune")
            if len(done) == len(rates):
                rate = chosen(done, "rate")
                wanted += [{**one, "stage": "final", "rate": rate, "seed": seed} for seed in range(s["seeds"])]
    return wanted


def run(config: Config, folder: Path) -> Row:
    """Train once in d dimensions (0: in all), and the accuracy: of tuning runs on the validation split.

    value: None where training diverged; D: all parameters.
    """
    return (network_run if config["kind"] == "network" else language_run)(config, folder)


@lru_cache(maxsize=1)
def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return flat images (n, pixels) and labels (n,) in one fixed order."""
    x, y = load_mnist(fetch("mnist")) if name == "mnist" else load_digits()
    order = np.random.default_rng(2024).permutation(len(y))
    return x.reshape(len(x), -1)[order], y[order]


def sample(config: Config) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the batch arrays to train on, and the images and labels for the accuracy.

    The first 7,000 (of the digits 1,000) are for training, the next 1,000 (300) for validation, the rest for the test.
    """
    x, y = images(config["data"])
    train, validation = (7000, 1000) if config["data"] == "mnist" else (1000, 300)
    rng = np.random.default_rng((config["seed"], 7))
    if config["change"] == "pixels":
        x = x[:, rng.permutation(x.shape[1])]
    n = config["n"]
    labels = rng.permutation(y[:n]) if config["change"] == "labels" else y[:n]
    if config["judged"] == "fitted":
        return {"x": x[:n], "labels": labels}, (x[:n], labels)
    part = slice(train, train + validation) if config["stage"] == "tune" else slice(train + validation, None)
    return {"x": x[:n], "labels": labels}, (x[part], y[part])


def network_run(config: Config, folder: Path) -> Row:
    """Train the network once and return its accuracy."""
    examples, (x, y) = sample(config)
    seed = config["seed"]
    model: Any = MLP(tuple(config["sizes"]), rng=np.random.default_rng((seed, 1)))
    total = sum(p.size for p in model.parameters())
    model = in_subspace(model, config)
    steps = config["steps"]
    done = train(model, Batches(examples, config["batch"], seed=seed), config["rate"], steps, warmup=steps // 20)
    return {"value": accuracy(model, x, y) if done else None, "D": total}


def in_subspace(model: Any, config: Config) -> Any:
    """Return the model with d trainable dimensions; the model itself for d = 0."""
    if config["d"] == 0:
        return model
    said = config.get("said", False)
    chosen_method = IntrinsicConfig(d=config["d"], projection="sparse", said=said, seed=config["seed"])
    return store(get_peft_model(model, chosen_method))


@lru_cache(maxsize=1)
def text() -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the vocabulary's size, the documentation, and the library's source to train, validate and test on."""
    tokenizer, prose, code = characters()
    parts = stretches(code)
    return tokenizer.vocab_size, prose, parts["train"].reshape(-1), parts["val"][:4], parts["test"][:8]


def language_model(mode: str) -> DecoderLM:
    """Return the small language model before any training."""
    sizes = {"d_model": 32, "n_layers": 1} if mode == "quick" else {"d_model": 48, "n_layers": 2}
    return DecoderLM(DecoderConfig.gpt2(vocab_size=text()[0], n_heads=4, context=64, **sizes), rng=0)


def prepare(mode: str, folder: Path) -> None:
    """Pretrain the language model on Python's documentation, saved at several numbers of steps; fetch the digits."""
    if mode == "full":
        fetch("mnist")
    model = language_model(mode)
    batches = LanguageModelBatches(text()[1], 16, 48, seed=0)
    optimizer = AdamW(model, lr=lambda step: 3e-3 * min(1.0, (step + 1) / 30))
    step, epoch = 0, 0
    for until in PRETRAINED[mode]:
        while step < until:
            for batch in batches.epoch(epoch):
                train_step(model, batch, optimizer)
                step += 1
                if step == until:
                    break
            else:
                epoch += 1
        model.save_pretrained(folder / f"language-model-{until}")


def language_run(config: Config, folder: Path) -> Row:
    """Train the language model on the library's source code and return its share of right next characters."""
    _, _, code, validation, test = text()
    model: Any = DecoderLM.from_pretrained(folder / f"language-model-{config['pretrained']}")
    total = sum(p.size for p in model.parameters())
    model = in_subspace(model, config)
    steps, length = config["steps"], config["length"]
    batches = LanguageModelBatches(code, config["batch"], length, seed=config["seed"])
    if not train(model, batches, config["rate"], steps, warmup=steps // 20, max_norm=1.0):
        return {"value": None, "D": total}
    ids = (validation if config["stage"] == "tune" else test).reshape(-1, 64)[:, :length]
    right = 0
    with no_grad():
        for part in np.array_split(ids, max(1, len(ids) // 64)):
            right += int((to_numpy(model(part).data).argmax(axis=-1)[:, :-1] == part[:, 1:]).sum())
    return {"value": right / (len(ids) * (length - 1)), "D": total}
