"""The findings: tables, verdicts and figures from the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.lab.experiments.few_shot.training import (
    CONTEXT,
    COST,
    COST_SIZES,
    SMOLLM2,
    TILED,
    TUNED,
    TUNED_AT,
    TUNED_LAYERS,
    WHOLE,
)
from minipeft.lab.framework.experiment import Row, Table, Verdict, decided, mean_and_spread, outcome, select
from minipeft.lab.framework.welch import holm, welch

MARGIN = 0.05  # "as good", in accuracy


def results(rows: Sequence[Row], where: str, **wanted: Any) -> list[float]:
    """Return the test results ``where`` ("here", "elsewhere", "calibrated_…"), in seed order, without diverged runs."""
    found = sorted(select(rows, split="test", **wanted), key=lambda r: r["seed"])
    return [r[where] for r in found if r["value"] is not None]


@dataclass(frozen=True)
class Cell:
    """One comparison of the lecture's table: both ways on one task, their examples drawn by the same seeds."""

    task: str
    where: str
    in_context: tuple[str, int]  # model, k
    tuned: tuple[str, int]
    difference: float  # fine-tuned minus in context
    p: float
    p_holm: float  # corrected for all cells of all grids

    @property
    def better(self) -> str:
        """Return the way that is significantly better at 5 %, uncorrected as in the lecture's table; or nothing."""
        return "" if self.p >= 0.05 else TUNED if self.difference > 0 else CONTEXT


def cells(rows: Sequence[Row]) -> list[Cell]:
    """Return the comparison of every in-context and fine-tuned pair, here and elsewhere; k = 0 has no seeds."""
    found = []
    for task in dict.fromkeys(r["task"] for r in rows if "task" in r):
        done = select(rows, task=task, split="test")
        pairs = {
            way: list(dict.fromkeys((r["model"], r["k"]) for r in select(done, way=way))) for way in (CONTEXT, TUNED)
        }
        for where in ("here", "elsewhere"):
            for a in pairs[CONTEXT]:
                for b in pairs[TUNED]:
                    x = results(done, where, way=CONTEXT, model=a[0], k=a[1])
                    y = results(done, where, way=TUNED, model=b[0], k=b[1])
                    if a[1] and min(len(x), len(y)) > 1:
                        test = welch(y, x)
                        found.append((task, where, a, b, test.difference, test.p))
    corrected = [float(h) for h in holm([c[-1] for c in found])] if found else []
    return [Cell(*c, h) for c, h in zip(found, corrected, strict=True)]


