"""What adapters add to a forward pass, and merged LoRA does not (Hu et al. 2022, Table 1).

An adapter is a sublayer of its own: two small products that must wait for those before them. On a small batch a step
takes as long as its operations are many, not as they are large, so the overhead in time is there far above that in
FLOPs. A merged LoRA is a plain layer: its ratio shows nothing but the noise of the clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import count_flops
from minipeft.accounting.timing import in_turn, median_ratio
from minipeft.autograd import no_grad
from minipeft.lab.framework.experiment import (
    Config,
    Experiment,
    Published,
    Row,
    Table,
    Verdict,
    above,
    mean_and_spread,
    outcome,
    select,
)
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import AdapterConfig, LoraConfig, get_peft_model

GRIDS = {"quick": ((8, 32), (2, 32), (1, 1)), "full": ((8, 128), (4, 64), (1, 128), (1, 16), (1, 1))}
SIZES = {
    "quick": {"vocab_size": 512, "d_model": 128, "n_layers": 4, "n_heads": 4, "context": 32},
    "full": {"vocab_size": 512, "d_model": 256, "n_layers": 8, "n_heads": 8, "context": 128},
}
METHODS = ("LoRA, merged", "AdapterL", "AdapterH")
NOISE = 0.03  # a ratio nearer to 1 than this is none


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Return each batch × length several times, as other experiments have seeds."""
    quick = mode == "quick"
    sizes = SIZES[mode]
    return [
        {"batch": b, "length": t, "turn": turn, "repeats": 30 if quick else 60, "r": sizes["d_model"] // 8, **sizes}
        for b, t in GRIDS[mode]
        for turn in range(3 if quick else 5)
    ]


def models(config: Config) -> dict[str, Any]:
    """Return the four models by name, the base first."""
    sizes = DecoderConfig.gpt2(**{name: config[name] for name in SIZES["quick"]})
    made: dict[str, Any] = {"base": DecoderLM(sizes)}
    lora = get_peft_model(DecoderLM(sizes), LoraConfig(r=config["r"], init_lora_weights=False))
    made["LoRA, merged"] = lora.merge_and_unload()
    for name, method in (
        ("AdapterL", AdapterConfig(r=config["r"], after=["feed_forward"], layer_norm=True)),
        ("AdapterH", AdapterConfig(r=config["r"])),
    ):
        made[name] = get_peft_model(DecoderLM(sizes), method)
    return {name: model.eval() for name, model in made.items()}


def run(config: Config, folder: Path) -> Row:
    """Return the median ratio of each method's forward pass to the base's next to it, and that of its FLOPs."""
    made = models(config)
    ids = np.random.default_rng(0).integers(0, config["vocab_size"], (config["batch"], config["length"]))
    work = {}
    with no_grad():
        seconds = in_turn({name: partial(model, ids) for name, model in made.items()}, config["repeats"])
        for name, model in made.items():
            with count_flops() as flops:
                model(ids)
            work[name] = flops.forward
    result: Row = {"base ms": 1e3 * statistics.median(seconds["base"])}
    for name in METHODS:
        result[name] = median_ratio(seconds[name], seconds["base"])
        result[f"{name} FLOPs"] = work[name] / work["base"]
    return result


def cells(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return the (batch, length) of these rows, the largest first."""
    return sorted({(r["batch"], r["length"]) for r in rows}, key=lambda c: (-c[0] * c[1], -c[0]))


def overheads(rows: Sequence[Row], cell: tuple[int, int], name: str) -> list[float]:
    """Return the ratios less 1, one for each turn."""
    return [r[name] - 1 for r in select(rows, batch=cell[0], length=cell[1])]


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the overhead in time and in FLOPs."""
    body: list[Sequence[Any]] = []
    for cell in cells(rows):
        mine = select(rows, batch=cell[0], length=cell[1])
        base, _ = mean_and_spread([r["base ms"] for r in mine])
        line: list[Any] = [cell[0], cell[1], f"{base:.2f}"]
        for name in METHODS:
            mean, spread = mean_and_spread(overheads(rows, cell, name))
            line.append(f"{100 * mean:+.1f} ± {100 * spread:.1f} ({100 * (mine[0][name + ' FLOPs'] - 1):.1f})")
        body.append(line)
    return [
        Table(
            "Overhead of a forward pass in % of the base's time (in % of its FLOPs)",
            ("batch", "length", "base ms", *METHODS),
            body,
            "Passes are taken in turn with the base's; each turn is the median of their ratios, and the table has the "
            "mean and standard deviation over turns. Timed: these rows are not the same from run to run.",
        )
    ]


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say whether merged LoRA is free, adapters cost most on small batches, and AdapterH more than AdapterL."""
    grid = cells(rows)
    large, small = grid[0], grid[-1]
    merged = {c: mean_and_spread(overheads(rows, c, METHODS[0])) for c in grid}
    worst = max(grid, key=lambda c: abs(merged[c][0]))
    off, spread = merged[worst]
    free = outcome(abs(off) < NOISE, off - 2 * spread > NOISE)
    parts = [
        Verdict(
            "A merged LoRA adds no latency",
            free,
            f"the largest difference is {100 * off:+.1f} ± {100 * spread:.1f} %, at {worst[0]} × {worst[1]}",
        )
    ]
    for name in METHODS[1:]:
        a, b = overheads(rows, small, name), overheads(rows, large, name)
        parts.append(
            Verdict(
                f"The overhead of {name} is larger on a small batch than on a large one",
                above(a, b),
                f"{100 * mean_and_spread(a)[0]:+.1f} % at {small[0]} × {small[1]}, "
                f"{100 * mean_and_spread(b)[0]:+.1f} % at {large[0]} × {large[1]}",
            )
        )
    h, low = overheads(rows, small, "AdapterH"), overheads(rows, small, "AdapterL")
    parts.append(
        Verdict(
            "AdapterH, two to a layer, costs more than AdapterL, one to a layer",
            above(h, low),
            f"{100 * mean_and_spread(h)[0]:+.1f} % and {100 * mean_and_spread(low)[0]:+.1f} % "
            f"at {small[0]} × {small[1]}",
        )
    )
    return parts


def draw(rows: Sequence[Row], stem: Path) -> dict[Path, str]:
    """Draw the overheads, and where in a layer adapters, prefixes and LoRA sit."""
    from minipeft.lab.framework import layer_diagram, plots

    names = [f"{b} × {t}" for b, t in cells(rows)]
    where = layer_diagram.draw_layer(stem.with_name("where_methods_sit"))
    with plots.sheet(1, 1, (8, 3.8)) as (figure, ((ax,),)):
        for i, name in enumerate(METHODS):
            means, spreads = zip(*(mean_and_spread(overheads(rows, c, name)) for c in cells(rows)), strict=True)
            heights, errors, shade = 100 * np.array(means), 100 * np.array(spreads), ("1.0", "0.75", "0.4")[i]
            x = plots.grouped_bars(ax, i, len(METHODS), heights, errors, name, shade)
            flops = [100 * (select(rows, batch=b, length=t)[0][f"{name} FLOPs"] - 1) for b, t in cells(rows)]
            ax.plot(x, flops, "k_", ms=14, mew=2, label="in FLOPs" if i == 0 else None)
        ax.axhline(0, color="0.0", lw=0.8)
        ax.set_xticks(range(len(names)), names)
        ax.set(xlabel="batch × length", ylabel="overhead of a forward pass (%)")
        ax.legend(fontsize=8)
        png, _ = plots.save(figure, stem)
    return {
        **where,
        png: "Overhead of a forward pass over the base's, taken in turn; mean and standard deviation over turns, the "
        "horizontal mark is the overhead in FLOPs. Counterpart of Hu et al. 2022, Table 1.",
    }


EXPERIMENT = Experiment(
    name="latency",
    title="What an adapter adds to a forward pass",
    claim="Adapters introduce inference latency that is non-trivial, most on small batches; merged LoRA has none.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    data="Decoders of GPT-2's layout with random weights; full: 8 layers of width 256, on one thread.",
    published=(
        Published(
            "Table 1: milliseconds of a forward pass, GPT-2 medium, Quadro RTX 8000",
            "Hu et al. 2022 (arXiv:2106.09685)",
            ("batch / length / adapter parameters", "32 / 512 / 0.5 M", "16 / 256 / 11 M", "1 / 128 / 11 M"),
            (
                ("fine-tuned, or LoRA merged", "1449.4 ± 0.8", "338.0 ± 0.6", "19.8 ± 2.7"),
                ("AdapterL", "1482.0 ± 1.0 (+2.2 %)", "354.8 ± 0.5 (+5.0 %)", "23.9 ± 2.1 (+20.7 %)"),
                ("AdapterH", "1492.2 ± 1.0 (+3.0 %)", "366.3 ± 0.5 (+8.4 %)", "25.8 ± 2.2 (+30.3 %)"),
            ),
        ),
    ),
)
