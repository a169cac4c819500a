"""Is the grader right? The reference, the stubs, every mutant and every variant graded, over seeds and BLAS threads.

    python -m autograder selftest [NAMES] [--seeds N] [--quick] [--out DIR]

The reference must get all points and the untouched stub none; every mutant must lose points, in its own problem alone,
and be told its own hint; every variant must keep all points. What holds in one seed must hold in all, and with one
thread as with two.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from autograder.check import Verdict
from autograder.diagnose import diagnose
from autograder.homework import Homework, homeworks, load_homework
from autograder.inside import drawn, grade_sources
from autograder.mutants import check_mutants, mutants, mutated
from autograder.strip import stubs
from autograder.variants import variants, varied

GOALS = {"killed": 1.0, "localized": 0.95, "hints": 0.90}
SMALLEST, LARGEST = 1e-3, 1e3  # of what a reference output's largest entry may be


@dataclass(frozen=True)
class Item:
    """Something to grade: kind "reference", "stub", "mutant" or "variant", and which."""

    homework: str
    kind: str
    id: str = ""


@dataclass
class Row:
    """What became of an item. shares: by seed, of the points of each problem. failures: where it lost some."""

    homework: str
    kind: str
    id: str
    problem: str = ""
    also: tuple[str, ...] = ()
    hint: str = ""
    equivalent: str = ""
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    hint_right: bool = False
    named_alone: bool = False
    unstable: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def lost(self) -> set[str]:
        """The problems that lost points under any seed."""
        return {p for shares in self.shares.values() for p, share in shares.items() if share < 1.0}

    @property
    def killed(self) -> bool:
        """Whether a mutant lost points in its own problem under every seed."""
        return all(shares[self.problem] < 1.0 for shares in self.shares.values())

    @property
    def localized(self) -> bool:
        """Whether a mutant lost points nowhere but where it may."""
        return self.lost <= {self.problem, *self.also}

    @property
    def kept(self) -> float:
        """The share that is kept of its own problem, over the seeds."""
        return float(np.mean([shares[self.problem] for shares in self.shares.values()]))


def items(names: Iterable[str]) -> list[Item]:
    """All that is graded, homework by homework."""
    found = []
    for name in names:
        found += [Item(name, "reference"), Item(name, "stub")]
        found += [Item(name, "mutant", m.id) for m in mutants(name)]
        found += [Item(name, "variant", v.id) for v in variants(name)]
    return found


def sources_of(homework: Homework, item: Item) -> dict[str, str]:
    """The modules that an item replaces."""
    if item.kind == "stub":
        by_file = stubs(homework)
        return {f.module: by_file[f.stub] for f in homework.files}
    if item.kind == "mutant":
        return mutated(next(m for m in mutants(homework.name) if m.id == item.id))
    if item.kind == "variant":
        return varied(next(v for v in variants(homework.name) if v.id == item.id))
    return {}


def run_item(item: Item, seeds: Sequence[int], threads: Sequence[int]) -> Row:
    """Grade an item under every seed with one BLAS thread, and under the first with the other numbers of threads."""
    start = time.process_time()
    homework = load_homework(item.homework)
    row = Row(item.homework, item.kind, item.id)
    if item.kind == "mutant":
        m = next(m for m in mutants(item.homework) if m.id == item.id)
        row.problem, row.also, row.hint, row.equivalent = m.problem, m.also, m.hint, m.equivalent
    if item.kind == "reference":
        row.failures += [line for seed in seeds for line in wrong_scales(homework, seed)]
    sources = sources_of(homework, item)
    first: dict[str, Verdict] = {}
    for n in threads:
        with threadpool_limits(n):
            for seed in seeds if n == threads[0] else seeds[:1]:
                verdicts = grade_sources(homework, sources, seed)
                shares = {p: v.share for p, v in verdicts.items()}
                if n == threads[0]:
                    row.shares[str(seed)] = shares
                elif shares != row.shares[str(seed)]:
                    row.unstable.append(f"seed {seed}: other points with {n} threads than with {threads[0]}")
                first = first or verdicts
                if item.kind in ("reference", "variant"):
                    row.failures += told_failures(seed, verdicts)
    kinds = [{p for p, share in shares.items() if share < 1.0} for shares in row.shares.values()]
    if item.kind == "mutant" and any(k != kinds[0] for k in kinds):
        row.unstable.append("loses points in other problems under some seeds than under others")
    if item.kind == "mutant" and first[row.problem].share < 1.0:
        judge_hint(row, homework, first[row.problem])
    row.seconds = time.process_time() - start
    return row


def judge_hint(row: Row, homework: Homework, verdict: Verdict) -> None:
    """What a student with this mistake is told, and whether the mistake's own hint is in it.

    ``named_alone``: a cause is named also where the grader does not know this mistake from its mutants.
    """
    found = diagnose(homework, verdict)
    row.told = list(dict.fromkeys(d.text for d in found))
    row.unstable += [f"the diagnosis of {d.failure.output} raised {d.trouble}" for d in found if d.trouble]
    row.hint_right = any(row.hint in text for text in row.told)
    row.named_alone = any(d.cause for d in diagnose(homework, verdict, known=False))


def told_failures(seed: int, verdicts: Mapping[str, Verdict]) -> list[str]:
    """A line for each failure."""
    return [
        f"seed {seed}, {p}, case {f.case!r}: {f.output} ({f.aspect}): {f.reason}"
        for p, v in verdicts.items()
        for f in v.failures
    ]


def wrong_scales(homework: Homework, seed: int) -> list[str]:
    """Reference outputs that test little: all zero, or too small or large for the tolerance to mean something."""
    found = []
    for problem in homework.problems:
        for case, right in drawn(homework.name, problem.id, seed):
            for output in case.checks:
                x = right[output]
                if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or output in case.exact or x.size == 0:
                    continue
                finite = np.abs(x[np.isfinite(x)])
                scale = float(finite.max()) if finite.size else 0.0
                if not SMALLEST <= scale <= LARGEST:
                    found.append(
                        f"seed {seed}, {problem.id}, case {case.name!r}: the largest entry of {output} is {scale:.2e}"
                    )
    return found


@dataclass
class Summary:
    """The counts of a homework or of all."""

    mutants: int = 0
    killed: int = 0
    localized: int = 0
    hints: int = 0
    named_alone: int = 0
    equivalent: int = 0
    equivalent_wrong: int = 0
    variants: int = 0
    false_positives: int = 0
    reference_wrong: int = 0
    stub_wrong: int = 0
    flakes: int = 0
    seconds: float = 0.0

    @property
    def missed(self) -> list[str]:
        """The goals that are missed, in words."""
        found = []
        for name, goal in GOALS.items():
            got = getattr(self, name)
            if got < goal * self.mutants:
                found.append(f"{name}: {got} of {self.mutants} mutants, the goal is {goal:.0%}")
        for name, words in {
            "false_positives": "variants lost points",
            "reference_wrong": "references lost points or have outputs of a scale that tests little",
            "stub_wrong": "untouched stubs got points",
            "flakes": "items differ by seed or by the number of threads",
            "equivalent_wrong": "mutants that are called equivalent lost points",
        }.items():
            if getattr(self, name):
                found.append(f"{getattr(self, name)} {words}, the goal is 0")
        return found


def summarize(rows: Iterable[Row]) -> Summary:
    """The counts over these rows."""
    s = Summary()
    for row in rows:
        s.seconds += row.seconds
        s.flakes += bool(row.unstable)
        if row.kind == "reference":
            s.reference_wrong += bool(row.failures or row.lost)
        elif row.kind == "stub":
            s.stub_wrong += any(share > 0.0 for shares in row.shares.values() for share in shares.values())
        elif row.kind == "variant":
            s.variants += 1
            s.false_positives += bool(row.lost)
        elif row.equivalent:
            s.equivalent += 1
            s.equivalent_wrong += bool(row.lost)
        else:
            s.mutants += 1
            s.killed += row.killed
            s.localized += row.localized
            s.hints += row.hint_right
            s.named_alone += row.named_alone
    return s


def _work(task: tuple[Item, Sequence[int], Sequence[int]]) -> Row:
    return run_item(*task)


def run(names: Sequence[str], seeds: int, threads: Sequence[int] = (1, 2), jobs: int = 2) -> Iterator[Row]:
    """The rows of these homeworks, as they are ready, in order; ``jobs`` processes.

    Variants and references run under ``seeds`` seeds, mutants and stubs under a fifth of them, at least three.
    """
    few = range(min(seeds, max(3, seeds // 5)))
    tasks = [(i, range(seeds) if i.kind in ("reference", "variant") else few, tuple(threads)) for i in items(names)]
    if jobs == 1:
        yield from map(_work, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(_work, tasks)


def main(
    names: list[str],
    seeds: int = 20,
    out: Path | None = None,
    quick: bool = False,
    say: Callable[[str], None] = print,
    jobs: int | None = None,
) -> int:
    """Run the self-test, print what came of it, and write ``selftest.json`` and ``selftest.html`` to ``out``.

    Returns 0 where every goal is met, else 1. quick: two seeds, one number of threads.
    """
    names = names or homeworks()
    for name in names:
        check_mutants(load_homework(name))
    if quick:
        seeds = min(seeds, 2)
    start = time.perf_counter()
    rows: list[Row] = []
    jobs = jobs or min(2, os.cpu_count() or 1)
    for row in run(names, seeds, (1,) if quick else (1, 2), jobs):
        if sys.stderr.isatty():
            print(f"\r{row.homework} {row.kind} {row.id}"[:78].ljust(78), end="", file=sys.stderr, flush=True)
        rows.append(row)
    if sys.stderr.isatty():
        print("\r" + " " * 78 + "\r", end="", file=sys.stderr)
    seconds = time.perf_counter() - start
    total = summarize(rows)
    for name in names:
        for line in describe([r for r in rows if r.homework == name]):
            say(line)
    say("")
    say(table(names, rows))
    say(f"{seeds} seeds, {seconds:.1f} s")
    for line in total.missed:
        say(f"MISSED  {line}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "selftest.json", names, rows, seconds)
        say(f"written to {out}")
    return 1 if total.missed else 0


def describe(rows: Sequence[Row]) -> list[str]:
    """The kill matrix of a homework, and a line for everything that is not as it should be."""
    name = rows[0].homework
    problems = [p.id for p in load_homework(name).problems]
    lines = ["", f"{name}: points kept by problem", f"{'':42}" + "".join(f"{p:>6}" for p in problems)]
    for row in rows:
        worst = {p: min(shares[p] for shares in row.shares.values()) for p in problems}
        cells = "".join(f"{'' if worst[p] == 1.0 else format(100 * worst[p], '.0f'):>5}%"[:6] if worst[p] < 1.0
                        else f"{'.':>6}" for p in problems)  # fmt: skip
        lines.append(f"{row.kind:>9} {row.id[:31]:31} {cells}{complaint(row)}")
        if row.kind in ("reference", "variant"):
            lines += [f"{'':10}{line}" for line in row.failures[:5]]
        lines += [f"{'':10}{line}" for line in row.unstable]
        if row.kind == "mutant" and not row.equivalent and row.killed and not row.hint_right:
            lines.append(f"{'':10}its hint: {row.hint}")
            lines += [f"{'':10}told: {text}" for text in row.told[:3]]
    return lines


def complaint(row: Row) -> str:
    """In a few words, what is wrong with a row."""
    if row.kind == "reference":
        return "  WRONG" if row.lost or row.failures else ""
    if row.kind == "stub":
        return "" if all(share == 0.0 for shares in row.shares.values() for share in shares.values()) else "  WRONG"
    if row.kind == "variant":
        return "  FALSE POSITIVE" if row.lost else ""
    if row.equivalent:
        return f"  equivalent: {row.equivalent}" if not row.lost else "  NOT EQUIVALENT"
    words = []
    if not row.killed:
        words.append(f"SURVIVES ({row.problem})")
    if not row.localized:
        words.append(f"ALSO FAILS {', '.join(sorted(row.lost - {row.problem, *row.also}))}")
    if row.killed and not row.hint_right:
        words.append("OTHER HINT")
    return "  " + ", ".join(words) if words else ""


def table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """One line a homework, and one for all."""
    head = f"{'':22}{'mutants':>8}{'killed':>8}{'local.':>8}{'hints':>8}{'alone':>8}{'variants':>10}{'false +':>9}"
    lines = [f"{head}{'flakes':>8}{'CPU s':>8}"]
    for name in [*names, "all"]:
        s = summarize(r for r in rows if name in (r.homework, "all"))
        lines.append(
            f"{name:22}{s.mutants:8}{s.killed:8}{s.localized:8}{s.hints:8}{s.named_alone:8}"
            f"{s.variants:10}{s.false_positives:9}{s.flakes:8}{s.seconds:8.1f}"
        )
    lines.append("alone: a cause is named also where this mutant is not among the known mistakes")
    return "\n".join(lines)


def write_json(path: Path, names: Sequence[str], rows: Sequence[Row], seconds: float) -> None:
    """Everything as JSON."""

    def counts(s: Summary) -> dict[str, Any]:
        return {**asdict(s), "missed": s.missed}

    record = {
        "seconds": seconds,
        "all": counts(summarize(rows)),
        "homeworks": {n: counts(summarize(r for r in rows if r.homework == n)) for n in names},
        "rows": [asdict(r) for r in rows],
    }
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")
