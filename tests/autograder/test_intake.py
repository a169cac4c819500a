"""Taking in a submission: what is read, what is refused, and that nothing else is touched."""

import io
import os
import stat
import subprocess
import sys
import warnings
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from single import single_file

from autograder.course.submit import pack, unwritten
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import source_path, stubs
from autograder.submission import intake
from autograder.submission.intake import IntakeError, decoded, take
from autograder.submission.lint import lint

HOMEWORK = single_file("hw6_lora")
MODULE = "minipeft.peft.lora"
SOURCE = source_path(MODULE).read_text("utf-8")


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in entries:
            archive.writestr(name, data)
    return path


def entry(name, kind):
    made = zipfile.ZipInfo("x")
    made.filename = name
    made.external_attr = (kind | 0o644) << 16
    return made


@pytest.mark.parametrize(
    "entries",
    [
        [("lora.py", SOURCE)],
        [("hw6_lora/lora.py", SOURCE)],
        [("hw6_lora/", ""), ("hw6_lora/lora.py", SOURCE), ("hw6_lora/notes.txt", "x"), ("hw6_lora/numpy.py", "x")],
        [("a/lora.py", SOURCE), ("__MACOSX/a/._lora.py", "x"), ("a/.DS_Store", "x"), ("a/._lora.py", "x")],
        [("a/__pycache__/lora.py", "x"), ("a/lora.py", SOURCE), ("conftest.py", "x")],
        [("hw6_lora\\lora.py", SOURCE), ("hw6_lora\\notes.txt", "x")],  # as PowerShell's Compress-Archive writes it
        [("hw6_lora\\", ""), ("hw6_lora\\a b\\", ""), ("hw6_lora\\lora.py", SOURCE), ("__MACOSX\\._lora.py", "x")],
        [("lora.PY", SOURCE)],
    ],
)
def test_a_zip_is_read_with_or_without_a_folder_around_it(tmp_path, entries):
    taken = take(zipped(tmp_path / "s.zip", entries), HOMEWORK)
    assert taken.sources == {MODULE: SOURCE}
    assert (taken.missing, taken.errors) == ((), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zip"]


def test_a_folder_is_read(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "lora.py").write_text(SOURCE, "utf-8")
    (tmp_path / "other.txt").write_text("x")
    assert take(tmp_path, HOMEWORK).sources == {MODULE: SOURCE}


@pytest.mark.parametrize("name", ["lora.py", "LORA.PY", "anna.py", "vera_lora.Py", "张伟.py"])
def test_a_single_file_is_taken_whatever_its_name_where_a_homework_has_one(tmp_path, name):
    (tmp_path / name).write_text(SOURCE, "utf-8")
    assert take(tmp_path / name, HOMEWORK).sources == {MODULE: SOURCE}


def test_a_single_file_of_several_needs_its_name(tmp_path):
    homework = load_homework("hw8_few_shot")
    for name in ("welch.PY", "anna.py"):
        (tmp_path / name).write_text(stubs(homework)["welch.py"], "utf-8")
    assert take(tmp_path / "welch.PY", homework).missing == ("few_shot.py",)
    with pytest.raises(IntakeError, match=r"'anna.py' is neither a zip nor few_shot.py or welch.py. Hand in the zip"):
        take(tmp_path / "anna.py", homework)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("erin.tar.gz", "is an archive, but not a zip"),
        ("frank.7Z", "is an archive, but not a zip"),
        ("gina.rar", "is an archive, but not a zip"),
        ("dave.ipynb", "is a notebook: copy what you wrote into lora.py"),
        ("broken.zip", "is not a zip, or it is damaged"),
        ("grace.txt", "is neither a zip nor lora.py"),
        ("zhāng\u202e\x1b[31m", r"'zhāng\\u202e\\x1b\[31m' is neither"),
    ],
)
def test_other_files_are_refused_by_name_with_what_to_do(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(IntakeError, match=rf"{says}.*\. Hand in the zip that `python -m autograder submit` makes\."):
        take(tmp_path / name, HOMEWORK)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "it has no files"),
        ([("Lora.py", SOURCE)], "it has 'Lora.py'"),
        ([("a/lora.py", "x"), ("b/lora.py", "y")], "more than one folder"),
        ([("lora.py", "x"), ("lora.py", "y")], "differ in nothing but capitals"),
        ([("lora.py", "x"), ("LORA.py", "y")], "differ in nothing but capitals"),
        ([("../lora.py", "x")], "expected plain names"),
        ([("lora.py", "x"), ("a/../../etc/x", "y")], "expected plain names"),
        ([("/lora.py", "x")], "expected plain names"),
        ([("C:\\lora.py", "x")], "expected plain names"),
        ([("C:/lora.py", "x")], "expected plain names"),
        ([("..\\lora.py", "x")], "expected plain names"),
        ([("a\\..\\..\\lora.py", "x")], "expected plain names"),
        ([("\\lora.py", "x")], "expected plain names"),
        ([("\\\\server\\share\\lora.py", "x")], "expected plain names"),
        ([("a\\lora.py", "x"), ("b\\lora.py", "y")], "more than one folder"),
        ([("a\\lora.py", "x"), ("a/lora.py", "y")], "differ in nothing but capitals"),
        ([("lora.py", "x"), (entry("link", stat.S_IFLNK), "/etc/shadow")], "a link or a device"),
        ([(entry("lora.py", stat.S_IFLNK), "/etc/shadow")], "a link or a device"),
        ([(entry("lora.py", stat.S_IFCHR), "")], "a link or a device"),
        ([("lora.py", "#" * (intake.FILE_LIMIT + 1))], "larger than"),
        ([("lora.py", "#" * (intake.FILE_LIMIT - 1))], "compression ratio above 100:1"),
        ([(f"{i}.txt", "") for i in range(201)], "201 entries"),
    ],
)
def test_what_a_zip_may_not_be(tmp_path, entries, says):
    with pytest.raises(IntakeError, match=says):
        take(zipped(tmp_path / "s.zip", entries), HOMEWORK)


