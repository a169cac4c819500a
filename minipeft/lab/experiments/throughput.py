"""Tokens a second against the batch, for full fine-tuning and LoRA, under a memory budget.

Three effects on the time of a step: slower by the method's own products, faster by the gradients that are not computed,
faster by the larger batch that fits into the memory which is saved. The first two show on one batch, the third where
each method takes the largest batch that a budget holds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from minipeft.accounting import Forecast, count_flops, readable_bytes
from minipeft.accounting.timing import in_turn, median_ratio
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
from minipeft.lab.framework.training import adapted
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig
from minipeft.specialize import reference
from minipeft.train import train_step

SIZES = {
    "quick": {"vocab_size": 256, "d_model": 96, "n_layers": 3, "n_heads": 4, "context": 32},
    "full": {"vocab_size": 512, "d_model": 256, "n_layers": 6, "n_heads": 8, "context": 64},
}
BATCHES = {"quick": (1, 2, 4, 8, 16), "full": (1, 2, 4, 8, 16, 32)}
METHODS = {"full": None, "LoRA": LoraConfig(r=4, lora_alpha=8)}


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Return each batch several times, as other experiments have seeds."""
    quick = mode == "quick"
    length = 16 if quick else 32
    return [
        {**SIZES[mode], "length": length, "batch": b, "turn": turn, "repeats": 5}
        for b in BATCHES[mode]
        for turn in range(3)
    ]


def run(config: Config, folder: Path) -> Row:
    """Return median seconds of a step of both methods taken in turn, the bytes that each needs, and its FLOPs."""
    sizes = DecoderConfig.gpt2(**{name: config[name] for name in SIZES["quick"]})
    ids = np.random.default_rng(0).integers(0, config["vocab_size"], (config["batch"], config["length"]))
    batch = {"ids": ids, "labels": ids}
    result: Row = {}
    steps = {}
    for name, method in METHODS.items():
        model = adapted(DecoderLM(sizes, rng=0), method, 0)
        optimizer = AdamW(model, lr=1e-9)
        steps[name] = partial(train_step, model, batch, optimizer)
        steps[name]()  # the optimizer's state exists after its first step
        result[f"{name} bytes"] = Forecast(model, optimizer, batch).peak(config["batch"])
        with reference(), count_flops() as flops:
            model.loss(**batch).backward(into={})
        result[f"{name} FLOPs"] = flops.total
    seconds = in_turn(steps, config["repeats"], unmeasured=1)
    for name, values in seconds.items():
        result[f"{name} tokens/s"] = ids.size / statistics.median(values)
    return {**result, "speed-up": median_ratio(seconds["full"], seconds["LoRA"])}


def batches(rows: Sequence[Row]) -> list[int]:
    """Return the batches of these rows, ascending."""
    return sorted({r["batch"] for r in rows})


def rate(rows: Sequence[Row], method: str, batch: int) -> tuple[float, float]:
    """Return tokens a second, mean and spread over the turns."""
    return mean_and_spread([r[f"{method} tokens/s"] for r in select(rows, batch=batch)])


def need(rows: Sequence[Row], method: str, batch: int) -> int:
    """Return bytes at the peak of a step."""
    bytes_needed: int = select(rows, batch=batch)[0][f"{method} bytes"]
    return bytes_needed


def fits(rows: Sequence[Row], method: str, budget: float) -> int | None:
    """Return the largest batch of these rows that fits the budget, or None."""
    return max((b for b in batches(rows) if need(rows, method, b) <= budget), default=None)


