"""One submission never stops the class: whatever fails or ends in the grader is a row, and staff are told."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from single import single_file

from autograder.cli import main
from autograder.course import classroom, grader, supervisor
from autograder.course.classpage import page
from autograder.course.classroom import grade_all
from autograder.course.entries import Entry
from autograder.course.export import Student
from autograder.course.gradebook import FAILED, GRADED, Book, bounded
from autograder.course.grader import UNFINISHED, Rules, failed, grade_one
from autograder.course.supervisor import Graders
from autograder.feedback.results import FAILED_TEXT, validate
from autograder.grading.check import Verdict
from autograder.grading.grade import Graded
from autograder.homeworks.folder import load_homework
from autograder.sandbox.parent_limits import ConfinementError

LORA = single_file("hw6_lora")
SECRET = "the text of an exception, which only staff read"


@pytest.fixture
def handed(tmp_path, monkeypatch):
    """Three submissions that are graded in this process without being run."""
    monkeypatch.setattr(grader, "load_homework", lambda name: LORA)
    monkeypatch.setattr(classroom, "by_processes", lambda todo, rules, jobs: ((e, grade_one(e, rules)) for e in todo))
    monkeypatch.setattr(grader, "grade", lambda homework, *_, **__: Graded(homework))
    for name in ("ann", "bob", "eve"):
        (tmp_path / "s" / name).mkdir(parents=True)
        (tmp_path / "s" / name / "lora.py").write_text("x = 1\n")
    return tmp_path / "s"


def graded(folder, **options):
    return grade_all(folder, LORA, folder.parent / "out", trust=True, progress=False, **options)


def breaks(monkeypatch, module, name, error, on="bob"):
    """Make a function of the grader raise on one submission: the last one that was taken in."""
    original, take, taken = getattr(module, name), grader.take, [""]

    def taking(path, homework):
        taken.append(Path(path).name)
        if name == "take" and taken[-1] == on:
            raise error
        return take(path, homework)

    def broken(*args, **options):
        if taken[-1] == on:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(module, name, broken)
    monkeypatch.setattr(grader, "take", taking)


@pytest.mark.parametrize("error", [ValueError(SECRET), RecursionError(SECRET), MemoryError(SECRET), KeyError(SECRET)])
@pytest.mark.parametrize("stage", ["take", "grade", "results", "prints", "html"])
def test_a_failure_of_the_grader_is_a_row_and_the_class_goes_on(handed, monkeypatch, stage, error):
    breaks(monkeypatch, grader.report if stage == "html" else grader, stage, error)
    done = graded(handed)
    assert [r["status"] for r in done.records] == [GRADED, FAILED, GRADED]
    assert done.failures == ["bob"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing can be confined")
def test_a_submission_that_cannot_be_confined_is_a_row(handed, monkeypatch):
    breaks(monkeypatch, grader, "grade", ConfinementError(SECRET))
    done = [grade_one(entry, Rules("hw6_lora", "s")) for entry in classroom.entries(handed)[0]]
    assert [d["record"]["status"] for d in done] == [GRADED, FAILED, GRADED]


def test_what_failed_is_told_to_staff_costs_nothing_and_is_graded_again(handed, monkeypatch):
    before = grader.take
    breaks(monkeypatch, grader, "take", ValueError(SECRET))
    done = graded(handed)
    out = handed.parent / "out"
    assert "3 entries = 2 graded + 0 refused + 1 failed + 0 skipped" in done.summary(40.0)
    assert SECRET in (out / "staff" / "bob.txt").read_text()
    assert "Traceback" in (out / "staff" / "bob.txt").read_text()
    shown = [*(out / "students").rglob("*"), out / "index.html", out / "grades.csv", out / "staff" / "bob.html"]
    assert not [p for p in shown if p.is_file() and SECRET in p.read_text("utf-8")]
    results = out / "students" / "bob" / "results.json"
    assert not [c for c in validate(results) if c.error]
    made = json.loads(results.read_text())
    assert (made["output"], made["extra_data"]["attempt"]) == (FAILED_TEXT, False)
    row = next(r for r in csv.DictReader((out / "grades.csv").read_text("utf-8-sig").splitlines()) if r["id"] == "bob")
    assert (row["status"], row["score"], row["6.1"]) == ("failed", "", "")
    assert "1 failed" in (out / "index.html").read_text()
    monkeypatch.setattr(grader, "take", before)
    again = graded(handed, resume=True)
    assert [r["status"] for r in again.records] == [GRADED] * 3
    assert len((out / "graded.jsonl").read_text().splitlines()) == 1 + 3 + 1  # the others were not graded again
    assert not (out / "staff" / "bob.txt").exists()


def test_a_submission_whose_digest_fails_or_whose_record_cannot_be_written_is_a_row(handed, monkeypatch):
    digest, before = classroom.digest, Book.keep

    def broken(entry, homework):
        if entry.id == "ann":
            raise RuntimeError(SECRET)
        return digest(entry, homework)

    def keep(self, done, key):
        if done["record"]["id"] == "eve" and done["record"]["status"] == GRADED:
            raise ValueError(SECRET)
        before(self, done, key)

    monkeypatch.setattr(classroom, "digest", broken)
    monkeypatch.setattr(Book, "keep", keep)
    assert [r["status"] for r in graded(handed).records] == [FAILED, GRADED, FAILED]
    assert SECRET in (handed.parent / "out" / "staff" / "ann.txt").read_text()
    assert SECRET in (handed.parent / "out" / "staff" / "eve.txt").read_text()


def test_grade_one_passes_the_result_so_far_and_the_time_that_is_left(handed, monkeypatch):
    seen = []

    def grade(homework, submission, seed, *, deadline, progress, **_):
        done = Graded(homework)
        seen.append(deadline)
        done.verdicts[homework.problems[0].id] = Verdict(homework.problems[0].id, share=1.0)
        progress(done)
        return done

    monkeypatch.setattr(grader, "grade", grade)
    so_far = []
    entry = Entry("ann", handed / "ann", (Student("Ann"),))
    grade_one(entry, Rules("hw6_lora", "s", trust=True, deadline=50.0), so_far.append)
    assert 40.0 < seen[0] < 50.0
    assert so_far[0]["record"]["score"] == LORA.problems[0].points
    assert so_far[0]["record"]["note"] == UNFINISHED
    assert so_far[0]["results"]["output"].startswith(UNFINISHED)


# Processes that end

FAKE = """
import json, os, pathlib, signal, sys, time
def send(kind, name, score=None, counts=False):
    record = {{"id": name, "score": score, "status": "graded"}}
    print(json.dumps([kind, {{"record": record, "pid": os.getpid(), "counts": counts}}]), flush=True)
