"""The findings: d90 of every study, tables, verdicts and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.lab.experiments.intrinsic_dimension.training import studies
from minipeft.lab.framework.experiment import Row, Table, Verdict, all_of, mean_and_spread, outcome, percent, select
from minipeft.peft.intrinsic import IntrinsicDimension, intrinsic_dimension

PUBLISHED_D, PUBLISHED_DIM = 199_210, 750


def finals(rows: Sequence[Row], study: str, d: int) -> list[float]:
    """Return the accuracies of a study at d, one a seed; a run that diverged has none, which counts 0."""
    return [r["value"] or 0.0 for r in select(rows, study=study, d=d, stage="final")]


def names(rows: Sequence[Row]) -> list[str]:
    """Return the studies of these rows, in their order."""
    order = [s["name"] for mode in ("full", "quick") for s in studies(mode)]
    return sorted({r["study"] for r in rows}, key=order.index)


def dimension(rows: Sequence[Row], study: str, full: float | None = None) -> IntrinsicDimension:
    """Return d90 of a study, with its interval over the seeds; full: the accuracy to compare with, else its own."""
    ds = sorted({r["d"] for r in select(rows, study=study, stage="final")} - {0})
    scores = {d: finals(rows, study, d) for d in ds}
    own = float(np.mean(finals(rows, study, 0)))
    seeds = range(min(map(len, scores.values())))
    return intrinsic_dimension(lambda d, s: scores[d][s], ds, own if full is None else full, seeds)


def interval(found: IntrinsicDimension) -> tuple[float, float]:
    """Return the interval of d90: from 0 if the smallest d was enough at the low end, to infinity if none was."""
    smallest = float(min(found.scores))
    low = np.inf if found.low is None else 0.0 if found.low <= smallest else found.low
    return low, np.inf if found.high is None else found.high


def shown(found: IntrinsicDimension) -> str:
    """Return d90 as a text: "≤ 100" if the smallest d was enough, "> 1600" if none was."""
    ds = sorted(found.scores)
    if found.d is None:
        return f"> {ds[-1]:,}"
    return f"≤ {ds[0]:,}" if found.d <= ds[0] else f"{found.d:,.0f}"


def shown_interval(found: IntrinsicDimension) -> str:
    """Return the interval of d90 as a text."""
    low, high = (None if e is None else f"{e:,.0f}" for e in (found.low, found.high))
    ds = sorted(found.scores)
    return f"{low or f'> {ds[-1]:,}'} to {high or f'> {ds[-1]:,}'}"


def both(found: IntrinsicDimension) -> str:
    """Return d90 with its interval as a text."""
    return f"{shown(found)} ({shown_interval(found)})"


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables of d90 by study, and of the sweeps that give it."""
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
    note = (
        f"Up to {len(finals(rows, first, 0))} seeds; the interval is over resampled seeds. Learning rates were chosen "
        "on other data than is judged here. Each study's target is 90 % of its own accuracy with all D parameters."
    )
    parts = [Table("Intrinsic dimension at 90 %", header, [line(n) for n in found], note)]
    if languages:
        title = "The language model, all with the target of the one that was pretrained longest"
        parts.append(Table(title, header, [line(n, best) for n in languages]))
    for kind in ("network", "language model"):
        some = [n for n in found if select(rows, study=n)[0]["kind"] == kind]
        ds = sorted({d for n in some for d in found[n].scores})
        body = [(n, *map(_cell, (finals(rows, n, 0), *(found[n].scores.get(d, []) for d in ds)))) for n in some]
        parts.append(Table(f"Accuracy in % by d: {kind}", ("study", "all", *map(str, ds)), body, "mean ± std"))
    return parts


def _cell(values: Sequence[float]) -> str | None:
    return percent(values) if values else None


def compared(a: IntrinsicDimension, b: IntrinsicDimension, factor: float) -> str:
    """Return whether d90 of a is larger than ``factor`` times that of b, by their intervals."""
    (a_low, a_high), (b_low, b_high) = interval(a), interval(b)
    return outcome(a_low > factor * b_high, a_high < factor * b_low)


