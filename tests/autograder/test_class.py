"""A class graded: nothing is lost, nothing is graded twice, and the same grades come out in any order."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kill_and_resume
import pytest
from mock_class import make

from autograder.cli import main
from autograder.course.classpage import page
from autograder.course.classroom import alone, grade_all
from autograder.course.export import ClassError
from autograder.feedback.results import validate
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import stubs
from autograder.sandbox.parent_limits import Confinement, ConfinementError

FEW_SHOT = load_homework("hw8_few_shot")
BLANK = {f.module: stubs(FEW_SHOT)[f.stub] for f in FEW_SHOT.files}


def confinable():
    try:
        Confinement()
    except ConfinementError:
        return False
    return True


trusting = [] if confinable() else ["--trust"]
trust = not confinable()


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    return folder, make(folder, FEW_SHOT, 5, seed=3)


@pytest.fixture(scope="module")
def graded(handed, tmp_path_factory):
    out = tmp_path_factory.mktemp("grades") / "out"
    done = grade_all(handed[0], FEW_SHOT, out, seed="s", jobs=2, trust=trust, progress=False)
    return out, done.records


def test_every_submission_has_its_files_and_a_row(handed, graded):
    out, records = graded
    assert [r["id"] for r in records] == sorted(handed[1])
    for r in records:
        assert not [c for c in validate(out / "students" / r["id"] / "results.json") if c.error]
        assert (out / "students" / r["id"] / "report.html").is_file()
        assert (out / "staff" / f"{r['id']}.html").is_file()
    rows = list(csv.DictReader((out / "grades.csv").read_text("utf-8-sig").splitlines()))
    assert [r["id"] for r in rows] == sorted(handed[1])
    assert [r["email"] for r in rows] == [f"s{i}@example.org" for i in range(5)]
    by_kind = {kind: r for name, kind in handed[1].items() for r in records if r["id"] == name}
    for kind, r in by_kind.items():
        if kind in ("correct", "variant"):
            assert r["score"] == FEW_SHOT.points
        elif kind == "stub":
            assert r["score"] == 0
        elif kind == "mutant":
            assert 0 < r["score"] < FEW_SHOT.points


@pytest.mark.slow
def test_the_same_bytes_in_another_order(handed, graded, tmp_path):
    out, _ = graded
    backwards = tmp_path / "backwards"
    grade_all(
        handed[0], FEW_SHOT, backwards, seed="s", jobs=1, trust=trust, progress=False, order=lambda x: list(reversed(x))
    )
    assert (backwards / "grades.csv").read_bytes() == (out / "grades.csv").read_bytes()


def test_a_second_call_grades_nothing_again(handed, graded):
    out, _ = graded
    before = (out / "graded.jsonl").read_bytes()
    grade_all(handed[0], FEW_SHOT, out, resume=True, trust=trust, progress=False)
    assert (out / "graded.jsonl").read_bytes() == before


def test_grades_that_are_there_are_not_written_over(handed, graded):
    with pytest.raises(ClassError, match="--resume goes on with them, --fresh forgets them"):
        grade_all(handed[0], FEW_SHOT, graded[0], trust=trust, progress=False)
    with pytest.raises(ClassError, match="one class, one seed"):
        grade_all(handed[0], FEW_SHOT, graded[0], seed="t", resume=True, trust=trust, progress=False)


def test_a_line_that_was_cut_off_is_graded_again(handed, graded, tmp_path):
    out, records = graded
    other = tmp_path / "cut"
    subprocess.run(["cp", "-r", str(out), str(other)], check=True)
    log = other / "graded.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    grade_all(handed[0], FEW_SHOT, other, resume=True, jobs=1, trust=trust, progress=False)
    assert (other / "grades.csv").read_bytes() == (out / "grades.csv").read_bytes()
    ids = [json.loads(line)["id"] for line in log.read_text().splitlines()[1:] if line.endswith("}")]
    assert sorted(ids) == sorted(r["id"] for r in records)


@pytest.fixture
def again(handed, graded, tmp_path):
    """The class to be graded again, beside the grades of `graded`, where other users can pass through."""
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        Path(work).chmod(0o755)
        run = kill_and_resume.Run(handed[0], FEW_SHOT.name, Path(work), "--jobs", "2", *trusting)
        shutil.copytree(graded[0], run.work / "whole")
        yield run


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_class_that_is_killed_goes_on_to_the_same_grades(again):
    found = kill_and_resume.killed(again, 3, 9.0)
    assert found["kills"] > 0
    assert kill_and_resume.held(found), found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_dask_worker_that_is_killed_loses_nothing(again):
    pytest.importorskip("dask.distributed")
    found = kill_and_resume.on_cluster(again, after=0.2)
    assert kill_and_resume.held(found), found


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone")
def test_a_grader_ends_with_its_parent():
    code = (
        "import os, sys, time\n"
        "from autograder.course.grader import end_with\n"
        "parent = os.getpid()\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    end_with(parent)\n"
        "    print(os.getpid(), open('/proc/self/oom_score_adj').read(), flush=True)\n"
        "    os.write(w, b'x')\n"
        "    time.sleep(60)\n"
        "os.read(r, 1)\n"
        "os.kill(parent, 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    pid, rather_than_the_parent = map(int, done.stdout.split())
    assert rather_than_the_parent > int(Path("/proc/self/oom_score_adj").read_text())
    until = time.monotonic() + 10
    while (state := _state(pid)) not in ("", "Z") and time.monotonic() < until:
        time.sleep(0.02)
    assert state in ("", "Z")


def _state(pid):
    """The letter that says what a process does; "" for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_two_do_not_write_the_same_grades(handed, graded):
    with alone(graded[0]), pytest.raises(ClassError, match="another grade-all is writing"):
        grade_all(handed[0], FEW_SHOT, graded[0], resume=True, trust=trust, progress=False)


def test_the_grades_and_the_seed_are_the_owners(graded):
    assert graded[0].stat().st_mode & 0o777 == 0o700
    assert (graded[0] / "seed").stat().st_mode & 0o777 == 0o600


def test_the_class_in_a_page_without_scripts_and_with_everything_escaped(graded):
    out, records = graded
    text = (out / "index.html").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "What goes wrong" in text
    assert page(FEW_SHOT, []).count("<h2>") >= 4
    odd = [{**records[0], "id": "a", "name": "<img src=x>", "reasons": {"8.1": ["<b>no</b>"]}}]
    assert "&lt;img src=x&gt;" in page(FEW_SHOT, odd)
    assert "&lt;b&gt;no&lt;/b&gt;" in page(FEW_SHOT, odd)
    assert '<a class="who"' in page(FEW_SHOT, odd)  # a long name is broken, where it would push the scores aside
    assert "overflow-wrap: anywhere" in page(FEW_SHOT, odd).partition(".who {")[2].partition("}")[0]


def test_the_command_line(handed, tmp_path, capsys):
    code = main(["grade-all", str(tmp_path / "nothing"), "--homework", "hw8_few_shot", *trusting])
    assert code == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["grade-all", str(handed[0]), "--homework", "hw99", *trusting]) == 2
    assert "no homework 'hw99'" in capsys.readouterr().err
