"""Where the memory of a training step goes, by method: counted, by formula, and measured.

Four kinds: parameters, gradients, optimizer state (together the model states of ZeRO, Rajbhandari et al. 2020), and the
activations saved for the backward. Training few parameters saves nearly all of the gradients and of the optimizer
state, adds a little to the parameters, and saves activations only where the backward stops early, as for the top layer.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minipeft.accounting import Forecast, gpt3_parameters, memory, trained_parameters, zero_memory
from minipeft.lab.framework.experiment import Config, Experiment, Published, Row, Table, Verdict, outcome, select
from minipeft.lab.framework.tasks import small_methods
from minipeft.lab.framework.training import adapted
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig
from minipeft.specialize import reference
from minipeft.train import train_step

METHODS = {n: m for n, m in small_methods().items() if n != "probe"} | {"LoRA": LoraConfig(r=8, lora_alpha=16)}
SIZES = {
    "quick": {"vocab_size": 256, "d_model": 64, "n_layers": 4, "n_heads": 4, "context": 64},
    "full": {"vocab_size": 1024, "d_model": 256, "n_layers": 8, "n_heads": 8, "context": 128},
}
KINDS = ("parameters", "gradients", "optimizer_state", "activations")
BY_FORMULA = {"gradients": 4, "optimizer_state": 8}  # bytes a trained parameter, in float32 with AdamW
ZERO = {0: 120.0, 1: 31.4, 2: 16.6, 3: 1.9}  # GB a device as printed in Figure 1, by stage
GPT3 = {"n_layers": 96, "d_model": 12288}


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Return a step of each method, the stages of ZeRO, and GPT-3 by formula."""
    step = {"kind": "step", **SIZES[mode], "batch": 4, "length": 32 if mode == "quick" else 96}
    wanted: list[Config] = [{**step, "method": name} for name in METHODS]
    wanted += [{"kind": "zero", "stage": stage, "psi": 7.5e9, "k": 12, "n": 64} for stage in ZERO]
    return [*wanted, {"kind": "gpt3", **GPT3, "r": 4}]


def run(config: Config, folder: Path) -> Row:
    """Return the bytes of a step as counted, by formula, foreseen and measured; or only by a published formula."""
    if config["kind"] == "zero":
        return {"bytes": zero_memory(config["psi"], config["k"], config["n"], config["stage"])}
    if config["kind"] == "gpt3":
        psi = gpt3_parameters(config["n_layers"], config["d_model"])
        trained = 2 * config["n_layers"] * 2 * config["r"] * config["d_model"]  # A and B on W_q and W_v
        states = zero_memory(1)  # bytes a trained parameter, in mixed precision
        return {
            "full": states * psi,
            "LoRA": 2 * psi + states * trained,
            "frozen weights": 2 * psi,
            "checkpoint": 2 * trained,
        }
    return step_bytes(config)


