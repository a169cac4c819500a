"""The figures of the studies on text, in the style of `plots`: told apart by marker, dash and hatch as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.lab.framework.plots import DASHES, HATCHES, MARKERS, save, sheet

Lines = Mapping[str, Mapping[Any, Sequence[float]]]  # by name: x -> the values of its seeds
Panel = tuple[str, str, str, Lines, Mapping[str, Mapping[Any, float]]]  # title, x, y, lines, lines without spread


def lines(panels: Sequence[Panel], stem: Path, log_base: int = 10, log_y: bool = False) -> Path:
    """Mean ± standard deviation against x (logarithmic), a panel each; the legends below."""
    with sheet(1, len(panels), (4.6 * len(panels), 4.4)) as (figure, axes):
        for ax, (title, x_label, y_label, measured, known) in zip(axes[0], panels, strict=True):
            for i, (name, points) in enumerate(measured.items()):
                xs = [x for x in sorted(points) if points[x]]
                if xs:
                    ax.errorbar(
                        xs,
                        [np.mean(points[x]) for x in xs],
                        yerr=[np.std(points[x], ddof=1) if len(points[x]) > 1 else 0.0 for x in xs],
                        marker=MARKERS[i % len(MARKERS)],
                        ls=DASHES[i % len(DASHES)],
                        color=_grey(i, len(measured)),
                        capsize=3,
                        ms=5,
                        lw=1.2,
                        label=name,
                    )
            for name, curve in known.items():
                ax.plot(list(curve), list(curve.values()), color="0.6", lw=1, ls=(0, (1, 3)), label=name)
            ax.set_xscale("log", base=log_base)
            if log_base == 2:
                ticks = sorted({x for points in measured.values() for x in points})
                ax.set_xticks(ticks, [str(x) for x in ticks])
            if log_y:
                ax.set_yscale("log")
            ax.set_xlabel(x_label)
            ax.set_ylabel(y_label)
            ax.set_title(title, fontsize=9)
            ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
        return save(figure, stem)[0]


def bars(panels: Sequence[tuple[str, str, Mapping[str, Sequence[float]]]], stem: Path) -> Path:
    """A bar for each name, its height the mean and its whisker the standard deviation; (title, y, values by name)."""
    with sheet(1, len(panels), (4.6 * len(panels), 3.6)) as (figure, axes):
        for ax, (title, y_label, values) in zip(axes[0], panels, strict=True):
            means = [float(np.mean(v)) if v else np.nan for v in values.values()]
            spreads = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values.values()]
            for i, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
                ax.bar(
                    i, mean, yerr=spread, capsize=3, color=_grey(i, len(means) + 2, light=True),
                    hatch=HATCHES[i % len(HATCHES)], edgecolor="k", lw=0.6,
                )  # fmt: skip
            low, high = np.nanmin(means) - max(spreads), np.nanmax(means) + max(spreads)
            room = 0.15 * (high - low) or 0.1
            ax.set_ylim(low - room, high + room)  # not from zero: the differences are what is asked
            ax.set_xticks(range(len(means)), list(values))
            ax.set_xlabel("weights with LoRA (the axis does not start at 0)")
            ax.set_ylabel(y_label)
            ax.set_title(title, fontsize=9)
        return save(figure, stem)[0]


def _grey(i: int, n: int, light: bool = False) -> str:
    return f"{(0.55 if light else 0.0) + (0.4 if light else 0.65) * i / max(1, n - 1):.2f}"


def cells(panels: Sequence[tuple[str, Sequence[Any]]], ways: tuple[str, str], stem: Path) -> Path:
    """Grids of comparisons (objects as `few_shot.Cell`): rows in context, columns fine-tuned; see the caption."""
    colours = {ways[0]: ("#9ecae8", "//"), ways[1]: ("#f2a99b", ".."), "": ("white", "")}
    n_rows = -(-len(panels) // 2)
    width = max(len({c.tuned for c in found}) for _, found in panels)
    heights = [
        max(len({c.in_context for c in found}) for _, found in panels[i : i + 2]) for i in range(0, len(panels), 2)
    ]
    size = (3.0 + 1.8 * width, sum(1.2 + 0.45 * h for h in heights))
    with sheet(n_rows, 2, size, height_ratios=[1.2 + 0.45 * h for h in heights]) as (figure, axes):
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
            ax.set_xlabel(ways[0])
            ax.set_ylabel(ways[1])
            ax.set_xlim(0, len(columns))
            ax.set_ylim(len(rows), 0)
            ax.grid(False)
            ax.set_title(title, fontsize=9)
        return save(figure, stem)[0]
