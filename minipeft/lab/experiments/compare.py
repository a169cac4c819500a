"""Every method on one task, side by side: what it trains, how well it does, and what it costs.

For each method the learning rate is chosen on the validation split, from the same list and on the same seeds as for
every other; then each seed is run once more with that rate and looks at the test split once. Memory and FLOPs are
counted, not timed; time is the median of steps taken in turn with full fine-tuning's.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from minipeft import accounting
from minipeft.accounting.timing import in_turn, median_ratio
from minipeft.files.atomic import check_writable, new_folder
from minipeft.files.log import append_row, read_rows
from minipeft.files.table import columns
from minipeft.lab.framework.experiment import Row, chosen, select
from minipeft.lab.framework.runner import local, one_blas_thread
from minipeft.lab.framework.tasks import TASKS, Budget, Task
from minipeft.lab.framework.training import adapted, train
from minipeft.optim import AdamW
from minipeft.train import TrainingError, train_step

GREYS = {"gradient_bytes": "0.15", "optimizer_bytes": "0.5", "activation_bytes": "0.8"}
NAMES = {"gradient_bytes": "gradients", "optimizer_bytes": "optimizer state", "activation_bytes": "saved activations"}


@dataclass(frozen=True)
class Run:
    """One training: a method with a learning rate on a seed, judged on one split."""

    task: str
    method: str
    learning_rate: float
    seed: int
    split: str
    steps: int


def run(job: Run, folder: Path, device: str = "cpu") -> Row:
    """Train once and judge once; a row with the result (None where the training diverged) and what was run."""
    task = TASKS[job.task]
    start = time.perf_counter()
    trial = task.draw(folder, job.seed)
    model = adapted(trial.model, task.methods[job.method], job.seed).to(device)
    done = train(model, trial.batches, job.learning_rate, job.steps, seed=job.seed)
    value = trial.evaluate(model.eval(), job.split) if done else None
    return {**asdict(job), "value": value, "seconds": round(time.perf_counter() - start, 3)}


def _run(job: Row, folder: Path, device: str) -> Row:
    return run(Run(**job), folder, device)


def fingerprint(task: Task) -> str:
    """Return a short name for the exact configuration, so that only runs of the same one are reused."""
    methods = {name: None if c is None else {"type": c.peft_type, **asdict(c)} for name, c in task.methods.items()}
    text = json.dumps([task.name, task.story, asdict(task.budget), methods], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tuning_runs(task: Task) -> list[Run]:
    """Return every method with every learning rate on every tuning seed, judged on the validation split."""
    b = task.budget
    choices = product(task.methods, b.learning_rates, b.tuning_seeds)
    return [Run(task.name, m, lr, seed, "val", b.steps) for m, lr, seed in choices]


def best_rates(task: Task, rows: list[Row]) -> dict[str, float]:
    """Return for each method the learning rate with the best mean on the validation split.

    Raises TrainingError where every rate of a method diverged.
    """
    best = {}
    for method in task.methods:
        tried = select(rows, method=method, split="val")
        try:
            best[method] = chosen(tried, "learning_rate", higher_is_better=task.higher_is_better)
        except ValueError as error:
            rates = task.budget.learning_rates
            raise TrainingError(f"{method} diverged at every learning rate of {rates}") from error
    return best


def final_runs(task: Task, rates: dict[str, float]) -> list[Run]:
    """Return every method with its rate on every seed, judged on the test split."""
    return [
        Run(task.name, m, rates[m], seed, "test", task.budget.steps) for m in task.methods for seed in task.budget.seeds
    ]


def cost(task: Task, method: str, folder: Path, device: str = "cpu") -> Row:
    """Return what one training step of the method takes: bytes and FLOPs, counted."""
    trial = task.draw(folder, 0)
    model = adapted(trial.model, task.methods[method], 0).to(device)
    batch = next(iter(trial.batches.epoch(0)))
    optimizer = AdamW(model, lr=1e-9)
    train_step(model, batch, optimizer)  # the optimizer's state exists after its first step
    with accounting.count_flops() as flops:
        loss = model.loss(**batch)
        memory = accounting.memory(model, optimizer, loss)
        loss.backward()
    counts = accounting.count_parameters(model)
    return {
        "trained": counts.trainable,
        "parameters": counts.total,
        "gradient_bytes": memory.gradients,
        "optimizer_bytes": memory.optimizer_state,
        "activation_bytes": memory.activations,
        "forward_flops": flops.forward,
        "backward_flops": flops.backward,
    }


def step_times(task: Task, folder: Path, repeats: int, device: str = "cpu") -> dict[str, float]:
    """Return the time of a step relative to full fine-tuning: medians of pairs taken in turn."""
    steps = {}
    for method, config in task.methods.items():
        trial = task.draw(folder, 0)
        model = adapted(trial.model, config, 0).to(device)
        steps[method] = partial(train_step, model, next(iter(trial.batches.epoch(0))), AdamW(model, lr=1e-9))
    seconds = in_turn(steps, repeats, unmeasured=1)
    return {m: median_ratio(s, seconds["full"]) for m, s in seconds.items()}


def summarize(
    task: Task, rows: list[Row], rates: dict[str, float], costs: dict[str, Row], times: dict[str, float]
) -> list[Row]:
    """Return one row for each method: quality over the seeds, and the costs."""
    table = []
    for method in task.methods:
        values = [r["value"] for r in select(rows, method=method, split="test")]
        good = [v for v in values if v is not None]
        lrs = task.budget.learning_rates
        table.append(
            {
                "method": method,
                **costs[method],
                "mean": statistics.fmean(good) if good else None,
                "std": statistics.stdev(good) if len(good) > 1 else 0.0,
                "seeds": len(good),
                "diverged": values.count(None),
                "learning_rate": rates[method],
                "rate_at_edge": rates[method] in (lrs[0], lrs[-1]),
                "step_time": times[method],
            }
        )
    return table


def compare(
    name: str,
    out: Path,
    budget: Budget | None = None,
    jobs: int = 2,
    fresh: bool = False,
    progress: bool = True,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run the comparison of task ``name``; finished runs are kept in ``out``, by device, and not run again.

    progress: show bars if stderr is a terminal.
    say: receives a line before the base model is pretrained.

    Raises FileError, before the first run, if ``out`` cannot be written.
    Returns {"task", "rows": one a method, "runs": number run now, "reused": number taken from before}.
    """
    task = TASKS[name] if budget is None else replace(TASKS[name], budget=budget)
    check_writable(out)
    mark = fingerprint(task) + ("" if device == "cpu" else f"-{device}")
    log = RunLog(out / "runs.jsonl", mark, fresh)
    folder = out / f"pretrained-{fingerprint(replace(task, budget=TASKS[name].budget))}"
    if not folder.exists():
        if task.pretrains:
            say("pretraining the base model, once for all runs")
        with new_folder(folder) as part, one_blas_thread():
            task.prepare(part, progress)
    tuned = log.complete(tuning_runs(task), folder, jobs, "learning rates", progress, device)
    rates = best_rates(task, tuned)
    finals = log.complete(final_runs(task, rates), folder, jobs, "seeds", progress, device)
    costs = {m: cost(task, m, folder, device) for m in task.methods}
    times = step_times(task, folder, repeats=15 if name == "digits" else 5, device=device)
    rows = summarize(task, [*tuned, *finals], rates, costs, times)
    return {"task": name, "rows": rows, "runs": log.run_now, "reused": log.reused, "fingerprint": log.mark}


