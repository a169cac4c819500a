"""Figures of the experiments on dimensions, vision, cost, and of where in a layer each method sits.

Grey alone tells the series apart: markers, line styles and hatches. Error bars are one standard deviation over seeds,
or over turns where something was timed, unless the caption says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import Tensor, no_grad
from minipeft.lab.framework import plots
from minipeft.lab.framework.plots import DASHES, HATCHES, MARKERS
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.nn.module import Module, find
from minipeft.nn.transformer import TransformerLayer
from minipeft.peft import AdapterConfig, LoraConfig, PeftConfig, PrefixTuningConfig, get_peft_model

SHADES = ("0.0", "0.35", "0.55", "0.7")
FROZEN, TRAINED = "0.93", "0.6"


def _series(ax: Any, i: int, x: Sequence[float], y: Sequence[float], spread: Any, label: str) -> None:
    ax.errorbar(
        x, y, yerr=spread, fmt=MARKERS[i % len(MARKERS)], ls=DASHES[i % len(DASHES)], color=SHADES[i % len(SHADES)],
        ms=5, capsize=3, label=label,
    )  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """Accuracy by d of one study: ds, means and spreads in [0, 1]; that of all D parameters, and the target."""

    name: str
    ds: Sequence[int]
    means: Sequence[float]
    spreads: Sequence[float]
    full: float
    target: float


@dataclass(frozen=True)
class Range:
    """A d90 with its interval; None: beyond the largest d that was tried, which is ``largest``."""

    name: str
    d: float | None
    low: float | None
    high: float | None
    largest: int


def draw_intrinsic_dimension(
    sweep: Sweep,
    ranges: Sequence[Range],
    by_steps: Mapping[str, Sequence[tuple[int, Range]]],
    mark: int | None,
    stem: Path,
) -> dict[Path, str]:
    """The sweep of the network, d90 of its studies, and d90 against pretraining steps by name; mark: a published d."""
    with plots.sheet(1, 3, (12, 3.9), width_ratios=(1, 1, 1)) as (figure, ((left, middle, right),)):
        _series(left, 0, sweep.ds, [100 * m for m in sweep.means], [100 * s for s in sweep.spreads], "in d dimensions")
        left.axhline(100 * sweep.full, color="0.0", lw=1, label="all D parameters")
        left.axhline(100 * sweep.target, color="0.4", lw=1, ls="--", label="90 % of that")
        if mark is not None:
            left.axvline(mark, color="0.6", lw=1, ls=":", label=f"published: {mark}")
        left.set(xlabel="d", ylabel="test accuracy (%)", title=sweep.name)
        left.legend(fontsize=8)
        _draw_ranges(middle, ranges)
        if mark is not None:
            middle.axvline(mark, color="0.6", lw=1, ls=":")
        for i, (name, points) in enumerate(by_steps.items()):
            known = [(s, r) for s, r in points if r.d is not None]
            ends = [_ends(r) for _, r in known]
            heights = [r.d for _, r in known if r.d is not None]
            if known:
                _series(right, i, [s for s, _ in known], heights, list(zip(*ends, strict=True)), name)
            beyond = [(s, r.largest) for s, r in points if r.d is None]
            if beyond:
                steps, largest = zip(*beyond, strict=True)
                label = f"{name}: beyond" if known else f"{name}: all beyond"
                right.plot(steps, largest, ls="none", marker="^", mfc="w", color=SHADES[i], ms=7, label=label)
        right.set(yscale="log", xlabel="pretraining steps", ylabel="d90", title="language model")
        _plain_ticks(right.yaxis, right.get_ylim())
        right.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.45, -0.16), frameon=False)
        png, _ = plots.save(figure, stem)
    return {
        png: "Left: test accuracy of the network against the dimension d of its random subspace, mean and standard "
        "deviation over seeds. Middle: d90 of every study with its 95 % interval over seeds; an arrow: beyond what was "
        "tried. Right: d90 of the language model against the steps of its pretraining, the target being that of the "
        "longest pretrained (one target) or each one's own; a triangle: beyond what was tried. Counterparts of Li et "
        "al. 2018, Figures 2 and 3, and Aghajanyan et al. 2020, Figure 2."
    }


def _ends(r: Range) -> tuple[float, float]:
    """Lengths of the error bar below and above."""
    d = r.largest if r.d is None else r.d
    low = r.largest if r.low is None else r.low
    high = r.largest if r.high is None else r.high
    return max(0.0, d - low), max(0.0, high - d)


def _draw_ranges(ax: Any, ranges: Sequence[Range]) -> None:
    for i, r in enumerate(ranges):
        d = r.largest if r.d is None else r.d
        below, above = _ends(r)
        ax.errorbar(d, i, xerr=[[below], [above]], fmt=">" if r.d is None else "o", color="0.0", ms=5, capsize=3)
        if r.d is not None and r.high is None:
            ax.annotate("→", (r.largest, i), va="center", fontsize=9)
    ax.set_yticks(range(len(ranges)), [r.name for r in ranges])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="d90, each with its own target", title="by study")
    _plain_ticks(ax.xaxis, ax.get_xlim())


def _plain_ticks(axis: Any, limits: tuple[float, float]) -> None:
    """Numbers, and not powers, on a logarithmic axis."""
    ticks = [k * 10**e for e in range(7) for k in (1, 2, 5) if limits[0] <= k * 10**e <= limits[1]]
    axis.set_ticks(ticks, [f"{t:,}" for t in ticks])
    axis.set_ticks([], minor=True)


def draw_vision(
    scores: Mapping[str, Mapping[str, Sequence[float]]], trained: Mapping[str, int], stem: Path
) -> dict[Path, str]:
    """scores: method -> group -> accuracies in [0, 1], one a seed; trained: parameters without the head."""
    methods = list(scores)
    kinds = list(scores[methods[0]])
    width = 0.8 / len(kinds)
    with plots.sheet(1, 2, (10.5, 3.6), width_ratios=(1.7, 1)) as (figure, ((bars, cloud),)):
        for i, kind in enumerate(kinds):
            values = [100 * np.asarray(scores[m][kind]) for m in methods]
            bars.bar(
                [j + (i - (len(kinds) - 1) / 2) * width for j in range(len(methods))],
                [v.mean() for v in values], width,
                yerr=[v.std(ddof=1) if len(v) > 1 else 0.0 for v in values], capsize=2, label=kind, edgecolor="0.0",
                color=("0.95", "0.8", "0.6", "0.25")[i % 4], hatch=HATCHES[i % len(HATCHES)], lw=0.5,
            )  # fmt: skip
        bars.set_xticks(range(len(methods)), methods)
        bars.set_ylabel("test accuracy (%)")
        bars.legend(fontsize=8, ncols=len(kinds), loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
        for i, m in enumerate(methods):
            v = 100 * np.asarray(scores[m]["mean"])
            spread = v.std(ddof=1) if len(v) > 1 else 0.0
            cloud.errorbar(
                max(trained[m], 1), v.mean(), yerr=spread, fmt=MARKERS[i % len(MARKERS)], capsize=3, ms=6,
                color=SHADES[i % len(SHADES)], label=m,
            )  # fmt: skip
        cloud.set_xscale("symlog", linthresh=100)
        cloud.set(xlabel="trained parameters without the head", ylabel="mean over the groups (%)")
        cloud.legend(fontsize=8, ncols=2)
        png, _ = plots.save(figure, stem)
    return {
        png: "Test accuracy by group of tasks, and the mean over the groups against the number of trained parameters; "
        "mean and standard deviation over seeds. Counterpart of the lecture's figure of the VTAB-1k averages."
    }


def draw_latency(overheads: Mapping[str, Sequence[tuple[str, float, float, float]]], stem: Path) -> dict[Path, str]:
    """overheads: method -> (cell, mean, standard deviation, of its FLOPs), in % of the base's, cell by cell."""
    methods = list(overheads)
    width = 0.8 / len(methods)
    with plots.sheet(1, 1, (8, 3.8)) as (figure, ((ax,),)):
        cells = [c for c, *_ in overheads[methods[0]]]
        for i, name in enumerate(methods):
            x = [j + (i - (len(methods) - 1) / 2) * width for j in range(len(cells))]
            _, means, spreads, flops = zip(*overheads[name], strict=True)
            ax.bar(
                x, means, width, yerr=spreads, capsize=2, label=name, color=("1.0", "0.75", "0.4")[i % 3],
                hatch=HATCHES[i], edgecolor="0.0", lw=0.5,
            )  # fmt: skip
            ax.plot(x, flops, "k_", ms=14, mew=2, label="in FLOPs" if i == 0 else None)
        ax.axhline(0, color="0.0", lw=0.8)
        ax.set_xticks(range(len(cells)), cells)
        ax.set(xlabel="batch × length", ylabel="overhead of a forward pass (%)")
        ax.legend(fontsize=8)
        png, _ = plots.save(figure, stem)
    return {
        png: "Overhead of a forward pass over the base's, taken in turn; mean and standard deviation over turns, the "
        "horizontal mark is the overhead in FLOPs. Counterpart of Hu et al. 2022, Table 1."
    }


