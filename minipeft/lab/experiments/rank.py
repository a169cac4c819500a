"""How large must LoRA's rank be? (the lecture's table; Hu et al. 2021, Table 6 and section 7.2)

r = 1, 2, 4, 8, 64 on W_q, on W_q and W_v, and on all four. α = r, so that s = 1 at every rank.

Why a small one may do: of two trainings with different ranks the first singular directions of A agree, the others
hardly. With U_A^i the first i right singular vectors of A as rows, (i, k),

    φ(A, A', i, j) = ‖U_A^i (U_A'^j)ᵀ‖² / min(i, j)      in 0 … 1;  two random subspaces: max(i, j) / k
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minipeft.backend import to_numpy
from minipeft.lab.experiments.which_weights import lora, name_of
from minipeft.lab.framework import study
from minipeft.lab.framework.experiment import (
    Config,
    Experiment,
    Published,
    Row,
    Table,
    Verdict,
    above,
    mean_and_spread,
    select,
)
from minipeft.lab.framework.study import PROSE, SENTIMENT, Plan, Variant
from minipeft.lab.framework.training import train
from minipeft.peft.lora import LoraLayer
from minipeft.train import TrainingError

RANKS = (1, 2, 4, 8, 64)
SETS = ("q", "qv", "qkvo")
LARGE = 64
DIRECTIONS = (1, 2, 4, 8)
PROJECTIONS = "q_proj", "v_proj"
KEPT = 0.95  # of the gain of the largest rank: what "suffices" means
POINTS = 0.01  # and of accuracy, where the untrained head's gain says nothing


def variant_name(weights: str, r: int) -> str:
    """Return the name of a variant."""
    return f"{name_of(weights)} r={r}"


def variants(rates: tuple[float, ...], sets: Sequence[str] = SETS, ranks: Sequence[int] = RANKS) -> tuple[Variant, ...]:
    """Return every rank on every set."""
    return tuple(Variant(variant_name(w, r), lora(w, r), rates) for w in sets for r in ranks)


PLANS = {
    "quick": (Plan(PROSE, variants((1e-2, 3e-2)), 40, 8, (0, 1), size="tiny"),),
    "full": (
        Plan(PROSE, variants((1e-2, 3e-2)), 80, 8, (0, 1, 2)),
        Plan(SENTIMENT, variants((2e-3, 1e-2), ("qv",), (1, 64)), 25, 16, (0, 1, 2), judged={"val": 100, "test": 300}),
    ),
}


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Return rates on validation, then the seeds; the untouched prose model; once rates are chosen, the subspaces."""
    plan = PLANS[mode][0]
    wanted = study.runs(PLANS[mode], rows)
    wanted.append({"kind": "base", "task": PROSE, "size": plan.size, "judged": plan.judged["test"]})
    for seed in plan.seeds:
        pair = [select(rows, task=PROSE, arm=variant_name("qv", r), split="test", seed=seed) for r in (8, LARGE)]
        if all(pair):
            rates = {"rate_8": pair[0][0]["rate"], "rate_64": pair[1][0]["rate"]}
            wanted.append(
                {
                    "kind": "subspaces", "task": PROSE, "size": plan.size, "steps": plan.steps, "seed": seed, **rates,
                    "batch_size": plan.batch_size,
                }
            )  # fmt: skip
    return wanted


def run(config: Config, folder: Path) -> Row:
    """Return one run of the grid, the value of the base, or how far two subspaces agree."""
    kind = config.get("kind")
    if kind is None:
        return study.run(config, folder)
    whole = {"n": None, "seed": 0, "split": "test", "judged": 1, "batch_size": 1, **config}
    if kind == "base":
        sampled = study.sample(whole, folder)
        return sampled.judge(sampled.model.eval())
    A = {r: _trained(whole, folder, r, config[f"rate_{r}"], config["seed"] + 1000 * (r == LARGE)) for r in (8, LARGE)}
    result = {}
    for w in PROJECTIONS:
        pairs = [(A[8][path], A[LARGE][path]) for path in A[8] if path.endswith(w)]
        for i in DIRECTIONS:
            result[f"{w}_{i}"] = float(np.mean([similarity(a, b, i, i) for a, b in pairs]))
    return {**result, "k": int(pairs[0][0].shape[1])}


def _trained(config: Config, folder: Path, r: int, rate: float, seed: int) -> dict[str, np.ndarray]:
    """Return the factors A (r, k) of a training on W_q and W_v, by path; ``seed`` gives A and the batches."""
    sampled = study.sample({**config, "seed": seed}, folder)
    model = study.adapt(sampled.model, lora("qv", r), seed)
    if not train(model, sampled.batches, rate, config["steps"], max_norm=1.0):
        raise TrainingError(f"training diverged at rank {r} with seed {seed}, rate {rate:g}")
    return {path: to_numpy(m.lora_A.data) for path, m in model.named_modules() if isinstance(m, LoraLayer)}