def step_bytes(config: Config) -> Row:
    """Return the four kinds of one method counted on the graph, two by formula, the peak foreseen and measured."""
    sizes = DecoderConfig.gpt2(**{name: config[name] for name in SIZES["quick"]})
    method, batch, length = METHODS[config["method"]], config["batch"], config["length"]
    ids = np.random.default_rng(0).integers(0, config["vocab_size"], (batch, length))
    step = {"ids": ids, "labels": ids}
    tracemalloc.start()
    try:
        model = adapted(DecoderLM(sizes, rng=0), method, 0)
        optimizer = AdamW(model, lr=1e-9)
        train_step(model, step, optimizer)  # the optimizer's state exists after its first step
        tracemalloc.reset_peak()
        train_step(model, step, optimizer)
        measured = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with reference():  # what the pages save
        loss = model.loss(**step)
    counted = memory(model, optimizer, loss)
    trained = trained_parameters(sizes, method)
    return {
        "trained": trained,
        **{f"counted {k}": getattr(counted, k) for k in KINDS},
        **{f"formula {k}": n * trained for k, n in BY_FORMULA.items()},
        "foreseen": Forecast(model, optimizer, step).peak(batch),
        "measured": measured,
    }


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables by method and by stage of ZeRO, and that of GPT-3."""
    steps = select(rows, kind="step")
    full = next(r for r in steps if r["method"] == "full")
    mib, whole = 2**20, _total(full)
    shown = (*(f"formula {k}" for k in BY_FORMULA), "foreseen", "measured")
    zero = select(rows, kind="zero")
    (gpt3,) = select(rows, kind="gpt3")
    return [
        Table(
            "Memory of a training step in MiB: counted on the recorded graph",
            ("method", "trained", *(k.replace("_", " ") for k in KINDS), "together", "of full %"),
            [
                (r["method"], f"{r['trained']:,}", *(n / mib for n in (*_kinds(r), _total(r))), 100 * _total(r) / whole)
                for r in steps
            ],
            f"A decoder with {full['n_layers']} layers of width {full['d_model']}, float32, AdamW, batch "
            f"{full['batch']} × {full['length']} tokens. The activations of the last product and its gradient count.",
        ),
        Table(
            "Gradients and state by the closed formulas, and the peak of a step as foreseen and as measured, in MiB",
            ("method", *(k.replace("_", " ") for k in BY_FORMULA), "peak foreseen", "peak measured", "ratio"),
            [(r["method"], *(r[k] / mib for k in shown), r["foreseen"] / r["measured"]) for r in steps],
            "Measured: the largest sum of what Python and NumPy had allocated during the second step (tracemalloc), "
            "the parameters included; it moves by some kB from run to run.",
        ),
        Table(
            "ZeRO: model states a device, 7.5 billion parameters on 64 devices, K = 12",
            ("stage", "formula GB", "printed GB"),
            [(r["stage"], f"{r['bytes'] / 1e9:.1f}", ZERO[r["stage"]]) for r in zero],
            "(2 + 2 + K) Ψ bytes; stage 1 spreads the optimizer state over the devices, 2 gradients, 3 weights too.",
        ),
        Table(
            "GPT-3 175B by the formula: model states in mixed precision",
            ("", "GB"),
            [
                ("all parameters trained, 16 Ψ", gpt3["full"] / 1e9),
                (f"LoRA r = {gpt3['r']} on W_q and W_v", gpt3["LoRA"] / 1e9),
                ("of that the frozen weights, 2 Ψ", gpt3["frozen weights"] / 1e9),
                ("LoRA's checkpoint", f"{gpt3['checkpoint'] / 1e9:.4f}"),
            ],
        ),
    ]


def _kinds(row: Row) -> list[int]:
    return [row[f"counted {k}"] for k in KINDS]


def _total(row: Row) -> int:
    return sum(_kinds(row))


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Compare counts with formulas, methods with full fine-tuning, and the formulas with published figures."""
    steps = {r["method"]: r for r in select(rows, kind="step")}
    full, lora, top = steps["full"], steps["LoRA"], steps["top-1 layer"]
    off = [(m, k) for m, r in steps.items() for k in BY_FORMULA if r[f"counted {k}"] != r[f"formula {k}"]]
    peak = max(abs(r["foreseen"] / r["measured"] - 1) for r in steps.values())
    states = 1 - (lora["counted gradients"] + lora["counted optimizer_state"]) / (
        full["counted gradients"] + full["counted optimizer_state"]
    )
    kept = lora["counted activations"] / full["counted activations"]
    top_kept = top["counted activations"] / full["counted activations"]
    zero = select(rows, kind="zero")
    wrong = [r["stage"] for r in zero if abs(r["bytes"] / 1e9 - ZERO[r["stage"]]) > 0.05 + 1e-9]
    (gpt3,) = select(rows, kind="gpt3")
    return [
        Verdict(
            "Gradients and optimizer state are what the closed formulas say, to the byte",
            outcome(not off),
            f"{len(off)} of {2 * len(steps)} differ" + (f", the first {off[0]}" if off else ""),
        ),
        Verdict(
            "The peak of a step is foreseen to 10 % of what is measured",
            outcome(peak <= 0.10, peak > 0.20),
            f"the largest difference is {100 * peak:.1f} %",
        ),
        Verdict(
            "LoRA needs less memory because of gradients and optimizer state, while its parameters are more",
            outcome(states > 0.9 and lora["counted parameters"] > full["counted parameters"]),
            f"{100 * states:.1f} % of both saved; {lora['counted parameters'] - full['counted parameters']:,} bytes of "
            f"parameters more; {100 * (1 - _total(lora) / _total(full)):.0f} % of the whole step saved",
        ),
        Verdict(
            "Training the top layers saves activations, LoRA hardly does",
            outcome(top_kept < 0.5 < kept),
            f"kept: top-1 layer {100 * top_kept:.0f} %, LoRA {100 * kept:.0f} % of full fine-tuning's activations",
        ),
        Verdict(
            "The figures of ZeRO's three stages follow from its formula",
            outcome(not wrong),
            ", ".join(f"stage {r['stage']}: {r['bytes'] / 1e9:.1f} GB" for r in zero),
        ),
        Verdict(
            "GPT-3 with LoRA trains in 350 GB, and its checkpoint is some 35 MB",
            outcome(abs(gpt3["LoRA"] / 350e9 - 1) < 0.05 and abs(gpt3["checkpoint"] / 35e6 - 1) < 0.1),
            f"{gpt3['LoRA'] / 1e9:.0f} GB and {gpt3['checkpoint'] / 1e6:.1f} MB by the formula",
        ),
        Verdict(
            "Training all of GPT-3 takes 1.2 TB",
            outcome(abs(gpt3["full"] / 1.2e12 - 1) < 0.1),
            f"{gpt3['full'] / 1e12:.1f} TB for the model states in mixed precision with Adam; 1.2 TB are "
            f"{1.2e12 / (gpt3['frozen weights'] / 2):.1f} bytes a parameter",
        ),
    ]


