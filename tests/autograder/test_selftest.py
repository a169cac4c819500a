"""The self-test counts what it says it counts, and a grader that lets a mistake through misses its goals."""

import json

import pytest

from autograder import selftest
from autograder.grading.library import changed_bodies, patched
from autograder.homeworks.folder import load_homework
from autograder.homeworks.mutant import Mutant, mutants, mutated
from autograder.homeworks.strip import replace_bodies, source_path
from autograder.homeworks.variant import Variant
from autograder.selftest.matrix import html, summarize
from autograder.selftest.rows import Item, Row, concerned, differing, items, run_item

LORA = "minipeft.peft.lora"
FORWARD = f"{LORA}:LoRALinear.forward"
HOMEWORK = load_homework("hw6_lora")
OWN = next(p.id for p in HOMEWORK.problems if FORWARD in map(str, p.targets))
NAIVE = """
ctx.save(x, x @ lora_A.T, weight, lora_A, lora_B, (scale, x.shape))
z = x @ weight.T + {} * (x @ lora_A.T) @ lora_B.T
return z if bias is None else z + bias
"""


def row(kind, shares, **kwargs):
    return Row("hw", kind, "an id", shares={"0": shares}, **kwargs)


def test_the_counts():
    rows = [
        row("reference", {"1": 1.0, "2": 1.0}),
        row("stub", {"1": 0.0, "2": 0.0}),
        row("idle", {"1": 0.0, "2": 0.0}),
        row("mutant", {"1": 0.5, "2": 1.0}, problem="1", hint_right=True),
        row("mutant", {"1": 1.0, "2": 1.0}, problem="1"),  # survives
        row("mutant", {"1": 0.5, "2": 0.5}, problem="1", hint_right=True),  # elsewhere too
        row("mutant", {"1": 0.5, "2": 0.5}, problem="1", also=("2",), hint_right=True, family_out="right"),
        row("mutant", {"1": 1.0, "2": 1.0}, problem="1", equivalent="a reason"),
        row("variant", {"1": 1.0, "2": 1.0}),
    ]
    s = summarize(rows)
    assert (s.mutants, s.killed, s.localized, s.known, s.hints) == (4, 3, 3, 3, 1)
    assert (s.equivalent, s.equivalent_wrong, s.variants, s.false_positives) == (1, 0, 1, 0)
    assert [line.partition(":")[0] for line in s.missed] == ["killed", "localized", "known"]


@pytest.mark.parametrize(
    ("one", "goal"),
    [
        (row("reference", {"1": 0.9}), "references"),
        (row("reference", {"1": 1.0}, failures=["the largest entry of z is 1e-9"]), "references"),
        (row("stub", {"1": 0.1}), "untouched stubs"),
        (row("idle", {"1": 0.1}), "return None"),
        (row("variant", {"1": 0.9}), "variants"),
        (row("variant", {"1": 1.0}, unstable=["differs"]), "differ by seed"),
        (row("mutant", {"1": 0.9}, problem="1", equivalent="a reason"), "called equivalent"),
    ],
)
def test_each_goal_can_be_missed(one, goal):
    (missed,) = summarize([one]).missed
    assert goal in missed


def test_a_mutant_that_only_some_seeds_kill_is_not_killed():
    one = Row("hw", "mutant", "m", problem="1", shares={"0": {"1": 0.5}, "1": {"1": 1.0}})
    assert not one.killed
    assert one.worst("1") == 0.5


def test_a_mistake_is_killed_in_its_own_problem_and_told_its_hint(monkeypatch):
    mine = Mutant("twice", FORWARD, OWN, "the change counts twice", body=NAIVE.format("2.0 * scale"))
    monkeypatch.setattr("autograder.homeworks.hw6_lora.mutants.MUTANTS", [mine])
    found = run_item(Item("hw6_lora", "mutant", "twice"), range(2), (1,))
    assert found.killed
    assert found.localized
    assert found.hint_right
    assert not found.unstable


def test_a_mistake_that_is_none_survives(monkeypatch):
    mine = Mutant("none", FORWARD, OWN, "nothing", old="rows(x)", new="rows(x)")
    monkeypatch.setattr("autograder.homeworks.hw6_lora.mutants.MUTANTS", [mine])
    found = run_item(Item("hw6_lora", "mutant", "none"), range(1), (1,))
    assert not found.killed
    assert not found.hint_right


