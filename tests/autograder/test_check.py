"""The pass rule accepts what is right up to rounding and nothing else; the points fall by aspects."""

from dataclasses import replace

import numpy as np
import pytest

from autograder.feedback.results import aspects, explanation
from autograder.grading.check import Raised, compare, judge
from autograder.grading.reference import facts
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Problem, Target

rng = np.random.default_rng(3)
E = rng.standard_normal((3, 4))
E32 = E.astype(np.float32)
NAN, INF = np.nan, np.inf
MASK = np.where(rng.random((3, 4)) < 0.5, -INF, E)


def case(name="a case", **kwargs):
    checks = {"z": "forward", "dx": "dx", "changed": "inputs untouched"}
    return Case(name, "driver", {}, checks, **{"tol": 1e-6, **kwargs})


def verdict_on(expected, got, **kwargs):
    return compare(case(**kwargs), "z", expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (E, E + 1e-8),
        (E, E.astype(np.float32)),  # computed in float32
        (E32, E32 * np.float32(1 + 4e-6)),
        (np.float64(2.0).reshape(()), 2.0),
        (np.asarray(2.0, np.float32), 2.0),  # a loss as a Python number
        (2.0, np.asarray([2.0])),
        (2.0, 2),
        (NAN, NAN),
        (INF, INF),
        (np.zeros(3), np.array([0.0, -0.0, 3e-17])),  # a zero up to rounding
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (MASK, MASK * (1 + 1e-9)),
        (np.array([NAN, 1.0]), np.array([NAN, 1.0])),
        (np.array([True, False]), np.array([1, 0])),
        (np.arange(3), np.arange(3, dtype=np.int32)),
        ([E, None, "a"], (E, None, "a")),
        (None, None),
        ("adam", "adam"),
    ],
)
def test_right_up_to_rounding_passes(expected, got):
    assert verdict_on(expected, got) is None


@pytest.mark.parametrize(
    ("expected", "got", "kind"),
    [
        (E, E * (1 + 1e-5), "value"),
        (E, np.where(E.max() == E, NAN, E), "finite"),
        (E, np.full_like(E, INF), "finite"),
        (E, E[:1], "shape"),  # would broadcast
        (E, np.float64(1.0), "type"),
        (E, np.asarray(1.0), "shape"),
        (E, E[None], "shape"),
        (E, E.T, "shape"),
        (E, E.astype(complex), "dtype"),
        (E, E.astype(int), "dtype"),
        (E32, E, "dtype"),  # promoted
        (E32, E32 * np.float32(1 + 4e-5), "value"),
        (E, None, "type"),
        (E, E.tolist(), "type"),
        (None, E, "value"),
        (np.zeros(3), np.array([0, 1e-9, 0.0]), "value"),
        (MASK, -MASK, "value"),  # +inf for -inf
        (MASK, np.where(np.isfinite(MASK), MASK, NAN), "value"),
        (MASK, np.where(np.isfinite(MASK), MASK, -1e9), "value"),
        (np.full(2, -INF), np.full(2, INF), "value"),
        (2.0, NAN, "value"),
        (2.0, True, "type"),
        (2.0, "2.0", "type"),
        (NAN, 1.0, "value"),
        (np.arange(3), np.arange(3.0), "dtype"),
        ([E, E], [E], "type"),
        ([E, E], [E, -E], "value"),
        (3, 3.5, "value"),
        (True, 1, "value"),
        ("adam", None, "value"),
    ],
)
def test_what_is_wrong_does_not_pass(expected, got, kind):
    assert verdict_on(expected, got)[0] == kind


def test_exact_means_to_the_bit():
    exact = frozenset({"z"})
    assert verdict_on(E, E.copy(), exact=exact) is None
    assert verdict_on(MASK, MASK.copy(), exact=exact) is None
    assert verdict_on(E, np.nextafter(E, INF), exact=exact)[0] == "value"


PROBLEM = Problem("9.1", "a problem", (Target("minipeft.ops.linear", "linear"),), 6.0)
RIGHT = {"z": E, "dx": E, "changed": []}
FACTS = frozenset({"changed"})


def share(*answers, known=(FACTS,)):
    """The share of answers to cases whose facts are ``known``, in turn."""
    cases = [replace(case(f"case {i}"), facts=known[i % len(known)]) for i in range(len(answers))]
    return judge(PROBLEM, [(one, RIGHT, got) for one, got in zip(cases, answers, strict=True)]).share


def test_all_right_is_everything_and_nothing_written_is_nothing():
    assert share(RIGHT, RIGHT) == 1.0
    assert share(*[Raised("raised", "NotImplementedError")] * 2) == 0.0


