"""The folder of grades: one homework, nothing of others touched, and a table that spreadsheets read as it is."""

import csv
import json
import os
import random
import re
import subprocess
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from single import single_file
from test_entries import EXPORT, random_folder

from autograder.cli import main
from autograder.course import classroom, grader
from autograder.course.classpage import page
from autograder.course.classroom import grade_all
from autograder.course.export import ClassError
from autograder.course.gradebook import Book, harmless, table, tidy
from autograder.course.grader import grade_one
from autograder.grading.grade import Graded
from autograder.homeworks.folder import load_homework

LORA, FEW_SHOT = single_file("hw6_lora"), load_homework("hw8_few_shot")


@pytest.fixture
def one_process(monkeypatch):
    """Submissions graded in this process: none of those below has anything to run."""
    homeworks = {h.name: h for h in (LORA, FEW_SHOT)}
    monkeypatch.setattr(grader, "load_homework", lambda name: homeworks.get(name) or load_homework(name))
    monkeypatch.setattr(classroom, "by_processes", lambda todo, rules, jobs: ((e, grade_one(e, rules)) for e in todo))


@pytest.fixture
def folder(tmp_path, one_process):
    """A class that handed in nothing useful."""
    made = tmp_path / "class"
    made.mkdir()
    (made / "ann.txt").write_text("I was ill.")
    (made / "bob").mkdir()
    return made


def graded(folder, homework, out, **options):
    return grade_all(folder, homework, out, trust=True, progress=False, **options)


def rows(out):
    text = (out / "grades.csv").read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(text.splitlines()))


def test_a_submission_that_cannot_be_read_has_a_row_a_page_and_a_reason(folder, tmp_path):
    done = graded(folder, LORA, tmp_path / "out")
    assert [(r["id"], r["status"], r["score"]) for r in rows(tmp_path / "out")] == [
        ("ann", "refused", "0"),
        ("bob", "refused", "0"),
    ]
    reason = "'ann.txt' is neither a zip nor lora.py. Hand in the zip that `python -m autograder submit` makes."
    assert rows(tmp_path / "out")[0]["note"].lstrip("'") == reason.lstrip("'")
    for name in ("index.html", "staff/ann.html", "students/ann/report.html"):
        assert "is neither a zip nor lora.py" in (tmp_path / "out" / name).read_text("utf-8")
    assert "2 entries = 0 graded + 2 refused + 0 skipped" in done.summary(40.0)
    assert f"\n  {reason}\n  bob: expected lora.py; it has no files." in done.summary(40.0)


@pytest.mark.skipif(sys.platform != "linux", reason="pipes, and names of any bytes")
@pytest.mark.parametrize("seed", range(2))
def test_the_rows_of_any_folder_and_its_summary_add_up(tmp_path, one_process, seed):
    random_folder(tmp_path / "s", random.Random(100 + seed))
    (tmp_path / "s" / "ann.zip").touch()
    (tmp_path / "s" / ".DS_Store").touch()
    n = len(os.listdir(tmp_path / "s"))
    done = graded(tmp_path / "s", LORA, tmp_path / "out")
    written = rows(tmp_path / "out")
    assert len(written) == len(done.records) == n - len(done.skipped)
    assert ".DS_Store" in done.skipped
    assert len({r["id"] for r in written}) == len(written)
    refused = [r for r in written if r["status"] == "refused"]
    counts = f"{len(written) - len(refused)} graded + {len(refused)} refused + {len(done.skipped)} skipped"
    assert f"{n} entries = {counts}" in done.summary(40.0)
    for r in written:
        assert r["note"]  # why it has no points
        assert (tmp_path / "out" / "students" / r["id"] / "results.json").is_file()
        assert (tmp_path / "out" / "staff" / f"{r['id']}.html").is_file()
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert page.count('<a class="who"') == len(written)
    assert "<h2>Skipped</h2>" in page


