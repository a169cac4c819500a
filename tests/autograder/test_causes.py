"""Every cause is recognized from the numbers, by its category, and a hidden case is told no number that was drawn."""

import re

import numpy as np
import pytest

from autograder.feedback.causes import Wrong
from autograder.feedback.causes.terms import term
from autograder.feedback.details import details
from autograder.feedback.diagnose import diagnoses, explained, lists
from autograder.feedback.words import Part, hidden_text, known_names
from autograder.grading.check import Failure, compare, judge
from autograder.grading.reference import grade_sources
from autograder.homeworks.case import Case
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import replace_bodies, source_path

rng = np.random.default_rng(7)
PROBLEM = load_homework("hw6_lora").problem("6.1")
X = rng.standard_normal((3, 5))
DZ = rng.standard_normal((3, 5))
GAIN = rng.uniform(0.5, 2.0, 5)
E = rng.standard_normal((3, 5))
V = rng.standard_normal((3, 5))
CUBE = rng.standard_normal((2, 3, 5))
SQUARE = rng.standard_normal((4, 4))
WIDE = rng.standard_normal((2, 3, 7))  # rows i, columns j, an offset of 4
IDS = np.array([1, 4, 1, 2])
TABLE = rng.standard_normal((6, 5))
MASK = np.array([[True, True, False, True, False], [True, False, True, True, True], [True, True, True, False, False]])
P = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)


def told(expected, got, arrays=None, params=None, reference=None, name="dx", **kwargs):
    """The causes that are named where ``got`` comes in place of ``expected``."""
    arrays = {"x": X, "dz": DZ, "gamma": GAIN} if arrays is None else arrays
    case = Case("a case", "driver", arrays, {name: "aspect"}, params or {}, **kwargs)
    reference = {name: expected, **(reference or {})}
    wrong = compare(case, name, expected, got)
    assert wrong is not None, "the case is right"
    return explained(Failure(case.name, "aspect", name, *wrong, expected, got, name), case, reference, {name: got})


def changed(x, where, by=1.0):
    y = x.copy()
    y[where] += by
    return y


i, j = np.indices((3, 7))
LOW = np.array([[0.3, 0.1, 0.2, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.3, 0.2]])