class RunLog:
    """Finished runs, one JSON object a line, appended as they finish: a killed comparison loses nothing."""

    def __init__(self, path: Path, mark: str, fresh: bool):
        self.path = path
        self.mark = mark
        self.run_now = 0
        self.reused = 0
        self.rows: dict[tuple[Any, ...], Row] = {}
        rows = read_rows(path, "fingerprint")
        if fresh:
            path.unlink(missing_ok=True)
        else:
            self.rows = {self._key(row): row for row in rows if row["fingerprint"] == mark}

    @staticmethod
    def _key(row: Row) -> tuple[Any, ...]:
        return tuple(row[k] for k in ("task", "method", "learning_rate", "seed", "split", "steps"))

    def complete(
        self, jobs: list[Run], folder: Path, workers: int, label: str, progress: bool, device: str = "cpu"
    ) -> list[Row]:
        """Return the rows of all ``jobs``, in order; those not yet in the log are run, ``workers`` at a time."""
        from tqdm import tqdm

        missing = [c for c in map(asdict, jobs) if self._key(c) not in self.rows]
        self.reused += len(jobs) - len(missing)
        quiet = None if progress and missing else True  # None: a bar only on a terminal
        results = local(partial(_run, device=device), missing, str(folder), workers)
        for entry in tqdm(results, total=len(missing), desc=label, disable=quiet, unit="run"):
            row = {**entry["result"], "fingerprint": self.mark}
            append_row(self.path, row)
            self.rows[self._key(row)] = row
            self.run_now += 1
        return [self.rows[self._key(asdict(j))] for j in jobs]


