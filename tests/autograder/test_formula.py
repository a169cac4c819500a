"""Formulas with one mistake: they give what the library gives without it, and explain a program that made it."""

import ast
from types import SimpleNamespace

import numpy as np
import pytest

from autograder.feedback import fits
from autograder.feedback.diagnose import diagnose
from autograder.feedback.known import known_mistakes
from autograder.feedback.reasons import hints
from autograder.feedback.words import QUESTION
from autograder.grading.check import Raised
from autograder.grading.reference import grade_sources, reference
from autograder.homeworks.draw import cases
from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.formula import formulas, formulas_of
from autograder.homeworks.mutant import mutants
from autograder.homeworks.strip import source_path
from autograder.selftest.concepts import MISLEADING, PARTLY, RIGHT, SILENT, judged

LORA = load_homework("hw6_lora")
WITH_FORMULAS = [name for name in homeworks() if formulas_of(name)]


def told(homework, module, problem, *changes, **more):
    """What is told of a library whose module has these texts replaced: the hints by output."""
    source = source_path(module).read_text("utf-8")
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    homework = load_homework(homework)
    verdict = grade_sources(homework, {module: source}, 0, [problem])[problem]
    assert verdict.share < 1.0
    hint = {d.failure.key: d.hint for d in diagnose(homework, verdict, **more)}
    return {key: text for key, text in hint.items() if not key.startswith(("second ", "again "))}


def without_mutants(homework):
    """The ids of all mutants of a homework."""
    return {m.id for m in mutants(homework)}


@pytest.mark.parametrize("homework", WITH_FORMULAS)
def test_a_formula_without_mistakes_is_right(homework):
    used = set()
    for problem in load_homework(homework).problems:
        for case in cases(homework, problem.id, 0):
            for formula in formulas_of(homework):
                if fits.belongs(formula, case) and fits._smallest([(case, {}, {})], {}):
                    right = reference(homework, case)
                    computed = fits.Computed(formula, (case, right, right), set())
                    wrong = [k for k in computed.keys if k in computed.plain and not computed.right]
                    assert not wrong, (problem.id, case.name, wrong)
                    used.add(formula.keys)
    assert used == {f.keys for f in formulas_of(homework)}


@pytest.mark.parametrize("homework", WITH_FORMULAS)
def test_every_line_of_a_formula_with_a_mistake_is_python(homework):
    ours = hints(homework)
    for formula in formulas_of(homework):
        for mistake in formula.mistakes:
            ast.parse(mistake.code)
            assert mistake.code.startswith(f"{formula.targets[mistake.index]} = ")
            assert mistake.sentence.endswith(".")
            assert mistake.sentence in ours


def test_one_change_at_a_time():
    (formula,) = formulas("""
    == F
    H = x @ A.T
    z = x @ W.T + s * H
    ! z = x | z is x.
    """)
    said = {m.code: m.sentence for m in formula.mistakes}
    assert said["z = x"] == "z is x."
    assert said["z = x @ W.T"] == "z lacks the term s H."
    assert said["z = s * H"] == "z lacks the term x Wᵀ."
    assert said["z = x @ W.T + H"] == "z lacks the factor s."
    assert said["z = x @ W.T - s * H"] == "In z, the term s H has the wrong sign."
    assert said["H = x @ A"] == "In H, Aᵀ is transposed."
    assert formula.later == ((0, 1), (1,))


def test_a_missing_factor_is_named_though_the_frozen_path_hides_it():
    found = told("hw6_lora", "minipeft.peft.lora", "6.1", ("matmul(H * scale, lora_B.T)", "matmul(H, lora_B.T)"),
                 without=without_mutants("hw6_lora"))  # fmt: skip
    assert set(found.values()) == {"z lacks the factor s."}


def test_a_step_explains_all_that_is_made_of_it():
    change = ("dH = matmul(dZ, lora_B) * scale", "dH = matmul(dZ, lora_B)")
    found = told("hw6_lora", "minipeft.peft.lora", "6.2", change, without=without_mutants("hw6_lora"))
    assert found == {"dx": "dH lacks the factor s.", "dA": "dH lacks the factor s."}


