"""Which weights should LoRA change? (the lecture's table; Hu et al. 2021, Table 5)

W_q, W_k, W_v and W_o of every layer, alone and together, with the same number of trained parameters: r = 8 for one of
them, 4 for two, 2 for all four. α = r throughout, so that s = α / r = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minipeft.lab.framework import study
from minipeft.lab.framework.experiment import UNDECIDED, Experiment, Published, Row, Table, Verdict, select
from minipeft.lab.framework.study import PROSE, SENTIMENT, Plan, Variant
from minipeft.peft import LoraConfig

WEIGHTS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
SETS = ("q", "k", "v", "o", "qk", "qv", "qkvo")
PRODUCT = 8  # rank times matrices


def name_of(weights: str) -> str:
    """Return "q, v" for "qv"."""
    return ", ".join(weights)


def lora(weights: str, r: int) -> LoraConfig:
    """Return LoRA of rank r, with s = 1, on these weights of every attention."""
    return LoraConfig(r=r, lora_alpha=r, target_modules=[WEIGHTS[w] for w in weights])


def variants(rates: tuple[float, ...]) -> tuple[Variant, ...]:
    """Return every set at the same number of parameters."""
    return tuple(Variant(name_of(w), lora(w, PRODUCT // len(w)), rates) for w in SETS)


PLANS = {
    "quick": (Plan(PROSE, variants((1e-2, 3e-2, 1e-1)), 40, 8, (0, 1, 2), size="tiny"),),
    "full": (
        Plan(PROSE, variants((1e-2, 3e-2, 1e-1)), 80, 8, (0, 1, 2)),
        Plan(SENTIMENT, variants((2e-3, 1e-2)), 25, 16, (0, 1, 2), judged={"val": 100, "test": 300}),
    ),
}


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return a table for each task, with a row for each set of weights."""
    found = []
    for task in study.tasks_of(rows):
        body = []
        for w in SETS:
            mine = select(rows, task=task, arm=name_of(w))
            values = study.values(mine)
            trained = f"{mine[0]['trained']:,}"
            body.append(
                (name_of(w), PRODUCT // len(w), trained, study.shown(task, values), len(values), study.at_edge(mine))
            )
        header = ("weights", "r", "trained", f"test, {study.UNITS[task]}", "seeds", "rate")
        found.append(Table(f"LoRA on different weights: {task}", header, body, study.note(rows, task)))
    return found


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say whether q with v is the best of all sets, and whether v and o matter more than q and k."""
    found = []
    for task in study.tasks_of(rows):
        by_set = {w: study.values(rows, task=task, arm=name_of(w)) for w in SETS}
        if min(map(len, by_set.values())) < 2:
            found.append(Verdict(f"{task}: which weights", UNDECIDED, "too few finished runs"))
            continue
        best = max((w for w in SETS if w != "qv"), key=lambda w: study.gain(task, by_set[w], by_set["qv"]))
        text = "W_q with W_v is the best place for a given number of parameters"
        why = f"against the best other set ({name_of(best)}) it gains {{}}"
        found.append(study.claim(task, text, by_set["qv"], by_set[best], why))
        low, high = by_set["q"] + by_set["k"], by_set["v"] + by_set["o"]
        text = "alone, W_v and W_o are better places than W_q and W_k"
        found.append(study.claim(task, text, high, low, "their mean gains {}"))
        single = max("qkvo", key=lambda w: study.gain(task, by_set[w], by_set["q"]))
        text = "many matrices of a small rank are better than one of a large rank"
        why = f"all four at r = 2 against the best single one (W_{single}, r = 8) gain {{}}"
        found.append(study.claim(task, text, by_set["qkvo"], by_set[single], why))
    return found


def draw(rows: Sequence[Row], stem: Path) -> Mapping[Path, str]:
    """Draw bars by set of weights, one panel for each task."""
    from minipeft.lab.framework import plots

    panels = []
    for task in study.tasks_of(rows):
        bars = {name_of(w): study.scaled(rows, task, name_of(w)) for w in SETS}
        panels.append((f"{task}: the same number of trained parameters", study.axis(task), bars))
    path = plots.bars(panels, stem)
    seeds = sorted({int(np.max([len(b) for b in bars.values()])) for _, _, bars in panels})
    return {path: f"LoRA on different attention weights at equal parameters; mean ± standard deviation, {seeds} seeds."}


EXPERIMENT = Experiment(
    name="which_weights",
    title="Which weights should LoRA change?",
    claim="With the same number of trained parameters, changing W_q and W_v (or all four) is better than one alone.",
    runs=study.runs_of(PLANS),
    run=study.run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=study.preparation(PLANS),
    published=(
        Published(
            "Table 5, 18 M parameters of GPT-3, validation accuracy in %",
            "Hu et al. 2021 (arXiv:2106.09685v2), as in the lecture",
            ("weights", "r", "WikiSQL (±0.5)", "MultiNLI (±0.1)"),
            (
                ("q", 8, 70.4, 91.0), ("k", 8, 70.0, 90.8), ("v", 8, 73.0, 91.0), ("o", 8, 73.2, 91.3),
                ("q, k", 4, 71.4, 91.3), ("q, v", 4, 73.7, 91.3), ("q, k, v, o", 2, 73.7, 91.7),
            ),
        ),
    ),
    data=study.DATA,
    needs=("minilm", "sentiment"),
)  # fmt: skip