def draw_memory(rows: Sequence[Mapping[str, Any]], stem: Path) -> dict[Path, str]:
    """The four kinds of memory by method, counted, and the peak that was measured."""
    kinds = ("parameters", "gradients", "optimizer_state", "activations")
    y = np.arange(len(rows))
    with plots.sheet(1, 1, (9, 3.8)) as (figure, ((ax,),)):
        left = np.zeros(len(rows))
        for i, kind in enumerate(kinds):
            widths = np.array([r[f"counted {kind}"] / 2**20 for r in rows])
            ax.barh(
                y, widths, left=left, color=("1.0", "0.8", "0.55", "0.3")[i], hatch=HATCHES[i], edgecolor="0.0", lw=0.5,
                label=kind.replace("_", " "),
            )  # fmt: skip
            left += widths
        ax.plot([r["measured"] / 2**20 for r in rows], y, "kD", ms=6, mec="w", label="measured peak")
        ax.set_yticks(y, [r["method"] for r in rows])
        ax.invert_yaxis()
        ax.set_xlabel("memory of a training step (MiB)")
        ax.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.14), frameon=False)
        png, _ = plots.save(figure, stem)
    return {
        png: "Memory of a training step by kind, counted on the recorded graph, and the peak of what was allocated: "
        "above the sum by the workspace, below it where gradients come only as activations go. Counterpart of the "
        "lecture's figure of ZeRO's model states."
    }


