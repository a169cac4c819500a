"""The command line as a user meets it: help, mistakes, a second run, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minipeft.cli import main

QUICK = ["compare", "--quick", "--jobs", "1"]


def called(*args, **kwargs):
    command = [sys.executable, "-m", "minipeft", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.mark.parametrize("command", [[], ["bench"], ["compare"], ["fetch"], ["generate"], ["info"], ["train"]])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: minipeft" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["comparee"], "invalid choice: 'comparee'"),
        (["compare", "--taks", "digits"], "unrecognized arguments: --taks digits (see `minipeft compare --help`)"),
        (["compare", "--jobs", "0"], "at least 1, got '0'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistyped_command_line_is_one_line_and_exit_code_2(args, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare", "--task", "digit"], "unknown task 'digit'; expected one of digits, text, sentiment"),
        (["bench", "stepp"], "unknown name 'stepp'; expected one of"),
        (["fetch", "minilmm"], "unknown name 'minilmm'; near: ['minilm']"),
        (["fetch", "minilm", "--from", "no-such-file.whl"], "no-such-file.whl: there is no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    assert main(args) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_out_must_be_a_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(["compare", "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_info_tells_what_it_runs_on(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"minipeft", "python", "numpy", "blas", "cupy", "cache"} <= set(facts)
    assert main(["info"]) == 0


def test_fetch_lists_what_there_is(capsys):
    assert main(["fetch", "--json"]) == 0
    assert {r["name"] for r in json.loads(capsys.readouterr().out)} >= {"minilm", "sentiment"}


@pytest.mark.slow
def test_compare_ends_with_a_table_a_figure_and_rows_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "out"
    first = called(*QUICK, "--out", out)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    for method in ("full", "probe", "top-1 layer", "BitFit", "adapters", "prompt", "prefix", "LoRA"):
        assert any(line.startswith(method) for line in lines), first.stdout
    assert {f.name for f in out.iterdir() if f.is_file()} == {
        "compare.json",
        "compare.png",
        "compare.svg",
        "runs.jsonl",
    }
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    runs = (out / "runs.jsonl").read_text().splitlines()
    assert len(runs) == 8 * (1 + 2)
    # a second run takes up what is finished, a half-written last line included
    (out / "runs.jsonl").write_text("\n".join(runs[:-1]) + "\n" + runs[-1][:30])
    again = called(*QUICK, "--out", out, "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert (result["reused"], result["runs"]) == (23, 1)
    before = {r["method"]: (r["mean"], r["trained"]) for r in json.loads((out / "compare.json").read_text())["rows"]}
    assert {r["method"]: (r["mean"], r["trained"]) for r in result["rows"]} == before


def test_ctrl_c_leaves_the_finished_runs_and_nothing_half_written(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "minipeft", *QUICK, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = out / "runs.jsonl"
    deadline = time.time() + 240  # a machine that others use, too
    while time.time() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was finished is kept" in err
    assert "Traceback" not in err
    assert all(json.loads(line) for line in log.read_text().splitlines())
    assert not [f for f in out.iterdir() if f.name.endswith((".part", ".old"))]


def test_a_missing_extra_says_what_to_install(tmp_path):
    hidden = "import sys; sys.modules['matplotlib'] = None; from minipeft.cli import main; sys.exit(main(['compare']))"
    done = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False, cwd=Path(tmp_path)
    )
    assert done.returncode == 2
    assert 'pip install "minipeft[lab]"' in done.stderr
    assert done.stderr.count("\n") == 1
