"""A submission graded from end to end, in workers of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autograder.cli import main
from autograder.course.submit import pack
from autograder.feedback.results import results, validate
from autograder.grading.grade import grade
from autograder.grading.reference import grade_sources
from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.mutant import mutants, mutated
from autograder.homeworks.strip import functions, replace_bodies, source_path, stubs
from autograder.public import wrong_in
from autograder.submission.intake import Submission, take

ROOT = Path(__file__).parent.parent.parent
LORA = load_homework("hw6_lora")
MODULE = "minipeft.peft.lora"


def whole(homework, changed=()):
    """A submission of the library's own modules, some of them changed."""
    sources = {f.module: source_path(f.module).read_text("utf-8") for f in homework.files}
    return Submission({**sources, **dict(changed)})


def shares(verdicts):
    return {p: v.share for p, v in verdicts.items()}


@pytest.mark.parametrize(  # the others too: `selftest --quick` of CI grades every reference and every stub
    "name", [n if n == LORA.name else pytest.param(n, marks=pytest.mark.slow) for n in homeworks()]
)
def test_the_reference_gets_all_points_and_the_stubs_none(name):
    homework = load_homework(name)
    done = grade(homework, whole(homework), 1, confinement={} if sys.platform == "linux" else None)
    assert shares(done.verdicts) == {p.id: 1.0 for p in homework.problems}
    assert (done.score, done.log) == (homework.points, "")
    blank = stubs(homework)
    done = grade(homework, Submission({f.module: blank[f.stub] for f in homework.files}), 1)
    assert shares(done.verdicts) == {p.id: 0.0 for p in homework.problems}


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_worker_and_this_process_agree_on_mutants(number):
    m = mutants("hw6_lora")[number]
    done = grade(LORA, whole(LORA, mutated(m)), 5)
    assert shares(done.verdicts) == shares(grade_sources(LORA, mutated(m), 5))


def test_one_mistake_is_not_punished_twice():
    wrong = replace_bodies(source_path(MODULE).read_text("utf-8"), {"LoRALinear.forward": "raise ValueError"})
    got = shares(grade(LORA, whole(LORA, {MODULE: wrong}), 1, problems=["6.1", "6.2"]).verdicts)
    assert (got["6.1"], got["6.2"]) == (0.0, 1.0)


def test_a_file_that_cannot_be_imported_costs_its_own_problems():
    homework = load_homework("hw8_few_shot")
    broken = source_path("minipeft.lab.framework.welch").read_text("utf-8") + "\nnothing\n"
    done = grade(homework, whole(homework, {"minipeft.lab.framework.welch": broken}), 1)
    for p in homework.problems:
        mine = any(t.module == "minipeft.lab.framework.welch" for t in p.targets)
        assert done.verdicts[p.id].share == (0.0 if mine else 1.0), p.id
    assert "NameError" in next(f.reason for v in done.verdicts.values() for f in v.failures)


def test_a_file_that_ends_python_when_it_is_imported_costs_its_own_problems():
    homework = load_homework("hw8_few_shot")
    broken = "import os\nos._exit(0)\n"
    done = grade(homework, whole(homework, {"minipeft.lab.framework.welch": broken}), 1)
    assert {p.share for p in done.verdicts.values()} == {0.0, 1.0}


def test_a_file_that_is_no_python_costs_its_own_problems(tmp_path):
    homework = load_homework("hw8_few_shot")
    (tmp_path / "welch.py").write_text("def f(:\n")
    (tmp_path / "few_shot.py").write_text(source_path("minipeft.few_shot").read_text("utf-8"), "utf-8")
    done = grade(homework, take(tmp_path, homework), 1)
    assert {p.share for p in done.verdicts.values()} == {0.0, 1.0}
    assert "welch.py, line 1 is not valid Python 3." in done.notes[0]


def test_a_function_that_is_gone_does_not_stop_the_grading():
    lines = source_path(MODULE).read_text("utf-8").split("\n")
    at = functions("\n".join(lines))["LoRALinear.forward"].lineno - 1
    lines[at] = lines[at].replace("forward", "forwards")
    got = shares(grade(LORA, whole(LORA, {MODULE: "\n".join(lines)}), 1).verdicts)
    assert got["6.1"] == 0.0


def test_results_are_known_after_every_problem():
    seen = []
    grade(LORA, whole(LORA), 1, progress=lambda done: seen.append(list(done.verdicts)))
    ids = [p.id for p in LORA.problems]
    assert seen == [ids[: i + 1] for i in range(len(ids))]


def test_the_deadline_leaves_the_rest_not_run():
    done = grade(LORA, whole(LORA), 1, deadline=0.0)
    assert done.score == 0.0
    assert {f.reason.partition(":")[0] for v in done.verdicts.values() for f in v.failures} == {"not run"}


