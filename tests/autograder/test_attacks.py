"""The hostile corpus is whole, and some of it is tried; `python -m autograder selftest --attacks all` tries it all."""

import ast
import json
import os
import sys
from collections import Counter

import pytest

if sys.platform != "linux":
    pytest.skip("workers are confined on Linux only", allow_module_level=True)

from autograder.homeworks.folder import homeworks
from autograder.homeworks.strip import stubs
from autograder.sandbox.parent_limits import Confinement, ConfinementError
from autograder.selftest.attacks import GROUPS, LAYERS, MARK, PLACES, ROUTES, Attack
from autograder.selftest.attacks.attempt import CANARY, Job, Outcome
from autograder.selftest.attacks.checks import look, read
from autograder.selftest.attacks.corpus import ATTACKS
from autograder.selftest.attacks.page import markdown, summary
from autograder.selftest.attacks.run import ALL, Server, batched, cells, everything, kept, run, sample
from autograder.selftest.attacks.scene import ROOT, program, scene

AS_ROOT = os.geteuid() == 0
TOO_DEEP = ("deep-program", "slow-to-parse")  # for this parser: that is the attack


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A scene for each place, made once."""
    made = {}
    for place in PLACES.values():
        folder = tmp_path_factory.mktemp("scene")
        made[place.problem] = scene(place, folder, False, False)
    return made


def test_every_attack_has_a_name_a_group_and_places_that_there_are():
    assert len({a.id for a in ATTACKS}) == len(ATTACKS)
    assert {a.group for a in ATTACKS} == set(GROUPS)
    for a in ATTACKS:
        assert set(a.places) < set(PLACES), a.id
        assert cells(a, LAYERS), a.id


def test_every_homework_is_attacked():
    assert {p.homework for p in PLACES.values()} == set(homeworks())


def test_every_program_is_one_that_python_reads(scenes):
    for attack in ATTACKS:
        if attack.hand_in is None and "TABLE" not in attack.body:
            where = scenes[attack.places[0]]
            for name, text in program(attack, where).items():
                if name in stubs(where.homework) and attack.id not in TOO_DEEP:
                    ast.parse(text)


def test_a_homework_that_is_cut_has_the_attacked_problem_last(scenes):
    for name, where in scenes.items():
        assert where.homework.problems[-1].id == name
        assert {*where.place.others, *where.place.same_file} < {p.id for p in where.homework.problems}


def test_everything_has_each_attack_by_each_route_and_all_layers():
    tried = Counter(job.attacks[0] for job in everything(ATTACKS, LAYERS))
    for a in ATTACKS:
        assert tried[a.id] == len(cells(a, LAYERS))
    some = next(a for a in ATTACKS if a.routes == ROUTES and a.layers == LAYERS)
    assert tried[some.id] == len(ROUTES) * len(LAYERS) - 1  # Gradescope's program needs root


def test_four_samples_have_each_attack_once_by_changing_axes():
    samples = [sample(ATTACKS, LAYERS, number) for number in range(8)]
    for four in (samples[:4], samples[4:]):
        jobs = [job for jobs in four for job in jobs]
        assert Counter(job.attacks[0] for job in jobs) == Counter(a.id for a in ATTACKS)
        assert {job.route for job in jobs} == set(ROUTES)
        assert {job.layers for job in jobs} == set(LAYERS)
    assert samples[0] == sample(ATTACKS, LAYERS, 0)
    assert samples[0] != samples[4]


def test_a_class_is_tried_together():
    jobs = [Job((a,), "8.6", route, ALL) for a in ("exit", "crash") for route in ("class", "grade")]
    assert sorted(len(job.attacks) for job in batched(jobs)) == [1, 1, 2]


def test_what_was_held_is_not_tried_again(tmp_path, monkeypatch):
    log = tmp_path / "log"
    row = {"attack": "exit", "place": "8.6", "route": "grade", "layers": ALL, "wrong": [], "seconds": 1.0, "bytes": 5}
    log.write_text(json.dumps(row) + "\n" + json.dumps({**row, "attack": "crash", "wrong": ["x"]}) + "\n" + '{"atta')
    assert {key[0] for key in kept(log)} == {"exit", "crash"}
    asked = []
    monkeypatch.setattr(Server, "ask", lambda self, job: asked.append(job.attacks) or [Outcome(job.attacks[0])])
    found = run([Job((name,), "8.6", "grade", ALL) for name in ("exit", "crash")], log)
    assert asked == [("crash",)]
    assert not any(o.wrong for o in found.values())


def test_points_beyond_what_is_allowed_and_points_lost_elsewhere_are_told(scenes):
    where = scenes["8.6"]
    tests = [{"number": p.id, "name": p.id, "score": p.points, "max_score": p.points} for p in where.homework.problems]
    document = {"score": where.homework.points, "tests": tests}
    wrong = []
    look(CANARY, where, document, wrong)
    assert "the attacked part got 1.00 of its points" in wrong
    wrong = []
    look(CANARY, where, {**document, "tests": [{**t, "score": 0.0} for t in tests]}, wrong)
    assert "other parts lost points: 8.1, 8.7" in wrong
    wrong = []
    look(Attack("x", "values", "", everywhere=True), where, document, wrong)
    assert any("points for nothing" in text for text in wrong)


@pytest.mark.parametrize("text", ["<script>", "\x1b[0m", "\u202e"])
def test_markup_is_told_of_any_page_and_of_any_text_for_students(scenes, text):
    for head, student, count in (
        ("", True, 1),
        ("<!doctype html>", True, 1),
        ("<!doctype html>", False, 1),
        ("", False, 0),
    ):
        wrong = []
        read([f"{head}a {text} b"], scenes["8.6"], wrong, student)
        assert len(wrong) == count


def test_texts_of_a_submission_are_told_if_students_read_them(scenes):
    wrong = []
    read([f"{MARK} {scenes['8.6'].secret}"], scenes["8.6"], wrong)
    assert len(wrong) == 2
    read([MARK], scenes["8.6"], wrong, student=False)
    assert len(wrong) == 2


def test_the_page_names_what_failed():
    attacks = [a for a in ATTACKS if a.id in ("exit", "crash")]
    found = {
        ("exit", "8.6", "grade", ALL): Outcome("exit", [], 1.0, 5 << 20),
        ("crash", "6.2", "class", ALL): Outcome("crash", ["an honest submission lost points"], 2.0, 7 << 20),
    }
    assert "1 of 2 attempts held, of 2 attacks" in summary(found)
    page = markdown(attacks, found)
    assert "**FAILED** 6.2" in page
    assert "an honest submission lost points" in page


@pytest.fixture(scope="module")
def server():
    if not AS_ROOT:
        pytest.skip("as root, workers become other users")
    try:
        Confinement()
    except ConfinementError as error:
        pytest.skip(str(error))
    made = Server(ALL, ROOT, [])
    yield made
    made.close()


@pytest.mark.parametrize("route", ["grade", "gradescope"])
def test_an_attack_that_reaches_its_goal_is_told(server, route):
    (outcome,) = server.ask(Job(("canary",), "8.6", route, ALL))
    assert outcome.wrong == ["the attacked part got 1.00 of its points"]


@pytest.mark.parametrize("name", ["results-file", "crash", "markup"])
def test_an_attack_is_held(server, name):
    (outcome,) = server.ask(Job((name,), "8.6", "grade", ALL))
    assert outcome.wrong == []


def test_attacks_in_a_class_are_held(server):
    found = server.ask(Job(("zip-encrypted", "file-names", "exit-python"), "8.6", "class", ALL))
    assert [o.wrong for o in found] == [[], [], []]
