"""A diagram of where adapters, prefixes and LoRA sit in a Transformer layer, drawn from the modules that run in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import Tensor, no_grad
from minipeft.lab.framework import plots
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.nn.module import Module, find
from minipeft.nn.transformer import TransformerLayer
from minipeft.peft import AdapterConfig, LoraConfig, PeftConfig, PrefixTuningConfig, get_peft_model

FROZEN, TRAINED = "0.93", "0.6"


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
    """Return every module of a layer in the order in which the forward of x (1, 2, width) calls them.

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
    """Return the leaves of a layer with the method applied, from the input up; those of one input in one row."""
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
    """Draw one layer with each of adapters, prefixes and LoRA, from the modules that run in it."""
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
    """Draw the boxes of one row: a trained part shares the place of its frozen part, or has the row."""
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
