"""Whatever a submission returns, it gets its points, and every explanation of it can be made."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autograder.feedback import diagnose, exchange, report
from autograder.feedback.causes import Wrong
from autograder.feedback.causes.factors import factor, multiple
from autograder.feedback.differences import Comparison
from autograder.feedback.results import complaints, results
from autograder.feedback.words import NO_EXPLANATION
from autograder.grading.check import judge
from autograder.grading.grade import Graded
from autograder.grading.packed import packed
from autograder.homeworks.case import Case
from autograder.homeworks.folder import load_homework
from autograder.sandbox.frames import DTYPES, Opaque, decode, encode

HOMEWORK = load_homework("hw6_lora")
PROBLEM = HOMEWORK.problems[0]
KNOWN = {"dx", "dy", "x", "s", "n", "an entry of dx"}
LARGE, SQUARE_OVERFLOWS, SMALL = 1.7e308, 1.34e154, 5e-324
EXTREMES = [0.0, 1.0, -1.0, LARGE, -LARGE, SQUARE_OVERFLOWS, 1e-200, SMALL, np.inf, np.nan]

dtypes = st.sampled_from(list(DTYPES.values()))
shapes = st.one_of(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), st.just((1,) * 7))
numbers = st.one_of(st.sampled_from(EXTREMES), st.floats(), st.integers(-(2**63), 2**64 - 1), st.booleans())


@st.composite
def arrays(draw, shape=shapes):
    """Arrays of every type that a frame carries; floats often at the ends of their range."""
    dtype, size = draw(dtypes), draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    if dtype.kind == "f" and draw(st.booleans()):
        with np.errstate(over="ignore"):
            return np.array(draw(hnp.arrays(np.float64, size, elements=st.sampled_from(EXTREMES))), dtype)
    return draw(hnp.arrays(dtype, size))


@st.composite
def answers(draw):
    """What is right, and what comes: unrelated, of one shape, or made of what is right in a way that has a name."""
    right = draw(st.one_of(arrays(), numbers, st.lists(arrays(), max_size=3), st.dictionaries(st.text(), arrays())))
    if not isinstance(right, np.ndarray) or right.dtype.kind != "f":
        like = arrays(right.shape) if isinstance(right, np.ndarray) else st.just(right)
        return right, draw(st.one_of(like, arrays(), numbers, st.none(), st.text(), st.just(Opaque("set")),
                                     st.lists(arrays(), max_size=3), st.dictionaries(st.text(), arrays())))  # fmt: skip
    with np.errstate(all="ignore"):
        factor = right.dtype.type(draw(st.sampled_from([*EXTREMES, 2.0, 1e-154])))
        related = [right * factor, right + factor, right.T, np.flip(right), right[None], right.sum(), 1 / right, right]
    return right, draw(st.one_of(st.sampled_from(related), arrays(right.shape), arrays()))


@given(answers(), arrays(), numbers)
def test_whatever_comes_is_graded_and_explained(answer, x, s):
    right, came = answer
    case = Case("a case", "driver", {"x": x}, {"dx": "aspect"}, {"s": s, "n": 2})
    verdict = judge(PROBLEM, [(case, {"dx": right, "dy": x}, {"dx": decode(encode(came))})])
    found = diagnose.diagnose(HOMEWORK, verdict, known=False)
    assert len(found) == len(verdict.failures) == 1 - verdict.passed["aspect"]
    for d in found:
        assert not d.trouble
        assert isinstance(d.entries, str)
    told = [d.hidden(KNOWN) for d in found]
    sent = exchange.unpacked(decode(packed(HOMEWORK.name, verdict))["explain"])
    assert [d.hidden(KNOWN) for d in diagnose.diagnose(HOMEWORK, sent, known=False)] == told
    back = exchange.read(decode(exchange.answer(found)), HOMEWORK.name, verdict)
    assert [d.hidden(KNOWN) for d in back] == told


@given(answers(), arrays())
def test_whatever_comes_is_written_as_results_and_as_a_page(answer, x):
    right, came = answer
    case = Case("a case", "driver", {"x": x}, {"dx": "aspect"})
    verdict = judge(PROBLEM, [(case, {"dx": right}, {"dx": came})])
    found = diagnose.diagnose(HOMEWORK, verdict, known=False)
    done = Graded(HOMEWORK, {PROBLEM.id: verdict}, words={PROBLEM.id: found})
    for hidden in (True, False):
        assert not [c for c in complaints(results(done, hidden=hidden)) if c.error]
        assert report.html(done, hidden)
        assert report.text(done, hidden)
        assert report.markdown(done, hidden)


@given(*[st.floats()] * 3)
def test_whatever_comes_of_differences_is_a_sentence(backward, differences, error):
    assert str(Comparison("a case", "x", (), backward, differences, error))


@pytest.mark.parametrize("size", [LARGE, SQUARE_OVERFLOWS, 1.0, 1e-154, 1e-200, 1e-300])
def test_a_factor_is_found_however_large_or_small_the_numbers(size):
    x = size * np.array([0.25, -0.5, 0.75])
    assert multiple(-x, x) == -1.0
    assert multiple(x / 2, x) == 0.5
    assert multiple(x, np.zeros(3)) == 0.0
    found = factor(Wrong("dx", x, -x, Case("a case", "driver", {}, {}), {}))
    assert found is not None
    assert found.text == "dx has the wrong sign everywhere."


def test_large_integers_do_not_wrap_around():
    right = np.array([2**63 - 1, 0], np.int64)
    case = Case("a case", "driver", {}, {"dx": "aspect"})
    verdict = judge(PROBLEM, [(case, {"dx": right}, {"dx": np.array([-(2**63), -1], np.int64)})])
    (found,) = diagnose.diagnose(HOMEWORK, verdict, known=False)
    assert found.cause == ""


@pytest.mark.parametrize("right", ["a name", True, 3, {"a": 1.0}, None, 2.0, [1.0], np.ones(2)])
def test_a_reason_is_short_whatever_came(right):
    one = np.ones((500, 500))
    for came in ([one] * 30_000, {"a": [one] * 30_000}, "x" * 10**6, [[one] * 1000] * 30):
        case = Case("a case", "driver", {}, {"dx": "aspect"})
        (failure,) = judge(PROBLEM, [(case, {"dx": right}, {"dx": came})]).failures
        assert len(failure.reason) < 300


def test_an_explanation_that_raises_costs_no_points_and_is_logged(monkeypatch, failed_explanations):
    def broken(*args):
        raise ZeroDivisionError("of the diagnosis")

    case = Case("a case", "driver", {}, {"dx": "aspect", "z": "other"})
    right = {"dx": np.arange(6.0), "z": np.ones(2)}
    verdict = judge(PROBLEM, [(case, right, {**right, "dx": np.zeros(6)})])
    before = results(Graded(HOMEWORK, {PROBLEM.id: verdict}))["score"]
    assert before > 0
    monkeypatch.setattr(diagnose, "explained", broken)
    monkeypatch.setattr(diagnose, "known_mistakes", broken)
    done = Graded(HOMEWORK, {PROBLEM.id: verdict}, words={PROBLEM.id: diagnose.diagnose(HOMEWORK, verdict)})
    made = results(done)
    assert made["score"] == before
    assert f"dx has wrong values. {NO_EXPLANATION}" in made["tests"][0]["output"]
    assert "There is no explanation" in report.html(done, hidden=False)
    assert "ZeroDivisionError: of the diagnosis" in failed_explanations[0]
    assert "Traceback" in failed_explanations[0]
    failed_explanations.clear()
