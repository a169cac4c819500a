"""Grade a submission: run it in workers, and compare its outputs here, one problem at a time.

grade(homework, take(path, homework), seed)    a `Graded`, with a `Verdict` for each problem
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autograder.feedback.explain import explain
from autograder.feedback.reasons import Diagnosis
from autograder.grading.apart import Apart
from autograder.grading.check import Outputs, Raised, Verdict
from autograder.grading.decide import Decision
from autograder.grading.imports import Unloaded, unloaded
from autograder.grading.reference import drawn
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import handout
from autograder.submission.intake import Submission
from autograder.submission.lint import Remark, lint, warnings

WORDS = 0.03  # of the deadline: the least time for explanations


@dataclass
class Graded:
    """A submission and its grades so far.

    verdicts: of the problems that are done. notes: sentences for the student. unloaded: files that cannot be imported.
    layers: how the workers were confined.
    words: by problem, why points were lost; known only once all problems are graded.
    more: sentences about a problem, for its author.
    log: what the submission printed, cut. seconds: since the beginning.
    counts: True if these points stand if grading ends now: all problems are done, or the submission used up the time.
    """

    homework: Homework
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unloaded: list[Unloaded] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    layers: dict[str, Any] = field(default_factory=dict)
    words: dict[str, list[Diagnosis]] = field(default_factory=dict)
    more: dict[str, list[str]] = field(default_factory=dict)
    log: str = ""
    seconds: float = 0.0
    counts: bool = False

    @property
    def score(self) -> float:
        """The sum of the points so far."""
        return sum(p.points * self.verdicts[p.id].share for p in self.homework.problems if p.id in self.verdicts)


def grade(
    homework: Homework,
    submission: Submission,
    seed: str | int,
    *,
    problems: Iterable[str] | None = None,
    confinement: Mapping[str, Any] | None = None,
    deadline: float | None = None,
    progress: Callable[[Graded], None] | None = None,
    answers: Callable[[str], Sequence[tuple[Case, Outputs]]] | None = None,
) -> Graded:
    """Grade a submission.

    Args:
        homework: what was handed in.
        submission: its files.
        seed: of the cases.
        problems: the ids to grade; all by default.
        confinement: the arguments of `autograder.sandbox.parent_limits.Confinement`; another process decides then. None
            only for one's own program: this process decides.
        deadline: seconds for the whole, after which what is left counts as not run.
        progress: called after every problem.
        answers: by problem, the cases with what is right, instead of those of ``seed`` and the library's answers: for a
            handout, whose library has none.

    Raises:
        ConfinementError: a worker cannot be confined as it must be.
        Stalled: the deadline passed because of a slow machine.
    """
    begun = time.monotonic()
    remarks = lint(homework, submission.sources)
    done = Graded(homework, notes=[*submission.notes, *warnings(remarks)])
    stub = {f.module: f.stub for f in homework.files}
    broken = {
        module: Raised("raised", text.partition(":")[0], text.partition(": ")[2], stub[module], line)
        for module, (text, line) in submission.errors.items()
    }
    chosen = [p.id for p in homework.problems] if problems is None else [homework.problem(p).id for p in problems]
    made: Apart | Decision
    if confinement is not None:
        made = Apart(homework, submission.sources, broken, seed, confinement, deadline)
    else:
        given = partial(drawn, homework.name, seed=seed) if answers is None else answers
        how = {"deadline": deadline, "own": answers is not None}
        made = Decision(handout(homework), submission.sources, broken, given, **how)
    with closing(made):
        done.unloaded = unloaded(homework, submission.sources, made.failed)
        told = {(one.stub, one.line) for one in done.unloaded}
        done.remarks = [r for r in remarks if not r.costs and (r.file, r.line) not in told]
        for problem in chosen:
            done.verdicts[problem] = made.verdict(problem)
            done.layers, done.log, used_up = made.state()
            done.seconds = time.monotonic() - begun
            done.counts = used_up or len(done.verdicts) == len(chosen)
            if progress is not None:
                progress(done)
    left = None if deadline is None else begun + (1 + WORDS) * deadline - time.monotonic()
    done.words = explain(homework, done.verdicts, left)
    done.seconds = time.monotonic() - begun
    return done