def test_a_size_that_lies_is_found_out(tmp_path):
    path = zipped(tmp_path / "s.zip", [("lora.py", os.urandom(300_000))])
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\1\2")
    data[at + 24 : at + 28] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(IntakeError, match="cannot be read"):
        take(path, HOMEWORK)


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@given(st.data())
def test_a_damaged_zip_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("zip") / "s.zip"
    zipped(path, [("a/lora.py", SOURCE[:300]), ("b.txt", "x")], data.draw(st.sampled_from(METHODS)))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        taken = take(path, HOMEWORK)
    except IntakeError:
        return
    assert set(taken.sources) == {MODULE}


def test_links_pipes_and_devices_are_not_followed(tmp_path):
    (tmp_path / "real.py").write_text(SOURCE, "utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lora.py").symlink_to(tmp_path / "real.py")
    with pytest.raises(IntakeError, match="is a link"):
        take(tmp_path / "a", HOMEWORK)
    with pytest.raises(IntakeError, match="is a link, which is not followed"):
        take(tmp_path / "a" / "lora.py", HOMEWORK)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "lora.py")
    for pipe in (tmp_path / "b", tmp_path / "b" / "lora.py"):
        with pytest.raises(IntakeError, match="is a pipe"):
            take(pipe, HOMEWORK)
    with pytest.raises(IntakeError, match="is a device"):
        take("/dev/zero", HOMEWORK)
    (tmp_path / "c").symlink_to("/")
    with pytest.raises(IntakeError):
        take(tmp_path / "c", HOMEWORK)
    with pytest.raises(IntakeError, match="nothing at"):
        take(tmp_path / "gone", HOMEWORK)


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_whose_packed_bytes_are_damaged_is_refused(tmp_path, method):
    path = zipped(tmp_path / "s.zip", [("lora.py", os.urandom(2000))], method)
    raw = bytearray(path.read_bytes())
    raw[30 + len("lora.py") : -100] = bytes(b ^ 0xFF for b in raw[30 + len("lora.py") : -100])
    path.write_bytes(raw)
    with pytest.raises(IntakeError, match="cannot be read: "):
        take(path, HOMEWORK)


def deep(root, depth):
    """Folders in one another, deeper than a path may be long."""
    here = os.getcwd()
    root.mkdir()
    os.chdir(root)
    try:
        for _ in range(depth):
            os.mkdir("folder")
            os.chdir("folder")
    finally:
        os.chdir(here)


@pytest.mark.skipif(os.name != "posix", reason="removed by rm")
def test_a_folder_that_is_too_deep_is_refused_by_name(tmp_path):
    deep(tmp_path / "s", 1050)
    try:
        with pytest.raises(IntakeError, match=r"it has 'folder/.*/' \(what is more than 4 folders deep is not read\)"):
            take(tmp_path / "s", HOMEWORK)
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "s"], check=True)  # shutil.rmtree would recurse


