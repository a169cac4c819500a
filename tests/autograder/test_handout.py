"""The folder that students get: it works by itself, and it holds no answer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autograder.cli import main
from autograder.handout import build, stored
from autograder.homework import HomeworkError, homeworks, load_homework
from autograder.strip import body_span, functions, source_path, targeted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("handout") / "hw6"
    build(load_homework("hw6_lora"), out)
    return out


def command(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", homeworks())
def test_it_holds_no_body_of_a_target_and_no_mistake_of_the_staffs_list(name, tmp_path):
    homework = load_homework(name)
    build(homework, tmp_path)
    there = {p.relative_to(tmp_path).as_posix(): p.read_text("utf-8") for p in tmp_path.rglob("*.py")}
    for target in (*homework.targets, *homework.hide):
        source = source_path(target.module).read_text("utf-8")
        stripped = there[source_path(target.module, Path()).as_posix()]
        for function in targeted(source, target.name):
            start, end = body_span(functions(source)[function])
            body = "\n".join(source.split("\n")[start:end])
            assert body not in stripped, function
    assert not [p for p in there if "variants" in p or "selftest" in p]
    parts = ("cases", "drivers", "mutants")
    assert {p for p in there if "/hw" in p and p.startswith("autograder")} == {
        f"autograder/{x}/{name}.py" for x in parts
    }
    assert "Mutant(" not in there[f"autograder/mutants/{name}.py"]


def test_the_untouched_stub_gets_nothing_and_is_told_what_is_missing(folder):
    ran = command(folder, "autograder", "check", "hw6_lora")
    assert ran.returncode == 1, ran.stderr
    assert "not written yet (hw6.1: LoRALinear.forward)" in ran.stdout
    assert "hw6_lora: 0 of" in ran.stdout


def test_what_is_right_gets_all_points_there(folder, tmp_path):
    copy = tmp_path / "solved"
    shutil.copytree(folder, copy)
    shutil.copyfile(source_path("minipeft.peft.lora"), copy / "homework" / "hw6_lora" / "lora.py")
    ran = command(copy, "autograder", "check", "hw6_lora", "--json")
    made = json.loads(ran.stdout)
    assert [t["score"] for t in made["tests"]] == [t["max_score"] for t in made["tests"]]
    ran = command(copy, "pytest", "-p", "no:cacheprovider", "homework/hw6_lora")
    assert ran.returncode == 0, ran.stdout
    ran = command(copy, "autograder", "submit", "hw6_lora")
    assert (copy / "hw6_lora.zip").is_file(), ran.stderr


def test_a_wrong_gradient_is_compared_with_differences_of_the_own_forward(folder, tmp_path):
    copy = tmp_path / "wrong"
    shutil.copytree(folder, copy)
    right = source_path("minipeft.peft.lora").read_text("utf-8")
    (copy / "homework" / "hw6_lora" / "lora.py").write_text(wrong_backward(right), "utf-8")
    ran = command(copy, "autograder", "check", "hw6_lora", "--problem", "6.2")
    assert ran.returncode == 1, ran.stderr
    assert "central differences of your own forward" in ran.stdout


def wrong_backward(source):
    """LoRALinear.backward with the first gradient that it returns doubled."""
    lines = source.split("\n")
    node = functions(source)["LoRALinear.backward"]
    lines[node.lineno - 1] = lines[node.lineno - 1].replace("def backward", "def _right")
    indent = " " * (node.col_offset + 4)
    lines[node.end_lineno : node.end_lineno] = [
        "",
        f"{' ' * node.col_offset}@staticmethod",
        f"{' ' * node.col_offset}def backward(ctx, dz):",
        f"{indent}return tuple(None if g is None else 2 * g for g in LoRALinear._right(ctx, dz))",
    ]
    return "\n".join(lines)


def test_what_the_staff_has_is_not_there(folder):
    ran = command(folder, "autograder", "selftest", "hw6_lora")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "this is a handout" in ran.stderr


def test_other_numbers_than_the_answers_were_made_for_are_named(folder, monkeypatch):
    homework = load_homework(folder / "homework" / "hw6_lora")
    assert stored(homework, "6.1")
    monkeypatch.setattr("autograder.handout.PUBLIC_SEED", "another")
    with pytest.raises(HomeworkError, match="other numbers than are drawn here"):
        stored(homework, "6.1")
    monkeypatch.undo()
    with pytest.raises(HomeworkError, match=r"9\.9\.frame cannot be read"):
        stored(homework, "9.9")


def test_the_command_writes_into_a_new_folder_alone(tmp_path, capsys):
    (tmp_path / "x").write_text("x")
    assert main(["handout", "hw6_lora", "--out", str(tmp_path)]) == 2
    assert "takes a new or an empty folder" in capsys.readouterr().err
    assert main(["handout", "hw6_lora", "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "homework" / "hw6_lora" / "lora.py").is_file()