TABLE_OF_CAUSES = {
    "zero": (E, 0 * E, {}, "zero", "dx is zero everywhere"),
    "sign": (E, -E, {}, "sign", "wrong sign everywhere"),
    "twice": (E, 2 * E, {}, "factor", "2 times what is expected: something is counted twice"),
    "half": (E, E / 2, {}, "factor", "1/2 times what is expected: a factor of 2 is missing"),
    "a parameter is missing": (E, E / 2.7, {"params": {"scale": 2.7}}, "factor", "the factor scale is missing"),
    "a parameter too often": (E, E * 2.7, {"params": {"scale": 2.7}}, "factor", "scale is there once too often"),
    "a parameter's root": (E, E / 2.7**0.5, {"params": {"d_k": 2.7}}, "factor", "a factor √d_k is missing"),
    "a parameter divides": (E, E / 2.7**2, {"params": {"s": 2.7}}, "factor", "divides where it should multiply"),
    "a mean for a sum": (E, E / 5, {}, "factor", "1/5 times what is expected: 5 is the length of axis 1 of x; a mean"),
    "a sum for a mean": (E, E * 15, {}, "factor", "15 is the number of entries of the first 2 axes"),
    "a root of a length": (E, E / 5**0.5, {}, "factor", "1/√5 times"),
    "n - 1 for n": (E, E * 5 / 4, {}, "factor", "divided by n - 1 instead of n"),
    "a head's dimension": (
        E, E * (6 / 3) ** -0.5, {"arrays": {"x": rng.standard_normal((4, 6))}, "params": {"heads": 3}}, "factor", "√2",
    ),
    "a factor without a name": (E, E * 1.2345, {}, "factor", "1.2345 times what is expected in every entry"),
    "the cotangent": (E, DZ, {}, "cotangent", "dx is the cotangent dz, unchanged"),
    "an input": (E, X, {}, "an input", "dx is x, unchanged"),
    "another output": (E, V, {"reference": {"dV": V}}, "another output", "has the values that dV must have"),
    "a square transpose": (SQUARE, SQUARE.T, {}, "transpose", "dx is the transpose of what is expected"),
    "axes in another order": (
        CUBE[:, :2, :], CUBE[:, :2, :].transpose(1, 0, 2), {}, "transpose", "the transpose of what is expected (axes",
    ),
    "reversed": (E, E[::-1], {}, "order", "reversed order along axis 0"),
    "shifted": (E, np.roll(E, 1, axis=1), {}, "shift", "shifted by one along axis 1"),
    "reshaped": (E, E.T.reshape(3, 5), {}, "order", "the right numbers in another order"),
    "some signs": (E, np.abs(E), {}, "sign", "some of the signs are wrong"),
    "a gain is missing": (E * GAIN, E, {}, "factor of an input", "lacks the factor gamma"),
    "a gain too often": (E, E * GAIN, {}, "factor of an input", "the factor gamma once too often"),
    "a gain divides": (E * GAIN, E / GAIN, {}, "factor of an input", "divided by gamma where it must be multiplied"),
    "a gain multiplies": (E / GAIN, E * GAIN, {}, "factor of an input", "multiplied by gamma where it must be divided"),
    "a term is missing": (E + X, E, {}, "term", "lacks the term x"),
    "a term too often": (E, E + DZ, {}, "term", "has the term the cotangent dz once too often"),
    "a bias is missing": (E + GAIN, E, {}, "term", "lacks the term gamma"),
    "a multiple of a term": (E, E + 0.3 * V, {"reference": {"dV": V}}, "term", "by a multiple of dV"),
    "not symmetrized": (SQUARE + SQUARE.T, SQUARE + 0.0, {}, "", ""),
    "a constant": (E, E + 3.0, {}, "term", "off by the same amount in every entry"),
    "a row's mean": (E - E.mean(1, keepdims=True), E, {}, "term along an axis", "a sum or a mean over it is missing?"),
    "a batch's first": (CUBE, changed(CUBE, np.s_[1:], CUBE[:1]), {}, "region", "behind the first entry"),
    "the last rows": (E, changed(E, np.s_[2:], V[2:]), {}, "region", "wrong, only in the last entry of axis 0"),
    "the first columns": (E, changed(E, np.s_[:, :2], V[:, :2]), {}, "region", "only in the first 2 entries of axis 1"),
    "some columns": (E, changed(E, np.s_[:, [1, 3]], V[:, [1, 3]]), {}, "region", "only at 1, 3 of axis 1"),
    "zeros that should not be": (E, np.where(MASK, E, 0), {"arrays": {"mask": MASK}}, "region",
                                 "dx is 0 where it must not be, only where mask is False"),
    "a mask that is ignored": (np.where(MASK, E, 0), E, {"arrays": {"mask": MASK}}, "region",
                               "dx is not 0 where it must be, only where mask is False"),
    "where x is negative": (np.where(X < 0, E, V), np.where(X < 0, 2 * E, V), {}, "region", "only where x is negative"),
    "repeated ids": (TABLE, changed(TABLE, 1, rng.standard_normal(5)), {"arrays": {"ids": IDS}}, "region",
                     "only for ids that occur more than once"),
    "ids that occur": (TABLE, changed(TABLE, [1, 2, 4], rng.standard_normal((3, 5))), {"arrays": {"ids": IDS}},
                       "region", "only for those that occur in ids"),
    "above a diagonal": (WIDE, np.where(j >= i + 2, 9 * WIDE**2, WIDE), {}, "region", "above a diagonal, where j ≥ i"),
    "a mask without offset": (np.where(j <= i + 4, WIDE, 0), np.where(j <= i, WIDE, 0), {}, "region",
                              "the mask ignores the offset between rows and columns?"),
    "below a diagonal": (WIDE, np.where(j < i, 9 * WIDE**2, WIDE), {}, "region", "below a diagonal, where j ≤ i - 1"),
    "float16": (E, E.astype(np.float16).astype(np.float64), {}, "accuracy", "its entries are float16 numbers"),
    "float32": (1e3 * E, E.astype(np.float32).astype(np.float64) * 1e3, {"tol": 1e-9}, "accuracy", "to about 7 digits"),
    "another epsilon": (E, E * (1 + 1e-6 * V), {}, "accuracy", "is right to about"),
    "not to the bit": (E, E * (1 + 1e-15), {"exact": frozenset({"dx"})}, "accuracy", "must be equal to the bit"),
    "the wrong softmax axis": (P, np.exp(X) / np.exp(X).sum(0), {}, "axis", "to 1 along axis 0; it must along axis 1"),
    "no softmax": (LOW, LOW**1.5, {}, "sum", "must sum to 1 along axis 1, and does not"),
    "softmax without its sum": (
        P * (DZ - (P * DZ).sum(1, keepdims=True)), P * DZ * (1 - P), {}, "sum", "sums to 0 along axis 1; this",
    ),
    "a factor a row": (E, E * np.array([[0.2], [1.7], [3.1]]), {}, "factor along an axis", "the same all along axis 1"),
    "squared": (np.abs(E), E**2, {}, "another function", "the square of what is expected"),
    "not inverted": (1 / E, E, {}, "another function", "the inverse of what is expected"),
    "logarithm": (np.exp(E), E, {}, "another function", "the logarithm of what is expected"),
    "NaN everywhere": (E, np.full_like(E, np.nan), {}, "not finite", "dx is NaN everywhere"),
    "NaN in a row": (E, changed(E, np.s_[:1], np.nan), {}, "not finite", "NaN, only in the first entry of axis 0"),
    "overflow": (E, changed(E, (1, 2), np.inf), {}, "not finite", "infinite, only at 2 of axis 1"),
    "a transposed shape": (E, E.T, {}, "transpose", "is the transpose of what is expected"),
    "only the shape is": (E, V.T.copy(), {}, "transpose", "has the shape of the transpose"),
    "the batch is not summed": (CUBE.sum(0), CUBE, {}, "missing sum", "not summed over"),
    "a broadcast axis": (E.sum(1, keepdims=True), E, {}, "missing sum", "axis 1 of what came"),
    "an axis too many": (E, E[None], {}, "missing sum", "is not summed"),
    "a reshape": (CUBE, CUBE.reshape(6, 5), {}, "axis", "the right number of entries in another shape"),
    "summed too much": (E, E.sum(0), {}, "summed", "is summed over an axis that must stay"),
    "averaged too much": (E, E.mean(0), {}, "summed", "is averaged over an axis that must stay"),
    "the shape of an input": (E[0], X * 3, {}, "shape", "has the shape of x, with something not summed"),
    "another shape": (E, np.zeros((7, 9)), {}, "shape", "has a wrong shape"),
    "None": (E, None, {}, "none", "is None, though a gradient is wanted"),
    "not None": (None, E, {}, "not none", "no gradient is wanted for this input"),
    "promoted": (E.astype(np.float32), E, {}, "promoted", "float64 where float32 must stay"),
    "integers": (E, np.ones((3, 5), int), {}, "dtype", "an array of int64, expected float64"),
    "the other way round": (MASK, ~MASK, {}, "complement", "True where it must be False"),
    "all False": (MASK, MASK & False, {}, "zero", "dx is False everywhere"),
    "a mask's region": (j <= i + 4, j <= i, {}, "region", "the mask ignores the offset"),
    "integers in another order": (IDS, IDS[::-1], {"arrays": {}}, "order", "reversed order"),
    "a number": (3.0, -3.0, {}, "sign", "wrong sign"),
    "a number's factor": (3.0, 3.0 / 2.7, {"params": {"scale": 2.7}}, "factor", "the factor scale is missing"),
    "written inputs": ([], ["x"], {"name": "changed"}, "written", "writes into x"),
    "kept": (["A"], ["A", "W"], {"name": "kept"}, "kept", "W is kept for the backward"),
    "names": (["a", "b"], ["a", "c"], {"name": "list"}, "list", "without b and with c too much"),
    "a list of arrays": ([E, V], [E, -V], {}, "sign", "entry 1 of dx has the wrong sign"),
}  # fmt: skip
UNKNOWN = {"not symmetrized"}