def test_what_cannot_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "lora.py").write_text(SOURCE, "utf-8")

    def denied(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as changed:  # root can read everything
        changed.setattr(os, "open", denied)
        for place in (tmp_path / "s", tmp_path / "s" / "lora.py"):
            with pytest.raises(IntakeError, match=r"'lora.py' cannot be read: Permission denied"):
                take(place, HOMEWORK)
    for name in ("scandir", "lstat"):
        with monkeypatch.context() as changed:
            changed.setattr(os, name, denied)
            with pytest.raises(IntakeError, match=r"'s' cannot be read: Permission denied"):
                take(tmp_path / "s", HOMEWORK)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can read everything")
def test_a_file_without_the_right_to_read_it_is_refused(tmp_path):
    (tmp_path / "lora.py").write_text(SOURCE, "utf-8")
    (tmp_path / "lora.py").chmod(0)
    with pytest.raises(IntakeError, match=r"'lora\.py' cannot be read: Permission denied"):
        take(tmp_path / "lora.py", HOMEWORK)


def test_a_folder_with_too_many_files_is_refused(tmp_path):
    for i in range(201):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(IntakeError, match="more than 200 files and folders"):
        take(tmp_path, HOMEWORK)


def test_a_file_that_is_no_python_counts_as_not_written(tmp_path):
    (tmp_path / "lora.py").write_text("x = 1\ndef f(:\n", "utf-8")
    taken = take(tmp_path, HOMEWORK)
    assert taken.sources[MODULE] == stubs(HOMEWORK)["lora.py"]
    here = ".".join(map(str, sys.version_info[:2]))
    why = f"is not valid Python {here}, which the grader runs (invalid syntax)"
    assert taken.errors[MODULE] == (f"SyntaxError: the file {why}", 2)
    assert "lora.py, line 2 is not valid Python 3." in taken.notes[0]


def test_a_missing_file_is_named(tmp_path):
    homework = load_homework("hw8_few_shot")
    (tmp_path / "welch.py").write_text(stubs(homework)["welch.py"], "utf-8")
    taken = take(tmp_path, homework)
    assert taken.missing == ("few_shot.py",)
    assert taken.sources["minipeft.few_shot"] == stubs(homework)["few_shot.py"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x = 1", "x = 1\n"),
        (b"\xef\xbb\xbfx = 1\n", "x = 1\n"),
        (b"x = 1\r\ny = 2\r\n", "x = 1\ny = 2\n"),
        (b"x = 1\ry = 2\r", "x = 1\ny = 2\n"),
        (b"# coding: latin-1\nx = '\xe9'\n", "# coding: utf-8\nx = 'é'\n"),
        ("x = 'σ'\n".encode(), "x = 'σ'\n"),
        (b"if 1:\n\tx = 1\n", "if 1:\n\tx = 1\n"),
    ],
)
def test_how_files_are_decoded(data, text):
    assert decoded(data, "f.py") == text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"x = '\xe9'\n", "neither in UTF-8"),
        (b"# coding: nothing\n", "neither in UTF-8"),
        (b"# coding: unicode_escape\nx = '\\ud800'\n", "save it as UTF-8"),
        (b"# coding: utf-7\n", "save it as UTF-8"),
        (b"x\0", "null"),
        (b"0\n" * 60_000, "more than 50000 statements"),
        (b"-" * 100_000 + b"1", "nested too deeply"),
        (b"1" + b"+1" * 100_000, "nested too deeply"),
        (b"def f():\n  x\n y\n", "unindent"),
    ],
)
def test_what_is_no_python(data, says):
    with pytest.raises(SyntaxError, match=says):
        decoded(data, "f.py")


def test_a_file_that_takes_for_ever_to_read_is_refused(monkeypatch):
    monkeypatch.setattr(intake, "PARSE", intake.PARSE.replace("(2, 2)", "(1, 1)"))
    with pytest.raises(SyntaxError, match="takes too long"):
        decoded(b"import a" + b".a" * 100_000, "f.py")


def test_remarks_name_the_line_and_leave_the_stub_alone():
    assert lint(HOMEWORK, {MODULE: SOURCE}) == []
    added = "import torch\nimport os\nfrom scipy import x\neval('1')\nh = 1e-20j\ns = '" + "x" * 3000 + "'\n"
    remarks = lint(HOMEWORK, {MODULE: SOURCE + added})
    first = SOURCE.count("\n") + 1
    assert sorted(r.line - first for r in remarks) == [0, 1, 2, 3, 4, 5]
    assert "imports torch" in min(remarks, key=lambda r: r.line).text


def test_the_zip_to_hand_in_holds_the_named_files_and_always_the_same_bytes(tmp_path):
    folder = tmp_path / "hw"
    folder.mkdir()
    (folder / "lora.py").write_bytes(SOURCE.replace("\n", "\r\n").encode())
    (folder / "secret.txt").write_text("x")
    first = pack(HOMEWORK, folder, tmp_path / "1.zip")
    os.utime(folder / "lora.py", (0, 0))
    pack(HOMEWORK, folder, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert zipfile.ZipFile(io.BytesIO((tmp_path / "1.zip").read_bytes())).namelist() == ["lora.py"]
    assert take(tmp_path / "1.zip", HOMEWORK).sources == {MODULE: SOURCE}
    assert first.unwritten == {}


def test_what_is_not_written_yet_is_listed(tmp_path):
    blank = stubs(HOMEWORK)["lora.py"]
    missing = unwritten(HOMEWORK, {MODULE: blank})
    assert list(missing) == [p.id for p in HOMEWORK.problems]
    assert unwritten(HOMEWORK, {MODULE: "x = 1\n"}).keys() == missing.keys()


@pytest.mark.parametrize(
    ("text", "says"), [(None, "has no lora.py|expected lora.py"), ("def f(:\n", "lora.py, line 1")]
)
def test_no_zip_is_made_of_what_cannot_be_graded(tmp_path, text, says):
    if text is not None:
        (tmp_path / "lora.py").write_text(text)
    with pytest.raises(IntakeError, match=says):
        pack(HOMEWORK, tmp_path, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
