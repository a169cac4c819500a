"""Every entry of a class's folder has a row: odd names, odd kinds, exports of Gradescope."""

import os
import random
import sys
import time
import unicodedata
import zipfile
from pathlib import Path

import pytest

from autograder.course.entries import digest, entries, identify
from autograder.course.export import LINE, ClassError, Student, plain, submitters
from autograder.homeworks.folder import load_homework
from autograder.submission import intake
from autograder.submission.intake import IntakeError, take

HOMEWORK = load_homework("hw6_lora")
UMLAUT = "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller"

EXPORT = """---
submission_1:
  :submitters:
  - :name: Jane Doe
    :sid: '0042'
    :email: jane@example.org
  - :name: 'Kim O''Neil'
    :sid:
    :email: "kim@ex\\x61mple.org"
  :created_at: 2026-03-01 18:00:00.000000000 Z
  :score: 3.0
  :results:
    tests:
    - output: |-
        - :name: Mallory
          :sid: '666'
      :submitters:
      - :name: Mallory
  :history:
  - :submitters:
    - :name: Mallory
submission_2:
  :submitters:
  - :name: A name that is so long that Gradescope writes the
      rest of it in the next line
    :sid: '7'
  :score:
submission_3:
  :submitters:
  - :name: 张伟
    :email: "=cmd|' /C calc'!A0"
"""


def test_an_export_names_every_student_of_a_group_and_nobody_else(tmp_path):
    (tmp_path / "submission_metadata.yml").write_text(EXPORT, "utf-8")
    assert submitters(tmp_path / "submission_metadata.yml") == {
        "submission_1": (
            Student("Jane Doe", "0042", "jane@example.org"),
            Student("Kim O'Neil", "", "kim@example.org"),
        ),
        "submission_2": (
            Student("A name that is so long that Gradescope writes the rest of it in the next line", "7"),
        ),
        "submission_3": (Student("张伟", "", "=cmd|' /C calc'!A0"),),
    }
    assert submitters(tmp_path / "none.yml") == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 'a''b' ", "a'b"),
        (r'"M\u00fcller \"x\" \\"', 'Müller "x" \\'),
        (r'"\ud800\Uffffffff\xzz\e"', "?\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"),
        ("null", ""),
        ("plain: text", "plain: text"),
    ],
)
def test_a_scalar_out_of_its_quotes(text, value):
    assert plain(text) == value


def test_what_an_export_names_and_lacks_has_a_row(tmp_path):
    (tmp_path / "submission_metadata.yml").write_text(EXPORT, "utf-8")
    (tmp_path / "submission_1.zip").touch()  # packed by hand
    (tmp_path / "late.zip").touch()
    found, skipped = entries(tmp_path)
    assert [(e.id, e.name) for e in found] == [
        ("late", "late"),
        ("submission_1", "Jane Doe, Kim O'Neil"),
        ("submission_2", "A name that is so long that Gradescope writes the rest of it in the next line"),
        ("submission_3", "张伟"),
    ]
    assert skipped == ["submission_metadata.yml"]
    with pytest.raises(IntakeError, match="there is nothing at 'submission_2'"):
        take(found[2].path, HOMEWORK)


@pytest.mark.parametrize("name", ["../a", "/etc", "a/b", "..", "a\\b"])
def test_an_export_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "submission_metadata.yml").write_text(f"{name}:\n  :submitters:\n")
    with pytest.raises(ClassError, match="expected the names of folders next to it"):
        entries(tmp_path)


def test_a_long_line_of_an_export_is_cut_and_its_rest_is_not_another_line(tmp_path):
    (tmp_path / "submission_metadata.yml").write_text(
        EXPORT + "submission_9:\n  :results:\n    output: " + ("x" * (LINE - 12)) + "\nsubmission_8:\n  :submitters:\n"
        "  - :name: " + "A" * 10**6 + "\n" + ("    and more\n" * 20_000) + "z" * LINE + "submission_666:\n"
    )
    begun = time.process_time()
    found = submitters(tmp_path / "submission_metadata.yml")
    assert time.process_time() - begun < 2
    assert set(found) == {*submitters_of(EXPORT, tmp_path), "submission_8", "submission_9"}
    assert len(found["submission_8"][0].name) <= 200


def submitters_of(text, folder):
    (folder / "other.yml").write_text(text, "utf-8")
    return submitters(folder / "other.yml")


def test_a_gigantic_list_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "submission_metadata.yml").open("wb") as file:
        file.truncate(4 << 30)
    begun = time.monotonic()
    with pytest.raises(ClassError, match="has 4294967296 bytes; expected at most 268435456"):
        entries(tmp_path)
    assert time.monotonic() - begun < 2


