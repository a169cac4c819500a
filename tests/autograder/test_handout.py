"""The folder that students get: it works on its own, explains itself, and holds no answer."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from handouts import blocks, solve

from autograder.cli import build_parser, main
from autograder.course.handout import build, pyproject
from autograder.course.trials import TRIALS
from autograder.grading.answers import stored
from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.homework import INSTALL, ROOT, HomeworkError
from autograder.homeworks.strip import body_span, functions, source_path, targeted

every_homework = pytest.mark.parametrize("name", homeworks())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    """A function: the folder of a homework's handout, made once. Tests must not change it."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("handout") / name
            build(load_homework(name), made[name])
        return made[name]

    return make


@pytest.fixture
def folder(handout):
    return handout("hw6_lora")


def command(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment)


@every_homework
def test_it_holds_no_body_of_a_target_and_no_mistake_of_the_staffs_list(name, handout):
    homework, folder = load_homework(name), handout(name)
    there = {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in folder.rglob("*.py")}
    for target in (*homework.targets, *homework.hide):
        source = source_path(target.module).read_text("utf-8")
        stripped = there[source_path(target.module, Path()).as_posix()]
        for function in targeted(source, target.name):
            start, end = body_span(functions(source)[function])
            body = "\n".join(source.split("\n")[start:end])
            assert body not in stripped, function
    staff = ("autograder/homeworks/variant", "autograder/selftest", "autograder/course/handout.py")
    assert not [p for p in there if p.startswith(staff)]
    own = f"autograder/homeworks/{name}"
    parts = ("__init__", "cases", "drivers", "mutants")
    files = {p for p in there if p.startswith("autograder/homeworks/hw")}
    assert files - {f"{own}/inside.py"} == {f"{own}/{part}.py" for part in parts}
    assert "Mutant(" not in there[f"{own}/mutants.py"]


@every_homework
def test_every_command_of_its_readme_is_one_and_every_file_is_there(name, handout):
    folder = handout(name)
    text = (folder / "README.md").read_text("utf-8")
    assert "$" not in text
    (install, commands), parser = blocks(text), build_parser()
    assert install[-1] == INSTALL
    asked = []
    for line in commands:
        first, *words = shlex.split(line)
        if first == "pytest":
            assert words == [f"homework/{name}"]
            asked.append("pytest")
        else:
            assert [first, *words[:2]] == ["python", "-m", "autograder"]
            args = parser.parse_args(words[2:])
            assert load_homework(args.homework).name == name
            asked += [args.command, *(vars(args).get("problem") or ())]
    assert asked == ["check", "check", load_homework(name).problems[0].id, "pytest", "try", "submit"]
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (folder / link).is_file(), link
    for f in load_homework(name).files:
        assert f"`{f.stub}`" in text
    assert (folder / "homework" / "conftest.py").is_file()


@every_homework
def test_its_readme_says_which_problems_build_on_others_and_what_may_stay_unwritten(name, handout):
    text = (handout(name) / "README.md").read_text("utf-8")
    for problem in load_homework(name).problems:
        assert (f"{problem.id} builds on " in text) == bool(problem.prerequisites)
        for target in problem.optional:
            assert f"`{target.name}`" in text
    assert "pen-and-paper part is not in the zip" in text


@every_homework
def test_its_pyproject_names_files_that_exist_and_installs_what_it_needs_and_no_more(name, handout):
    folder = handout(name)
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    for file in (project["readme"], *project["license-files"]):
        assert (folder / file).is_file(), file
    assert project["dependencies"] == EXTRAS["dependencies"]
    needed = {"pytest", *TRIALS[name].packages} - set(project["dependencies"])
    assert {key: set(found) for key, found in project["optional-dependencies"].items()} == {"homework": needed}


def test_the_extra_homework_is_what_some_handout_needs():
    needed = {"pytest"} | {package for trial in TRIALS.values() for package in trial.packages}
    assert set(EXTRAS["optional-dependencies"]["homework"]) == needed - set(EXTRAS["dependencies"])


def test_the_pyproject_of_a_handout_leaves_out_a_package_with_its_version(monkeypatch, tmp_path):
    text = (ROOT / "pyproject.toml").read_text("utf-8").replace('"scikit-learn"]', '"scikit-learn>=1.5"]')
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    monkeypatch.setattr("autograder.course.handout.ROOT", tmp_path)
    assert "scikit-learn" not in pyproject(load_homework("hw6_lora"))
    assert '"scikit-learn>=1.5"' in pyproject(load_homework("hw7_vision"))