def test_every_kind_of_entry_is_graded_or_refused_with_its_reason(tmp_path, one_process, monkeypatch):
    """It is about what is taken in: nothing is run."""
    monkeypatch.setattr(grader, "grade", lambda homework, s, *_, **__: Graded(homework, notes=list(s.notes)))
    made = tmp_path / "s"
    made.mkdir()
    for name in ("alice.ZIP", "bob.zip", "张伟.zip", "李娜.zip", "ümit müller.zip"):
        with zipfile.ZipFile(made / name, "w") as archive:
            archive.writestr("lora.py", "def (")
    for name in ("carol.PY", "anna.py", "vera_lora.py", "dave.ipynb", "erin.tar.gz", "frank.7z", "grace.txt"):
        (made / name).write_text("def (")
    (made / "heidi").mkdir()
    (made / "heidi" / "lora.py").write_text("def (")
    (made / "ivan").symlink_to("heidi")
    (made / "judy.zip").write_text("no zip")
    (made / "has").mkdir()
    (made / "Thumbs.db").touch()
    done = graded(made, LORA, tmp_path / "out")
    found = {r["file"]: r for r in rows(tmp_path / "out")}
    refused = {
        "dave.ipynb": "is a notebook",
        "erin.tar.gz": "is an archive, but not a zip",
        "frank.7z": "is an archive, but not a zip",
        "grace.txt": "is neither a zip nor lora.py",
        "ivan": "is a link, which is not followed",
        "judy.zip": "is not a zip, or it is damaged",
        "has": "expected lora.py; it has no files",  # a name that the sentence has, too
    }
    assert set(found) == {p.name for p in made.iterdir()} - {"Thumbs.db"}
    for file, r in found.items():
        assert r["status"] == ("refused" if file in refused else "graded")
        assert refused.get(file, "lora.py, line 1 is not valid Python") in r["note"]
        assert r["name"] == file.partition(".")[0]
    for file in refused:
        assert re.search(rf"\n  '?{re.escape(file)}('|:) ", done.summary(40.0))
    assert "17 entries = 9 graded + 7 refused + 1 skipped" in done.summary(40.0)


def test_a_file_that_cannot_be_imported_explains_its_points_once(tmp_path, one_process):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "one.py").write_text("import torch\n")
    (tmp_path / "s" / "two.py").write_text("x = 1\nfrom __future__ import annotations\n")
    done = graded(tmp_path / "s", LORA, tmp_path / "out")
    one, two = rows(tmp_path / "out")
    assert one["score"] == two["score"] == "0"
    assert one["note"].startswith("lora.py, line 1: imports torch, which the grader does not have.")
    assert "__future__ imports must occur at the beginning" in two["note"]
    assert [r["reasons"] for r in done.records] == [{}, {}]
    other = {**done.records[0], "id": "three"}
    wrong = page(LORA, [*done.records, other]).partition("What goes wrong</h2>")[2].partition("<h2>")[0]
    assert wrong.count("imports torch") == 1
    assert "<td class=n>2 ×</td><td>lora.py, line 1: imports torch" in wrong
    assert wrong.count("__future__") == 1
    assert wrong.count("<h3>") == 1


def test_every_student_of_a_group_has_a_row_with_number_and_address(tmp_path, one_process):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "submission_metadata.yml").write_text(EXPORT, "utf-8")
    for i in (1, 2):
        (tmp_path / "s" / f"submission_{i}").mkdir()
    graded(tmp_path / "s", LORA, tmp_path / "out")
    found = [(r["id"], r["name"], r["sid"], r["email"]) for r in rows(tmp_path / "out")]
    assert found[:2] == [
        ("submission_1", "Jane Doe", "0042", "jane@example.org"),
        ("submission_1", "Kim O'Neil", "", "kim@example.org"),
    ]
    assert found[3] == ("submission_3", "张伟", "", "'=cmd|' /C calc'!A0")
    assert len(found) == 4


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("＝1+1", "'＝1+1"),
        ("\t=1", "'=1"),
        ("\r\n=1", "'=1"),
        ("a;=1", "a;'=1"),
        ("a; -b", "a; '-b"),
        ('a",=1', "a\",'=1"),
        ("a\n=1", "a =1"),
        ("x;=HYPERLINK(1)", "x;'=HYPERLINK(1)"),
        ("x|=1", "x|'=1"),
        ("a;\t+1", "a; '+1"),
        ("\u200b=1", "\N{REPLACEMENT CHARACTER}=1"),  # some programs drop what is not seen
        ("x;\ufeff=1", "x;\N{REPLACEMENT CHARACTER}=1"),
        ("a;\x00=1", "a;\N{REPLACEMENT CHARACTER}=1"),
        ("﹦1", "'﹦1"),
        ("−1+2", "'−1+2"),
        ("\N{IDEOGRAPHIC SPACE}@SUM(A1)", "'@SUM(A1)"),
        ("-1.5", "-1.5"),
        ("40", "40"),
        ("see `python -m autograder submit`", "see `python -m autograder submit`"),
    ],
)
def test_a_spreadsheet_takes_nothing_for_a_formula(cell, safe):
    assert harmless(cell) == safe


