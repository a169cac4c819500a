"""What the self-test grades, item by item, and what became of each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from autograder.feedback.diagnose import diagnose
from autograder.grading.check import Verdict, graded
from autograder.grading.reference import drawn, grade_sources
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import Homework
from autograder.homeworks.mutant import Mutant, mutants, mutated
from autograder.homeworks.strip import handout, replace_bodies, source_path, stubs, targeted
from autograder.homeworks.variant import Variant, variants, varied
from autograder.sandbox.session import Session
from autograder.selftest.leave_out import left_out

SMALLEST, LARGEST = 1e-3, 1e4  # of what a reference output's largest entry may be: sums of many terms may be large


@dataclass(frozen=True)
class Item:
    """Something to grade: of kind "reference", "stub", "idle" (its functions return None), "mutant" or "variant"."""

    homework: str
    kind: str
    id: str = ""


@dataclass
class Row:
    """What became of an item.

    Args:
        homework, kind, id: of the item.
        problem, also, hint, equivalent: of the mutant.
        shares: of the points of the problems, by seed.
        told: what a student with this mistake reads.
        hint_right: the mutant's own hint is part of it.
        one_out, family_out: whether the cause is named to a grader that does not know this mutant, or none of its kin;
            see `selftest.leave_out`.
        unstable: what differed by seed, by number of threads, or in the worker.
        failures: where a reference or a variant lost points, and what passes though nothing was done.
        seconds: of processor time.
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
    one_out: str = ""
    family_out: str = ""
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
    def wrong(self) -> bool:
        """Whether an item other than a real mutant came out as it must not."""
        if self.kind in ("stub", "idle"):
            return self.earned > 0.0
        return bool(self.lost or (self.kind == "reference" and self.failures))

    @property
    def earned(self) -> float:
        """The largest share of any problem under any seed."""
        return max(share for shares in self.shares.values() for share in shares.values())


def items(names: Iterable[str]) -> list[Item]:
    """All that is graded, homework by homework."""
    found = []
    for name in names:
        found += [Item(name, "reference"), Item(name, "stub"), Item(name, "idle")]
        found += [Item(name, "mutant", m.id) for m in mutants(name)]
        found += [Item(name, "variant", v.id) for v in variants(name)]
    return found


def mutant_of(item: Item) -> Mutant:
    """Return the mutant that an item is."""
    return next(m for m in mutants(item.homework) if m.id == item.id)


def variant_of(item: Item) -> Variant:
    """Return the variant that an item is."""
    return next(v for v in variants(item.homework) if v.id == item.id)


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
        return mutated(mutant_of(item))
    if item.kind == "variant":
        return varied(variant_of(item))
    return {}


def concerned(homework: Homework, item: Item) -> set[str]:
    """The problems that are graded under every seed: those that a variant can change, those in which a mutant may fail.

    A variant can change the problems whose functions it replaces, and those that stand on them.
    """
    if item.kind == "mutant":
        m = mutant_of(item)
        return {m.problem, *m.also}
    if item.kind == "variant":
        targets = set(variant_of(item).bodies)
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
        m = mutant_of(item)
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
            f"{p}: {aspect!r} passes though nothing was done"
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
    with Session(handout(homework)) as session:
        return {
            p.id: graded(homework, p, whole, drawn(homework.name, p.id, seed), session.run, session.attempts).share
            for p in homework.problems
        }


def judge_hint(row: Row, homework: Homework, verdict: Verdict) -> None:
    """What a student with this mistake is told, and whether the mistake's own hint is in it."""
    found = diagnose(homework, verdict)
    row.told = list(dict.fromkeys(d.text for d in found))
    row.unstable += [f"the diagnosis of {d.failure.output} raised {d.trouble}" for d in found if d.trouble]
    row.hint_right = any(row.hint in text for text in row.told)
    row.one_out, row.family_out, _ = left_out(homework, mutant_of(Item(row.homework, row.kind, row.id)), verdict)


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


def _work(task: tuple[Item, Sequence[int], Sequence[int], bool]) -> Row:
    return run_item(*task)
