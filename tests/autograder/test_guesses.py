"""No points without a solution: neither for the answers of public cases nor for bodies that compute nothing."""

from dataclasses import replace

import pytest

from autograder.grading import reference
from autograder.grading.check import compare
from autograder.homeworks.case import PUBLIC_SEED
from autograder.homeworks.folder import homeworks, load_homework
from autograder.selftest import guesses
from autograder.selftest.guesses import GOAL, Guess, guessed, missed, table, totals

SAMPLE = {  # problems of each kind: values, refusals, names, models
    "hw3_frozen_adapters": ("3.2", "3.3", "3.6"),
    "hw4_prefix": ("4.2", "4.3", "4.8"),
    "hw6_lora": ("6.3", "6.7"),
    "hw8_few_shot": ("8.1", "8.2", "8.3", "8.7"),
}


@pytest.mark.parametrize("name", SAMPLE)
def test_guessing_earns_next_to_nothing(name):
    homework = load_homework(name)
    rows = list(guessed(homework, 3, SAMPLE[name]))
    assert [r.problem for r in rows] == list(SAMPLE[name])
    assert not missed(homework, rows), table(homework, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", homeworks())
def test_guessing_earns_at_most_a_hundredth_of_a_homework(name):
    homework = load_homework(name)
    for seed in (1, 2):
        rows = list(guessed(homework, seed))
        assert not missed(homework, rows), table(homework, rows)


def test_facts_that_counted_would_be_found_out(monkeypatch):
    """The measure itself: without facts both guessers get points."""
    monkeypatch.setattr(guesses, "drawn", lambda *key: [(replace(c, facts=frozenset()), r) for c, r in DRAWN(*key)])
    homework = load_homework("hw3_frozen_adapters")
    (one,) = guessed(homework, 3, ["3.6"])
    assert one.replay > 0.5
    assert one.bodies > 0.2
    assert "return" in one.best
    assert "3.6" in table(homework, [one])


DRAWN = reference.drawn


def test_the_goal_is_a_share_of_the_homework():
    homework = load_homework("hw6_lora")
    most = GOAL * homework.points
    rows = [Guess("6.1", most, most, 0.0, ""), Guess("6.2", 0.0, 0.01, 0.0, "f: return None")]
    assert totals(rows) == pytest.approx((most, most + 0.01, 0.0))
    assert [line.partition(" gets")[0] for line in missed(homework, rows)] == ["hw6_lora: bodies"]


@pytest.mark.parametrize("name", homeworks())
def test_hidden_cases_share_no_evidence_with_public_ones(name):
    for problem in load_homework(name).problems:
        public = {case.name: right for case, right in reference.drawn(name, problem.id, PUBLIC_SEED)}
        hidden = reference.drawn(name, problem.id, 1)
        assert {case.name for case, _ in hidden} == set(public), "a name that depends on the draw"
        evident = [(c, right, o) for c, right in hidden for o in c.checks if o not in c.facts]
        assert evident, f"{problem.id} rests on facts alone: nothing of it would count"
        for case, right, output in evident:
            assert compare(case, output, right[output], public[case.name][output]) is not None, (case.name, output)


def test_a_body_gets_the_arguments_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(guesses, "BODIES", {guesses.FIRST: lambda args, n: seen.append((len(args), n))})
    homework = load_homework("hw6_lora")
    list(guessed(homework, 3, ["6.4"]))  # LoRAEmbedding.backward(ctx, dz), of E, ids, A, B and s
    assert set(seen) == {(1, 5)}
