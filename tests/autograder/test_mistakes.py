"""Mutants that are written as a text: an id, a hint, and a diff."""

import pytest

from autograder.homeworks.homework import HomeworkError
from autograder.homeworks.mutant import Mutant, mistakes

TARGET = "minipeft.ops.softmax:Softmax.backward"
HEADING = f"== {TARGET} 2.1\n\n"
PLAIN = {TARGET: "a = 1\nb = 2\nreturn a", "minipeft.ops.softmax:Softmax.forward": "ctx.save(s)\nreturn s"}


def one(entry, heading=HEADING, plain=None):
    (mutant,) = mistakes(heading + entry, plain)
    return mutant


def test_a_diff_replaces_an_expression_of_the_library():
    assert one("no-sum\nThe sum is missing.\n- x.sum()\n+ x") == Mutant(
        "no-sum", TARGET, "2.1", "The sum is missing.", "x.sum()", "x"
    )


def test_lines_that_go_may_have_no_successor():
    assert (one("gone\nA hint.\n- x = 1\n- y = 2").old, one("gone\nA hint.\n- x = 1").new) == ("x = 1\ny = 2", "")


def test_lines_that_only_come_are_the_whole_body():
    mutant = one("whole\nA hint.\n+ if x:\n+     return 1\n+\n+ return 2", plain=PLAIN)
    assert (mutant.old, mutant.body) == ("", "if x:\n    return 1\n\nreturn 2")


def test_a_diff_of_a_plain_body_may_have_several_parts():
    mutant = one("parts\nA hint.\n- a = 1\n+ a = 3\n- return a\n+ return a + b", plain=PLAIN)
    assert mutant.body == "a = 3\nb = 2\nreturn a + b"


def test_a_lone_plus_ends_a_part_that_nothing_replaces():
    assert one("parts\nA hint.\n- a = 1\n+\n- return a\n+ return b", plain=PLAIN).body == "\nb = 2\nreturn b"


def test_with_brings_plain_bodies_along():
    mutant = one("x\nA hint.\n+ return None", f"== {TARGET} 2.1 with Softmax.forward\n\n", PLAIN)
    assert mutant.along == {"Softmax.forward": "ctx.save(s)\nreturn s"}


def test_also_names_other_problems_and_a_reason():
    assert one("x (also 2.2, 2.3: they use it)\nA hint.\n+ return None").also == ("2.2", "2.3")


def test_a_heading_holds_until_the_next():
    text = f"{HEADING}x\nA hint.\n- 1\n\ny\nA hint.\n- 1\n\n== minipeft.nn.linear:Linear.forward 3.1\n\nz\nA hint.\n- 1"
    assert [(m.id, m.problem) for m in mistakes(text)] == [("x", "2.1"), ("y", "2.1"), ("z", "3.1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\nA hint.\n- 1", "expected a heading before the mutant 'x"),
        ("== minipeft.ops 2.1", "expected a heading '== module:function problem', got"),
        (f"{HEADING}x\nA hint.", "expected a mutant's id, its hint and lines that begin with"),
        (f"{HEADING}x\nA hint.\nAnother line.\n- 1", "expected a mutant's id, its hint and lines that begin with"),
        (f"{HEADING}x (also 2.2)\nA hint.\n- 1", "expected a mutant's id, its hint"),  # without a reason
        (f"{HEADING}two words\nA hint.\n- 1", "expected a mutant's id, its hint"),
        (f"{HEADING}x\nA hint.\n+ 1\n- 2", "x: expected one part that is replaced, got 2"),
        (f"{HEADING}x\nA hint.\n- 1\n+ 2\n- 3\n+ 4", "x: expected one part that is replaced, got 2"),
    ],
)
def test_what_has_another_form_is_an_error(text, message):
    with pytest.raises(HomeworkError) as caught:
        mistakes(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("entry", ["x\nA hint.\n- c = 1", "x\nA hint.\n- ="])
def test_what_goes_occurs_once_in_the_plain_body(entry):
    with pytest.raises(HomeworkError):
        one(entry, plain=PLAIN)
