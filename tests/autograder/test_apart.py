"""Another process decides about a submission: it says the same, and whatever happens to it, the next is right."""

import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autograder.feedback.results import results
from autograder.grading import apart
from autograder.grading.apart import from_plain
from autograder.grading.check import Verdict, identical
from autograder.grading.grade import grade
from autograder.grading.packed import plain
from autograder.grading.reference import drawn
from autograder.homeworks.case import as_data, from_data
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import replace_bodies, source_path
from autograder.sandbox.frames import decode, encode
from autograder.submission.intake import Submission

if sys.platform != "linux":
    pytest.skip("confinement needs Linux", allow_module_level=True)

HOMEWORK = load_homework("hw8_few_shot")
WELCH = "minipeft.lab.framework.welch"
SOURCES = {f.module: source_path(f.module).read_text("utf-8") for f in HOMEWORK.files}


def submitted(body):
    return Submission({**SOURCES, WELCH: replace_bodies(SOURCES[WELCH], {"welch_statistic": body})})


def decided(submission, **options):
    made = results(grade(HOMEWORK, submission, "s", problems=["8.6"], confinement={}, **options))
    made["execution_time"] = 0.0
    return made


@pytest.fixture
def fresh():
    """No process that waits, neither before nor after."""
    apart.end_all()
    yield
    apart.end_all()


def children(pid):
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_a_private_folder_may_be_named_from_where_the_caller_is(fresh, tmp_path, monkeypatch):
    (tmp_path / "class").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    done = grade(
        HOMEWORK, submitted("return 0.0, 0.0"), "s", problems=["8.6"], confinement={"private": [Path("class")]}
    )
    assert done.score == 0


def test_it_says_what_this_process_would_say_and_serves_the_next_submission(fresh):
    wrong = submitted("import numpy as np\nreturn float(np.mean(a) - np.mean(b)), 1.0")
    here = results(grade(HOMEWORK, wrong, "s", problems=["8.6"]))
    there = decided(wrong)
    assert sum("FAIL" in t["output"] for t in there["tests"]) > 0
    assert [(t["score"], t["output"]) for t in there["tests"]] == [(t["score"], t["output"]) for t in here["tests"]]
    (process,) = apart._idle
    assert decided(Submission(SOURCES))["score"] == HOMEWORK.problem("8.6").points
    assert apart._idle == [process]


def test_nothing_that_came_is_in_the_verdict():
    done = grade(HOMEWORK, submitted("return [1.0] * 1000000, 'x' * 1000000"), "s", problems=["8.6"], confinement={})
    verdict = done.verdicts["8.6"]
    assert verdict.share < 1.0
    assert verdict.results == []
    assert {(f.expected, f.got) for f in verdict.failures} == {(None, None)}
    assert max(len(f.reason) for f in verdict.failures) <= 1000
    assert len(verdict.frame) < 100_000


def test_a_verdict_survives_as_plain_values():
    verdict = Verdict("8.6", {"t": False}, {"t": 0.5}, share=0.25, inputs=frozenset("ab"), outputs=frozenset("t"))
    assert from_plain("8.6", plain(verdict, 100)) == verdict


def test_if_it_is_killed_the_grader_fails_and_the_next_submission_is_graded(fresh):
    def kill(done):
        (decider,) = [pid for pid in children(os.getpid()) if b"grading.decide" in command(pid)]
        os.kill(decider, signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"the process that decides crashed \(SIGKILL\)"):
        grade(HOMEWORK, Submission(SOURCES), "s", problems=["8.7", "8.6"], confinement={}, progress=kill)
    assert apart._idle == []
    assert decided(Submission(SOURCES))["score"] == HOMEWORK.problem("8.6").points


def command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_if_the_key_process_is_killed_the_next_submission_has_another_one(fresh):
    def kill(done):
        (decider,) = [pid for pid in children(os.getpid()) if b"grading.decide" in command(pid)]
        (key,) = [pid for pid in children(decider) if b"grading.key" in command(pid)]
        os.kill(key, signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"what is right cannot be computed: the key process crashed \(SIGKILL\)"):
        grade(HOMEWORK, Submission(SOURCES), "s", problems=["8.7", "8.6"], confinement={}, progress=kill)
    assert decided(Submission(SOURCES))["score"] == HOMEWORK.problem("8.6").points


def test_an_interruption_ends_it_and_leaves_no_folder(fresh, monkeypatch):
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    before = children(os.getpid())

    def interrupt(number, frame):
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 3.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            grade(HOMEWORK, Submission({**SOURCES, WELCH: "while True:\n    pass\n"}), "s", confinement={"private": []})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, usual)
    assert children(os.getpid()) <= before
    place.rmdir()  # it is empty


@pytest.mark.parametrize(
    ("name", "problem"), [("hw1_autograd", "1.2"), ("hw8_few_shot", "8.1"), ("hw8_few_shot", "8.6")]
)
def test_cases_and_answers_come_through_a_frame_unchanged(name, problem):
    for case, right in drawn(name, problem, "s"):
        came = decode(encode({"case": as_data(case), "right": dict(right)}))
        back = from_data(came["case"])
        assert identical(dict(right), came["right"])
        assert identical({n: np.asarray(x) for n, x in case.arrays.items()}, back.arrays)
        assert replace(back, arrays=case.arrays) == case