@pytest.mark.skipif(sys.platform == "win32", reason="sparse files and links")
def test_a_digest_reads_what_is_graded_and_no_more(tmp_path, monkeypatch):
    for name in ("lora.py", "video.mp4"):
        (tmp_path / "ann").mkdir(exist_ok=True)
        with (tmp_path / "ann" / name).open("wb") as file:
            file.truncate(40 << 30)
    with (tmp_path / "bob.zip").open("wb") as file:
        file.truncate(40 << 30)
    read = []
    before = intake._read
    monkeypatch.setattr(intake, "_read", lambda *a: read.append(len(before(*a))) or before(*a))
    for entry in entries(tmp_path)[0]:
        digest(entry, HOMEWORK)
    assert read == [intake.FILE_LIMIT + 1, intake.ZIP_LIMIT + 1]
    one = entries(tmp_path)[0][0]
    first = digest(one, HOMEWORK)
    (tmp_path / "ann" / "video.mp4").write_text("another")
    assert digest(one, HOMEWORK) == first
    (tmp_path / "ann" / "video.mp4").rename(tmp_path / "ann" / "film.mp4")
    assert digest(one, HOMEWORK) != first


def test_a_list_of_another_form_is_an_entry_like_any_other(tmp_path):
    (tmp_path / "submission_metadata.yml").write_text("[1, 2]")
    found, skipped = entries(tmp_path)
    assert [e.file for e in found] == ["submission_metadata.yml"]
    assert skipped == []


def stems(*names):
    return {n: n.rpartition(".")[0] or n for n in names}


def test_plain_names_are_their_own_ids():
    names = ("ann", "bob@x.org.zip", "Submission_1.zip", "d-e.f.py")
    assert list(identify(stems(*names)).values()) == ["ann", "bob@x.org", "Submission_1", "d-e.f"]


@pytest.mark.parametrize(
    "names",
    [
        ("张伟.zip", "李娜.zip", "王芳.zip"),
        (f"{UMLAUT}.zip", "Möller.zip", "Muller.zip", "muller.zip", "MULLER.py"),
        (unicodedata.normalize("NFC", UMLAUT), unicodedata.normalize("NFD", UMLAUT)),
        ("Anna.zip", "anna.zip", "anna.py", "ANNA"),
        ("a" * 300 + ".zip", "a" * 300 + "b.zip", "a" * 64),
        ("a b.zip", "a_b.zip", "a\tb.zip", "a\u202eb.zip"),
        (os.fsdecode(b"b\xff.zip"), os.fsdecode(b"b\xfe.zip"), "b.zip"),
        ("CON.zip", "con.x.zip", "nul", "LPT1.py", "aux."),
        ("-rf.zip", ".zip", "..", "...", " ", "@x.zip", "=x.zip", "+x.zip"),
    ],
)
def test_names_stay_apart_on_every_platform(names):
    ids = list(identify(stems(*names)).values())
    assert len({i.casefold() for i in ids}) == len(names)
    for i in ids:
        assert i.isascii()
        assert not set(i) & set('<>:"/\\|?* \t')
        assert i[0].isalnum()
        assert i[-1].isalnum()
        assert i.partition(".")[0].casefold() not in ("con", "nul", "aux", "lpt1")
        assert len(i) < 100


def test_an_id_that_looks_like_a_digest_takes_nobodys_place():
    first = identify(stems("Anna.zip", "anna.zip"))
    second = identify(stems("Anna.zip", "anna.zip", f"{first['anna.zip']}.zip"))
    assert len({i.casefold() for i in second.values()}) == 3


def test_an_id_is_the_same_in_both_forms_of_unicode():
    forms = [unicodedata.normalize(form, UMLAUT) for form in ("NFC", "NFD")]
    assert len({next(iter(identify({name: name}).values())) for name in forms}) == 1


def test_the_real_name_is_kept(tmp_path):
    for name in ("张伟.zip", "ümit müller.zip", "erin.tar.gz", "evil\u202e.py"):
        (tmp_path / name).touch()
    assert {(e.file, e.name) for e in entries(tmp_path)[0]} == {
        ("张伟.zip", "张伟"),
        ("ümit müller.zip", "ümit müller"),
        ("erin.tar.gz", "erin"),
        ("evil\\u202e.py", "evil\\u202e"),
    }


