"""Adapters against the top layers, by the number of trained parameters (the lecture's figure; Houlsby et al. 2019).

Adapters of several widths in every layer, the top K layers alone, and everything: how well does each do for what it
trains? The published figure has adapters near full fine-tuning with few parameters, and the top layers far below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from minipeft.lab.framework import study
from minipeft.lab.framework.experiment import (
    UNDECIDED,
    Config,
    Experiment,
    Published,
    Row,
    Table,
    Verdict,
    chosen,
    select,
)
from minipeft.lab.framework.study import PROSE, SENTIMENT, Plan, Variant
from minipeft.peft import AdapterConfig, TopLayersConfig

FULL, ADAPTERS, TOP = "full", "adapters", "top"
MARGIN = {PROSE: 0.02, SENTIMENT: 0.01}  # nats per character, accuracy: what counts as "nearly"


def variants(
    widths: Sequence[int],
    tops: Sequence[int],
    full: tuple[float, ...],
    top: tuple[float, ...],
    bottle: tuple[float, ...],
) -> tuple[Variant, ...]:
    """Adapters of these widths, these top layers (0: the head alone), and everything, each kind with its rates."""
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


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Rates on validation, then the seeds."""
    return study.runs(PLANS[mode], rows)


def variants_of(rows: Sequence[Row], task: str) -> list[str]:
    """The variants of a task, from few to many trained parameters within each kind."""
    names = dict.fromkeys(r["arm"] for r in select(rows, task=task))
    return list(names)


def trained(rows: Sequence[Row], task: str, variant: str) -> int:
    """How many parameters a variant trains."""
    return int(select(rows, task=task, arm=variant)[0]["trained"])


def tables(rows: Sequence[Row]) -> list[Table]:
    """One a task: a variant a row."""
    found = []
    for task in study.tasks_of(rows):
        body = []
        for variant in variants_of(rows, task):
            r = select(rows, task=task, arm=variant)[0]
            values = study.values(rows, task=task, arm=variant)
            share = 100 * r["trained"] / r["parameters"]
            body.append(
                (
                    variant,
                    f"{r['trained']:,}",
                    f"{share:.2f}",
                    study.shown(task, values),
                    len(values),
                    study.at_edge(rows, task=task, arm=variant),
                )
            )
        header = ("variant", "trained", "% of all", f"test, {study.UNITS[task]}", "seeds", "rate")
        found.append(Table(f"Adapters and top layers: {task}", header, body, study.note(rows, task)))
    return found


def best_on_validation(rows: Sequence[Row], task: str, variants: Sequence[str]) -> str | None:
    """The variant with the best validation value at its own best rate; None where none has finished."""
    means = []
    for variant in variants:
        done = select(rows, task=task, arm=variant, split="val")
        if done and any(r["value"] is not None for r in done):
            rate = chosen(done, "rate", higher_is_better=task == SENTIMENT)
            means += [{"arm": variant, "value": r["value"]} for r in select(done, rate=rate)]
    return None if not means else str(chosen(means, "arm", higher_is_better=task == SENTIMENT))


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Are adapters nearly as good as everything, and better than top layers that train at least as much?"""
    found = []
    for task in study.tasks_of(rows):
        names = variants_of(rows, task)
        adapters = [a for a in names if a.startswith(ADAPTERS)]
        tops = [a for a in names if a.startswith(TOP) and not a.endswith(" 0")]
        full = study.values(rows, task=task, arm=FULL)
        best = best_on_validation(rows, task, adapters)
        best_top = best_on_validation(rows, task, tops)
        if best is None or best_top is None or not full:
            found.append(Verdict(f"{task}: adapters", UNDECIDED, "too few finished runs"))
            continue
        of = {a: study.values(rows, task=task, arm=a) for a in names}
        unit = "1 point" if task == SENTIMENT else f"{MARGIN[task]} nats/char"
        share = 100 * trained(rows, task, best) / trained(rows, task, FULL)
        found.append(
            Verdict(
                f"{task}: adapters come within {unit} of full fine-tuning",
                study.at_least(task, of[best], full, MARGIN[task]),
                f"{best} (chosen on validation) trains {share:.1f} % as much and is at "
                f"{study.in_words(task, study.gain(task, of[best], full))} of full",
            )
        )
        smaller = [a for a in adapters if trained(rows, task, a) <= min(trained(rows, task, t) for t in tops)]
        small = best_on_validation(rows, task, smaller)
        if small is None:
            found.append(Verdict(f"{task}: adapters and top layers", UNDECIDED, "no adapter trains less than a layer"))
            continue
        ahead = study.in_words(task, study.gain(task, of[small], of[best_top]))
        found.append(
            Verdict(
                f"{task}: adapters that train no more than one layer are better than the best top layers",
                study.at_least(task, of[small], of[best_top]),
                f"{small} ({trained(rows, task, small):,} parameters) against {best_top} "
                f"({trained(rows, task, best_top):,}): {ahead}",
            )
        )
    return found


def draw(rows: Sequence[Row], stem: Path) -> Mapping[Path, str]:
    """Quality against trained parameters, a panel a task."""
    from minipeft.lab.framework import plots

    panels: list[plots.Panel] = []
    for task in study.tasks_of(rows):
        scale = 100.0 if task == SENTIMENT else 1.0
        lines: dict[str, dict[float, list[float]]] = {ADAPTERS: {}, "top layers": {}, FULL: {}}
        for variant in variants_of(rows, task):
            kind = ADAPTERS if variant.startswith(ADAPTERS) else FULL if variant == FULL else "top layers"
            values = [scale * v for v in study.values(rows, task=task, arm=variant)]
            lines[kind][trained(rows, task, variant)] = values
        panels.append((task, "trained parameters", study.axis(task), lines, {}))
    path = plots.lines(panels, stem)
    return {path: "Adapters of several widths, the top K layers, and everything; mean ± standard deviation over seeds."}


EXPERIMENT = Experiment(
    name="adapters",
    title="Adapters against the top layers",
    claim="Adapters nearly reach full fine-tuning with few parameters; the top layers alone need many more.",
    runs=runs,
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