send("ready", "")
for line in sys.stdin:
    place, name, students, rules = json.loads(line)
    if name == "kills" or name == "once" and not os.path.exists(place):
        pathlib.Path(place).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name in ("drips", "waits"):
        send("so far", name, 3.0, name == "drips")
    if name in ("drips", "waits", "hangs"):
        time.sleep(60)
    if name == "floods":
        print("x" * 3000000, end="", flush=True)
    if name == "nonsense":
        print("no JSON", flush=True)
    send("done", name, 5.0)
"""


@pytest.fixture
def graders(monkeypatch):
    monkeypatch.setattr(supervisor, "CODE", FAKE)
    monkeypatch.setattr(supervisor, "REPLY_LIMIT", 1 << 20)
    with Graders() as made:
        yield made


def ask(graders, name, folder, deadline=30.0):
    entry = Entry(name, folder / name, (Student(name),))
    return graders.grade(entry, Rules("hw6_lora", "s", deadline=deadline))


def test_a_grader_is_used_again(graders, tmp_path):
    pids = {ask(graders, name, tmp_path)["pid"] for name in ("ann", "bob", "eve")}
    assert len(pids) == 1


def test_a_grader_that_is_killed_is_replaced_and_the_submission_graded_again(graders, tmp_path):
    first = ask(graders, "ann", tmp_path)["pid"]
    done = ask(graders, "once", tmp_path)
    assert done["record"]["score"] == 5.0
    assert done["pid"] != first


@pytest.mark.parametrize("name", ["kills", "floods", "nonsense"])
def test_a_submission_that_ends_its_grader_twice_is_a_row(graders, tmp_path, name):
    done = ask(graders, name, tmp_path)
    assert (done["record"]["status"], done["record"]["score"]) == (FAILED, None)
    assert done["failure"].count("\n") == 1  # two graders
    assert ask(graders, "ann", tmp_path)["record"]["status"] == GRADED


def test_at_the_limit_what_is_graded_counts_only_if_the_submission_used_the_time(graders, tmp_path):
    begun = time.monotonic()
    record = ask(graders, "drips", tmp_path, deadline=0.5)["record"]
    assert record["score"] == 3.0
    assert 1.9 <= record["seconds"] < 4.0
    assert time.monotonic() - begun < 4.0
    for name, says in (
        ("hangs", "no problem was graded within 2 s"),
        ("waits", "some problems were graded within 2 s"),
    ):
        begun = time.monotonic()
        done = ask(graders, name, tmp_path, deadline=0.5)
        assert time.monotonic() - begun < 4.0  # and no second try
        assert (done["record"]["status"], done["record"]["score"]) == (FAILED, None)
        assert says in done["failure"]


def test_graders_end_when_grading_is_interrupted(graders, tmp_path):
    pid = ask(graders, "ann", tmp_path)["pid"]
    graders.__exit__(None, None, None)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert ask(graders, "bob", tmp_path)["record"]["status"] == FAILED


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_class_goes_on_when_graders_are_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "CODE", FAKE)
    todo = [Entry(name, tmp_path / name, (Student(name),)) for name in ("ann", "kills", "bob", "once", "eve")]
    done = {e.id: d["record"]["status"] for e, d in classroom.by_processes(todo, Rules("hw6_lora", "s"), 2)}
    assert done == {"ann": GRADED, "kills": FAILED, "bob": GRADED, "once": GRADED, "eve": GRADED}


def test_a_cluster_whose_workers_die_on_a_submission_has_a_row_for_it(tmp_path, monkeypatch):
    class KilledWorker(Exception):
        pass

    class Future:
        def __init__(self, entry):
            self.entry = entry

        def result(self):
            if self.entry.id == "bob":
                raise KilledWorker("bob")
            return {"record": {"status": GRADED}}

        def release(self):
            pass

    class Client:
        def __init__(self, address, timeout):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, entry, rules, **_):
            assert function is supervisor.grade_apart
            return Future(entry)

    class Distributed:
        pass

    Distributed.Client, Distributed.KilledWorker, Distributed.as_completed = Client, KilledWorker, staticmethod(list)
    monkeypatch.setattr(classroom, "import_module", lambda name: Distributed)
    todo = [Entry(name, tmp_path / name, (Student(name),)) for name in ("ann", "bob", "eve")]
    found = {e.id: d["record"]["status"] for e, d in classroom.by_cluster(todo, Rules("hw6_lora", "s"), "tcp://x")}
    assert found == {"ann": GRADED, "bob": FAILED, "eve": GRADED}


# What is kept


def test_no_submission_decides_the_size_of_a_record():
    long = {"a": "x" * 10**6, "prints": list(range(10**6)), "reasons": {"6.1": ["y" * 10**6] * 20}, "n": 1.5, "s": None}
    assert len(json.dumps(bounded(long))) < 100_000
    assert bounded({"n": 1.5, "s": None, "t": [1]}) == {"n": 1.5, "s": None, "t": [1]}
    assert "\x1b" not in json.dumps(bounded({"a": ["\x1b[31m\ud800"]}), ensure_ascii=False)


def test_a_large_program_has_a_small_record(handed):
    names = " ".join(f"\n    a{i} = b{i} * c{i} + d{i}" for i in range(5000))
    (handed / "ann" / "lora.py").write_text(f"def alpha_over_r(x):{names}\n")
    graded(handed)
    assert max(map(len, (handed.parent / "out" / "graded.jsonl").read_text().splitlines())) < 150_000


def test_the_page_of_the_class_shows_a_row_without_a_score():
    home = load_homework("hw6_lora")
    record = failed(Entry("ann", Path("ann"), (Student("Ann"),)), home, SECRET)["record"]
    assert FAILED_TEXT in page(home, [record])


def test_grade_that_fails_leaves_results_that_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.submission.intake.take", lambda *_: [][0])
    with pytest.raises(IndexError):
        main(["grade", str(tmp_path), "--homework", "hw6_lora", "--trust", "--out", str(tmp_path / "r.json")])
    assert json.loads((tmp_path / "r.json").read_text())["output"] == FAILED_TEXT


def test_grade_ends_at_its_deadline_whatever_the_grader_does(tmp_path):
    code = "import sys, time\nfrom autograder import cli\nfrom autograder.submission import intake\n"
    code += "intake.take = lambda *_: time.sleep(60)\nsys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "grade", str(tmp_path), "--homework", "hw6_lora", "--trust"]
    ended = subprocess.run([*command, "--deadline", "0.5"], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