def similarity(a: np.ndarray, b: np.ndarray, i: int, j: int) -> float:
    """Return φ of the first i right singular directions of a (r, k) and the first j of b (r', k)."""
    u, v = (np.linalg.svd(x.astype(np.float64), full_matrices=False)[2] for x in (a, b))
    return float(np.square(u[:i] @ v[:j].T).sum() / min(i, j))


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return a table of ranks by set of weights for each task, and how far the subspaces agree."""
    found = []
    for task in study.tasks_of(rows):
        sets = [w for w in SETS if study.values(rows, task=task, arm=variant_name(w, 1))]
        body = [(name_of(w), *(_cell(rows, task, variant_name(w, r)) for r in RANKS)) for w in sets]
        base = select(rows, kind="base", task=task)
        note = f"Without training: {base[0]['value']:.3f}. " if base else ""
        header = ("weights", *(f"r = {r}" for r in RANKS))
        title = f"LoRA's rank: {task}, test, {study.UNITS[task]}"
        found.append(Table(title, header, body, note + study.note(rows, task)))
    pairs = select(rows, kind="subspaces")
    if pairs:
        agreement = {w: [mean_and_spread([p[f"{w}_{i}"] for p in pairs])[0] for i in DIRECTIONS] for w in PROJECTIONS}
        chance = [i / pairs[0]["k"] for i in DIRECTIONS]
        found.append(
            Table(
                "Agreement φ of the first i directions of A at r = 8 and at r = 64, different seeds",
                ("i", "W_q", "W_v", "two random subspaces"),
                list(zip(DIRECTIONS, *agreement.values(), chance, strict=True)),
                f"Mean over layers and {len(pairs)} seeds, prose.",
            )
        )
    return found


def _cell(rows: Sequence[Row], task: str, variant: str) -> str:
    return study.shown(task, study.values(rows, task=task, arm=variant)) if select(rows, task=task, arm=variant) else ""


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say whether r = 1 is enough on each set, and whether the first directions agree more than the others."""
    found = []
    for task in study.tasks_of(rows):
        for w in SETS:
            one, large = (study.values(rows, task=task, arm=variant_name(w, r)) for r in (1, LARGE))
            if not one or not large:
                continue
            base = select(rows, kind="base", task=task)
            whole = study.gain(task, large, [base[0]["value"]]) if base else None
            lost = study.gain(task, one, large)
            margin = POINTS if whole is None else (1 - KEPT) * max(whole, 0.0)
            told = "1 point of accuracy" if whole is None else f"{100 * (1 - KEPT):.0f} % of what r = {LARGE} gains"
            because = f"r = 1 against r = {LARGE}: {study.in_words(task, lost)}"
            if whole is not None:
                because += f"; r = {LARGE} gains {study.in_words(task, whole)} over the base, of which r = 1 keeps "
                because += f"{100 * (1 + lost / whole):.0f} %"
            claim = f"{task}: on W_{name_of(w)} a rank of 1 suffices (within {told})"
            found.append(Verdict(claim, study.at_least(task, one, large, margin), because))
    pairs = select(rows, kind="subspaces")
    if pairs:
        first, chance = [p[f"{w}_1"] for p in pairs for w in PROJECTIONS], 1 / pairs[0]["k"]
        later = [p[f"{w}_8"] for p in pairs for w in PROJECTIONS]
        excess = [f - g for f, g in zip(first, later, strict=True)]
        found.append(
            Verdict(
                f"{PROSE}: the first direction of A agrees between r = 8 and r = 64 more than all eight do",
                above(excess, 0.0),
                f"φ = {np.mean(first):.2f} for the first (chance {chance:.2f}), {np.mean(later):.2f} for the first 8 "
                f"(chance {8 * chance:.2f})",
            )
        )
    return found


def draw(rows: Sequence[Row], stem: Path) -> Mapping[Path, str]:
    """Draw quality against rank, one panel for each task, and the agreement of directions."""
    from minipeft.lab.framework import plots

    panels: list[plots.Panel] = []
    for task in study.tasks_of(rows):
        lines = {
            f"W_{name_of(w)}": {r: study.scaled(rows, task, variant_name(w, r)) for r in RANKS}
            for w in SETS
            if study.values(rows, task=task, arm=variant_name(w, 1))
        }
        panels.append((f"{task}", "rank r", study.axis(task), lines, {}))
    pairs = select(rows, kind="subspaces")
    if pairs:
        agreement = {f"W_{w[0]}": {i: [p[f"{w}_{i}"] for p in pairs] for i in DIRECTIONS} for w in PROJECTIONS}
        chance = {"two random subspaces": {i: i / pairs[0]["k"] for i in DIRECTIONS}}
        panels.append(("r = 8 and r = 64, prose", "first i directions", "agreement φ", agreement, chance))
    path = plots.lines(panels, stem, log_base=2)
    return {path: "Quality against LoRA's rank, and how far the directions of two ranks agree; mean ± std over seeds."}


EXPERIMENT = Experiment(
    name="rank",
    title="How large must LoRA's rank be?",
    claim="For W_q and W_v together (and all four) a rank of 1 suffices; more brings little.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=study.preparation(PLANS),
    published=(
        Published(
            "Table 6, GPT-3, validation accuracy in %: WikiSQL (±0.5) / MultiNLI (±0.1)",
            "Hu et al. 2021 (arXiv:2106.09685v2), as in the lecture",
            ("weights", *(f"r = {r}" for r in RANKS)),
            (
                ("q", "68.8 / 90.7", "69.6 / 90.9", "70.5 / 91.1", "70.4 / 90.7", "70.0 / 90.7"),
                ("q, v", "73.4 / 91.3", "73.3 / 91.4", "73.7 / 91.3", "73.8 / 91.6", "73.5 / 91.4"),
                ("q, k, v, o", "74.1 / 91.2", "73.7 / 91.7", "74.0 / 91.7", "74.0 / 91.5", "73.9 / 91.4"),
            ),
        ),
        Published(
            "Section 7.2: agreement of subspaces at r = 8 and r = 64",
            "Hu et al. 2021, section 7.2",
            ("what", "value"),
            (("φ of the first direction", "> 0.5"), ("of the others", "little")),
            read=False,
        ),
    ),
    data=study.DATA,
    needs=("minilm", "sentiment"),
)
