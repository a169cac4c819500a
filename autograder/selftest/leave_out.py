"""Is the cause named to a mistake that the grader has never seen? Each mutant explained without it and its kin.

    python -m autograder selftest [NAMES] --leave-out

A student's mistake is rarely one that we thought of. So a mutant is explained twice more: by a grader that does not
know it, and by one that knows none of its kin either. Kin are the mutants that give the same numbers in any output that
is wrong, or change the same function and have a hint about the same thing. `concepts` decides what is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from autograder.feedback.diagnose import diagnose
from autograder.feedback.known import compared, is_written
from autograder.feedback.reasons import Diagnosis
from autograder.grading.check import Verdict
from autograder.grading.reference import grade_sources
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import Homework
from autograder.homeworks.mutant import Mutant, mutants, mutated
from autograder.selftest.concepts import MISLEADING, PARTLY, RIGHT, SILENT, THINGS, WAYS, judged, named
from minipeft.files.table import columns

SAYS_NOTHING = "the entries are not right."


def told(found: Sequence[Diagnosis]) -> list[str]:
    """Return what a student reads of a public case, each sentence once; without those that name nothing."""
    listed = dict.fromkeys(d.text for d in found)
    return [text for text in listed if not text.endswith(SAYS_NOTHING)]


def kin(mutant: Mutant, homework: Homework, verdict: Verdict) -> set[str]:
    """Return the ids of a mutant and of those that are like it."""
    wrong: dict[str, set[str]] = {}
    for f in verdict.failures:
        wrong.setdefault(f.case, set()).add(f.key)
    failing = [r for r in verdict.results if r[0].name in wrong and is_written(r)]
    about = named(mutant.hint, WAYS), named(mutant.hint, THINGS)
    found = {mutant.id}
    for m in mutants(homework.name):
        if m.target == mutant.target and (named(m.hint, WAYS), named(m.hint, THINGS)) == about:
            found.add(m.id)
        elif verdict.problem in (m.problem, *m.also) and not m.equivalent:
            for result in failing[:8]:
                if compared(m, homework.name, [result], {result[0].name: wrong[result[0].name]})[2]:
                    found.add(m.id)
                    break
    return found


def left_out(homework: Homework, mutant: Mutant, verdict: Verdict) -> tuple[str, str, list[str]]:
    """Return the judgements without the mutant and without its kin, and what is told without its kin."""
    one = told(diagnose(homework, verdict, without={mutant.id}))
    family = told(diagnose(homework, verdict, without=kin(mutant, homework, verdict)))
    return judged(mutant.hint, one), judged(mutant.hint, family), family


def _work(item: tuple[str, str]) -> tuple[str, str, str, str, list[str]]:
    homework = load_homework(item[0])
    mutant = next(m for m in mutants(item[0]) if m.id == item[1])
    verdict = grade_sources(homework, mutated(mutant), 0, [mutant.problem])[mutant.problem]
    return (*item, *left_out(homework, mutant, verdict))


def table(counted: Sequence[tuple[str, str, str]]) -> str:
    """Return the counts of judgements by homework: (homework, without the mutant, without its kin)."""
    heads = ["homework", "mutants", *(f"{kind}{end}" for end in (" -1", " -kin") for kind in KINDS)]
    names = list(dict.fromkeys(name for name, _, _ in counted))
    lines = []
    for name in [*names, "all"]:
        own = [row for row in counted if name in (row[0], "all")]
        cells = [f"{Counter(row[k] for row in own)[kind] / max(len(own), 1):.0%}" for k in (1, 2) for kind in KINDS]
        lines.append([name, str(len(own)), *cells])
    body = columns(heads, lines, [False] + [True] * (len(heads) - 1))
    return f"{body}\n-1: the mutant is not known. -kin: neither are those that are like it"


KINDS = (RIGHT, PARTLY, MISLEADING, SILENT)


def main(names: Sequence[str], say: Callable[[str], None] = print, jobs: int = 2, verbose: bool = False) -> int:
    """Print the table, and each mutant that misleads; verbose: each that is not named rightly."""
    listed = [(name, m.id) for name in names for m in mutants(name) if not m.equivalent]
    counted = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for name, id, one, family, texts in pool.map(_work, listed, chunksize=4):
            counted.append((name, one, family))
            if family == MISLEADING or (verbose and family != RIGHT):
                hint = next(m.hint for m in mutants(name) if m.id == id)
                say(f"{family}: {name} {id}: {hint}")
                for text in texts[:4]:
                    say(f"    {text}")
    say(table(counted))
    return 0