def test_hidden_cases_do_not_tell_what_was_drawn():
    body = "raise ValueError(x.tolist())"
    wrong = replace_bodies(source_path(MODULE).read_text("utf-8"), {"LoRALinear.forward": body})
    done = grade(LORA, whole(LORA, {MODULE: wrong}), 1, problems=["6.1"])
    hidden, full = json.dumps(results(done)), json.dumps(results(done, hidden=False))
    failure = done.verdicts["6.1"].failures[0].reason
    digits = failure.partition("[")[2][2:12]
    assert digits in full
    assert digits not in hidden
    assert failure[:40] not in hidden


def test_the_name_of_an_exception_tells_nothing_of_a_hidden_case():
    body = 'raise type("Drawn_" + "_".join(str(int(abs(v) * 1000)) for v in x.ravel()[:3]), (Exception,), {})()'
    wrong = replace_bodies(source_path(MODULE).read_text("utf-8"), {"LoRALinear.forward": body})
    made = json.dumps(results(grade(LORA, whole(LORA, {MODULE: wrong}), 1, problems=["6.1"])))
    assert "Drawn_" not in made
    assert "an exception of its own" in made


def test_a_case_is_told_alone():
    done = grade(LORA, whole(LORA, {MODULE: stubs(LORA)["lora.py"]}), 1, problems=["6.1"])
    assert wrong_in(done, "6.1", "no such case") == []
    assert "hw6.1" in "".join(wrong_in(done, "6.1", done.verdicts["6.1"].failures[0].case))


def test_the_commands_grade_what_was_handed_in(tmp_path, capsys):
    for file in LORA.files:
        (tmp_path / file.stub).write_text(source_path(file.module).read_text("utf-8"), "utf-8")
    pack(LORA, tmp_path, tmp_path / "s.zip")
    out = tmp_path / "results.json"
    assert main(["grade", str(tmp_path / "s.zip"), "--homework", "hw6_lora", "--out", str(out), "--trust"]) == 0
    assert f"hw6_lora: {LORA.points:g} of {LORA.points:g} points" in capsys.readouterr().out
    assert validate(out) == []
    assert main(["validate", str(out)]) == 0
    (tmp_path / "seed").write_text("1")
    command = ["grade", str(tmp_path / "s.zip"), "--homework", "hw6_lora", "--trust", "--json"]
    assert main([*command, "--seed-file", str(tmp_path / "seed")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["score"] == LORA.points


def test_a_submission_without_the_files_gets_one_clear_message_and_no_attempt(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "loar.py").touch()
    out = tmp_path / "results.json"
    assert main(["grade", str(tmp_path / "s"), "--homework", "hw6_lora", "--out", str(out), "--trust"]) == 1
    made = json.loads(out.read_text())
    assert made["extra_data"]["attempt"] is False
    assert "expected lora.py and lora_embedding.py and mixed.py; it has 'loar.py'" in made["output"]
    assert validate(out) == []
    assert "does not count as an attempt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["check", "hw0"], "no homework 'hw0'"),
        (["check", "hw6_lora", "--problem", "1.1"], "has no problem '1.1'"),
        (["submit", "nothing"], "no homework 'nothing'"),
        (["grade", "nowhere", "--homework", "hw0"], "no homework 'hw0'"),
        (["grade", "nowhere", "--homework", "hw6_lora", "--deadline", "-1"], "--deadline must be"),
        (["grade", ".", "--homework", "hw6_lora", "--seed-file", "nowhere"], "No such file"),
        (["grade", "nowhere", "--homework", "hw6_lora"], "no file or folder 'nowhere'"),
        (["validate", "nowhere.json"], "No such file"),
        (["selftest", "hw6_lora", "--seeds", "0"], "--seeds must be at least 1"),
        (["fetch"], "unknown command 'fetch'"),
        ([], "required"),
    ],
)
def test_a_mistake_of_the_users_is_one_line(capsys, command, says):
    try:
        code = main(command)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err
    assert code == 2
    assert says in said
    assert said.count("\n") == 1


def test_submit_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "hw6_lora"]) == 0
    said = capsys.readouterr().out
    assert "hw6_lora.zip holds lora.py, lora_embedding.py, mixed.py" in said
    assert "6.1  not written: LoRALinear.forward" in said


def test_check_tells_the_public_cases(capsys):
    assert main(["check", str(ROOT / "homework" / "hw6_lora"), "--problem", "6.1"]) == 1
    said = capsys.readouterr().out
    assert "hw6.1" in said or "not written" in said
    assert "6.2" not in said


def test_reports_are_written_where_they_are_asked_for(tmp_path, capsys):
    page, plain = tmp_path / "r.html", tmp_path / "r.md"
    command = ["check", "hw6_lora", "--problem", "6.1", "--json", "--html", str(page), "--markdown", str(plain)]
    assert main(command) == 1
    assert [t["number"] for t in json.loads(capsys.readouterr().out)["tests"]] == ["6.1"]
    assert "<html" in page.read_text("utf-8")
    assert plain.read_text("utf-8").startswith("# ")


@pytest.mark.slow
def test_pytest_in_a_homeworks_folder_runs_at_once():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "homework/hw6_lora"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "hw6.1: LoRALinear.forward" in ran.stdout
    assert "error" not in ran.stdout.lower().replace("notimplementederror", "")