@pytest.mark.parametrize("what", [w for w in TABLE_OF_CAUSES if w not in UNKNOWN])
def test_a_cause_is_recognized(what):
    expected, got, kwargs, kind, words = TABLE_OF_CAUSES[what]
    found = told(expected, got, **kwargs)
    assert found, "nothing is named"
    assert found[0].kind == kind, found
    assert words in found[0].text, found
    assert len(found) <= 2


def test_a_missing_transpose_in_a_symmetric_sum_is_a_missing_term():
    (first, *_) = told(SQUARE + SQUARE.T, SQUARE + 0.0, reference={"half": SQUARE.T})
    assert (first.kind, first.text) == ("term", "dx lacks the term half.")


@pytest.mark.parametrize("what", TABLE_OF_CAUSES)
def test_a_hidden_case_is_told_a_sentence_of_ours_without_what_was_drawn(what):
    """Numbers that stay are those of fixed wordings: 0, 1, 1/2, float16."""
    expected, got, kwargs, _, _ = TABLE_OF_CAUSES[what]
    name = kwargs.get("name", "dx")
    own = {key: kwargs[key] for key in ("params", "arrays") if key in kwargs}
    case = Case("a case", "driver", **{"arrays": {"x": X, "dz": DZ, "gamma": GAIN}, "checks": {name: "aspect"}, **own})
    known = known_names(judge(PROBLEM, [(case, {name: expected, **kwargs.get("reference", {})}, {})]))
    fixed = r"float\d+|sums? to [01]|is (not )?0 where|1/|of 2:|of 1/2"
    for cause in told(expected, got, **kwargs):
        said = hidden_text(cause.parts, cause.names, known)
        assert said
        assert not re.search(r"\d", re.sub(fixed, "", said)), said


