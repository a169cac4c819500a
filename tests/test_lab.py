"""The runner of experiments: nothing is lost, nothing is run twice, and the rows do not depend on who ran them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minipeft.accounting.timing import in_turn, median_ratio
from minipeft.cli import main
from minipeft.files import FileError
from minipeft.files.table import columns
from minipeft.lab.experiments.sizes import EXPERIMENT as SIZES
from minipeft.lab.framework import report, runner
from minipeft.lab.framework.experiment import (
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Experiment,
    Table,
    Verdict,
    above,
    chosen,
    select,
    tuned,
)

LOGGED = ("config", "result", "seconds", "versions")


def staged(mode, rows):
    """Three rates on two seeds judged on validation, then the best rate on two other seeds."""
    tuning = [{"rate": rate, "seed": seed, "split": "val"} for rate in (1, 2, 4) for seed in (0, 1)]
    done = select(rows, split="val")
    if len(done) < len(tuning):
        return tuning
    return tuning + [{"rate": chosen(done, "rate"), "seed": seed, "split": "test"} for seed in (7, 8)]


def toy(config, folder):
    return {"value": -abs(config["rate"] - 2.5) - config["seed"] / 10}


TOY = Experiment(
    "toy", "A toy", "None.", staged, toy,
    lambda rows: [Table("rows", ("rate", "value"), [(r["rate"], r["value"]) for r in rows])],
    lambda rows: [Verdict("it runs", REPRODUCED, f"{len(rows)} rows")],
)  # fmt: skip


def perform_toy(calls):
    def perform_all(name, configs, folder):
        for c in configs:
            calls.append(c)
            yield {"config": c, "result": toy(c, folder), "seconds": 0.0, "versions": {}}

    return perform_all


def test_a_choice_on_validation_brings_its_test_runs(tmp_path):
    calls = []
    rows = runner.run(TOY, "quick", tmp_path, perform_all=perform_toy(calls), progress=False)
    assert [(r["rate"], r["split"]) for r in rows[-2:]] == [(2, "test"), (2, "test")]
    assert len(rows) == len(calls) == 8


def test_finished_runs_are_not_run_again(tmp_path):
    calls = []
    first = runner.run(TOY, "quick", tmp_path, perform_all=perform_toy(calls), progress=False)
    again = runner.run(TOY, "quick", tmp_path, perform_all=perform_toy(calls), progress=False)
    assert again == first
    assert len(calls) == 8
    runner.run(TOY, "quick", tmp_path, perform_all=perform_toy(calls), progress=False, fresh=True)
    assert len(calls) == 16


@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_of_somebody_in_the_place_of_the_log_is_refused_and_kept(fresh, tmp_path):
    (tmp_path / "toy-quick.jsonl").write_text('{"mine": 1}\n')
    calls = []
    with pytest.raises(FileError, match=r"toy-quick.jsonl: expected a log with config, result, seconds in each line"):
        runner.run(TOY, "quick", tmp_path, perform_all=perform_toy(calls), progress=False, fresh=fresh)
    assert not calls
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"toy-quick.jsonl": '{"mine": 1}\n'}


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_prepared(tmp_path):
    (tmp_path / "file").touch()
    prepared = []
    experiment = dataclasses.replace(TOY, prepare=lambda mode, folder: prepared.append(mode))
    with pytest.raises(FileError, match="file is a file; name a folder"):
        runner.run(experiment, "quick", tmp_path / "file", perform_all=perform_toy([]), progress=False)
    assert not prepared


def test_what_the_runs_share_is_announced_and_made_with_one_thread(tmp_path):
    said, threads = [], []

    def prepare(mode, folder):
        threads.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    shared = dataclasses.replace(TOY, prepare=prepare)
    with threadpool_limits(2):
        for _ in range(2):
            runner.run(shared, "quick", tmp_path, perform_all=perform_toy([]), progress=False, say=said.append)
        runner.run(TOY, "quick", tmp_path / "toy", perform_all=perform_toy([]), progress=False, say=said.append)
    assert said == ["toy: pretraining the base model, once for all runs"]
    assert set(threads) == {1}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_was_cut_off_is_run_again(tmp_path, cut):
    calls = []
    whole = runner.run(TOY, "quick", tmp_path, perform_all=perform_toy(calls), progress=False)
    log = tmp_path / "toy-quick.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])
    assert runner.run(TOY, "quick", tmp_path, perform_all=perform_toy(calls), progress=False) == whole
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    assert {runner.key(line["config"]) for line in lines} == {runner.key(c) for c in calls}


def test_every_row_tells_its_config_and_versions(tmp_path):
    runner.run(SIZES, "quick", tmp_path, progress=False)
    for line in (tmp_path / "sizes-quick.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert tuple(entry) == LOGGED
        assert entry["versions"].keys() == {"minipeft", "numpy", "python"}


def test_the_rows_do_not_depend_on_the_number_of_workers(tmp_path):
    one = runner.run(SIZES, "quick", tmp_path / "one", workers=1, progress=False)
    two = runner.run(SIZES, "quick", tmp_path / "two", workers=2, progress=False)
    assert [{**r, "seconds": 0} for r in one] == [{**r, "seconds": 0} for r in two]


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_to_the_same_rows(tmp_path):
    command = [sys.executable, "-m", "minipeft", "lab", "sizes", "--out", str(tmp_path), "--jobs", "2", "--json"]
    for delay in (0.6, 1.0, 1.6):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    whole = runner.run(SIZES, "quick", tmp_path / "whole", progress=False)
    assert [{**r, "seconds": 0} for r in done["rows"]["sizes"]] == [{**r, "seconds": 0} for r in whole]


def test_the_same_rows_on_a_dask_cluster_that_loses_a_worker(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        first = next(iter(cluster.workers.values()))
        os.kill(first.pid, signal.SIGKILL)
        rows = runner.run(SIZES, "quick", tmp_path / "there", cluster=cluster.scheduler_address, progress=False)
    here = runner.run(SIZES, "quick", tmp_path / "here", progress=False)
    assert [{**r, "seconds": 0} for r in rows] == [{**r, "seconds": 0} for r in here]


def test_what_diverged_is_never_chosen():
    rows = [{"rate": 1, "value": 0.5}, {"rate": 2, "value": None}, {"rate": 2, "value": 0.9}]
    assert chosen(rows, "rate") == 1
    with pytest.raises(ValueError, match="every value of rate diverged"):
        chosen(rows[1:2], "rate")


def test_nothing_is_chosen_until_every_tuning_run_has_finished():
    tuning = [{"rate": rate, "seed": 0} for rate in (1, 2)]
    rows = [{**c, "value": c["rate"]} for c in tuning]
    assert tuned(tuning, rows[:1], "rate") is None
    assert tuned(tuning, rows, "rate") == 2
    assert tuned(tuning, rows, "rate", higher_is_better=False) == 1


def test_a_mean_is_above_another_only_by_more_than_two_standard_errors():
    assert above([1.0, 1.1], [0.0, 0.1]) == above([1.0, 1.1], 0.5) == REPRODUCED
    assert above([0.0, 0.1], [1.0, 1.1]) == above([0.0, 0.1], 0.5) == NOT_REPRODUCED
    assert above([0.0, 1.0], [0.4, 0.5]) == above([0.0, 1.0], 0.4) == UNDECIDED
    assert above([0.0, 0.1], [1.0, 1.1], margin=2.0) == REPRODUCED
    assert above([1.0], [0.0, 0.1]) == UNDECIDED


def test_a_verdict_is_one_of_three():
    with pytest.raises(ValueError, match="a verdict is one of"):
        Verdict("x", "proved", "y")


def test_the_report_escapes_and_links(tmp_path):
    figure = tmp_path / "a.png"
    figure.write_bytes(b"\x89PNG")
    odd = dataclasses.replace(TOY, title="<b>&", draw=lambda rows, stem: {figure: "a | b"})
    rows = runner.run(odd, "quick", tmp_path, perform_all=perform_toy([]), progress=False)
    markdown, page = report.write([report.section(odd, "quick", rows, tmp_path)], tmp_path)
    assert "![a | b](a.png)" in markdown.read_text()
    assert "&lt;b&gt;&amp;" in page.read_text()
    assert "<script" not in page.read_text()


def test_the_command_line(tmp_path, capsys):
    assert main(["lab", "sizes", "--out", str(tmp_path)]) == 0
    assert "reproduced" in capsys.readouterr().out
    assert (tmp_path / "findings.md").is_file()
    assert main(["lab", "sizes", "--out", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]["sizes"]) == 8
    assert main(["lab", "size"]) == 2
    assert "unknown experiment 'size'; did you mean 'sizes'? There are: " in capsys.readouterr().err
    assert main(["lab", "sizes", "--out", str(tmp_path / "findings.md")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert main(["lab", "sizes", "--out", str(tmp_path), "--cluster", "tcp://127.0.0.1:9"]) == 0  # all done before
    assert main(["lab"]) == 0
    assert "sizes" in capsys.readouterr().out


def test_no_cluster_is_one_line(tmp_path, capsys):
    pytest.importorskip("dask.distributed")
    assert main(["lab", "sizes", "--out", str(tmp_path), "--cluster", "nonsense://x"]) == 2
    assert "no Dask scheduler answers" in capsys.readouterr().err


def test_columns_are_as_wide_as_their_widest_text_and_end_without_spaces():
    assert columns(("name", "n"), [("a", "10"), ("longer", "")], (False, True)) == (
        "name     n\n------  --\na       10\nlonger"
    )


def test_works_are_timed_in_turn_and_the_first_rounds_do_not_count():
    calls = []
    works = {name: partial(calls.append, name) for name in "ab"}
    seconds = in_turn(works, repeats=2, unmeasured=1)
    assert calls == list("ababab")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert median_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0
