"""results.json: what is written is valid, and what is not valid is named."""

import json
import math
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograder.feedback import results
from autograder.feedback.reasons import Diagnosis
from autograder.grading.check import Failure, Verdict
from autograder.grading.grade import Graded
from autograder.homeworks.homework import Homework, Problem
from autograder.submission.lint import Remark

PROBLEMS = (Problem("9.1", "First", (), 4), Problem("9.2", "Second", (), 3), Problem("9.3", "Third", (), 3))
HOMEWORK = Homework("hw9_none", "None", Path(), (), PROBLEMS)


def graded():
    wrong = Verdict("9.2", {"dA\x1b[31m": False}, {"dA\x1b[31m": 0.0}, share=2 / 3)
    failure = Failure("a case", "gradients", "dA", "value", "the entries are not right")
    return Graded(
        HOMEWORK,
        {"9.1": Verdict("9.1", {"z": True}, share=1.0), "9.2": wrong},
        notes=["welch.py did not come."],
        remarks=[Remark("lora.py", 3, "imports os, which no problem needs")],
        layers={"seccomp": "yes"},
        words={"9.2": [Diagnosis(failure)]},
        seconds=1.23456,
    )


def test_results_are_what_they_were():
    golden = json.loads((Path(__file__).parent / "golden_results.json").read_text("utf-8"))
    assert results.results(graded()) == golden["graded"]
    assert results.not_run(HOMEWORK) == golden["not run"]
    assert results.refused(HOMEWORK, "expected lora.py; it has no files") == golden["refused"]


@pytest.mark.parametrize("name", ["graded", "not run", "refused"])
def test_what_is_written_is_valid(tmp_path, name):
    golden = json.loads((Path(__file__).parent / "golden_results.json").read_text("utf-8"))
    results.write(tmp_path / "results.json", golden[name])
    assert results.validate(tmp_path / "results.json") == []
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_problem_that_is_not_all_right_never_has_all_points():
    verdicts = {"9.1": Verdict("9.1", {"z": False}, share=0.9999)}
    made = results.results(Graded(HOMEWORK, verdicts))
    assert (made["tests"][0]["score"], made["tests"][0]["status"]) == (3.99, "failed")


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "results.json"
    made = results.not_run(HOMEWORK)
    results.write(path, made)
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            results.write(path, made)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(200):
            json.loads(path.read_text("utf-8"))
    finally:
        stop.set()
        writer.join()


def test_what_is_not_valid_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="these are no results"):
        results.write(tmp_path / "results.json", {"score": math.nan})
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_text_of_a_submission_becomes_harmless(text):
    said = results.clean(text, 50)
    assert len(said) <= 50
    made = results.refused(HOMEWORK, text)
    assert [c for c in results.complaints(made) if c.error] == []
    assert not set(said) & set("\x00\x1b\x7f\u202e\u2066\u200f\ufeff")
    json.dumps(made, allow_nan=False).encode()


def test_a_long_text_is_cut_and_says_so():
    said = results.clean("x" * 10_000)
    assert len(said) == results.OUTPUT_LIMIT
    assert "characters left out" in said


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([], "expected an object"),
        ({}, 'neither "score" nor'),
        ({"score": True}, "score: expected int or float, got bool"),
        ({"score": "3"}, "score: expected int or float, got str"),
        ({"score": 1, "tests": {}}, "tests: expected list, got dict"),
        ({"score": 1, "tests": [3]}, r"tests\[0\]: expected an object"),
        ({"score": 1, "execution_time": "1"}, "execution_time: expected"),
        ({"score": 1, "execution_time": -1}, "execution_time is negative"),
        ({"score": 1, "visibility": "no"}, "visibility: expected one of hidden"),
        ({"score": 1, "output_format": "pdf"}, "output_format: expected one of text"),
        ({"score": 1, "output": "x" * 100_001}, "output has 100001 characters"),
        ({"score": 1, "output": "\x1b[31m"}, "output has control characters"),
        ({"score": 1, "output": "\ud800"}, "half a surrogate"),
        ({"tests": [{"score": 1, "max_score": -1}]}, "max_score is negative"),
        ({"tests": [{"score": 1, "number": "1"}, {"score": 1, "number": "1"}]}, "'1' comes twice"),
        ({"tests": [{"score": 1, "status": "ok"}]}, "status: expected one of passed"),
        ({"tests": [{"score": 1, "tags": [1]}]}, "tags: expected strings"),
        ({"score": 1, "leaderboard": [{"name": "x"}]}, r"leaderboard\[0\]"),
        ({"score": 1, "leaderboard": [{"name": "x", "value": 1, "order": None}]}, "order: expected one of asc"),
        ({"score": 1, "extra_data": {"a": [math.inf]}}, r"extra_data.a\[0\] is inf"),
    ],
)
def test_what_breaks_the_contract(made, says):
    with pytest.raises(AssertionError, match=says):
        assert "\n".join(c.text for c in results.complaints(made) if c.error) == ""


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"score": 1, "grade": 1}, "grade: Gradescope knows no such key"),
        ({"score": 1, "tests": [{"score": 2}]}, "add up to 2"),
        ({"tests": [{"score": 2, "max_score": 1}]}, "extra credit"),
        ({"tests": [{"score": -1}]}, "score is negative"),
        ({"tests": [{"score": 1, "visibility": "hidden"}]}, "do not see their total"),
    ],
)
def test_what_is_only_warned_of(made, says):
    (found,) = results.complaints(made)
    assert not found.error
    assert says in found.text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "not UTF-8"),
        (b"{", "no JSON"),
        (b'{"score": NaN}', "NaN is no JSON"),
        (b'{"score": 1, "score": 2}', "comes twice"),
        (b"[" * 100_000, "no JSON"),
        (b" " * (results.FILE_LIMIT + 1), "at most"),
    ],
)
def test_files_that_are_no_results(tmp_path, data, says):
    (tmp_path / "r.json").write_bytes(data)
    assert says in results.validate(tmp_path / "r.json")[0].text


def test_no_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError):
        results.validate(tmp_path / "r.json")


@pytest.mark.skipif(os.name != "posix", reason="the mode of a file")
def test_results_may_be_read_by_whoever_picks_them_up(tmp_path):
    results.write(tmp_path / "r.json", results.not_run(HOMEWORK))
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o644