def draw(rows: Sequence[Row], stem: Path) -> dict[Path, str]:
    """Draw the four kinds of memory by method, counted, and the peak that was measured."""
    from minipeft.lab.framework import plots

    steps = select(rows, kind="step")
    y = np.arange(len(steps))
    with plots.sheet(1, 1, (9, 3.8)) as (figure, ((ax,),)):
        left = np.zeros(len(steps))
        for i, kind in enumerate(KINDS):
            widths = np.array([r[f"counted {kind}"] / 2**20 for r in steps])
            ax.barh(
                y, widths, left=left, color=("1.0", "0.8", "0.55", "0.3")[i], hatch=plots.HATCHES[i], edgecolor="0.0",
                lw=0.5, label=kind.replace("_", " "),
            )  # fmt: skip
            left += widths
        ax.plot([r["measured"] / 2**20 for r in steps], y, "kD", ms=6, mec="w", label="measured peak")
        ax.set_yticks(y, [r["method"] for r in steps])
        ax.invert_yaxis()
        ax.set_xlabel("memory of a training step (MiB)")
        plots.legend_below(ax, 5, y=1.14)
        png, _ = plots.save(figure, stem)
    return {
        png: "Memory of a training step by kind, counted on the recorded graph, and the peak of what was allocated: "
        "above the sum by the workspace, below it where gradients come only as activations go. Counterpart of the "
        "lecture's figure of ZeRO's model states."
    }


EXPERIMENT = Experiment(
    name="memory",
    title="Where the memory of a training step goes",
    claim="LoRA holds more parameters than full fine-tuning, but far fewer gradients and so less optimizer state.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    data="Decoders of GPT-2's layout with random weights; published formulas.",
    published=(
        Published(
            "Figure 1: memory of model states a device, Ψ = 7.5 billion, K = 12, 64 devices",
            "Rajbhandari et al. 2020 (arXiv:1910.02054)",
            ("stage", "GB"),
            tuple(ZERO.items()),
            read=False,
        ),
        Published(
            "GPT-3 175B: memory of training, and the checkpoint",
            "Hu et al. 2022 (arXiv:2106.09685)",
            ("", "full", "LoRA"),
            (("training", "1.2 TB", "350 GB"), ("checkpoint (r = 4, W_q and W_v)", "350 GB", "35 MB")),
        ),
    ),
)
