"""Methods on a Vision Transformer over a suite of tasks in three groups, as VTAB-1k has them (Zhai et al. 2019).

A ViT of our own, pretrained on images of some classes, meets tasks that it has not seen: natural (other classes, other
data), specialized (noisy, coarse or inverted images), structured (how many, where, which way up). Each method has the
same number of settings to choose from on a validation split, and each seed looks at the test split once. The score of
a group is the mean over its tasks, that of a method the mean over the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minipeft.accounting import count_parameters
from minipeft.data.batches import Batches
from minipeft.data.digits import load_digits
from minipeft.data.fetch import fetch
from minipeft.lab.experiments.vision.pictures import HELD_OUT, groups, source, splits, suite
from minipeft.lab.framework.experiment import (
    Config,
    Experiment,
    Published,
    Row,
    Table,
    Verdict,
    above,
    all_of,
    mean_and_spread,
    percent,
    select,
    tuned,
)
from minipeft.lab.framework.training import accuracy, adapted, pretrain, train
from minipeft.models import ViT, ViTConfig
from minipeft.peft import (
    AdapterConfig,
    FacTConfig,
    LNLoraConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    TopLayersConfig,
)

TUNING_SEED = 100
PEFT_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
METHODS = ("full", "probe", "LoRA", "LNLoRA", "FacT-TT", "FacT-TK", "adapters", "prefix")


def method(name: str, knob: float) -> PeftConfig | None:
    """Return the configuration of a method; knob: FacT's scale. Some 2,000 parameters each, FacT half of that."""
    configs: dict[str, PeftConfig | None] = {
        "full": None,
        "probe": TopLayersConfig(n_layers=0),
        "LoRA": LoraConfig(r=4, lora_alpha=8),
        "LNLoRA": LNLoraConfig(r=3, lora_alpha=6),
        "FacT-TT": FacTConfig(r=4, factorization="tt", scale=knob),
        "FacT-TK": FacTConfig(r=6, factorization="tk", scale=knob),
        "adapters": AdapterConfig(r=3),
        "prefix": PrefixTuningConfig(num_virtual_tokens=8, init_std=0.1),
    }
    return configs[name]


def settings(name: str, mode: str) -> list[tuple[float, float]]:
    """Return (learning rate, knob): four for each method, in quick runs two."""
    if name.startswith("FacT"):  # whose paper tunes the scale
        grid = [(rate, scale) for rate in (1e-2, 3e-2) for scale in (1.0, 10.0)]
        return grid if mode == "full" else grid[:2]
    rates = (3e-4, 1e-3, 3e-3, 1e-2) if name == "full" else PEFT_RATES
    return [(rate, 1.0) for rate in (rates if mode == "full" else rates[1:3])]


