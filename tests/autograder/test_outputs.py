"""What a command is to write is checked before it runs anything."""

import errno
import os
import sys

import pytest

from autograder import cli
from autograder.feedback.results import not_run, write
from autograder.homeworks.folder import homeworks, load_homework
from minipeft.files import FileError, atomic

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


FILE_OUTPUTS = [
    *(["grade", ".", "--homework", NAME, option] for option in ("--out", "--html", "--markdown")),
    *(["check", NAME, option] for option in ("--html", "--markdown")),
    ["submit", NAME, "--out"],
    ["gradescope", NAME, "--out"],
    ["selftest", NAME, "--markdown"],
]


@pytest.mark.parametrize("command", FILE_OUTPUTS, ids=lambda command: f"{command[0]} {command[-1]}")
def test_only_a_regular_file_is_replaced_and_nothing_runs_before(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    places = {os.devnull: "device", "folder": "folder"}
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("nothing")
        places |= {"pipe": "pipe", "link": "broken link"}
    for place, kind in places.items():
        before = os.lstat(place)
        assert cli.main([*command, place]) == 2
        assert f"{command[-1]} {place} is a {kind}; name a file" in capsys.readouterr().err
        assert os.lstat(place).st_mode == before.st_mode
    assert len(os.listdir(tmp_path)) == len(places) - 1


def test_every_option_that_names_a_file_to_write_is_among_those():
    found = set()
    for name, parser in cli.build_parser()._subparsers._group_actions[0].choices.items():
        found |= {f"{name} {option}" for option, kind in parser.get_default("outputs").values() if kind == "FILE"}
    assert found == {f"{command[0]} {command[-1]}" for command in FILE_OUTPUTS}


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_results_do_not_replace_what_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(FileError, match=r"results.json is a pipe; name a file"):
        write(tmp_path / "results.json", not_run(load_homework(NAME)))
    assert (tmp_path / "results.json").is_fifo()
    assert len(os.listdir(tmp_path)) == 1
