"""Adapters against the top layers, by the number of trained parameters (the lecture's figure; Houlsby et al. 2019).

Adapters of several widths in every layer, the top K layers alone, and everything: how well does each do for what it
trains? The published figure has adapters near full fine-tuning with few parameters, and the top layers far below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from minipeft.lab.framework import study
from minipeft.lab.framework.experiment import UNDECIDED, Experiment, Published, Row, Table, Verdict, select
from minipeft.lab.framework.study import PROSE, SENTIMENT, Plan, Variant
from minipeft.peft import AdapterConfig, TopLayersConfig

FULL, ADAPTERS, TOP = "full", "adapters", "top"


def variants(
    widths: Sequence[int],
    tops: Sequence[int],
    full: tuple[float, ...],
    top: tuple[float, ...],
    bottle: tuple[float, ...],
) -> tuple[Variant, ...]:
    """Return adapters of these widths, these top layers (0: only the head), and everything, each with its rates."""
    return (
        *(Variant(f"{ADAPTERS} r={r}", AdapterConfig(r=r), bottle) for r in widths),
        *(Variant(f"{TOP} {k}", TopLayersConfig(n_layers=k), top) for k in tops),
        Variant(FULL, None, full),
    )


PROSE_RATES = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2), (1e-2, 3e-2, 1e-1)  # everything, top layers, adapters
PLANS = {
    "quick": (Plan(PROSE, variants((1, 4, 16), (1,), *PROSE_RATES), 60, 8, (0, 1, 2), size="tiny"),),
    "full": (
        Plan(PROSE, variants((1, 4, 16, 64), (1, 2, 3), *PROSE_RATES), 80, 8, (0, 1, 2)),
        Plan(
            SENTIMENT,
            variants((2, 32), (0, 1, 3), (1e-4, 5e-4), (5e-4, 2e-3), (2e-3, 1e-2)),
            25,
            16,
            (0, 1, 2),
            judged={"val": 100, "test": 300},
        ),
    ),
}


def variants_of(rows: Sequence[Row], task: str) -> list[str]:
    """Return the variants of a task, from few to many trained parameters within each kind."""
    names = dict.fromkeys(r["arm"] for r in select(rows, task=task))
    return list(names)


def trained(rows: Sequence[Row], task: str, variant: str) -> int:
    """Return how many parameters a variant trains."""
    return int(select(rows, task=task, arm=variant)[0]["trained"])


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return a table for each task, with a row for each variant."""
    found = []
    for task in study.tasks_of(rows):
        body = []
        for variant in variants_of(rows, task):
            mine = select(rows, task=task, arm=variant)
            values = study.values(mine)
            trains, share = f"{mine[0]['trained']:,}", f"{100 * mine[0]['trained'] / mine[0]['parameters']:.2f}"
            body.append((variant, trains, share, study.shown(task, values), len(values), study.at_edge(mine)))
        header = ("variant", "trained", "% of all", f"test, {study.UNITS[task]}", "seeds", "rate")
        found.append(Table(f"Adapters and top layers: {task}", header, body, study.note(rows, task)))
    return found


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say whether adapters are nearly as good as everything, and better than top layers that train at least as much."""
    found = []
    for task in study.tasks_of(rows):
        names = variants_of(rows, task)
        adapters = [a for a in names if a.startswith(ADAPTERS)]
        tops = [a for a in names if a.startswith(TOP) and not a.endswith(" 0")]
        full = study.values(rows, task=task, arm=FULL)
        best = study.best_on_validation(rows, task, adapters)
        best_top = study.best_on_validation(rows, task, tops)
        if best is None or best_top is None or not full:
            found.append(Verdict(f"{task}: adapters", UNDECIDED, "too few finished runs"))
            continue
        of = {a: study.values(rows, task=task, arm=a) for a in names}
        share = 100 * trained(rows, task, best) / trained(rows, task, FULL)
        text = f"adapters come within {study.nearly(task)} of full fine-tuning"
        why = f"{best} (chosen on validation) trains {share:.1f} % as much and is at {{}} of full"
        found.append(study.claim(task, text, of[best], full, why, study.MARGIN[task]))
        smaller = [a for a in adapters if trained(rows, task, a) <= min(trained(rows, task, t) for t in tops)]
        small = study.best_on_validation(rows, task, smaller)
        if small is None:
            found.append(Verdict(f"{task}: adapters and top layers", UNDECIDED, "no adapter trains less than a layer"))
            continue
        text = "adapters that train no more than one layer are better than the best top layers"
        sizes = (f"{name} ({trained(rows, task, name):,} parameters)" for name in (small, best_top))
        why = " against ".join(sizes).removesuffix(" parameters)") + "): {}"
        found.append(study.claim(task, text, of[small], of[best_top], why))
    return found


def draw(rows: Sequence[Row], stem: Path) -> Mapping[Path, str]:
    """Draw quality against trained parameters, one panel for each task."""
    from minipeft.lab.framework import plots

    panels: list[plots.Panel] = []
    for task in study.tasks_of(rows):
        lines: dict[str, dict[float, list[float]]] = {ADAPTERS: {}, "top layers": {}, FULL: {}}
        for variant in variants_of(rows, task):
            kind = ADAPTERS if variant.startswith(ADAPTERS) else FULL if variant == FULL else "top layers"
            lines[kind][trained(rows, task, variant)] = study.scaled(rows, task, variant)
        panels.append((task, "trained parameters", study.axis(task), lines, {}))
    path = plots.lines(panels, stem)
    return {path: "Adapters of several widths, the top K layers, and everything; mean ± standard deviation over seeds."}


EXPERIMENT = Experiment(
    name="adapters",
    title="Adapters against the top layers",
    claim="Adapters nearly reach full fine-tuning with few parameters; the top layers alone need many more.",
    runs=study.runs_of(PLANS),
    run=study.run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=study.preparation(PLANS),
    published=(
        Published(
            "GLUE, BERT-Large",
            "Houlsby et al. 2019 (arXiv:1902.00751), abstract",
            ("method", "score", "trained for each task, %"),
            (("full fine-tuning", 80.4, 100.0), ("adapters", 80.0, 3.6)),
        ),
    ),
    data=study.DATA,
    needs=("minilm", "sentiment"),
)
