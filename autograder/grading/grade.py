"""Grading a submission: taken in, run in workers, compared here, a problem at a time.

grade(homework, take(path, homework), seed)    a `Graded`, with a `Verdict` for each problem
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autograder.feedback.explain import explain
from autograder.feedback.reasons import Diagnosis
from autograder.grading.check import Outputs, Raised, Verdict, judge
from autograder.grading.imports import Unloaded, load
from autograder.grading.reference import drawn, graded
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework
from autograder.sandbox.parent_limits import Confinement
from autograder.sandbox.session import Session
from autograder.submission.intake import Submission
from autograder.submission.lint import Remark, lint, warnings

WORDS = 0.03  # of the deadline: the least time for explanations


@dataclass
class Graded:
    """A submission graded, as far as it has come.

    verdicts: of the problems that are done. notes: sentences for the student. unloaded: files that cannot be imported.
    layers: what kept the workers apart.
    words: by problem, why points were lost; known only once all problems are graded.
    more: sentences about a problem, for its author.
    log: what the submission printed, cut. seconds: since the beginning. counts: True if these points stand should
    grading end now: all problems are done, or the submission has used up the time itself.
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
        """The points so far."""
        return sum(p.points * self.verdicts[p.id].share for p in self.homework.problems if p.id in self.verdicts)


def grade(
    homework: Homework,
    submission: Submission,
    seed: str | int,
    *,
    problems: Iterable[str] | None = None,
    confinement: Confinement | None = None,
    deadline: float | None = None,
    progress: Callable[[Graded], None] | None = None,
    answers: Callable[[str], Sequence[tuple[Case, Outputs]]] | None = None,
) -> Graded:
    """Grade a submission on the cases of ``seed``.

    problems: the ids to grade, all by default. confinement: see `autograder.sandbox.parent_limits`; None only for one's
    own program. deadline: seconds for the whole, after which what is left counts as not run. progress: called after
    every problem. answers: by problem, the cases with what is right, in place of those of ``seed`` and the library's
    answers: for a handout, whose library has none.
    Raises ConfinementError if a worker cannot be confined, Stalled if the deadline passed because of a slow machine.
    """
    begun = time.monotonic()
    remarks = lint(homework, submission.sources)
    done = Graded(homework, notes=[*submission.notes, *warnings(remarks)])
    broken = {
        module: Raised("raised", text.partition(":")[0], text.partition(": ")[2], _stub(homework, module), line)
        for module, (text, line) in submission.errors.items()
    }
    chosen = [homework.problem(p) for p in problems] if problems is not None else list(homework.problems)
    with Session(homework, confinement, deadline, own=answers is not None) as session:
        sources, failed = load(session, homework, submission.sources)
        broken.update({module: one.failure for module, one in failed.items()})
        done.unloaded = list(dict.fromkeys(failed.values()))
        told = {(one.stub, one.line) for one in done.unloaded}
        done.remarks = [r for r in remarks if not r.costs and (r.file, r.line) not in told]
        for problem in chosen:
            given = drawn(homework.name, problem.id, seed) if answers is None else answers(problem.id)
            failure = next((broken[t.module] for t in problem.targets if t.module in broken), broken.get(""))
            if failure is not None:
                verdict = judge(problem, [(case, right, failure) for case, right in given])
                named = [_stub(homework, t.module) for t in problem.targets if t.module in broken]
                verdict.not_run = f"Not run: {named[0] if named else 'the submission'} cannot be imported, see above."
                done.verdicts[problem.id] = verdict
            else:
                done.verdicts[problem.id] = graded(homework, problem, sources, given, session.run, session.attempts)
            done.layers, done.log = dict(session.layers), session.log
            done.seconds = time.monotonic() - begun
            done.counts = session.used_up or len(done.verdicts) == len(chosen)
            if progress is not None:
                progress(done)
    left = None if deadline is None else begun + (1 + WORDS) * deadline - time.monotonic()
    done.words = explain(homework, done.verdicts, left)
    done.seconds = time.monotonic() - begun
    return done


def _stub(homework: Homework, module: str) -> str:
    return next(f.stub for f in homework.files if f.module == module)
