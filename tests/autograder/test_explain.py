"""Words come from a process that may die: the points are known before it is asked, and do not depend on it."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autograder.feedback import exchange, explain, report
from autograder.feedback.diagnose import diagnose
from autograder.feedback.results import results
from autograder.feedback.words import NO_EXPLANATION
from autograder.grading.check import judge
from autograder.grading.grade import Graded
from autograder.grading.packed import packed
from autograder.grading.reference import drawn
from autograder.homeworks.case import Case
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT
from autograder.sandbox.frames import decode
from autograder.sandbox.process import Process

LORA = load_homework("hw6_lora")
PROBLEM = LORA.problem("6.1")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def verdict(got=None, problem=PROBLEM):
    """A verdict on one case, in which z is zero."""
    case, right = drawn(LORA.name, problem.id, 1)[0]
    return judge(problem, [(case, right, got or {**right, "z": 0 * right["z"]})])


def scored(verdicts, words):
    done = Graded(LORA, verdicts, words=words)
    return results(done)["score"], results(done)["tests"][0]["output"], report.html(done, True)


def started_with(monkeypatch, program):
    """Let the processes that explain run another program."""
    explain.end_all()
    command = [sys.executable, "-c", program]
    monkeypatch.setattr(explain, "_started", lambda: Process(command, ROOT, {"PATH": "/usr/bin:/bin"}))


def test_a_mistake_is_told_by_its_cause():
    _, told, _ = scored({"6.1": verdict()}, explain.explain(LORA, {"6.1": verdict()}))
    assert "z is zero everywhere." in told


@pytest.mark.parametrize(
    "program",
    ["import os; os._exit(1)", "import os; os.abort()", "print('no frame', flush=True)", "import time; time.sleep(60)"],
)
def test_if_it_dies_the_score_stands_and_the_text_says_so(program, monkeypatch, failed_explanations):
    started_with(monkeypatch, program)
    case, right = drawn(LORA.name, "6.2", 1)[0]
    verdicts = {"6.1": verdict(), "6.2": judge(LORA.problem("6.2"), [(case, right, right)])}
    before = scored(verdicts, {})[0]
    begun = time.monotonic()
    score, told, page = scored(verdicts, explain.explain(LORA, verdicts, seconds=1.0))
    assert time.monotonic() - begun < 10.0
    assert score == before > 0
    assert told.endswith(f"z has wrong values. {NO_EXPLANATION}")
    assert NO_EXPLANATION in page
    assert "6.1: no explanation" in failed_explanations[0]
    failed_explanations.clear()


def test_after_some_deaths_it_is_not_asked_again(monkeypatch, failed_explanations):
    started_with(monkeypatch, "import os; os._exit(1)")
    found = explain.explain(LORA, dict.fromkeys("abcdefgh", verdict()))
    assert len(found) == 8
    assert len(failed_explanations) == explain.MOST_LOST
    failed_explanations.clear()


def test_the_time_of_all_problems_is_limited_by_the_clock(monkeypatch, failed_explanations):
    started_with(monkeypatch, "import time; time.sleep(60)")
    begun = time.monotonic()
    explain.explain(LORA, dict.fromkeys("abcdefgh", verdict()), seconds=1.0)
    assert time.monotonic() - begun < 5.0
    failed_explanations.clear()


def test_a_submission_without_mistakes_starts_no_process(monkeypatch):
    monkeypatch.setattr(explain, "_started", None)
    explain.end_all()
    case, right = drawn(LORA.name, "6.1", 1)[0]
    assert explain.explain(LORA, {"6.1": judge(PROBLEM, [(case, right, right)])}) == {}


@linux
def test_it_has_limits_and_serves_the_next_submission():
    explain.explain(LORA, {"6.1": verdict()})
    (process,) = explain._idle
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    values = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert int(values["Max address space"]) <= 2 << 30
    assert int(values["Max cpu time"]) <= 60
    assert values["Max file size"] == "0"
    explain.explain(LORA, {"6.1": verdict()})
    assert explain._idle == [process]


@linux
def test_it_ends_with_its_grader():
    program = """
import os, signal
from autograder.feedback import explain
from autograder.homeworks.folder import load_homework
explain.prints(load_homework("hw8_few_shot"), {})
print(explain._idle[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    stat = Path(f"/proc/{int(ran.stdout)}/stat")
    until = time.monotonic() + 5.0
    while stat.exists() and stat.read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.02)
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_a_large_array_of_another_shape_costs_nothing():
    right = np.arange(64.0).reshape(8, 8)
    huge = np.broadcast_to(np.float16(1), (8,) * 7 + (16,))  # 64 MiB if it were copied
    case = Case("a case", "by_hand", {"x": right}, {"z": "forward", "dx": "forward"}, {})
    wrong = judge(PROBLEM, [(case, {"z": right, "dx": [right]}, {"z": huge, "dx": [huge]})])
    frame = packed(LORA.name, wrong)
    assert len(frame) < 10_000
    begun = time.process_time()
    found = diagnose(LORA, exchange.unpacked(decode(frame)["explain"]), known=False)
    assert time.process_time() - begun < 0.5
    assert "has axes that must be summed" in found[0].text


def test_a_case_with_a_large_input_is_explained_without_it():
    right = np.arange(1.0, 6.0)
    case = Case("a case", "by_hand", {"x": right, "W": np.ones((1000, 1000))}, {"z": "forward"}, {})
    wrong = judge(PROBLEM, [(case, {"z": right}, {"z": -right})])
    frame = packed(LORA.name, wrong)
    assert len(frame) < 10_000
    (found,) = diagnose(LORA, exchange.unpacked(decode(frame)["explain"]))
    assert found.text == "z has the wrong sign everywhere."


def test_problems_too_large_for_a_frame_lose_cases_and_no_failure():
    x = np.ones((500, 500))
    cases = [Case(str(i), "driver", {"x": x}, {"z": "forward"}) for i in range(12)]
    wrong = judge(PROBLEM, [(case, {"z": x}, {"z": 2 * x}) for case in cases])
    frame = packed(LORA.name, wrong)
    assert len(frame) < 17 * 1024 * 1024
    sent = exchange.unpacked(decode(frame)["explain"])
    assert 0 < len(sent.results) < 12
    assert len(diagnose(LORA, sent, known=False)) == 12