CHECK_IMPORTS = """
import sys
from importlib.metadata import packages_distributions

known, before = set(packages_distributions()), set(sys.modules)
sys.path.insert(0, sys.argv[1])
from autograder.course import submit
from autograder import cli, public
from autograder.homeworks.case import PUBLIC_SEED
from autograder.homeworks.draw import cases
from autograder.homeworks.folder import homeworks, load_homework
from autograder.grading.reference import reference

for name in homeworks():
    for problem in load_homework(name).problems:
        reference(name, cases(name, problem.id, PUBLIC_SEED)[0])
print(*known & {m.partition(".")[0] for m in set(sys.modules) - before})
"""


def test_check_and_submit_import_no_package_but_numpy():
    line = [sys.executable, "-I", "-c", CHECK_IMPORTS, str(ROOT)]
    ran = subprocess.run(line, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) - {"minipeft"} == {"numpy"}


def test_the_untouched_stub_gets_nothing_and_is_told_what_is_missing(folder):
    ran = command(folder, "autograder", "check", "hw6_lora", "--problem", "6.1")
    assert ran.returncode == 1, ran.stderr
    assert "not written yet (hw6.1: LoRALinear.forward)" in ran.stdout
    assert "hw6_lora: 0 of" in ran.stdout


def test_what_is_right_gets_all_points_there(folder, tmp_path):
    copy = tmp_path / "solved"
    shutil.copytree(folder, copy)
    solve(load_homework("hw6_lora"), copy)
    ran = command(copy, "autograder", "check", "hw6_lora", "--problem", "6.1", "--problem", "6.7", "--json")
    made = json.loads(ran.stdout)
    assert [t["number"] for t in made["tests"]] == ["6.1", "6.7"]
    assert [t["score"] for t in made["tests"]] == [t["max_score"] for t in made["tests"]]
    ran = command(copy, "pytest", "-p", "no:cacheprovider", "homework/hw6_lora", "-k", "6.1-")
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["selftest", "hw6_lora"],
        ["grade", "hw6_lora.zip", "--homework", "hw6_lora", "--trust"],
        ["grade-all", ".", "--homework", "hw6_lora"],
        ["gradescope", "hw6_lora"],
        ["handout", "hw6_lora", "--out", "again"],
        ["strip"],  # it would overwrite what the student wrote
    ],
)
def test_a_command_for_the_staff_is_refused_in_one_line_and_changes_nothing(folder, arguments):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    ran = command(folder, "autograder", *arguments)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "for the course staff, and this is a handout" in ran.stderr
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "hw6_lora", "--problem", "6.99"], "hw6_lora has no problem '6.99'; it has 6.1, 6.2,"),
        (["check", "homework/hw6"], "no homework 'homework/hw6' in "),
        (["try", "hw5_intrinsic"], "or a name: hw6_lora"),
    ],
)
def test_a_mistyped_command_is_told_in_one_line(folder, arguments, says):
    ran = command(folder, "autograder", *arguments)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert says in ran.stderr


def test_without_numpy_the_one_line_says_how_to_install_it(folder):
    ran = subprocess.run(
        [sys.executable, "-S", "-m", "autograder", "check", "hw6_lora"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert ran.stderr.startswith("autograder: numpy is not installed for ")
    assert ran.stderr.rstrip().endswith(INSTALL)


def test_other_numbers_than_the_answers_were_made_for_are_named(folder, monkeypatch):
    homework = load_homework(folder / "homework" / "hw6_lora")
    assert stored(homework, "6.1")
    monkeypatch.setattr("autograder.grading.answers.PUBLIC_SEED", "another")
    with pytest.raises(HomeworkError, match="made for other inputs than are drawn here"):
        stored(homework, "6.1")
    monkeypatch.undo()
    with pytest.raises(HomeworkError, match=r"cannot read .*9\.9\.frame"):
        stored(homework, "9.9")


def test_the_command_writes_into_a_new_folder_alone(tmp_path, capsys):
    (tmp_path / "x").write_text("x")
    assert main(["handout", "hw6_lora", "--out", str(tmp_path)]) == 2
    assert "takes a new or an empty folder" in capsys.readouterr().err
    assert main(["handout", "hw6_lora", "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "homework" / "hw6_lora" / "lora.py").is_file()