def table_text(task: Task, rows: list[Row]) -> str:
    """Return the rows as a table for the terminal, with units."""
    header = ["method", "trained", "% of all", f"{task.metric} ({task.unit})", "grads", "optim.", "activ."]
    header += ["fwd MFLOP", "bwd MFLOP", "step vs full", "rate"]
    lines = []
    for r in rows:
        scale, digits = (100, 1) if task.unit == "%" else (1, 3)
        quality = "diverged" if r["mean"] is None else f"{scale * r['mean']:.{digits}f} ± {scale * r['std']:.{digits}f}"
        line = [r["method"], f"{r['trained']:,}", f"{100 * r['trained'] / r['parameters']:.2f}", quality]
        line += [accounting.readable_bytes(r[k]) for k in GREYS]
        line += [f"{r[k] / 1e6:,.0f}" for k in ("forward_flops", "backward_flops")]
        lines.append([*line, f"{r['step_time']:.2f}", f"{r['learning_rate']:g}{'*' if r['rate_at_edge'] else ''}"])
    edge = "\n* the best learning rate lies at the edge of the list that was tried"
    table = columns(header, lines, [i > 0 for i in range(len(header))])
    return table + (edge if any(r["rate_at_edge"] for r in rows) else "")


def draw_comparison(task: Any, rows: list[dict[str, Any]], stem: Path) -> list[Path]:
    """Draw quality against trained parameters, memory by kind, and time and FLOPs of a step; PNG and SVG."""
    from minipeft.lab.framework import plots

    with plots.sheet(1, 3, (13, 4.6), width_ratios=(1.25, 1, 1)) as (figure, ((quality, memory, work),)):
        _draw_quality(plots, quality, task, [r for r in rows if r["mean"] is not None])
        _draw_memory(plots, memory, rows)
        _draw_work(plots, work, rows)
        seeds = max(r["seeds"] for r in rows)
        figure.suptitle(f"{task.name}: {task.story}", fontsize=10)
        figure.supxlabel(
            f"mean ± standard deviation over {seeds} seeds; each method's learning rate chosen on the validation split",
            fontsize=8,
        )
        return plots.save(figure, stem)


def _draw_quality(plots: Any, ax: Any, task: Any, rows: list[dict[str, Any]]) -> None:
    scale = 100 if task.unit == "%" else 1
    for i, r in enumerate(rows):
        ax.errorbar(
            r["trained"], scale * r["mean"], yerr=scale * r["std"], ms=7, capsize=3, label=r["method"],
            fmt=plots.MARKERS[i % len(plots.MARKERS)], color=plots.plt.get_cmap("viridis")(i / max(1, len(rows))),
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("trained parameters")
    ax.set_ylabel(f"{task.metric} ({task.unit})")
    plots.legend_below(ax, 4)
    ax.set_title("quality", fontsize=9)


def _draw_memory(plots: Any, ax: Any, rows: list[dict[str, Any]]) -> None:
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
    plots.legend_below(ax, 3)
    ax.set_title("memory", fontsize=9)


def _draw_work(plots: Any, ax: Any, rows: list[dict[str, Any]]) -> None:
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
    plots.legend_below(ax, 2)
    ax.set_title("work", fontsize=9)


def quick(budget: Budget) -> Budget:
    """Return a budget that shows the machinery within seconds; its figures mean little."""
    rates = budget.learning_rates
    return Budget((rates[len(rates) // 2],), budget.tuning_seeds[:1], budget.seeds[:2], min(budget.steps, 10))


__all__ = ["TASKS", "best_rates", "compare", "cost", "draw_comparison", "quick", "run", "table_text"]
