"""Variants that are written as a text: a name, and bodies by target."""

import pytest

from autograder.homeworks.homework import HomeworkError
from autograder.homeworks.variant import Variant, programs, varied

TEXT = """
=== in a loop

== minipeft.ops.shape:Index.forward
for i in key:

    pass
return x

== minipeft.ops.shape:Index.backward
return None

=== with a helper

== minipeft.ops.shape:Index.forward
return helper(x)

== header
def helper(x):
    return x
"""


def test_a_text_gives_the_bodies_of_each_variant():
    assert programs(TEXT) == [
        Variant(
            "in a loop",
            {
                "minipeft.ops.shape:Index.forward": "for i in key:\n\n    pass\nreturn x",
                "minipeft.ops.shape:Index.backward": "return None",
            },
        ),
        Variant(
            "with a helper",
            {"minipeft.ops.shape:Index.forward": "return helper(x)"},
            "def helper(x):\n    return x",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("== a:b\nreturn x", "expected a line that begins with '===', got '== a:b'"),
        ("=== x\nreturn x", "expected a line that begins with '==', got 'return x'"),
        ("=== x\n== a:b\nreturn x\n== a:b\nreturn y", "variant x: a target comes twice"),
    ],
)
def test_what_has_another_form_is_an_error(text, message):
    with pytest.raises(HomeworkError) as caught:
        programs(text)
    assert str(caught.value) == message


BATCH = "minipeft.few_shot:pattern_batch"


def test_a_variant_may_be_a_diff_of_the_library():
    (one,) = programs(f"=== wider\n== {BATCH}\n- max(len(ids) for ids, _ in rows) - 1\n+ 99\n- mask[i, :n] = True\n")
    (source,) = varied(one).values()
    assert "T = 99" in source
    assert "mask[i, :n]" not in source


@pytest.mark.parametrize("diff", ["+ T = 99", "- no_such(x)\n+ 1", "- rows\n+ unknown_name"])
def test_a_diff_that_does_not_fit_is_named(diff):
    (one,) = programs(f"=== wider\n== {BATCH}\n{diff}\n")
    with pytest.raises(HomeworkError, match="variant wider: "):
        varied(one)
