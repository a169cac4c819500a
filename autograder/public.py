"""The public cases, which students can run before they hand in: the same code as grading, with a public seed.

In a homework's ``test_public.py``:

    from autograder.public import public_tests

    test_public = public_tests(__file__)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

from autograder.feedback.diagnose import attempt
from autograder.feedback.differences import Comparison, comparisons, sentences
from autograder.feedback.results import clean, said
from autograder.grading.answers import is_handout, stored
from autograder.grading.grade import Graded, grade
from autograder.homeworks.case import PUBLIC_SEED
from autograder.homeworks.draw import cases
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import handout
from autograder.sandbox.session import Session
from autograder.submission.intake import Submission, take
from autograder.submission.syntax import too_new_files


def check(
    homework: Homework, submission: Submission, problems: Iterable[str] | None = None, differences: bool = False
) -> Graded:
    """Grade a student's own program on the public cases, in another process, which is not confined.

    Args:
        homework: the homework.
        submission: the student's files.
        problems: ids of the problems to grade; all by default.
        differences: also compare gradients that are wrong with central differences of the student's own forward.
    """
    answers = partial(stored, homework) if is_handout(homework) else None
    done = grade(homework, submission, PUBLIC_SEED, problems=problems, answers=answers)
    done.notes += too_new_files(homework, submission.sources)
    wrong = [v for v in done.verdicts.values() if v.share < 1.0 and not v.not_run] if differences else []
    if wrong:
        with Session(handout(homework), own=True) as session:
            for verdict in wrong:
                work = partial(comparisons, homework, verdict, submission.sources, session.run)
                nothing: list[Comparison] = []
                found, _ = attempt(f"{homework.name} {verdict.problem}: differences", work, nothing)
                done.more[verdict.problem] = sentences(found)
    return done


def public_tests(file: str | Path) -> Callable[..., None]:
    """Return a pytest function with one test for each problem and case of the homework whose folder has ``file``."""
    import pytest

    homework = load_homework(Path(file).parent)
    listed = [(p.id, c.name) for p in homework.problems for c in cases(homework.name, p.id, PUBLIC_SEED)]

    @cache
    def submission() -> Submission:
        return take(homework.folder, homework)

    @cache
    def done(problem: str) -> Graded:
        return check(homework, submission(), [problem])

    @pytest.mark.parametrize(("problem", "case"), listed, ids=[f"{p}-{c}" for p, c in listed])
    def test_public(problem: str, case: str) -> None:
        said = wrong_in(done(problem), problem, case)
        if said:
            pytest.fail("\n".join(said), pytrace=False)

    return test_public


def wrong_in(done: Graded, problem: str, case: str) -> Sequence[str]:
    """Return what is said about one case of a problem; nothing if the case is right."""
    found = [d for d in done.words.get(problem, ()) if d.failure.case == case]
    return [clean(text) for text in said(done.verdicts[problem], found, hidden=False)]