def budgets(rows: Sequence[Row]) -> list[int]:
    """Return the budgets to compare: what full fine-tuning needs at each batch except the largest."""
    return [need(rows, "full", b) for b in batches(rows)[:-1]]


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables by batch and by budget."""
    by_batch = []
    for b in batches(rows):
        mine = select(rows, batch=b)
        ratio, spread = mean_and_spread([r["speed-up"] for r in mine])
        tokens = ("{:,.0f} ± {:,.0f}".format(*rate(rows, m, b)) for m in METHODS)
        flops = mine[0]["full FLOPs"] / mine[0]["LoRA FLOPs"]
        needed = (readable_bytes(need(rows, m, b)) for m in METHODS)
        by_batch.append((b, *tokens, f"{ratio:.2f} ± {spread:.2f}", flops, *needed))
    by_budget = []
    for budget in budgets(rows):
        full, lora = fits(rows, "full", budget), fits(rows, "LoRA", budget)
        assert full is not None
        assert lora is not None
        gain = rate(rows, "LoRA", lora)[0] / rate(rows, "full", full)[0]
        by_budget.append((readable_bytes(budget), full, lora, gain))
    first = rows[0]
    return [
        Table(
            "Tokens a second by batch",
            ("batch", "full", "LoRA", "LoRA / full", "FLOPs full / LoRA", "full needs", "LoRA needs"),
            by_batch,
            f"A decoder with {first['n_layers']} layers of width {first['d_model']}, {first['length']} tokens an "
            f"example, one thread. Steps are taken in turn; medians within a turn, mean ± standard deviation over "
            "turns. Timed: these rows are not the same from run to run.",
        ),
        Table(
            "Under a memory budget: the largest batch that fits, and what it brings",
            ("budget", "full: batch", "LoRA: batch", "LoRA / full, tokens a second"),
            by_budget,
            "Out of the batches of the table above; the budget counts parameters, gradients, optimizer state, "
            "activations and workspace at the peak of a step.",
        ),
    ]


def gains(rows: Sequence[Row], budget: float) -> list[float]:
    """Return LoRA's tokens a second over full's, each at its largest batch within the budget, turn by turn."""
    full, lora = fits(rows, "full", budget), fits(rows, "LoRA", budget)
    a, b = select(rows, batch=lora), select(rows, batch=full)
    return [x["LoRA tokens/s"] / y["full tokens/s"] for x, y in zip(a, b, strict=True)]


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Say whether LoRA is faster on one batch, fits a larger one, and gains 30 % tokens a second in one budget."""
    largest = batches(rows)[-1]
    same = [r["speed-up"] for r in select(rows, batch=largest)]
    tightest = budgets(rows)[0]
    lora = fits(rows, "LoRA", tightest)
    under = gains(rows, tightest)
    first = batches(rows)[0]
    wider = [a / b for a, b in zip(
        [r["LoRA tokens/s"] for r in select(rows, batch=lora)],
        [r["LoRA tokens/s"] for r in select(rows, batch=first)],
        strict=True,
    )]  # fmt: skip
    return [
        Verdict(
            "On one batch LoRA's step is faster, by the gradients that it does not compute",
            above(same, 1.0),
            f"{mean_and_spread(same)[0]:.2f} times the tokens a second at batch {largest}; by the FLOPs it would be "
            f"{select(rows, batch=largest)[0]['full FLOPs'] / select(rows, batch=largest)[0]['LoRA FLOPs']:.2f}",
        ),
        Verdict(
            "The memory that LoRA saves allows a larger batch, which is faster still",
            above(wider, 1.0) if lora is not None and lora > first else outcome(False),
            f"in what full fine-tuning needs for {first} LoRA has room for {lora}, which gives LoRA "
            f"{mean_and_spread(wider)[0]:.2f} times its tokens a second at {first}",
        ),
        Verdict(
            "Within one memory budget LoRA trains on at least 30 % more tokens a second",
            above(under, 1.3),
            f"{100 * (mean_and_spread(under)[0] - 1):+.0f} % in the budget of full fine-tuning at batch {first}; "
            "published: +33 % (32.5 to 43.1) for GPT-3, some +30 % for LLaMA-2-7B",
        ),
    ]


def draw(rows: Sequence[Row], stem: Path) -> dict[Path, str]:
    """Draw tokens a second against the batch and against the memory that it takes."""
    from minipeft.lab.framework import plots

    batch = batches(rows)
    with plots.sheet(1, 2, (10, 3.8)) as (figure, ((by_batch, by_memory),)):
        for i, name in enumerate(METHODS):
            tokens, spread = zip(*(rate(rows, name, b) for b in batch), strict=True)
            plots.series(by_batch, i, batch, tokens, spread, name)
            plots.series(by_memory, i, [need(rows, name, b) / 2**20 for b in batch], tokens, spread, name)
        by_batch.set_xscale("log", base=2)
        by_batch.set_xticks(batch, [str(b) for b in batch])
        by_batch.set(xlabel="batch (examples)", ylabel="tokens a second")
        by_memory.set(xlabel="memory at the peak of a step (MiB)", ylabel="tokens a second")
        by_batch.legend(fontsize=8)
        png, _ = plots.save(figure, stem)
    return {
        png: "Tokens a second in training against the batch, and against the memory that the step takes; mean and "
        "standard deviation over turns. Counterpart of the lecture's figure of LLaMA-2-7B's throughput."
    }


EXPERIMENT = Experiment(
    name="throughput",
    title="Tokens a second under a memory budget",
    claim="LoRA trains on more tokens a second: fewer gradients are computed, and a larger batch fits into the memory.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    data="Decoders of GPT-2's layout with random weights.",
    published=(
        Published(
            "Tokens a second in training",
            "Hu et al. 2022 (arXiv:2106.09685), GPT-3 175B on a V100; the lecture, LLaMA-2-7B",
            ("model", "full", "LoRA", "gain %"),
            (("GPT-3 175B", 32.5, 43.1, 33.0), ("LLaMA-2-7B, context 512", None, None, "about 30")),
        ),
    ),
)
