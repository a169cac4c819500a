"""Is the grader right? The reference, the stubs, every mutant and every variant graded, over seeds and BLAS threads.

    python -m autograder selftest [NAMES] [--seeds N] [--quick] [--out DIR]

The reference must get all points; the untouched stub, and functions that return None, none; every mutant must lose
points, in its own problem alone, and be told its own hint; every variant must keep all points. What holds in one seed
must hold in all, with one thread as with two, and in the worker as in this process.
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
from autograder.client import Session
from autograder.diagnose import diagnose
from autograder.homework import Homework, homeworks, load_homework
from autograder.inside import drawn, grade_sources, graded
from autograder.mutants import check_mutants, mutants, mutated
from autograder.report import esc, page
from autograder.strip import replace_bodies, source_path, stubs, targeted
from autograder.variants import variants, varied
from minipeft.cli.arguments import write_text

GOALS = {"killed": 1.0, "localized": 0.95, "hints": 0.90}
IDLE = 0.0  # the share of a problem that doing nothing may earn
SMALLEST, LARGEST = 1e-3, 1e4  # of what a reference output's largest entry may be: sums of many terms may be large


@dataclass(frozen=True)
class Item:
    """Something to grade: of kind "reference", "stub", "idle" (its functions return None), "mutant" or "variant"."""

    homework: str
    kind: str
    id: str = ""


@dataclass
class Row:
    """What became of an item. shares: by seed, of the points of the problems. failures: where it lost some.

    told: what a student with this mistake reads; named_alone: whether a cause is named also where the grader does not
    know this mistake from its mutants. unstable: what differed by seed, by threads, or in the worker. seconds: of
    processor time.
    """

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

    def worst(self, problem: str) -> float:
        """The smallest share of a problem under any seed."""
        return min(shares[problem] for shares in self.shares.values() if problem in shares)

    @property
    def localized(self) -> bool:
        """Whether a mutant lost points nowhere but where it may."""
        return self.lost <= {self.problem, *self.also}

    @property
    def earned(self) -> float:
        """The largest share of any problem under any seed."""
        return max(share for shares in self.shares.values() for share in shares.values())

    @property
    def kept(self) -> float:
        """The share that is kept of its own problem, over the seeds."""
        return float(np.mean([shares[self.problem] for shares in self.shares.values()]))


def items(names: Iterable[str]) -> list[Item]:
    """All that is graded, homework by homework."""
    found = []
    for name in names:
        found += [Item(name, "reference"), Item(name, "stub"), Item(name, "idle")]
        found += [Item(name, "mutant", m.id) for m in mutants(name)]
        found += [Item(name, "variant", v.id) for v in variants(name)]
    return found


def sources_of(homework: Homework, item: Item) -> dict[str, str]:
    """The modules that an item replaces."""
    if item.kind == "stub":
        by_file = stubs(homework)
        return {f.module: by_file[f.stub] for f in homework.files}
    if item.kind == "idle":
        texts = {f.module: source_path(f.module).read_text("utf-8") for f in homework.files}
        for t in homework.targets:
            names = targeted(texts[t.module], t.name)
            texts[t.module] = replace_bodies(texts[t.module], dict.fromkeys(names, "return None"))
        return texts
    if item.kind == "mutant":
        return mutated(next(m for m in mutants(homework.name) if m.id == item.id))
    if item.kind == "variant":
        return varied(next(v for v in variants(homework.name) if v.id == item.id))
    return {}


def concerned(homework: Homework, item: Item) -> set[str]:
    """The problems that are graded under every seed: those that a variant can change, those in which a mutant may fail.

    A variant can change the problems whose functions it replaces, and those that stand on them.
    """
    if item.kind == "mutant":
        m = next(m for m in mutants(homework.name) if m.id == item.id)
        return {m.problem, *m.also}
    if item.kind == "variant":
        targets = set(next(v for v in variants(homework.name) if v.id == item.id).bodies)
        return {p.id for p in homework.problems if targets & {str(t) for t in (*p.targets, *homework.supplied(p))}}
    return {p.id for p in homework.problems}


def run_item(item: Item, seeds: Sequence[int], threads: Sequence[int], worker: bool = False) -> Row:
    """Grade an item: under the first seed all problems, under the others those that it concerns.

    These are graded again under the first seed with the other numbers of BLAS threads. With ``worker``, all are graded
    in a worker as well, as a submission is. What comes out differently is noted.
    """
    start = time.process_time()
    homework = load_homework(item.homework)
    row = Row(item.homework, item.kind, item.id)
    if item.kind == "mutant":
        m = next(m for m in mutants(item.homework) if m.id == item.id)
        row.problem, row.also, row.hint, row.equivalent = m.problem, m.also, m.hint, m.equivalent
    if item.kind == "reference":
        row.failures += [line for seed in seeds for line in wrong_scales(homework, seed)]
    sources = sources_of(homework, item)
    some = concerned(homework, item)
    first: dict[str, Verdict] = {}
    with threadpool_limits(threads[0]):
        for seed in seeds:
            verdicts = grade_sources(homework, sources, seed, some if first else None)
            first = first or verdicts
            row.shares[str(seed)] = {p: v.share for p, v in verdicts.items()}
            if item.kind in ("reference", "variant"):
                row.failures += told_failures(seed, verdicts)
    if item.kind == "idle":
        row.failures += [
            f"{p}: {aspect!r} passes though nothing was done; is it a guard?"
            for p, v in first.items()
            for aspect, ok in v.passed.items()
            if ok and v.share > 0.0
        ]
    shares = row.shares[str(seeds[0])]
    for n in threads[1:]:
        with threadpool_limits(n):
            again = {p: v.share for p, v in grade_sources(homework, sources, seeds[0], some).items()}
        own = {p: shares[p] for p in again}
        row.unstable += differing(own, again, f"with {n} BLAS threads in place of {threads[0]}")
    if worker:
        row.unstable += differing(shares, in_worker(homework, sources, seeds[0]), "in the worker")
    if item.kind == "mutant":
        lost = [{p for p in some & set(by) if by[p] < 1.0} for by in row.shares.values()]
        if any(one != lost[0] for one in lost):
            row.unstable.append("loses points in other problems under some seeds than under others")
        if first[row.problem].share < 1.0:
            judge_hint(row, homework, first[row.problem])
    row.seconds = time.process_time() - start
    return row


def differing(shares: Mapping[str, float], again: Mapping[str, float], how: str) -> list[str]:
    """A line for each problem that was graded differently the second time."""
    return [f"{p}: {share:.0%}, and {again[p]:.0%} {how}" for p, share in shares.items() if again[p] != share]


def in_worker(homework: Homework, sources: Mapping[str, str], seed: int) -> dict[str, float]:
    """The shares of the problems, with the modules run in a worker of its own process, not confined."""
    whole = {f.module: source_path(f.module).read_text("utf-8") for f in homework.files} | dict(sources)
    with Session(homework) as session:
        return {
            p.id: graded(homework, p, whole, drawn(homework.name, p.id, seed), session.run).share
            for p in homework.problems
        }


def judge_hint(row: Row, homework: Homework, verdict: Verdict) -> None:
    """What a student with this mistake is told, and whether the mistake's own hint is in it."""
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
    idle_wrong: int = 0
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
            "idle_wrong": "homeworks gave points to functions that return None",
            "flakes": "items differ by seed, by threads or in the worker",
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
            s.stub_wrong += row.earned > 0.0
        elif row.kind == "idle":
            s.idle_wrong += row.earned > IDLE
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


