"""The hostile corpus: that it is whole, and some of it tried; `python -m autograder selftest --attacks` tries all."""

import os
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("workers are confined on Linux only", allow_module_level=True)

from autograder.homeworks.homework import load_homework
from autograder.sandbox.parent_limits import Confinement, ConfinementError
from autograder.selftest.attacks import ATTACKS, DEFENCES, ELSEWHERE
from autograder.selftest.attacks.run import OTHERS, PART, SAME_FILE, Outcome, attempt, submission, table
from autograder.submission.intake import take

AS_ROOT = os.geteuid() == 0
PLACES = {"results": "r", "secret": "s", "open": "o", "pid": 1, "source": "x", "answer": "y"}


def test_every_attack_is_a_submission_and_has_a_name_of_its_own(tmp_path):
    assert len({a.id for a in ATTACKS}) == len(ATTACKS)
    homework = load_homework("hw8_few_shot")
    for attack in ATTACKS:
        handed = take(submission(attack, tmp_path / attack.id, PLACES), homework)
        assert not handed.errors, attack.id
    assert {PART, *OTHERS, *SAME_FILE} <= {p.id for p in homework.problems}


def test_the_classes_of_attack_that_run_as_a_program_are_all_there():
    kinds = {a.kind.split()[0] for a in ATTACKS}
    assert kinds == set(DEFENCES)
    assert kinds | set(ELSEWHERE) == {f"E{i}" for i in range(1, 56)}
    assert not kinds & set(ELSEWHERE)


def test_the_table_tells_what_failed():
    rows = [Outcome("a", "E1 x"), Outcome("b", "E2 y", ["the secret was seen"], 1.5)]
    text = table({"all layers": rows})
    assert "1 of 2 attempts held" in text
    assert "the secret was seen" in text


@pytest.mark.skipif(not AS_ROOT, reason="as root, workers become other users")
@pytest.mark.parametrize("name", ["overwrite-results", "exit", "kill", "own-frames", "markup", "read-reference"])
def test_an_attack_is_held(name):
    try:
        Confinement()
    except ConfinementError as error:
        pytest.skip(str(error))
    outcome = attempt(next(a for a in ATTACKS if a.id == name), {})
    assert outcome.wrong == []