def test_an_output_alone_is_told_so():
    change = ("dX += matmul(dH, lora_A)", "dX += matmul(dH, lora_A) / scale")
    found = told("hw6_lora", "minipeft.peft.lora", "6.2", change, without=without_mutants("hw6_lora"))
    assert found == {"dx": "Only in dx: dH lacks the factor s."}


def test_the_first_wrong_step_of_an_optimizer():
    change = ("v_hat = v / (1.0 - beta2**t)", "v_hat = v")
    found = told(
        "hw3_frozen_adapters", "minipeft.optim.rules", "3.5", change, without=without_mutants("hw3_frozen_adapters")
    )
    assert found["w0 after 1"] == found["w1 after 1"] == "v̂ is not divided by 1 - β₂^t."


def test_a_hint_must_fit_everything_that_is_wrong():
    scale = ("dB = matmul(dZ.T, H) * scale", "dB = matmul(dZ.T, H)")
    other = ("dx = dX.reshape(x_shape)", "dx = dX.reshape(x_shape) + 1")
    found = told("hw6_lora", "minipeft.peft.lora", "6.2", scale)
    assert found == {"dB": "dB lacks the factor s."}
    source = source_path("minipeft.peft.lora").read_text("utf-8").replace(*scale).replace(*other)
    verdict = grade_sources(LORA, {"minipeft.peft.lora": source}, 0, ["6.2"])["6.2"]
    given = known_mistakes(LORA.name, verdict)
    assert [hint for hint in given.values() if not hint.startswith(QUESTION)] == []


def test_yes_and_no_are_no_evidence():
    homework = load_homework("hw7_vision")
    source = source_path("minipeft.peft.lnlora").read_text("utf-8")
    old = "rng.uniform(-(k**-0.5), k**-0.5, (r, k))"
    assert source.count(old) == 1
    source = source.replace(old, "0.9 * k**-0.5 * rng.standard_normal((r, k))")
    verdict = grade_sources(homework, {"minipeft.peft.lnlora": source}, 0, ["7.3"])["7.3"]
    results = {case.name: got for case, _, got in verdict.results}
    assert not any(isinstance(got, Raised) for got in results.values())
    given = known_mistakes(homework.name, verdict)
    assert given
    assert all(hint.startswith(QUESTION) for (case, key), hint in given.items() if isinstance(results[case][key], bool))


@pytest.mark.parametrize(
    ("hint", "texts", "judgement"),
    [
        ("dB lacks the factor s.", ["dB is 1/scale times what is expected: the factor scale is missing."], RIGHT),
        ("The bias is missing.", ["z lacks the term b."], RIGHT),
        ("The bias is missing.", ["z lacks the term b.", "dx is in reversed order along axis 0."], PARTLY),
        ("The bias is missing.", ["z is in reversed order along axis 0."], MISLEADING),
        ("The bias is missing.", ["dx lacks the cotangent."], PARTLY),
        ("The bias is missing.", ["z: 3 values"], SILENT),
    ],
)
def test_what_counts_as_right(hint, texts, judgement):
    assert judged(hint, texts) == judgement


def test_arrays_of_another_problem_do_not_raise():
    """Whatever a submission returns is compared and not computed with."""
    case = next(c for c in cases("hw6_lora", "6.1", 0) if c.name == "a matrix of rows")
    right = reference("hw6_lora", case)
    (formula, *_) = formulas_of("hw6_lora")
    for came in (np.zeros((0,)), np.zeros(3, bool), np.full(right["z"].shape, np.nan), None, "text", [1.0]):
        computed = fits.Computed(formula, (case, right, {"z": came}), {"z"})
        assert not list(fits._explaining(formula, [computed]))


def test_a_formula_that_gives_no_array_fits_nothing():
    one = SimpleNamespace(case=SimpleNamespace(tol=1e-9))
    assert not fits.Computed.same(one, {"z": {"a": 1.0}}, "z", {"z": np.ones(1)})
    assert fits.Computed.same(one, {"z": np.ones(1)}, "z", {"z": np.ones(1)})