def _work(task: tuple[Item, Sequence[int], Sequence[int], bool]) -> Row:
    return run_item(*task)


def sampled(listed: Sequence[Item]) -> set[Item]:
    """Of each homework the reference, the stub, the first variant, and the first and the last mutant."""
    found: set[Item] = set()
    for name in {i.homework for i in listed}:
        own = [i for i in listed if i.homework == name]
        mine = [i for i in own if i.kind == "mutant"]
        found.update([*[i for i in own if i.kind in ("reference", "stub")], *mine[:1], *mine[-1:]])
        found.update([i for i in own if i.kind == "variant"][:1])
    return found


def run(
    names: Sequence[str], seeds: int, threads: Sequence[int] = (1, 2), jobs: int = 2, worker: bool = True
) -> Iterator[Row]:
    """The rows of these homeworks, as they are ready, in order; ``jobs`` processes.

    Variants and references run under ``seeds`` seeds, the others under a fifth of them, at least three. worker: grade a
    sample in real workers as well.
    """
    few = range(min(seeds, max(3, seeds // 5)))
    listed = items(names)
    sample = sampled(listed) if worker else set()
    tasks = [
        (i, range(seeds) if i.kind in ("reference", "variant") else few, tuple(threads), i in sample) for i in listed
    ]
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
    for row in run(names, seeds, (1,) if quick else (1, 2), jobs, worker=not quick):
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
        write_text(out / "selftest.json", as_json(names, rows, seconds))
        write_text(out / "selftest.html", html(names, rows, seconds))
        say(f"written to {out}")
    return 1 if total.missed else 0


def describe(rows: Sequence[Row]) -> list[str]:
    """The kill matrix of a homework, and a line for everything that is not as it should be."""
    name = rows[0].homework
    problems = [p.id for p in load_homework(name).problems]
    lines = ["", f"{name}: points kept by problem", f"{'':42}" + "".join(f"{p:>6}" for p in problems)]
    for row in rows:
        worst = {p: row.worst(p) for p in problems}
        cells = "".join(f"{'' if worst[p] == 1.0 else format(100 * worst[p], '.0f'):>5}%"[:6] if worst[p] < 1.0
                        else f"{'.':>6}" for p in problems)  # fmt: skip
        lines.append(f"{row.kind:>9} {row.id[:31]:31} {cells}{complaint(row)}")
        if row.kind in ("reference", "variant", "idle"):
            lines += [f"{'':10}{line}" for line in row.failures[:8]]
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
        return "  WRONG" if row.earned > 0.0 else ""
    if row.kind == "idle":
        return "  WRONG" if row.earned > IDLE else ""
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


def as_json(names: Sequence[str], rows: Sequence[Row], seconds: float) -> str:
    """Return everything as JSON."""

    def counts(s: Summary) -> dict[str, Any]:
        return {**asdict(s), "missed": s.missed}

    record = {
        "seconds": seconds,
        "all": counts(summarize(rows)),
        "homeworks": {n: counts(summarize(r for r in rows if r.homework == n)) for n in names},
        "rows": [asdict(r) for r in rows],
    }
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


STYLE = """
body { max-width: 80rem; }
.wide { overflow-x: auto; }
td, th { padding: .15rem .5rem; border-bottom: 1px solid var(--line); font-size: .85rem; }
td.cell { text-align: right; font-variant-numeric: tabular-nums; color: #1c1c1c; }
td.own { outline: 1px solid var(--ink); outline-offset: -1px; }
tr.wrong td:first-child { color: var(--none); font-weight: 600; }
"""


def html(names: Sequence[str], rows: Sequence[Row], seconds: float) -> str:
    """The kill matrix as a page: what each item keeps of each problem, a mutant's own problem framed."""
    total = summarize(rows)
    body = ["<h1>Self-test of the autograder</h1>"]
    body += [f'<p class="none">missed: {esc(line)}</p>' for line in total.missed] or [
        '<p class="full">All goals met.</p>'
    ]
    heads = (
        "homework",
        "mutants",
        "killed",
        "localized",
        "hints",
        "named alone",
        "variants",
        "false +",
        "flakes",
        "CPU s",
    )
    body.append('<div class="wide"><table><tr>' + "".join(f"<th>{esc(h)}</th>" for h in heads) + "</tr>")
    for name in [*names, "all"]:
        s = summarize(r for r in rows if name in (r.homework, "all"))
        counts = (s.mutants, s.killed, s.localized, s.hints, s.named_alone, s.variants, s.false_positives, s.flakes)
        cells = "".join(f'<td class="n">{n}</td>' for n in (*counts, f"{s.seconds:.1f}"))
        body.append(f"<tr><td>{esc(name)}</td>{cells}</tr>")
    body.append(
        f"</table></div><p>{seconds:.0f} s. Named alone: a cause is named also where the mutant is unknown.</p>"
    )
    for name in names:
        problems = [p.id for p in load_homework(name).problems]
        body.append(f'<h2>{esc(name)}</h2><div class="wide"><table><tr><th>kind</th><th>name</th>')
        body.append("".join(f"<th>{esc(p)}</th>" for p in problems) + "<th>what is wrong</th></tr>")
        for row in (r for r in rows if r.homework == name):
            note = complaint(row).strip()
            lines = [note, *row.unstable, *(row.failures[:8] if row.kind != "mutant" else [])]
            if row.kind == "mutant" and not row.hint_right and not row.equivalent:
                lines += [f"told: {text}" for text in row.told[:2]]
            lines.append(row.hint)
            wrong = ' class="wrong"' if (note and not row.equivalent) or row.unstable else ""
            said = "<br>".join(esc(line) for line in lines if line)
            cells = "".join(_cell(row.worst(p), p == row.problem) for p in problems)
            body.append(f"<tr{wrong}><td>{esc(row.kind)}</td><td>{esc(row.id)}</td>{cells}<td>{said}</td></tr>")
        body.append("</table></div>")
    return page("Self-test of the autograder", body, STYLE)


def _cell(share: float, own: bool) -> str:
    """A share of a problem: white for all, darker the more is lost."""
    light = round(255 - 130 * (1.0 - share))
    words = "" if share == 1.0 else f"{100 * share:.0f}"
    return f'<td class="cell{" own" if own else ""}" style="background: rgb(255, {light}, {light})">{words}</td>'