def test_a_wrong_aspect_costs_its_own_share():
    wrong = {**RIGHT, "dx": -E}
    assert share(wrong, wrong) == pytest.approx((1 + 0.5) / 3)  # the facts follow the evidence


def test_an_aspect_of_facts_says_what_it_counts():
    given = replace(case("a case"), facts=FACTS)
    half = judge(PROBLEM, [(given, RIGHT, {**RIGHT, "dx": -E})])
    assert half.credit == {"forward": 1.0, "dx": 0.0, "inputs untouched": 0.5}
    text = "inputs untouched (counts 50 %, because the other parts of this problem count 50 %)"
    assert aspects(half) == [("full", "forward"), ("none", "dx"), ("full", text)]
    assert f"ok    {text}" in explanation(half, (), hidden=True)
    nothing = judge(PROBLEM, [(given, RIGHT, {**RIGHT, "z": -E, "dx": -E})])
    assert aspects(nothing)[2] == ("full", text.replace("50", "0"))
    written = judge(PROBLEM, [(given, RIGHT, {**RIGHT, "dx": -E, "changed": [1]})])
    assert aspects(written)[2] == ("none", "inputs untouched")
    assert aspects(judge(PROBLEM, [(given, RIGHT, RIGHT)]))[2] == ("full", "inputs untouched")


def test_an_edge_that_was_missed_costs_half():
    assert share(RIGHT, RIGHT, RIGHT, {**RIGHT, "dx": -E}) == pytest.approx((1.5 + 0.75) / 3)
    assert share(RIGHT, RIGHT, {**RIGHT, "dx": -E}) == pytest.approx((1 + 0.5) / 3)  # a third of the cases is no edge


def test_a_call_that_raises_in_one_case_of_four_keeps_half():
    assert share(RIGHT, RIGHT, RIGHT, Raised("raised", "ValueError")) == pytest.approx((1.0 + 0.5 * 0.5) / 3)


def test_facts_alone_earn_nothing():
    assert share({"z": None, "dx": None, "changed": []}) == 0.0
    assert share({"z": np.zeros_like(E), "dx": np.zeros_like(E), "changed": []}) == 0.0


def test_cases_of_facts_alone_carry_no_aspect():
    nothing = {"z": E, "dx": -E, "changed": []}
    known = frozenset({"dx", "changed"})
    right_where_known = [nothing, RIGHT, RIGHT, RIGHT]
    assert share(*right_where_known, known=(FACTS, known, known, known)) == pytest.approx((1 + 0.5) / 3)
    assert share(*right_where_known, known=(FACTS,)) == pytest.approx((1.5 + 0.75) / 3)  # the same answers, as evidence


@pytest.mark.parametrize(
    ("right", "public"),
    [
        ([], []),
        (None, None),
        (True, True),
        ("ValueError", "ValueError"),
        (E, E * (1 + 1e-9)),
        (np.zeros((3, 2)), np.zeros((5, 7))),  # zeros of whatever shape
        (np.zeros((0, 4)), np.ones((0, 9))),
        ([1, np.ones(3)], [1, np.ones(2)]),
    ],
)
def test_what_is_right_under_another_seed_too_is_a_fact(right, public):
    assert facts(case(), {**RIGHT, "z": right}, {"z": public}) == {"z"}


@pytest.mark.parametrize(
    ("right", "public"),
    [(E, -E), (1.5, 2.5), (["w_31"], ["w_77"]), (3, 4), (np.full(3, 2.0), np.full(3, 3.0)), (E, None)],
)
def test_what_differs_by_seed_is_evidence(right, public):
    assert facts(case(), {**RIGHT, "z": right}, {"z": public}) == frozenset()


def test_an_output_that_equals_an_input_is_a_fact():
    given = replace(case(), arrays={"x": E.copy()})
    assert facts(given, {**RIGHT, "z": 2 * E, "changed": [1]}, {}) == {"dx"}


def test_a_case_of_no_other_seed_has_evidence_only():
    assert facts(case(), RIGHT, {}) == frozenset()


def test_an_output_that_is_missing_is_wrong():
    verdict = judge(PROBLEM, [(case(), RIGHT, {"z": E, "changed": []})])
    assert [(f.output, f.kind) for f in verdict.failures] == [("dx", "missing")]
    assert verdict.passed == {"forward": True, "dx": False, "inputs untouched": True}


def test_nan_from_a_submission_earns_nothing():
    nan = np.full_like(E, NAN)
    assert share({"z": nan, "dx": nan, "changed": []}) == 0.0
