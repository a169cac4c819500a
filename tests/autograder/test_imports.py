"""A file that cannot be imported, or an import that the grader lacks: said once, truthfully, and before handing in."""

import json
import zipfile

import pytest
from single import single_file

from autograder.cli import main
from autograder.feedback import report
from autograder.feedback.results import results, validate, write
from autograder.grading.check import Raised
from autograder.grading.grade import grade
from autograder.grading.imports import absent
from autograder.homeworks.strip import replace_bodies, source_path
from autograder.submission.intake import Submission, take
from autograder.submission.lint import lint

LORA = single_file("hw6_lora")
MODULE = "minipeft.peft.lora"
SOURCE = source_path(MODULE).read_text("utf-8")
NUMPY = "import numpy as np\n"
BODY = "import matplotlib\nreturn matplotlib"


def with_import(text):
    return SOURCE.replace(NUMPY, f"{text}\n{NUMPY}", 1)


def graded(source, problems=None):
    return grade(LORA, Submission({MODULE: source}), 1, problems=problems)


def line_of(source, text):
    return source.split("\n").index(text) + 1


def test_an_import_that_the_grader_lacks_is_said_once_with_what_it_costs(tmp_path):
    source = with_import("import matplotlib")
    done = graded(source)
    made = results(done)
    line = line_of(source, "import matplotlib")
    assert made["score"] == 0
    assert made["output"] == (
        f"lora.py, line {line}: imports matplotlib, which the grader does not have. So lora.py cannot be imported, and "
        "its problems get no points. The grader has NumPy, minipeft and Python's standard library."
    )
    assert {t["output"] for t in made["tests"]} == {"Not run: lora.py cannot be imported, see above."}
    for text in (report.text(done, True), report.html(done, True), report.markdown(done, True).replace("\\", "")):
        assert text.count("imports matplotlib") == 1
        assert "ModuleNotFoundError" not in text
        assert "points depend" not in text
    write(tmp_path / "results.json", made)
    assert validate(tmp_path / "results.json") == []


@pytest.mark.parametrize(
    ("text", "hidden", "public"),
    [
        ("raise ValueError('0.123')", "It raises ValueError.", "lora.py: 0.123."),
        ("raise ModuleNotFoundError('No module named secret')", "It raises ModuleNotFoundError.", "named secret"),
        ("import os; os._exit(0)", "Its import ends the process.", "Its import ends the process."),
    ],
)
def test_why_a_file_cannot_be_imported(text, hidden, public):
    source = with_import(text)
    (one,) = graded(source).unloaded
    assert one.text(hidden=True) == f"lora.py cannot be imported, so its problems get no points. {hidden}"
    assert public in one.text(hidden=False)


def test_only_what_the_text_imports_is_named():
    failure = Raised("raised", "ModuleNotFoundError", "No module named 'secret'", "lora.py", 17)
    assert absent(failure, "\nimport torch.nn as nn\nimport jax\n") == ("torch", 2)
    assert absent(failure, "try:\n    import jax\nexcept ImportError:\n    pass\n") == ("", 0)
    assert absent(failure, "x = 1\n") == ("", 0)
    assert absent(failure, "import json\n") == ("", 0)


def test_an_import_inside_a_function_is_a_warning_and_inside_try_a_remark():
    inside = replace_bodies(SOURCE, {"LoRALinear.forward": BODY})
    (remark,) = [r for r in lint(LORA, {MODULE: inside}) if "matplotlib" in r.text]
    assert remark.costs
    assert "the grader does not have: a call that comes to this line fails" in remark.text
    done = graded(inside, ["6.1"])
    assert [n for n in done.notes if "imports matplotlib" in n]
    assert "NumPy, minipeft" in done.notes[-1]
    assert done.remarks == []
    tried = with_import("try:\n    import matplotlib\nexcept ImportError:\n    pass")
    done = graded(tried, ["6.1"])
    assert done.score == LORA.problem("6.1").points
    assert [r.text for r in done.remarks] == ["imports matplotlib, which the grader does not have"]
    assert done.notes == []


def test_code_before_a_future_import_is_told_with_its_line(tmp_path):
    (tmp_path / "lora.py").write_text("x = 1\n" + SOURCE, "utf-8")
    taken = take(tmp_path, LORA)
    line = line_of("x = 1\n" + SOURCE, "from __future__ import annotations")
    said, at = taken.errors[MODULE]
    assert "from __future__ imports must occur at the beginning of the file" in said
    assert at == line
    made = results(grade(LORA, taken, 1))
    assert made["score"] == 0
    assert made["output"].count("__future__") == 1
    assert "__future__" not in json.dumps(made["tests"])


@pytest.fixture
def own(tmp_path):
    """A student's folder of a homework, with the stubs."""
    folder = tmp_path / LORA.name
    folder.mkdir()
    for path in (LORA.folder / "homework.toml", *LORA.folder.glob("*.py")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_submit_and_check_tell_it_before_it_is_handed_in(own, tmp_path, capsys):
    (own / "lora.py").write_text(with_import("import torch"), "utf-8")
    out = tmp_path / "s.zip"
    assert main(["submit", str(own), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "no zip was made" in said
    assert "imports torch, which the grader does not have" in said
    assert "The grader has NumPy, minipeft" in said
    assert said.count("\n") == 1
    assert not out.exists()
    assert main(["check", str(own), "--problem", "6.1"]) == 1
    said = capsys.readouterr().out
    assert said.count("imports torch, which the grader does not have") == 1
    assert "its problems get no points" in said


def test_submit_warns_of_an_import_inside_a_function(own, tmp_path, capsys):
    (own / "lora.py").write_text(replace_bodies(SOURCE, {"LoRALinear.forward": BODY}), "utf-8")
    assert main(["submit", str(own), "--out", str(tmp_path / "s.zip")]) == 0
    assert "imports matplotlib, which the grader does not have: a call" in capsys.readouterr().out
    assert zipfile.ZipFile(tmp_path / "s.zip").namelist() == ["lora.py", "lora_embedding.py", "mixed.py"]