def alike(a: IntrinsicDimension, b: IntrinsicDimension, factor: float) -> str:
    """Return whether d90 of a and of b differ by less than ``factor``, by their intervals."""
    (a_low, a_high), (b_low, b_high) = interval(a), interval(b)
    known = min(a_low, b_low) > 0.0 and max(a_high, b_high) < np.inf
    less = a_high < factor * b_low and b_high < factor * a_low
    return outcome(known and less, known and (a_low > factor * b_high or b_low > factor * a_high))


def _number(rows: Sequence[Row], network: IntrinsicDimension) -> Verdict:
    """Return the verdict on the lecture's number."""
    first = select(rows, study="network")[0]
    total, (low, high) = first["D"], interval(network)
    said = f"d90 = {both(network)} of D = {total:,}"
    if (total, first["data"]) != (PUBLISHED_D, "mnist"):
        small = outcome(high < 0.1 * total, 0.1 * total < low < np.inf)
        return Verdict("A small network is learnt in less than a tenth of its dimensions", small, said)
    inside = low > PUBLISHED_DIM / 2 and high < PUBLISHED_DIM * 2
    outside = high < PUBLISHED_DIM / 2 or low > PUBLISHED_DIM * 2
    claim = "The network of 199,210 parameters needs about 750 dimensions (within a factor of two)"
    return Verdict(claim, outcome(inside, outside), said)


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say what d90 is, what it depends on, and what pretraining does to it."""
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
            f"{both(found['pixels shuffled'])} against {both(network)}",
        ),
    ]
    plain = next(n for n in found if n.endswith(" labels"))
    a, b = found[f"{plain} shuffled"], found[plain]
    claim = "Shuffled labels take far more dimensions to fit than true ones (more than twice as many)"
    parts.append(Verdict(claim, compared(a, b, 2.0), f"{both(a)} against {both(b)}"))
    return parts + _language_verdicts(rows)


def _with_size(rows: Sequence[Row], name: str, found: IntrinsicDimension) -> str:
    return f"{name} (D = {select(rows, study=name)[0]['D']:,}) {both(found)}"


def pretrained(rows: Sequence[Row], said: bool) -> dict[int, str]:
    """Return the language model's studies by the steps of pretraining, ascending; with SAID's scales or without."""
    mine = {r["pretrained"]: r["study"] for r in rows if r["kind"] == "language model" and r["said"] is said}
    return dict(sorted(mine.items()))


def _language_verdicts(rows: Sequence[Row]) -> list[Verdict]:
    plain = pretrained(rows, False)
    steps = list(plain)
    best = max(float(np.mean(finals(rows, n, 0))) for n in plain.values())
    d90 = {p: dimension(rows, plain[p], best) for p in steps}
    first, last = d90[0], d90[steps[-1]]
    claim = "Pretraining lowers the intrinsic dimension, the target being the same"
    because = f"{both(first)} before, {both(last)} after {steps[-1]:,} steps"
    parts = [Verdict(claim, compared(first, last, 1.0), because)]
    if len(steps) > 2:
        longer = all_of([compared(d90[a], d90[b], 1.0) for a, b in pairwise(steps)])
        because = "; ".join(f"{p:,} steps: {both(d90[p])}" for p in steps)
        parts.append(Verdict("The longer the pretraining, the lower the intrinsic dimension", longer, because))
    said = dimension(rows, f"{plain[steps[-1]]}, SAID", best)
    claim = "With a scale for each tensor (SAID) fewer dimensions are needed than without (DID)"
    parts.append(Verdict(claim, compared(last, said, 1.0), f"SAID {both(said)}, DID {both(last)}"))
    return parts


def draw(rows: Sequence[Row], stem: Path) -> dict[Path, str]:
    """Draw the sweep of the network, d90 by study, and d90 against the steps of pretraining."""
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