def test_a_name_that_is_not_known_is_never_told():
    known = known_names(judge(PROBLEM, [(Case("a case", "driver", {"x": X}, {"dx": "aspect"}), {"dx": E}, {})]))
    assert hidden_text((Part.LACKS_TERM,), ("dx", "x"), known) == "dx lacks the term x."
    assert hidden_text((Part.LACKS_TERM,), ("dx", "a secret"), known) == ""
    assert hidden_text((Part.LACKS_TERM,), ("dx",), known) == ""


def test_what_a_factor_explains_needs_no_second_sentence():
    assert len(told(E, E / 2.7, params={"scale": 2.7})) == 1
    first, second = told(2.7 * DZ, DZ, params={"scale": 2.7})
    assert (first.kind, second.kind) == ("factor", "cotangent")


def test_what_is_random_has_no_cause():
    assert told(E, rng.standard_normal((3, 5)) * 1.3) == []


def test_what_is_off_by_more_than_rounding_is_not_said_to_be_nearly_right():
    assert told(E, E * (1 + 1e-4 * V)) == []


def test_a_list_of_another_length_is_not_in_another_order():
    case = Case("a case", "driver", {}, {"classes": "aspect"})
    (one,) = lists(
        Failure("a case", "aspect", "classes", "value", "", ["A", "B"], ["B", "A", "A"], "classes"), case, {}
    )
    assert one.public == "classes has 3 entries, expected 2."


def test_the_worst_entry_and_the_count_are_told():
    case = Case("a case", "driver", {}, {"dx": "aspect"})
    got = changed(changed(E, (2, 3), 5.0), (0, 1), -1.0)
    f = Failure("a case", "aspect", "dx", "value", "", E, got, "dx")
    found = details(f, case)
    assert (found.worst, found.expected, found.got) == ((2, 3), E[2, 3], E[2, 3] + 5.0)
    assert str(found).startswith("2 of 15 entries are wrong, the worst at [2, 3]: got ")


def test_nan_is_the_worst_entry():
    case = Case("a case", "driver", {}, {"dx": "aspect"})
    f = Failure("a case", "aspect", "dx", "finite", "", E, changed(E, (1, 4), np.nan), "dx")
    found = details(f, case)
    assert (found.worst, found.bad.sum()) == ((1, 4), 1)


def test_a_vector_has_no_transpose():
    case = Case("c", "d", {}, {})
    assert term(Wrong("z", V[0], 1.713 * V[0], case, {})) is None
    assert "the transpose of what is expected" in term(Wrong("z", SQUARE, SQUARE + 0.7 * SQUARE.T, case, {})).text


def test_a_call_that_forms_the_large_array_is_told_so():
    body = "ctx.save(x, weight, lora_A, lora_B, x)\nz = x @ (weight + scale * (lora_B @ lora_A)).T\n"
    source = source_path("minipeft.peft.lora").read_text("utf-8")
    dense = replace_bodies(source, {"LoRALinear.forward": f"{body}return z if bias is None else z + bias"})
    homework = load_homework("hw6_lora")
    verdict = grade_sources(homework, {"minipeft.peft.lora": dense}, "a test", ["6.1"])["6.1"]
    found = [d for d in diagnoses(homework.name, verdict, known=False) if d.failure.aspect == "thin"]
    assert found
    assert {d.text for d in found} == {d.hidden(known_names(verdict)) for d in found} == {f"{Part.MEMORY.value}."}