def _percent(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if len(values) > 1 else "")


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the accuracies, the grid of tests, and the cost of a prompt."""
    makers = (_accuracies, _tests, _costs)
    return [table for make in makers if (table := make(rows)).rows]


def _accuracies(rows: Sequence[Row]) -> Table:
    tests = select(rows, split="test")
    wheres = ("here", "elsewhere", "calibrated_here", "calibrated_elsewhere")
    names = ("task", "model", "way", "k")
    body = []
    for values in dict.fromkeys(tuple(r[n] for n in names) for r in tests):
        wanted = dict(zip(names, values, strict=True))
        body.append((*values, *(_percent(results(rows, w, **wanted)) for w in wheres)))
    last = {r["model"]: r for r in select(tests, way=TUNED)}
    budget = "; ".join(
        f"{m}: {r['steps']} steps of at most {r['batch_size']}, rate {r['rate']:g}, "
        + (f"LoRA r = 8 on q and v of the upper {TUNED_LAYERS} layers" if m == SMOLLM2 else "all parameters")
        for m, r in last.items()
    )
    seeds = {f"{m}: {len({r['seed'] for r in select(tests, model=m)})} seeds" for m in last}
    judged = {m: r["judged"] for m, r in last.items()}
    return Table(
        "Right answers, %",
        (*names, "here", "elsewhere", "here, calibrated", "elsewhere, calibrated"),
        body,
        f"Mean ± standard deviation over seeds ({', '.join(sorted(seeds))}). Questions here and in each place "
        f"elsewhere: {judged}. Fine-tuning: {budget}; rate chosen on validation at k = {TUNED_AT}.",
    )


def _tests(rows: Sequence[Row]) -> Table:
    body = [
        (c.task, c.where, _named(c.in_context), _named(c.tuned), 100 * c.difference, c.p, c.p_holm, c.better)
        for c in cells(rows)
    ]
    return Table(
        "Fine-tuned minus in context, Welch's t-test",
        ("task", "where", "in context", "fine-tuned", "points", "p", "p, Holm", "better at 5 %"),
        body,
        f"p is for one cell, as in the lecture's table; Holm's corrects for all {len(body)}.",
    )


def _costs(rows: Sequence[Row]) -> Table:
    names = ("model", "attention", "length")
    measured = ("seconds", "peak beside the weights, MiB", "scores of a layer, MiB", "scores in all")
    body = [
        (
            *(r[n] for n in names), r["pass_seconds"], r["peak_bytes"] / 2**20, r["score_bytes"] / 2**20,
            f"{r['scores']:,}",
        )
        for r in sorted(select(rows, kind=COST), key=lambda r: [r[n] for n in names])
    ]  # fmt: skip
    note = f"cost: {COST_SIZES}. Scores: layers x heads x N² (formula); seconds and peak are measured."
    return Table("One pass over a prompt of N tokens", ("model", "attention", "N", *measured), body, note)


def _named(variant: tuple[str, int]) -> str:
    return f"{variant[0]}, k={variant[1]}"


def _called(model: str) -> str:
    return "SmolLM2" if model == SMOLLM2 else "two layers, d = 64"


def exponent(rows: Sequence[Row], what: str) -> float:
    """Return b in cost ~ N^b between the two longest prompts."""
    a, b = sorted(rows, key=lambda r: r["length"])[-2:]
    return math.log(b[what] / a[what]) / math.log(b["length"] / a["length"])


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say whether fine-tuning wins, with the same examples, with more, and elsewhere; and whether a prompt is O(N²)."""
    found = []
    for model in dict.fromkeys(r["model"] for r in rows if "way" in r):
        tuned, prompt = (
            {w: results(rows, w, model=model, way=way, k=16) for w in ("here", "elsewhere")} for way in (TUNED, CONTEXT)
        )
        same = f"{model}: fine-tuning on 16 examples beats the same 16 in the prompt"
        found += _compared(f"{same}, where the examples come from", tuned["here"], prompt["here"])
        found += _compared(f"{same}, out of the domain", tuned["elsewhere"], prompt["elsewhere"])
        most = max((r["k"] for r in select(rows, model=model, way=TUNED, split="test")), default=16)
        if most > 16:
            more = f"{model}: with more examples ({most}) than a prompt holds, fine-tuning beats 16 in the prompt"
            found += _compared(more, results(rows, "here", model=model, way=TUNED, k=most), prompt["here"])
        if min(map(len, (*tuned.values(), *prompt.values()))) > 1:
            a, b = ([o - i for i, o in zip(w["here"], w["elsewhere"], strict=True)] for w in (tuned, prompt))
            test = welch([v + MARGIN for v in a], b)
            found.append(
                Verdict(
                    f"{model}: out of the domain fine-tuning loses no more than a prompt (within {100 * MARGIN:.0f} "
                    "points)",
                    decided(test.difference, test.p, 0.1),
                    f"it changes by {100 * float(np.mean(a)):+.1f} points, a prompt by {100 * float(np.mean(b)):+.1f}",
                )
            )
    for way in (WHOLE, TILED):
        costs = select(rows, kind=COST, model=COST, attention=way)
        if len(costs) < 2:
            continue
        memory, seconds = exponent(costs, "peak_bytes"), exponent(costs, "pass_seconds")
        longest = max(r["length"] for r in costs)
        said = f"up to N = {longest:,} memory grows as N^{memory:.2f} and time as N^{seconds:.2f} at the long end"
        claim = "A prompt of N tokens costs O(N²) memory and time"
        if way == TILED:
            claim = "O(N²) memory even where the scores are computed in tiles"
        power = min(memory, seconds) if way == WHOLE else memory
        found.append(Verdict(claim, outcome(power > 1.5, power < 1.25), said))
    return found


def _compared(claim: str, tuned: Sequence[float], prompt: Sequence[float]) -> list[Verdict]:
    """Return the verdict of Welch's test at 5 %; none for fewer than two seeds."""
    if min(len(tuned), len(prompt)) < 2:
        return []
    test = welch(tuned, prompt)
    said = f"{_percent(tuned)} % against {_percent(prompt)} %, p = {test.p:.2g}"
    return [Verdict(claim, decided(test.difference, test.p, 0.05), said)]


