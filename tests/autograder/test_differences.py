"""A backward beside central differences of its own forward, asked of the side that has the submission."""

import numpy as np
import pytest

from autograder.feedback.differences import Comparison, comparisons, read, sentences
from autograder.grading.check import Raised
from autograder.grading.reference import grade_sources, library_with, run_case
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import replace_bodies, source_path

LORA = "minipeft.peft.lora"
HOMEWORK = load_homework("hw6_lora")
BACKWARD = next(p for p in HOMEWORK.problems if "minipeft.peft.lora:LoRALinear.backward" in map(str, p.targets))

FORWARD = """
ctx.save(x, weight, lora_A, lora_B, scale, bias)
z = x @ weight.T + {s} * (x @ lora_A.T) @ lora_B.T
return z if bias is None else z + bias
"""
WRONG = """
x, weight, lora_A, lora_B, scale, bias = ctx.saved
X, dZ = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
dH = {t} * dZ @ lora_B
dA, dB = {a} * dH.T @ X, {t} * dZ.T @ (X @ lora_A.T)
grads = [(dZ @ weight + dH @ lora_A).reshape(x.shape), dZ.T @ X, dZ.sum(0), dA, dB, None]
return [g if need else None for g, need in zip(grads, ctx.needs_grad)]
"""


def compared(forward_scale, backward_scale, of_A="1.0"):
    bodies = {
        "LoRALinear.forward": FORWARD.format(s=forward_scale),
        "LoRALinear.backward": WRONG.format(t=backward_scale, a=of_A),
    }
    sources = {LORA: replace_bodies(source_path(LORA).read_text("utf-8"), bodies)}
    verdict = grade_sources(HOMEWORK, sources, "differences", [BACKWARD.id])[BACKWARD.id]

    def run(own, given, supplied):
        return [run_case(library_with(own), HOMEWORK.name, case) for case, _ in given]

    return verdict, comparisons(HOMEWORK, verdict, sources, run)


def test_a_backward_that_does_not_fit_its_forward_is_shown_with_both_values():
    verdict, found = compared("scale", "2.0 * scale")
    assert verdict.share < 1.0
    by_name = {c.argument: c for c in found}
    assert by_name["A"].backward == pytest.approx(2 * by_name["A"].differences, rel=1e-6)
    assert not by_name["A"].agrees
    assert not by_name["B"].agrees
    said = sentences(found)
    assert any(s.startswith("dA (") and "a ratio of 2." in s for s in said)


def test_only_gradients_that_are_wrong_are_compared():
    verdict, found = compared("scale", "scale", of_A="3.0")
    assert {f.key for f in verdict.failures if f.kind == "value"} <= {"dA", "second dA", "again dA"}
    assert {c.argument for c in found} == {"A"}


def test_a_backward_that_fits_a_wrong_forward_points_at_the_forward():
    verdict, found = compared("2.0 * scale", "2.0 * scale")
    assert verdict.share < 1.0
    assert found
    assert all(c.agrees for c in found)
    (said,) = sentences(found)
    assert said.endswith("your backward agrees with central differences of your own forward; look at the forward.")


def test_where_all_is_right_nothing_is_asked():
    verdict, found = compared("scale", "scale")
    assert [f for f in verdict.failures if f.kind == "value"] == []
    assert found == []


def test_nan_does_not_agree():
    assert not Comparison("a case", "x", (0,), np.nan, 1.0, np.nan).agrees


def test_whatever_a_worker_sends_is_read_without_an_error():
    assert list(read("a case", Raised("crash", "SIGSEGV"))) == []
    for came in (
        {},
        {"compared": None},
        {"compared": [1, {"at": 3}, {"at": [], "backward": "x"}]},
        {"compared": "abc"},
    ):
        assert list(read("a case", came)) == []
    one = {"argument": "x", "at": [0, "evil"], "backward": 1.0, "differences": 2.0, "error": 0.5}
    (c,) = read("a case", {"compared": [one]})
    assert c.at == (0,)