def test_a_wrong_program_among_the_variants_is_a_false_positive(monkeypatch):
    wrong = Variant("wrong", {FORWARD: NAIVE.format("0.5 * scale")})
    monkeypatch.setattr("autograder.homeworks.hw6_lora.variants.VARIANTS", [wrong])
    found = run_item(Item("hw6_lora", "variant", "wrong"), range(1), (1,))
    assert summarize([found]).false_positives == 1
    assert any("case" in line for line in found.failures)


def test_what_the_worker_grades_is_what_this_process_grades():
    found = run_item(Item("hw6_lora", "reference"), range(1), (1,), worker=True)
    assert not found.unstable
    assert differing({"1": 1.0}, {"1": 0.5}, "in the worker") == ["1: 100%, and 50% in the worker"]


def test_a_variant_concerns_the_problems_of_its_functions_and_those_that_stand_on_them(monkeypatch):
    monkeypatch.setattr("autograder.homeworks.hw6_lora.variants.VARIANTS", [Variant("v", {FORWARD: "pass"})])
    found = concerned(HOMEWORK, Item("hw6_lora", "variant", "v"))
    standing = {p.id for p in HOMEWORK.problems if any(str(t) == FORWARD for t in HOMEWORK.supplied(p))}
    assert found == {OWN} | standing
    assert standing


def test_a_mutant_concerns_its_own_problem():
    mutant = mutants("hw6_lora")[0]
    assert concerned(HOMEWORK, Item("hw6_lora", "mutant", mutant.id)) == {mutant.problem, *mutant.also}


def test_every_item_of_a_homework_is_listed_once():
    listed = items(["hw6_lora"])
    assert len(set(listed)) == len(listed)
    assert [i.kind for i in listed[:3]] == ["reference", "stub", "idle"]


def test_main_writes_json_and_a_page_and_ends_with_1_where_a_goal_is_missed(tmp_path, monkeypatch, capsys):
    mine = Mutant("none", FORWARD, OWN, "nothing <b>", old="rows(x)", new="rows(x)")
    monkeypatch.setattr("autograder.homeworks.hw6_lora.mutants.MUTANTS", [mine])
    monkeypatch.setattr("autograder.homeworks.hw6_lora.variants.VARIANTS", [])
    assert selftest.main(["hw6_lora"], 1, tmp_path, quick=True, jobs=1) == 1
    assert "MISSED  killed: 0 of 1 mutants" in capsys.readouterr().out
    record = json.loads((tmp_path / "selftest.json").read_text("utf-8"))
    assert record["all"]["killed"] == 0
    page = (tmp_path / "selftest.html").read_text("utf-8")
    assert "SURVIVES" in page
    assert "nothing &lt;b&gt;" in page


def test_a_page_of_all_rows_is_well_formed():
    rows = [Row("hw6_lora", "variant", "<i>", shares={"0": {p.id: 0.5 for p in HOMEWORK.problems}}, failures=["<u>"])]
    made = html(["hw6_lora"], rows, 1.0)
    assert "<i>" not in made
    assert "<u>" not in made


def test_bodies_are_swapped_in_and_out_again():
    from autograder.grading.library import Library

    library = Library()
    text = source_path(LORA).read_text("utf-8")
    changed = replace_bodies(text, {"LoRALinear.forward": "return 'another'"})
    assert changed_bodies(text, changed) == ["LoRALinear.forward"]
    other = patched(library, {LORA: changed})
    with other.active() as mp:
        assert mp.peft.lora.LoRALinear.forward(None, 1, 2, 3, 4, 5, 6) == "another"
    with library.active() as mp, pytest.raises(AttributeError):
        mp.peft.lora.LoRALinear.forward(None, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from __future__ import annotations\n", "from __future__ import annotations\n\nimport math\n"),
        ("scale: float\n    ) -> Array:", "scale: float = 1.0\n    ) -> Array:"),
    ],
)
def test_what_changes_more_than_bodies_needs_a_copy(old, new):
    text = source_path(LORA).read_text("utf-8")
    assert old in text
    assert changed_bodies(text, text.replace(old, new, 1)) is None


def test_a_mutant_in_one_shared_copy_does_what_it_does_in_a_copy_of_its_own():
    from autograder.grading.library import Library
    from autograder.grading.reference import drawn, library_with, run_case

    for m in mutants("hw6_lora")[:6]:
        sources = mutated(m)
        for case, _ in drawn("hw6_lora", m.problem, 0)[:3]:
            a, b = (run_case(lib, "hw6_lora", case) for lib in (library_with(sources), Library(sources)))
            assert repr(a) == repr(b) or a.message == b.message