def test_what_systems_leave_behind_is_skipped_by_name(tmp_path):
    left = [".DS_Store", "._ann.zip", "Thumbs.db", "desktop.ini", ".git", "__MACOSX"]
    for name in left[:4]:
        (tmp_path / name).touch()
    for name in left[4:]:
        (tmp_path / name).mkdir()
    with pytest.raises(ClassError, match=r"holds no submission \(skipped: \.DS_Store, \._ann\.zip"):
        entries(tmp_path)
    (tmp_path / ".hidden.zip").touch()
    (tmp_path / "grades").mkdir()
    found, skipped = entries(tmp_path, tmp_path / "grades")
    assert [e.file for e in found] == [".hidden.zip"]
    assert skipped == sorted([*left, "grades"])
    assert [e.file for e in entries(tmp_path)[0]] == ["grades", ".hidden.zip"]


def test_a_folder_without_submissions_is_told(tmp_path):
    with pytest.raises(ClassError, match="holds no submission"):
        entries(tmp_path)
    with pytest.raises(ClassError, match="is not a folder"):
        entries(tmp_path / "nothing")


WORDS = ("anna", "Anna", "张伟", "Möller", "mo\u0308ller", "con", "a b", "=x", "..a", "b\udcff", "x" * 120)
SUFFIXES = ("", ".zip", ".ZIP", ".py", ".PY", ".ipynb", ".tar.gz", ".7z", ".txt", ".")


def random_folder(folder, rng):
    """A folder of anything."""
    folder.mkdir()
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    for _ in range(rng.randrange(1, 25)):
        path = folder / (rng.choice(WORDS) + rng.choice(SUFFIXES))
        if os.path.lexists(path):
            continue
        make = rng.choice(("file", "folder", "full", "link", "broken link", "pipe", "zip", "empty", "system"))
        if make == "file":
            path.write_bytes(rng.randbytes(rng.randrange(200)))
        elif make == "folder":
            path.mkdir()
        elif make == "full":
            path.mkdir()
            (path / "lora.py").symlink_to("/etc/passwd")
            os.mkfifo(path / "pipe")
        elif make in ("link", "broken link"):
            path.symlink_to(outside if make == "link" else "nowhere")
        elif make == "pipe":
            os.mkfifo(path)
        elif make == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(rng.choice(("../x", "a\\lora.txt", "lora.txt")), "x")
            path.write_bytes(path.read_bytes()[: rng.randrange(20, 200)])
        elif make == "empty":
            path.touch()
        else:
            (folder / rng.choice((".DS_Store", "Thumbs.db", "._x"))).touch()
    return len(list(folder.iterdir()))


def why_refused(path):
    try:
        take(path, HOMEWORK)
    except IntakeError as error:
        return str(error)
    return ""


@pytest.mark.skipif(sys.platform != "linux", reason="pipes, and names of any bytes")
@pytest.mark.parametrize("seed", range(40))
def test_the_count_of_entries_is_the_count_of_rows(tmp_path, seed):
    n = random_folder(tmp_path / "s", random.Random(seed))
    try:
        found, skipped = entries(tmp_path / "s")
    except ClassError:
        found, skipped = [], [p.name for p in (tmp_path / "s").iterdir()]
        assert set(skipped) <= {".DS_Store", "Thumbs.db", "._x"}
    assert len(found) + len(skipped) == n
    assert len({e.id.casefold() for e in found}) == len(found)
    for e in found:  # nothing that is opened waits, and nothing but IntakeError comes out
        assert digest(e, HOMEWORK) == digest(e, HOMEWORK)
        assert why_refused(e.path).isprintable()


def test_a_submission_that_changed_is_another(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (one,) = entries(tmp_path)[0]
    before = digest(one, HOMEWORK)
    assert digest(one, HOMEWORK) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert digest(one, HOMEWORK) != before


def test_a_submission_that_changes_hands_is_another(tmp_path):
    (tmp_path / "submission_1").mkdir()
    before = digest(entries(tmp_path)[0][0], HOMEWORK)
    (tmp_path / "submission_metadata.yml").write_text(EXPORT, "utf-8")
    assert digest(next(e for e in entries(tmp_path)[0] if e.id == "submission_1"), HOMEWORK) != before


def test_a_link_is_never_read(tmp_path):
    (tmp_path / "s").mkdir()
    secret = tmp_path / "secret.py"
    secret.write_text("x = 1\n")
    (tmp_path / "s" / "ann.py").symlink_to(secret)
    (one,) = entries(tmp_path / "s")[0]
    before = digest(one, HOMEWORK)
    secret.write_text("x = 2\n")
    assert digest(one, HOMEWORK) == before
    with pytest.raises(IntakeError, match="is a link, which is not followed"):
        take(one.path, HOMEWORK)
    assert Path(one.path).is_symlink()