@given(st.text(st.sampled_from("=+-@;,|\"\t\r\n 1a'\0\u200b＝﹣−"), max_size=12))
def test_no_piece_of_a_cell_begins_a_formula_whatever_separates_cells(text):
    cell = harmless(text)
    assert cell.isprintable()
    if not re.fullmatch(r"-?[0-9.]+", cell):
        assert not [p for p in re.split(r'[;,|"]', cell) if p.strip().startswith(tuple("=+-@＝﹣−"))]


def test_the_table_begins_with_a_byte_order_mark_and_has_a_line_a_row():
    record = {
        "id": "a",
        "status": "graded",
        "score": 3.0,
        "problems": {"6.1": 3.0},
        "note": "one\ntwo",
        "file": "a.zip",
    }
    students = [{"name": "Zoë\nMüller", "sid": "1", "email": ""}, {"name": "=x", "sid": "2", "email": ""}]
    text = table(LORA, [{**record, "students": students}])
    assert text.encode("utf-8").startswith(b"\xef\xbb\xbfid,name,sid,email,file,status,score,of,6.1,")
    assert text.count("\n") == 3
    assert f"\na,Zoë Müller,1,,a.zip,graded,3,{LORA.points:g},3,0," in text
    assert "\na,'=x,2,," in text


def test_a_folder_of_another_homework_is_refused_before_anything_is_graded(folder, tmp_path, capsys):
    out = tmp_path / "out"
    graded(folder, LORA, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for options in ({"resume": True}, {}):
        with pytest.raises(ClassError, match="out holds grades of hw6_lora; asked for was hw8_few_shot") as refused:
            graded(folder, FEW_SHOT, out, **options)
        assert "Choose another --out" in str(refused.value)
    assert main(["grade-all", str(folder), "--homework", FEW_SHOT.name, "--out", str(out), "--trust", "--resume"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(ClassError, match="--resume goes on with them, --fresh forgets them"):
        graded(folder, LORA, out)
    graded(folder, FEW_SHOT, out, fresh=True)
    assert Book(out).homeworks == {FEW_SHOT.name}
    assert "8.1" in rows(out)[0]


def test_grades_that_do_not_name_their_homework_are_refused(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "graded.jsonl").write_text(json.dumps({"id": "ann", "grader": "x", "digest": "y"}) + "\n")
    with pytest.raises(ClassError, match=r"of an older version.*--seed-file .*seed keeps the cases"):
        graded(folder, LORA, out, resume=True)


def test_a_run_that_was_killed_at_its_beginning_is_of_its_homework(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    Book(out).begin(LORA)
    with pytest.raises(ClassError, match="holds grades of hw6_lora"):
        graded(folder, FEW_SHOT, out, resume=True)
    graded(folder, LORA, out, resume=True)
    assert len(rows(out)) == 2


def test_files_that_are_no_grades_are_not_written_over(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "grades.csv").write_text("my own")
    for options in ({}, {"resume": True}, {"fresh": True}):
        with pytest.raises(ClassError, match=r"has grades.csv, but no graded.jsonl.*Choose another --out"):
            graded(folder, LORA, out, **options)
    assert (out / "grades.csv").read_text() == "my own"
    assert os.listdir(out) == ["grades.csv"]


def test_pages_of_submissions_that_are_gone_are_removed_and_nothing_else(folder, tmp_path):
    out = tmp_path / "out"
    graded(folder, LORA, out)
    (out / "students" / "ann" / "notes.txt").write_text("mine")
    (out / "students" / "guest").mkdir()
    (out / "staff" / "guest.html").write_text("mine")
    (folder / "ann.txt").unlink()
    (folder / "bob").rmdir()
    (folder / "Bob").mkdir()  # the same files where a file system takes no notice of capitals
    done = graded(folder, LORA, out, resume=True)
    assert done.removed == ["ann"]
    assert "no longer handed in, so their pages were removed:\n  ann" in done.summary(40.0)
    left = sorted(str(p.relative_to(out / "students")) for p in (out / "students").rglob("*") if p.is_file())
    assert left == ["Bob/report.html", "Bob/results.json", "ann/notes.txt", "bob/report.html", "bob/results.json"]
    assert (out / "students" / "guest").is_dir()
    assert sorted(os.listdir(out / "staff")) == ["Bob.html", "bob.html", "guest.html"]
    (folder / "ann.txt").write_text("I was ill.")  # back again: it has a line, and no pages
    assert graded(folder, LORA, out, resume=True).removed == []
    assert (out / "students" / "ann" / "report.html").is_file()


def test_fresh_removes_only_what_was_written_here(folder, tmp_path):
    out = tmp_path / "out"
    graded(folder, LORA, out)
    (out / "students" / "ann" / "notes.txt").write_text("mine")
    (out / "thesis.txt").write_text("mine")
    before = (out / "seed").read_text()
    (folder / "bob").rmdir()
    graded(folder, LORA, out, fresh=True)
    assert (out / "students" / "ann" / "notes.txt").read_text() == "mine"
    assert (out / "thesis.txt").read_text() == "mine"
    assert not (out / "students" / "bob").exists()
    assert (out / "seed").read_text() != before


def test_what_decides_a_grade_belongs_to_its_key(folder, tmp_path):
    out = tmp_path / "out"

    def lines():
        return len((out / "graded.jsonl").read_text().splitlines())

    graded(folder, LORA, out)
    assert lines() == 3
    graded(folder, LORA, out, resume=True)
    assert lines() == 3
    graded(folder, LORA, out, resume=True, deadline=299.0)
    assert lines() == 5
    (folder / "ann.txt").write_text("I am well.")
    graded(folder, LORA, out, resume=True, deadline=299.0)
    assert lines() == 6


def test_a_homework_in_a_folder_of_its_own_is_the_one_that_is_graded(folder, tmp_path):
    own = tmp_path / "hw6_lora"
    own.mkdir()
    text = (LORA.folder / "homework.toml").read_text("utf-8")
    (own / "homework.toml").write_text(text.replace('title = "Low-rank adaptation"', 'title = "My own title"'), "utf-8")
    graded(folder, load_homework(own), tmp_path / "out")
    assert "<h1>My own title</h1>" in (tmp_path / "out" / "students" / "ann" / "report.html").read_text()
    before = (tmp_path / "out" / "graded.jsonl").read_text()
    graded(folder, LORA, tmp_path / "out", resume=True)  # the same name and another text: graded again
    assert len((tmp_path / "out" / "graded.jsonl").read_text()) > len(before)


def test_what_was_being_written_is_removed(tmp_path):
    (tmp_path / "students" / "a").mkdir(parents=True)
    (tmp_path / "staff").mkdir()
    code = "from minipeft.files.atomic import temporary; import os, sys; from pathlib import Path\n"
    code += "for name in sys.argv[1:]:\n    temporary(Path(name)).__enter__().touch()\nos._exit(0)"
    written = ["students/a/results.json", "staff/a.b.html", "grades.csv", "seed", "graded.jsonl"]
    subprocess.run([sys.executable, "-c", code, *written], cwd=tmp_path, check=True)
    half = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob(".*.part")]
    assert len(half) == len(written)
    others = [".gitignore", "graded.jsonl", "students/a/results.json", ".grades.csv.old"]
    for name in others:
        (tmp_path / name).touch()
    tidy(tmp_path)
    assert not [name for name in half if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)