def draw_throughput(series: Mapping[str, Sequence[tuple[int, float, float, float]]], stem: Path) -> dict[Path, str]:
    """series: method -> (batch, MiB at the peak of a step, tokens a second, standard deviation)."""
    with plots.sheet(1, 2, (10, 3.8)) as (figure, ((by_batch, by_memory),)):
        for i, (name, points) in enumerate(series.items()):
            batch, mib, tokens, spread = zip(*points, strict=True)
            _series(by_batch, i, batch, tokens, spread, name)
            _series(by_memory, i, mib, tokens, spread, name)
        by_batch.set_xscale("log", base=2)
        ticks = [b for b, *_ in next(iter(series.values()))]
        by_batch.set_xticks(ticks, [str(b) for b in ticks])
        by_batch.set(xlabel="batch (examples)", ylabel="tokens a second")
        by_memory.set(xlabel="memory at the peak of a step (MiB)", ylabel="tokens a second")
        by_batch.legend(fontsize=8)
        png, _ = plots.save(figure, stem)
    return {
        png: "Tokens a second in training against the batch, and against the memory that the step takes; mean and "
        "standard deviation over turns. Counterpart of the lecture's figure of LLaMA-2-7B's throughput."
    }


@dataclass(frozen=True)
class Call:
    """One module of a layer as it ran: its path in the layer, its class, what it was given, whether it trains anything.

    leaf: no other module ran inside it.
    """

    path: str
    kind: str
    given: int
    trained: bool
    leaf: bool


def calls(layer: Module, width: int) -> list[Call]:
    """Every module of a layer in the order in which the forward of x (1, 2, width) calls them.

    trained: it has trainable parameters of its own, or in parts that do not run as modules (a LoRA's A and B).
    """
    seen: list[list[Any]] = []
    inputs: dict[int, Any] = {}  # held, so that no two of them have one id
    modules = list(layer.named_modules())

    def watched(path: str, module: Module) -> Any:
        forward = module.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if args else None
            inputs[id(given)] = given
            entry = [path, type(module).__name__, id(given) if args else 0, False, True]
            for earlier in seen:
                if path.startswith(f"{earlier[0]}.") or not earlier[0]:
                    earlier[4] = False
            seen.append(entry)
            entry[3] = any(p.requires_grad for v in vars(module).values() for p in [v] if isinstance(v, Tensor))
            return forward(*args, **kwargs)

        return run

    try:
        for path, module in modules:
            vars(module)["forward"] = watched(path, module)
        with no_grad():
            layer(Tensor(np.zeros((1, 2, width), dtype=np.float32)))
    finally:
        for _, module in modules:
            vars(module).pop("forward", None)
    return [Call(*entry) for entry in seen]


PLACES: dict[str, PeftConfig] = {
    "adapters": AdapterConfig(r=2),
    "prefix tuning": PrefixTuningConfig(num_virtual_tokens=3),
    "LoRA": LoraConfig(r=2),
}
TRAINED_PARTS = {"Adapter": "adapter", "FlatPrefix": "prefix keys, values", "LoraLayer": "A, B"}


