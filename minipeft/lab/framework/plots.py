"""The figures: the one place that knows matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from minipeft.files.atomic import atomic_path

matplotlib.use("Agg")

import matplotlib.pyplot as plt

# plt: teach/notebook.py takes it from here
__all__ = ["STYLE", "bars", "grouped_bars", "legend_below", "lines", "plt", "save", "series", "sheet"]

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "minipeft",
}
# What tells series and bars apart where no colour does
MARKERS = "osD^vPX*"
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
SHADES = ("0.0", "0.35", "0.55", "0.7")

Lines = Mapping[str, Mapping[Any, Sequence[float]]]  # by name: x -> the values of its seeds
Panel = tuple[str, str, str, Lines, Mapping[str, Mapping[Any, float]]]  # title, x, y, lines, lines without spread


@contextmanager
def sheet(n_rows: int, n_columns: int, size: tuple[float, float], **options: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a figure of the one style and its axes (n_rows, n_columns); size in inches. Close it after the block."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, **options)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def save(figure: Any, stem: Path) -> list[Path]:
    """Save ``stem``.png and ``stem``.svg, each whole or not at all; the same bytes for the same figure."""
    figure.tight_layout()
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for path in paths:
        with atomic_path(path) as part:
            if path.suffix == ".svg":
                figure.savefig(part, format="svg", metadata={"Date": None})
            else:
                few_colours(figure, part, dpi=150, colours=128)
    return paths


def few_colours(figure: Any, to: Path | BytesIO, dpi: int, colours: int) -> None:
    """Write a PNG with a palette, which is less than half as large and looks the same."""
    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    image = Image.open(drawn).convert("RGB")
    image.quantize(colours, dither=Image.Dither.NONE).save(to, format="png", optimize=True)


def series(ax: Any, i: int, x: Sequence[float], y: Sequence[float], spread: Any, label: str) -> None:
    """Draw the i-th series of points with error bars, told apart by marker, dash and shade."""
    ax.errorbar(
        x, y, yerr=spread, fmt=MARKERS[i % len(MARKERS)], ls=DASHES[i % len(DASHES)], color=SHADES[i % len(SHADES)],
        ms=5, capsize=3, label=label,
    )  # fmt: skip


def grouped_bars(ax: Any, i: int, groups: int, means: Any, spreads: Any, label: str, shade: str) -> list[float]:
    """Draw the i-th bar of every group of that many bars, with error bars; return the bars' centres."""
    width = 0.8 / groups
    x = [j + (i - (groups - 1) / 2) * width for j in range(len(means))]
    hatch = HATCHES[i % len(HATCHES)]
    ax.bar(x, means, width, yerr=spreads, capsize=2, label=label, color=shade, hatch=hatch, edgecolor="0.0", lw=0.5)
    return x


def legend_below(ax: Any, ncols: int, x: float = 0.5, y: float = -0.16) -> None:
    """Put the legend below the axes, or at y > 1 above them."""
    ax.legend(fontsize=8, ncols=ncols, loc="upper center", bbox_to_anchor=(x, y), frameon=False)


def lines(panels: Sequence[Panel], stem: Path, log_base: int = 10, log_y: bool = False) -> Path:
    """Draw mean ± standard deviation against x (logarithmic), one panel each, with the legends below."""
    with sheet(1, len(panels), (4.6 * len(panels), 4.4)) as (figure, axes):
        for ax, (title, x_label, y_label, measured, known) in zip(axes[0], panels, strict=True):
            for i, (name, points) in enumerate(measured.items()):
                xs = [x for x in sorted(points) if points[x]]
                if xs:
                    ax.errorbar(
                        xs, [np.mean(points[x]) for x in xs],
                        yerr=[np.std(points[x], ddof=1) if len(points[x]) > 1 else 0.0 for x in xs],
                        marker=MARKERS[i % len(MARKERS)], ls=DASHES[i % len(DASHES)], color=_grey(i, len(measured)),
                        capsize=3, ms=5, lw=1.2, label=name,
                    )  # fmt: skip
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
            legend_below(ax, 2)
        return save(figure, stem)[0]


def bars(panels: Sequence[tuple[str, str, Mapping[str, Sequence[float]]]], stem: Path) -> Path:
    """Draw a bar for each name: its height is the mean, its whisker the standard deviation; (title, y, values)."""
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
