"""What the notebooks draw and show with: the library's source, matrices, the way back of a gradient, sliders.

Pictures are PNGs without a date or a version inside, so that the same cell gives the same bytes. Importing this module
gives BLAS one thread: the arrays of the notebooks are small, and threads would wait for each other.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import readable_bytes
from minipeft.backend import to_numpy
from minipeft.lab.framework.plots import STYLE, few_colours, plt
from minipeft.specialize import registered

STATIC = "MINIPEFT_STATIC"  # set: every slider is a row of pictures
TRAINED, FROZEN, HIDDEN = "#f2b266", "#cfd8dc", "0.88"


def _one_blas_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


_one_blas_thread()


class Source(str):
    """Source code that a notebook shows with colours."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


def show(*objects: Any) -> Source:
    """The source of functions, classes and methods of the library, under the name of their file; nothing is run.

    For a class in whose place another runs, that one is named.
    """
    parts = []
    for x in objects:
        file = Path(inspect.getsourcefile(x) or "").as_posix()
        source = textwrap.dedent(inspect.getsource(x)).rstrip()
        lines = [f"# minipeft/{file.rpartition('/minipeft/')[2]}"]
        lines += [f"# on {kind} runs {y.__name__} of {y.__module__}" for page, kind, y in registered() if page is x]
        parts.append("\n".join([*lines, source]))
    return Source("\n\n".join(parts))


@dataclass(frozen=True)
class Picture:
    """A PNG."""

    png: bytes

    def __repr__(self) -> str:
        return "a picture"

    def _repr_png_(self) -> bytes:
        return self.png


def figure(width: float = 7.0, height: float = 3.0, rows: int = 1, cols: int = 1, **kwargs: Any) -> tuple[Any, Any]:
    """A figure of that size in inches and its axes, in the style of all figures here; draw, then call `picture`."""
    with plt.rc_context(STYLE):
        return plt.subplots(rows, cols, figsize=(width, height), layout="constrained", **kwargs)


def picture(fig: Any, dpi: int = 100, colors: int = 96) -> Picture:
    """The figure as a PNG of so many colours, which makes it some three times smaller; it is closed."""
    png = io.BytesIO()
    with plt.rc_context(STYLE):
        few_colours(fig, png, dpi, colors)
    plt.close(fig)
    return Picture(png.getvalue())


def matrix(
    ax: Any,
    values: Any,
    title: str = "",
    hidden: Any = None,
    prefix: int = 0,
    rows: Sequence[str] = (),
    cols: Sequence[str] = (),
    numbers: str | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
) -> Any:
    """A matrix (N, S) as a heat map into ``ax``, and the map.

    hidden: (N, S), True where a query may not look; drawn grey and crossed. prefix: so many columns come before a line.
    rows, cols: labels. numbers: a format such as ".2f" writes the entries. limits: of the colours.
    """
    x = np.atleast_2d(to_numpy(values)).astype(float)
    covered = ~np.isfinite(x) if hidden is None else np.broadcast_to(hidden, x.shape) | ~np.isfinite(x)
    N, S = x.shape
    low, high = (None, None) if limits is None else limits
    ax.grid(False)
    drawn = ax.imshow(np.ma.masked_array(x, covered), cmap=cmap, vmin=low, vmax=high, aspect="equal")
    ax.set_facecolor(HIDDEN)
    for i, j in zip(*np.nonzero(covered), strict=True):
        ax.plot([j - 0.3, j + 0.3], [i - 0.3, i + 0.3], color="0.6", lw=0.8)
    if numbers is not None:
        drawn.norm.autoscale_None(x[~covered] if (~covered).any() else np.zeros(1))
        for i, j in zip(*np.nonzero(~covered), strict=True):
            r, g, b, _ = drawn.cmap(drawn.norm(x[i, j]))
            dark = 0.3 * r + 0.6 * g + 0.1 * b < 0.5
            ax.text(j, i, format(x[i, j], numbers), ha="center", va="center", fontsize=7, color="w" if dark else "k")
    if prefix:
        ax.axvline(prefix - 0.5, color="#d62728", lw=2)
    ax.set_xticks(range(S) if len(cols) else [], cols, fontsize=8)
    ax.set_yticks(range(N) if len(rows) else [], rows, fontsize=8)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title(title, fontsize=9)
    return drawn