def layer_rows(method: PeftConfig, width: int = 8) -> list[list[Call]]:
    """The leaves of a Transformer layer with the method applied, from the input up; those of one input in one row."""
    model = get_peft_model(DecoderLM(DecoderConfig.gpt2(vocab_size=8, d_model=width, n_layers=1, n_heads=2)), method)
    layer: Any = find(model.base_model, "stack.layers.0")
    assert isinstance(layer, TransformerLayer)
    rows: list[list[Call]] = []
    for call in calls(layer, width):
        inner = call.kind == "PrefixedCore"  # it runs its prefix as a module, and is itself the softmax
        if not call.leaf and not inner:
            continue
        beside = rows and (rows[-1][0].given == call.given or call.kind == "FlatPrefix")
        if beside:
            rows[-1].append(call)
        else:
            rows.append([call])
    return [[c for c in row if c.kind not in ("Dropout", "ScaledDotProduct") or len(row) == 1] for row in rows]


def draw_layer(stem: Path) -> dict[Path, str]:
    """Where adapters, prefixes and LoRA sit: one layer with each, drawn from the modules that run in it."""
    shown = {name: [r for r in layer_rows(method) if r[0].kind != "Dropout"] for name, method in PLACES.items()}
    top = max(map(len, shown.values())) + 2 * GAP
    with plots.sheet(1, len(shown), (11, 5.6)) as (figure, (axes,)):
        for ax, (name, rows) in zip(axes, shown.items(), strict=True):
            ax.set_axis_off()
            ax.set(xlim=(-0.5, 5.2), ylim=(-1.0, top), title=name)
            _draw_rows(ax, rows)
        png, _ = plots.save(figure, stem)
    return {
        png: "Where the trained parts sit in a Transformer layer, read off the modules that run in it, from the input "
        "at the bottom to the output at the top. Light: frozen; dark and hatched: trained. The lines at the left are "
        "the residual paths. Counterpart of the lecture's diagram after He et al. 2022."
    }


HEIGHT, GAP, WIDTH = 0.66, 0.5, 5.0  # of a box, between two sublayers, of a row


def _draw_rows(ax: Any, rows: Sequence[Sequence[Call]]) -> None:
    sublayers = [row[0].path.split(".")[0].removesuffix("_norm") for row in rows]
    order = list(dict.fromkeys(sublayers))
    ys = [i + GAP * order.index(name) for i, name in enumerate(sublayers)]
    ax.plot([WIDTH / 2] * 2, [-0.6, ys[-1] + HEIGHT + 0.55], color="0.3", lw=0.9, zorder=0)
    ax.text(WIDTH / 2, -0.8, "input", ha="center", va="center", fontsize=8)
    for y, row in zip(ys, rows, strict=True):
        _draw_row(ax, y, row)
    for name in order:
        mine = [y for y, n in zip(ys, sublayers, strict=True) if n == name]
        low, high = mine[0] - 0.3, mine[-1] + HEIGHT + 0.25
        ax.plot([WIDTH / 2, -0.3, -0.3, WIDTH / 2], [low, low, high, high], color="0.3", lw=0.9, zorder=0)
        circle = {"boxstyle": "circle,pad=0.05", "fc": "w"}
        ax.text(WIDTH / 2, high, "+", ha="center", va="center", fontsize=9, bbox=circle)


def _draw_row(ax: Any, y: float, row: Sequence[Call]) -> None:
    """The boxes of one row: what is trained beside a frozen part shares its place, what stands alone has the row."""
    frozen = [c for c in row if c.kind not in ("Adapter", "FlatPrefix")]
    if not frozen:
        _box(ax, 0.0, y, WIDTH, TRAINED_PARTS.get(row[0].kind, row[0].kind), True)
        return
    width = WIDTH / len(frozen)
    for i, c in enumerate(frozen):
        beside = "LoraLayer" if c.kind == "LoraLayer" else "FlatPrefix" if c is not row[-1] and len(row) == 2 else ""
        own = 0.6 if beside else 1.0
        _box(ax, i * width, y, own * width, _title(c), False)
        if beside:
            _box(ax, (i + own) * width, y, (1 - own) * width, TRAINED_PARTS[beside], True)


def _title(call: Call) -> str:
    if call.kind in ("PrefixedCore", "ScaledDotProduct"):
        return "softmax(QKᵀ)V"
    names = call.path.replace(".base", "").split(".")
    return names[-1].replace("_", " ") if names[-1] != "weight" else names[-2]


def _box(ax: Any, x: float, y: float, width: float, text: str, trained: bool) -> None:
    ax.bar(
        x + width / 2, HEIGHT, width - 0.08, bottom=y, color=TRAINED if trained else FROZEN,
        hatch="///" if trained else "", edgecolor="0.0", lw=0.7,
    )  # fmt: skip
    fill = {"fc": "w", "ec": "none", "pad": 0.8} if trained else None
    ax.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=7, bbox=fill)
