"""The comparison itself: fair choices, honest rows."""

import dataclasses
import errno
import json

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minipeft.cli import main
from minipeft.files import FileError
from minipeft.lab.experiments import compare as lab
from minipeft.lab.framework.tasks import TASKS, Budget
from minipeft.train import TrainingError


def row(method, lr, seed, value, split="val"):
    return {"method": method, "learning_rate": lr, "seed": seed, "split": split, "value": value}


@pytest.fixture
def task():
    methods = {"full": None, "probe": TASKS["digits"].methods["probe"]}
    return dataclasses.replace(TASKS["digits"], methods=methods, budget=Budget((0.1, 0.2, 0.4), (1, 2), (3, 4), 5))


def test_every_method_gets_the_same_budget(task):
    runs = lab.tuning_runs(task)
    for method in task.methods:
        mine = [(r.learning_rate, r.seed, r.steps, r.split) for r in runs if r.method == method]
        assert mine == [(lr, s, 5, "val") for lr in (0.1, 0.2, 0.4) for s in (1, 2)]


def test_the_rate_is_chosen_by_the_mean_on_validation_and_never_by_the_test(task):
    rows = [
        row("full", lr, s, v)
        for lr, vs in ((0.1, (0.5, 0.9)), (0.2, (0.8, 0.8)), (0.4, (0.9, None)))
        for s, v in zip((1, 2), vs)
    ]
    rows += [row("probe", lr, s, lr) for lr in (0.1, 0.2, 0.4) for s in (1, 2)]
    rows += [row("full", 0.1, 1, 1.0, split="test")]
    assert lab.best_rates(task, rows) == {"full": 0.2, "probe": 0.4}
    lower = dataclasses.replace(task, higher_is_better=False)
    assert lab.best_rates(lower, rows) == {"full": 0.1, "probe": 0.1}
    finals = lab.final_runs(task, {"full": 0.2, "probe": 0.4})
    assert {(r.split, r.seed) for r in finals} == {("test", 3), ("test", 4)}
    assert not {r.seed for r in finals} & set(task.budget.tuning_seeds)


def test_a_method_that_diverges_everywhere_is_said(task):
    rows = [row("full", 0.1, 1, 0.5)] + [row("probe", lr, 1, None) for lr in (0.1, 0.2, 0.4)]
    with pytest.raises(TrainingError, match="probe diverged at every learning rate"):
        lab.best_rates(task, rows)


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_pretraining_is_announced_has_a_bar_and_uses_one_thread(tmp_path, monkeypatch, capsys):
    seen = []

    def prepare(folder, progress):
        seen.append((blas_threads(), progress))
        raise KeyboardInterrupt

    monkeypatch.setitem(TASKS, "digits", dataclasses.replace(TASKS["digits"], prepare=prepare))
    monkeypatch.chdir(tmp_path)
    with threadpool_limits(2):
        assert main(["compare"]) == 130
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "pretraining the base model, once for all runs"
        assert main(["compare", "--json"]) == 130
        assert capsys.readouterr().out == ""
    assert seen == [({1}, True), ({1}, False)]