def draw(rows: Sequence[Row], stem: Path) -> Mapping[Path, str]:
    """Draw the coloured table of every task, and the cost of a prompt."""
    from minipeft.lab.framework import plots

    captions = {}
    tests = cells(rows)
    if tests:
        groups = dict.fromkeys((c.task, c.where) for c in tests)
        path = _draw_cells([(", ".join(g), [c for c in tests if (c.task, c.where) == g]) for g in groups], stem)
        captions[path] = (
            "Accuracy fine-tuned minus in context, in points. Blue and striped: fine-tuning is better, red and dotted: "
            "the prompt is, by Welch's t-test at 5 % (as in the lecture's table); a star: also after Holm's correction."
        )
    costs = select(rows, kind=COST)
    if costs:
        kinds = dict.fromkeys((r["model"], r["attention"]) for r in costs)
        by_model = {f"{_called(m)}, {a}": select(costs, model=m, attention=a) for m, a in kinds}
        time_lines = {m: {r["length"]: [r["pass_seconds"]] for r in c} for m, c in by_model.items()}
        memory = {m: {r["length"]: [r["peak_bytes"] / 2**20] for r in c} for m, c in by_model.items()}
        known = {
            f"{name.rpartition(',')[0]}: scores of a layer": {
                r["length"]: r["score_bytes"] / 2**20 for r in sorted(c, key=lambda r: r["length"])
            }
            for name, c in by_model.items()
        }
        path = plots.lines(
            [
                ("time of a pass", "prompt of N tokens", "seconds", time_lines, {}),
                ("memory beside the weights", "prompt of N tokens", "MiB", memory, known),
            ],
            stem.with_name(stem.name + "-cost"),
            log_base=2,
            log_y=True,
        )
        captions[path] = "What a prompt costs against its length: measured, and the attention scores by their formula."
    return captions


def _draw_cells(panels: Sequence[tuple[str, Sequence[Cell]]], stem: Path) -> Path:
    """Draw grids of comparisons: rows in context, columns fine-tuned; see the caption."""
    from minipeft.lab.framework import plots

    colours = {TUNED: ("#9ecae8", "//"), CONTEXT: ("#f2a99b", ".."), "": ("white", "")}
    n_rows = -(-len(panels) // 2)
    width = max(len({c.tuned for c in found}) for _, found in panels)
    heights = [
        max(len({c.in_context for c in found}) for _, found in panels[i : i + 2]) for i in range(0, len(panels), 2)
    ]
    size = (3.0 + 1.8 * width, sum(1.2 + 0.45 * h for h in heights))
    with plots.sheet(n_rows, 2, size, height_ratios=[1.2 + 0.45 * h for h in heights]) as (figure, axes):
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, found) in zip(axes.flat, panels, strict=False):
            rows = list(dict.fromkeys(c.in_context for c in found))
            columns = list(dict.fromkeys(c.tuned for c in found))
            for c in found:
                x, y = columns.index(c.tuned), rows.index(c.in_context)
                colour, hatch = colours[c.better]
                ax.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], fc=colour, ec="0.4", lw=0.6)
                if hatch:
                    ax.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], fill=False, ec="0.55", lw=0, hatch=hatch)
                star = "*" if c.p_holm < 0.05 and c.better else ""
                box = {"fc": "white", "ec": "none", "pad": 0.8, "alpha": 0.8}
                ax.text(
                    x + 0.5, y + 0.5, f"{100 * c.difference:+.0f}{star}", ha="center", va="center", fontsize=9, bbox=box
                )
            ax.set_xticks(np.arange(len(columns)) + 0.5, [f"{m}\nk={k}" for m, k in columns])
            ax.set_yticks(np.arange(len(rows)) + 0.5, [f"{m}, k={k}" for m, k in rows])
            ax.set_xlabel(TUNED)
            ax.set_ylabel(CONTEXT)
            ax.set_xlim(0, len(columns))
            ax.set_ylim(len(rows), 0)
            ax.grid(False)
            ax.set_title(title, fontsize=9)
        return plots.save(figure, stem)[0]
