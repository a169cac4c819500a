"""The figures: the one place that knows matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

from minipeft.files.atomic import atomic_path

matplotlib.use("Agg")

import matplotlib.pyplot as plt

__all__ = ["STYLE", "draw_comparison", "plt"]  # plt for notebook.py, so that matplotlib is imported here alone

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
GREYS = {"gradient_bytes": "0.15", "optimizer_bytes": "0.5", "activation_bytes": "0.8"}
NAMES = {"gradient_bytes": "gradients", "optimizer_bytes": "optimizer state", "activation_bytes": "saved activations"}


@contextmanager
def sheet(n_rows: int, n_columns: int, size: tuple[float, float], **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure of the one style and its axes (n_rows, n_columns); size in inches. Closed at the end of the block."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, **options)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def save(figure: Any, stem: Path) -> list[Path]:
    """The figure as ``stem``.png and ``stem``.svg, each whole or not at all; the same bytes for the same figure."""
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
    """A PNG with a palette: less than half as large, and no eye tells them apart."""
    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    image = Image.open(drawn).convert("RGB")
    image.quantize(colours, dither=Image.Dither.NONE).save(to, format="png", optimize=True)


def draw_comparison(task: Any, rows: list[dict[str, Any]], stem: Path) -> list[Path]:
    """Quality against trained parameters, memory by kind, and time and FLOPs of a step; PNG and SVG."""
    with sheet(1, 3, (13, 4.6), width_ratios=(1.25, 1, 1)) as (figure, ((quality, memory, work),)):
        _draw_quality(quality, task, [r for r in rows if r["mean"] is not None])
        _draw_memory(memory, rows)
        _draw_work(work, rows)
        seeds = max(r["seeds"] for r in rows)
        figure.suptitle(f"{task.name}: {task.story}", fontsize=10)
        figure.supxlabel(
            f"mean ± standard deviation over {seeds} seeds; each method's learning rate chosen on the validation split",
            fontsize=8,
        )
        return save(figure, stem)


def _draw_quality(ax: Any, task: Any, rows: list[dict[str, Any]]) -> None:
    scale = 100 if task.unit == "%" else 1
    for i, r in enumerate(rows):
        ax.errorbar(
            r["trained"], scale * r["mean"], yerr=scale * r["std"], fmt=MARKERS[i % len(MARKERS)], ms=7, capsize=3,
            label=r["method"], color=plt.get_cmap("viridis")(i / max(1, len(rows))),
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("trained parameters")
    ax.set_ylabel(f"{task.metric} ({task.unit})")
    ax.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    ax.set_title("quality", fontsize=9)


def _draw_memory(ax: Any, rows: list[dict[str, Any]]) -> None:
    largest = max(sum(r[k] for k in GREYS) for r in rows)
    unit, size = ("MiB", 2**20) if largest >= 2**20 else ("KiB", 2**10)
    left = [0.0] * len(rows)
    y = list(range(len(rows)))
    for key, grey in GREYS.items():
        widths = [r[key] / size for r in rows]
        ax.barh(y, widths, left=left, color=grey, label=NAMES[key])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    ax.set_yticks(y, [r["method"] for r in rows])
    ax.invert_yaxis()
    ax.set_xlabel(f"memory of a step beside the weights ({unit})")
    ax.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    ax.set_title("memory", fontsize=9)


def _draw_work(ax: Any, rows: list[dict[str, Any]]) -> None:
    y = list(range(len(rows)))
    full = next(r for r in rows if r["method"] == "full")
    all_flops = full["forward_flops"] + full["backward_flops"]
    ax.barh([i - 0.2 for i in y], [r["step_time"] for r in rows], height=0.38, color="0.35", label="time")
    flops = [(r["forward_flops"] + r["backward_flops"]) / all_flops for r in rows]
    ax.barh([i + 0.2 for i in y], flops, height=0.38, color="0.75", label="FLOPs")
    ax.axvline(1.0, color="k", lw=0.8, ls=":")
    ax.set_yticks(y, [r["method"] for r in rows])
    ax.invert_yaxis()
    ax.set_xlabel("a step, relative to full fine-tuning")
    ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    ax.set_title("work", fontsize=9)