def budget(mode: str) -> dict[str, int]:
    """Return what every run may spend: images to train on, steps, images in a batch."""
    return {"n": 400, "steps": 100, "batch": 32} if mode == "full" else {"n": 100, "steps": 40, "batch": 25}


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Return every setting of each task and method on a tuning seed, then the best on every seed."""
    wanted: list[Config] = []
    for group, tasks in groups(mode).items():
        for task in tasks:
            for name in METHODS:
                one = {"size": mode, "group": group, "task": task, "method": name, **budget(mode)}
                tune = [
                    {**one, "split": "val", "setting": i, "rate": rate, "knob": knob, "seed": TUNING_SEED}
                    for i, (rate, knob) in enumerate(settings(name, mode))
                ]
                wanted += tune
                best = tuned(tune, rows, "setting")
                if best is not None:
                    for seed in range(3 if mode == "full" else 2):
                        wanted.append({**tune[best], "split": "test", "seed": seed})
    return wanted


def vit(mode: str) -> ViTConfig:
    """Return the model: 28 x 28 pixels in patches of 7, in quick runs 8 x 8 in patches of 2; both have 17 positions."""
    if mode == "full":
        return ViTConfig(28, 7, channels=1, n_classes=6, d_model=48, n_layers=3, n_heads=4, d_ff=192, eps=1e-6)
    return ViTConfig(8, 2, channels=1, n_classes=5, d_model=32, n_layers=2, n_heads=4, d_ff=128, eps=1e-6)


def prepare(mode: str, folder: Path) -> None:
    """Pretrain the ViT: on the clothes that are not held out, in quick runs on the digits 0 to 4."""
    if mode == "full":
        images, labels = source("clothes")
        keep = ~np.isin(labels, HELD_OUT)
        images, labels = images[keep], np.searchsorted(np.unique(labels[keep]), labels[keep])
        steps = 2000
        for name in ("mnist", "fashion"):
            fetch(name)
    else:
        images, labels = load_digits()
        keep = labels < 5
        images, labels = images[keep], labels[keep]
        steps = 150
    model = ViT(vit(mode), rng=0)
    pretrain(model, Batches({"images": images, "labels": labels}, 64, seed=0), steps, folder, rate=2e-3, warmup=50)


def run(config: Config, folder: Path) -> Row:
    """Train a method on a task and judge it once; value: the accuracy, None where it diverged."""
    images, labels = suite(config["task"], config["size"])
    parts = splits(labels, config["n"], config["seed"])
    seed = config["seed"]
    classes = int(labels.max()) + 1
    base = ViT.from_pretrained(folder, n_classes=classes, rng=np.random.default_rng((seed, 6)))
    model = adapted(base, method(config["method"], config["knob"]), seed)
    counts = count_parameters(model)
    head = base.config.d_model * classes + classes
    examples = {"images": images[parts["train"]], "labels": labels[parts["train"]]}
    result = {"trained": counts.trainable, "without head": counts.trainable - head}
    where = parts[config["split"]]
    done = train(model, Batches(examples, config["batch"], seed=seed), config["rate"], config["steps"], seed=seed)
    return {**result, "value": accuracy(model.eval(), images[where], labels[where]) if done else None}


def by_group(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Return method -> group or "mean" -> scores by seed: means over a group's tasks, and over the groups."""
    scores: dict[str, dict[str, list[float]]] = {}
    tests = select(rows, split="test")
    seeds = sorted({r["seed"] for r in tests})
    for name in dict.fromkeys(r["method"] for r in tests):
        mine = select(tests, method=name)
        scores[name] = {}
        for group in dict.fromkeys(r["group"] for r in mine):
            scores[name][group] = [
                mean_and_spread([r["value"] or 0.0 for r in select(mine, group=group, seed=s)])[0] for s in seeds
            ]
        scores[name]["mean"] = [float(np.mean(column)) for column in zip(*scores[name].values(), strict=True)]
    return scores


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the accuracies by group and by task, and the chosen rates."""
    scores = by_group(rows)
    tests = select(rows, split="test")
    kinds = list(next(iter(scores.values())))
    trained = {m: f"{select(tests, method=m)[0]['without head']:,}" for m in scores}
    tasks = list(dict.fromkeys(r["task"] for r in tests))
    rates = {(r["method"], r["task"]): r for r in tests}
    seeds = len(next(iter(scores.values()))["mean"])
    return [
        Table(
            "Test accuracy in % by group",
            ("method", "trained", *kinds),
            [(m, trained[m], *(percent(s[k]) for k in kinds)) for m, s in scores.items()],
            f"Mean ± standard deviation over {seeds} seeds. trained: parameters without the head, as FacT counts them.",
        ),
        Table(
            "Test accuracy in % by task",
            ("method", *tasks),
            [
                (m, *(percent([r["value"] or 0.0 for r in select(tests, method=m, task=t)]) for t in tasks))
                for m in scores
            ],
        ),
        Table(
            "Learning rates that the validation split chose (FacT: rate and scale)",
            ("method", *tasks),
            [(m, *(_setting(rates[m, t]) for t in tasks)) for m in scores],
        ),
    ]


def _setting(row: Row) -> str:
    return f"{row['rate']:g}, {row['knob']:g}" if row["method"].startswith("FacT") else f"{row['rate']:g}"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Compare the methods with full fine-tuning and the probe, and FacT and LNLoRA with LoRA."""
    scores = {m: s["mean"] for m, s in by_group(rows).items()}
    trained = {r["method"]: r["without head"] for r in rows}
    others = [m for m in scores if m not in ("full", "probe")]
    best = max(others, key=lambda m: mean_and_spread(scores[m])[0])
    worst = min(others, key=lambda m: mean_and_spread(scores[m])[0])
    said = {m: f"{m} {percent(s)}" for m, s in scores.items()}
    facts = [above(scores[m], scores["LoRA"], 0.005) for m in ("FacT-TT", "FacT-TK")]
    return [
        Verdict(
            "Training few parameters can be better than training all, on the average of the suite",
            above(scores[best], scores["full"]),
            f"{said[best]}, {said['full']}",
        ),
        Verdict(
            "Every one of the methods beats the linear probe",
            above(scores[worst], scores["probe"]),
            f"the lowest: {said[worst]}; {said['probe']}",
        ),
        Verdict(
            "FacT is as good as LoRA (to half a point) with less than half of its parameters",
            all_of(facts),
            "; ".join(f"{said[m]} with {trained[m]:,}" for m in ("FacT-TT", "FacT-TK", "LoRA")),
        ),
        Verdict(
            "A normalization of its own (LNLoRA) helps LoRA, at equal parameters",
            above(scores["LNLoRA"], scores["LoRA"]),
            f"{said['LNLoRA']} with {trained['LNLoRA']:,}, {said['LoRA']} with {trained['LoRA']:,}",
        ),
    ]