@pytest.mark.parametrize("task", ["digits", "text"])
def test_a_pretraining_shows_its_steps(task, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("minipeft.lab.framework.training.fit", lambda *args, progress, **kwargs: shown.append(progress))
    for progress in (True, False):
        TASKS[task].prepare(tmp_path / str(progress), progress)
    assert shown == [True, False]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The pretrained base model of the digits."""
    folder = tmp_path_factory.mktemp("digits") / "base"
    TASKS["digits"].prepare(folder)
    return folder


def test_a_diverged_run_is_a_row_without_a_value(base):
    with np.errstate(all="ignore"):
        result = lab.run(lab.Run("digits", "full", 1e30, 0, "val", 5), base)
    assert result["value"] is None
    good = lab.run(lab.Run("digits", "full", 1e-3, 0, "val", 5), base)
    assert 0 <= good["value"] <= 1
    again = lab.run(lab.Run("digits", "full", 1e-3, 0, "val", 5), base)
    assert again["value"] == good["value"]


def test_the_splits_share_no_example(base):
    task = TASKS["digits"]
    a, b = task.draw(base, 0), task.draw(base, 1)
    images = [r.batches.arrays["images"].reshape(50, -1) for r in (a, b)]
    assert not np.array_equal(*images)
    assert np.bincount(a.batches.arrays["labels"]).tolist() == [10] * 5
    closure = dict(zip(a.evaluate.__code__.co_freevars, (c.cell_contents for c in a.evaluate.__closure__), strict=True))
    pool, splits = closure["images"], closure["splits"]
    assert not set(splits["val"]) & set(splits["test"])
    rows = {x.tobytes() for x in pool[np.concatenate([splits["val"], splits["test"]])].reshape(-1, 64)}
    twins = sum(x.tobytes() in rows for x in images[0])
    assert twins == 0


def test_costs_tell_what_the_lecture_says(base):
    task = TASKS["digits"]
    costs = {m: lab.cost(task, m, base) for m in task.methods}
    full = costs["full"]
    for method, c in costs.items():
        assert c["optimizer_bytes"] == 2 * c["gradient_bytes"]
        assert c["gradient_bytes"] == 4 * c["trained"]
        if method != "full":
            assert c["gradient_bytes"] < full["gradient_bytes"]
            assert c["backward_flops"] < full["backward_flops"]
            assert c["forward_flops"] >= full["forward_flops"]  # no method makes the forward cheaper
    # LoRA saves gradients and optimizer state; top-K saves activations as well
    assert costs["LoRA"]["gradient_bytes"] < 0.05 * full["gradient_bytes"]
    assert costs["LoRA"]["activation_bytes"] > 0.5 * full["activation_bytes"]
    assert costs["top-1 layer"]["activation_bytes"] < 0.35 * full["activation_bytes"]
    assert costs["probe"]["backward_flops"] < 0.001 * full["backward_flops"]


def test_another_configuration_does_not_take_up_these_runs(task):
    assert lab.fingerprint(task) == lab.fingerprint(dataclasses.replace(task))
    other = dataclasses.replace(task, budget=Budget((0.1, 0.2, 0.4), (1, 2), (0, 1), 6))
    assert lab.fingerprint(other) != lab.fingerprint(task)


def test_the_table_marks_a_rate_at_the_edge():
    base = {"trained": 10, "parameters": 100, "mean": 0.5, "std": 0.01, "learning_rate": 0.1, "step_time": 1.0}
    base |= {"gradient_bytes": 40, "optimizer_bytes": 2048, "activation_bytes": 3 << 20, "diverged": 0, "seeds": 3}
    base |= {"forward_flops": 10**6, "backward_flops": 2 * 10**6, "method": "full", "rate_at_edge": True}
    text = lab.table_text(TASKS["digits"], [base, {**base, "method": "LoRA", "rate_at_edge": False, "mean": None}])
    assert "0.1*" in text
    assert "50.0 ± 1.0" in text
    assert "diverged" in text
    assert "3.0 MiB" in text
    assert text.endswith("edge of the list that was tried")
    assert json.dumps(base)


def nothing_written(folder, progress):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_of_somebody_in_the_place_of_the_log_is_refused_and_kept(fresh, tmp_path):
    (tmp_path / "runs.jsonl").write_text("my runs\n")
    with pytest.raises(FileError, match=r"runs.jsonl: expected a log with fingerprint in each line"):
        lab.compare("digits", tmp_path, fresh=fresh, progress=False)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"runs.jsonl": "my runs\n"}


def test_a_disk_that_is_full_leaves_no_half_of_the_pretrained_model(tmp_path, monkeypatch):
    monkeypatch.setitem(lab.TASKS, "digits", dataclasses.replace(TASKS["digits"], prepare=nothing_written))
    with pytest.raises(FileError, match=r"out: cannot write there \(No space left on device\); make room there"):
        lab.compare("digits", tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file is a file; name a folder"):
        lab.compare("digits", tmp_path / "file", progress=False)
