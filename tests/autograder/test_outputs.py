"""What a command is to write is checked before it runs anything."""

import errno
import os
import sys

import pytest

from autograder import cli
from autograder.feedback.results import not_run, write
from autograder.homeworks.homework import homeworks, load_homework
from minipeft.files import atomic

NAME = homeworks()[0]
COMMANDS = [module for name, module in sys.modules.items() if name.startswith("autograder.cli.")]


@pytest.fixture
def taken(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "class").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "option", "path", "message"),
    [
        (["grade", "class", "--homework", NAME], "--out", "folder", "folder is a folder; name a file"),
        (["grade", "class", "--homework", NAME], "--out", "file/results.json", "file is a file; name a folder"),
        (["grade", "class", "--homework", NAME], "--html", "folder", "folder is a folder; name a file"),
        (["check", NAME], "--markdown", "folder", "folder is a folder; name a file"),
        (["check", NAME], "--html", "file/page.html", "file is a file; name a folder"),
        (["submit", NAME], "--out", "folder", "folder is a folder; name a file"),
        (["gradescope", NAME], "--out", "file/autograder.zip", "file is a file; name a folder"),
        (["grade-all", "class", "--homework", NAME], "--out", "file", "file is a file; name a folder"),
        (["selftest", NAME], "--out", "file/new", "file is a file; name a folder"),
        (["handout", NAME], "--out", "file", "file is a file; name a folder"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_runs(
    command, option, path, message, taken, monkeypatch, capsys
):
    monkeypatch.chdir(taken)
    for module in COMMANDS:
        monkeypatch.setattr(module, "load_homework", lambda name: pytest.fail("it began"), raising=False)
    assert cli.main([*command, option, path]) == 2
    printed = capsys.readouterr()
    assert printed.err.endswith(f"{option} {message}\n")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert {p.relative_to(taken).as_posix() for p in taken.rglob("*")} == {"file", "folder", "class"}
    assert (taken / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("command", [["grade", "class", "--homework", NAME, "--out", "new/results.json"],
                                     ["grade-all", "class", "--homework", NAME, "--out", "new"],
                                     ["gradescope", NAME, "--out", "new/autograder.zip"]])  # fmt: skip
def test_a_full_disk_is_told_before_anything_runs(command, taken, monkeypatch, capsys):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(taken)
    monkeypatch.setattr(atomic, "sync", full)
    assert cli.main(command) == 2
    assert "--out new: cannot write there (No space left on device); make room there" in capsys.readouterr().err
    assert not (taken / "new").exists()


def test_results_are_written_into_a_folder_that_does_not_exist_yet(tmp_path):
    write(tmp_path / "new" / "results.json", not_run(load_homework(NAME)))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["results.json"]


def test_a_device_is_not_replaced_by_results(tmp_path, monkeypatch, capsys):
    assert cli.main(["grade", str(tmp_path), "--homework", NAME, "--out", os.devnull]) == 2
    assert f"--out {os.devnull} is a device; name a file" in capsys.readouterr().err