def draw(rows: Sequence[Row], stem: Path) -> dict[Path, str]:
    """Draw the groups' averages by method, and the mean over the groups against the trained parameters."""
    from minipeft.lab.framework import plots

    scores = by_group(rows)
    trained = {r["method"]: r["without head"] for r in rows}
    kinds = list(next(iter(scores.values())))
    with plots.sheet(1, 2, (10.5, 3.6), width_ratios=(1.7, 1)) as (figure, ((bars, cloud),)):
        for i, kind in enumerate(kinds):
            means, spreads = zip(*(mean_and_spread([100 * v for v in s[kind]]) for s in scores.values()), strict=True)
            plots.grouped_bars(bars, i, len(kinds), means, spreads, kind, ("0.95", "0.8", "0.6", "0.25")[i % 4])
        bars.set_xticks(range(len(scores)), list(scores))
        bars.set_ylabel("test accuracy (%)")
        plots.legend_below(bars, len(kinds), y=1.12)
        for i, (m, s) in enumerate(scores.items()):
            mean, spread = mean_and_spread([100 * v for v in s["mean"]])
            cloud.errorbar(
                max(trained[m], 1), mean, yerr=spread, fmt=plots.MARKERS[i % len(plots.MARKERS)], capsize=3, ms=6,
                color=plots.SHADES[i % len(plots.SHADES)], label=m,
            )  # fmt: skip
        cloud.set_xscale("symlog", linthresh=100)
        cloud.set(xlabel="trained parameters without the head", ylabel="mean over the groups (%)")
        cloud.legend(fontsize=8, ncols=2)
        png, _ = plots.save(figure, stem)
    return {
        png: "Test accuracy by group of tasks, and the mean over the groups against the number of trained parameters; "
        "mean and standard deviation over seeds. Counterpart of the lecture's figure of the VTAB-1k averages."
    }


EXPERIMENT = Experiment(
    name="vision",
    title="Few parameters of a Vision Transformer, over a suite of tasks",
    claim="For various vision tasks, training few parameters is sometimes better than training all.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=prepare,
    data="full: a ViT of 88,000 parameters of our own, pretrained on six classes of Fashion-MNIST (36,000 images); "
    "nine tasks of 400 labelled images, from MNIST, scikit-learn's digits and the four other classes of clothes. "
    "quick: pretrained on the digits 0 to 4, five tasks from the digits 5 to 9.",
    needs=("mnist", "fashion"),
    published=(
        Published(
            "VTAB-1k, ViT-B/16, mean of three groups",
            "Jie & Deng 2023 (arXiv:2212.03145)",
            ("method", "trained parameters", "accuracy %"),
            (
                ("full", "85.8 M", 68.9),
                ("linear probe", "0", 57.6),
                ("BitFit", "", 65.2),
                ("VPT-deep", "0.53 M", 72.0),
                ("LoRA", "0.29 M", 74.5),
                ("NOAH", "0.36 M", 75.5),
                ("FacT-TT", "0.037 M", 75.3),
                ("FacT-TK", "0.069 M", 75.6),
            ),
            read=False,
        ),
    ),
)
