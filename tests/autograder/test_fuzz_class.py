"""Whatever is handed in, the class has one row for it, and the grader does not fail."""

import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from damage import damaged_zip, program

from autograder.course import classroom, grader
from autograder.course.classroom import grade_all
from autograder.course.entries import Entry, digest
from autograder.course.gradebook import GRADED, REFUSED
from autograder.course.grader import grade_one
from autograder.grading.grade import Graded
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import HomeworkError
from autograder.homeworks.strip import put_back, source_path
from autograder.sandbox.parent_limits import Confinement, ConfinementError
from autograder.submission import intake
from autograder.submission.intake import IntakeError, take
from autograder.submission.lint import lint, warnings
from autograder.submission.similarity import fingerprints, regions
from autograder.submission.syntax import too_new_files
from minipeft.files import atomic

FEW_SHOT = load_homework("hw8_few_shot")
SOURCES = {f.stub: source_path(f.module).read_text("utf-8") for f in FEW_SHOT.files}
FILES = {name: text.encode() for name, text in SOURCES.items()}
SHORT = dict.fromkeys(FILES, b"x = 1\n")


def confinable():
    try:
        Confinement()
    except ConfinementError:
        return False
    return True


def write(folder, seed, n, make):
    """Write n submissions drawn from a seed, each by ``make``."""
    folder.mkdir(parents=True)
    for i in range(n):
        make(random.Random(f"{seed} {i}"), folder / f"s{i:04}")


def a_zip(rng, place):
    place.with_suffix(".zip").write_bytes(damaged_zip(rng, rng.choice((SHORT, FILES))))


def a_folder(rng, place):
    place.mkdir()
    for name, source in SOURCES.items():
        (place / name).write_bytes(program(rng, source) if rng.random() < 0.7 else source.encode())


@pytest.fixture
def unread(monkeypatch):
    """Programs are not parsed: that needs a process for each, and zips are what matters."""
    monkeypatch.setattr(intake, "readable", lambda text, name: None)


def taken_in(folder):
    """Take in every submission of a folder: (how many, why the others are refused)."""
    taken, refused = 0, []
    for path in sorted(folder.iterdir()):
        assert digest(Entry("x", path, ()), FEW_SHOT) == digest(Entry("x", path, ()), FEW_SHOT)
        try:
            take(path, FEW_SHOT)
            taken += 1
        except IntakeError as error:
            refused.append(str(error))
    return taken, refused


def test_a_damaged_zip_is_taken_or_refused(tmp_path, unread):
    write(tmp_path / "s", "zips", 400, a_zip)
    begun = time.process_time()
    taken, refused = taken_in(tmp_path / "s")
    assert taken > 20
    assert len(refused) > 50
    assert all(why.isprintable() and len(why) < 1000 for why in refused)
    assert time.process_time() - begun < 20


def examined(took):
    """Do with a submission all that the deciding process does with its text."""
    warnings(lint(FEW_SHOT, took.sources))
    too_new_files(FEW_SHOT, took.sources)
    fingerprints(regions(FEW_SHOT, took.sources))
    for f in FEW_SHOT.files:
        names = [t.name for p in FEW_SHOT.problems for t in p.targets if t.module == f.module]
        with contextlib.suppress(HomeworkError):  # a function is gone
            put_back(took.sources[f.module], SOURCES[f.stub], names)


def programs(folder, n):
    write(folder, "programs", n, a_folder)
    return [took for path in sorted(folder.iterdir()) for took in [take(path, FEW_SHOT)]]


def test_any_program_is_read_and_compared(tmp_path):
    for took in programs(tmp_path / "s", 15):
        examined(took)


@pytest.mark.slow
def test_two_thousand_programs_are_read_and_compared(tmp_path):
    for took in programs(tmp_path / "s", 1000):  # of two files each
        examined(took)


@pytest.mark.slow
def test_five_thousand_damaged_zips_have_a_row_each(tmp_path, unread, monkeypatch):
    monkeypatch.setattr(grader, "grade", lambda homework, *_, **__: Graded(homework))
    monkeypatch.setattr(grader, "prints", lambda homework, sources: [])
    monkeypatch.setattr(atomic, "sync", lambda path: None)  # it is about rows
    monkeypatch.setattr(classroom, "by_processes", lambda todo, rules, jobs: ((e, grade_one(e, rules)) for e in todo))
    write(tmp_path / "s", "class", 5000, a_zip)
    done = grade_all(tmp_path / "s", FEW_SHOT, tmp_path / "out", seed="s", trust=True, progress=False)
    counts = Counter(r["status"] for r in done.records)
    assert sum(counts.values()) == 5000
    assert set(counts) == {GRADED, REFUSED}, counts
    assert len((tmp_path / "out" / "grades.csv").read_text("utf-8-sig").splitlines()) == 5001


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="programs are confined")
@pytest.mark.skipif(not confinable(), reason="programs cannot be confined here")
def test_forty_programs_and_zips_are_graded_in_the_sandbox(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        Path(work).chmod(0o755)
        write(Path(work) / "s", "sandbox", 40, lambda rng, place: rng.choice((a_folder, a_folder, a_zip))(rng, place))
        done = grade_all(
            Path(work) / "s", FEW_SHOT, Path(work) / "out", seed="s", jobs=2, deadline=60.0, progress=False
        )
    counts = Counter(r["status"] for r in done.records)
    assert sum(counts.values()) == 40
    assert set(counts) == {GRADED, REFUSED}, [r for r in done.records if r["status"] not in (GRADED, REFUSED)]