@dataclass(frozen=True)
class Stage:
    """One part of a model in the picture of a gradient's way: bytes are what the graph keeps of it, 0 for nothing."""

    name: str
    trained: bool
    recorded: bool
    bytes: int = 0


def flow(ax: Any, stages: Sequence[Stage], title: str = "") -> None:
    """The way of the data (black, upper) and of the gradient (red, lower) through ``stages``, drawn from left to right.

    A gradient leaves a stage to its left only where the stage before it is recorded.
    """
    ax.grid(False)
    ax.set_axis_off()
    ax.set_xlim(-0.2, len(stages) * 1.5 - 0.2)
    ax.set_ylim(-0.75, 1.3)
    for i, s in enumerate(stages):
        x = 1.5 * i
        ax.fill([x, x + 1, x + 1, x], [0, 0, 1, 1], facecolor=TRAINED if s.trained else FROZEN, edgecolor="0.3")
        ax.text(x + 0.5, 0.5, s.name, ha="center", va="center", fontsize=8)
        kept = readable_bytes(s.bytes) if s.bytes else "0"
        ax.text(x + 0.5, -0.18, kept, ha="center", va="top", fontsize=8, color="0.25")
        if i + 1 < len(stages):
            arrow = {"arrowstyle": "-|>", "color": "k", "lw": 1.2}
            ax.annotate("", (x + 1.48, 0.72), (x + 1.02, 0.72), arrowprops=arrow)
            if s.recorded:
                ax.annotate("", (x + 1.02, 0.28), (x + 1.48, 0.28), arrowprops=arrow | {"color": "#d62728", "lw": 1.8})
            elif stages[i + 1].recorded:
                ax.text(x + 1.25, 0.28, "✕", ha="center", va="center", fontsize=10, color="#d62728")
    ax.text(
        -0.1, -0.6, "kept for the backward, below each part; orange: trained, grey: frozen", fontsize=7, color="0.35"
    )
    ax.set_title(title, fontsize=9, loc="left")


def explore(
    draw: Callable[[Any, Any], None], width: float = 3.0, height: float = 3.0, **choices: Sequence[Any]
) -> Picture | None:
    """A slider over the values of one name: ``explore(draw, rank=[1, 2, 4])`` with ``draw(fig, value)``.

    With ipywidgets in a running notebook the slider redraws one figure of width × height inches. Otherwise, and where
    the environment variable MINIPEFT_STATIC is set, the figures of all values stand side by side in one picture.
    Raises ValueError for more than one name, or a name without values.
    """
    if len(choices) != 1 or not next(iter(choices.values())):
        raise ValueError(f"explore takes one name with its values, such as rank=[1, 2, 4]; got {choices}")
    ((name, values),) = choices.items()
    values = list(values)
    if _somebody_is_there():
        from ipywidgets import SelectionSlider, interact

        def one(**chosen: Any) -> Picture:
            return _drawn(draw, name, [chosen[name]], width, height)

        slider = SelectionSlider(options=values, value=values[len(values) // 2], description=name)
        interact(one, **{name: slider})
        return None
    return _drawn(draw, name, values, width, height)


def _drawn(draw: Callable[[Any, Any], None], name: str, values: Sequence[Any], width: float, height: float) -> Picture:
    with plt.rc_context(STYLE):
        fig: Any = plt.figure(figsize=(width * len(values), height), layout="constrained")
        parts = fig.subfigures(1, len(values), squeeze=False)[0]
        for part, value in zip(parts, values, strict=True):
            draw(part, value)
            part.suptitle(f"{name} = {value}", fontsize=9)
    return picture(fig)


def _somebody_is_there() -> bool:
    """Whether a slider could be moved: in a notebook's kernel, with ipywidgets, and not told otherwise."""
    return STATIC not in os.environ and "ipykernel" in sys.modules and find_spec("ipywidgets") is not None
