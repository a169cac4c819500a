"""The experiments on dimensions, vision and cost: their grids, their verdicts, one small run of each, their figures."""

import dataclasses
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from minipeft.data.images import load_fashion, load_mnist, read_idx
from minipeft.files.errors import FileError
from minipeft.lab import experiments
from minipeft.lab.experiments import intrinsic_dimension, latency, memory, throughput, vision
from minipeft.lab.experiments.intrinsic_dimension import training
from minipeft.lab.experiments.intrinsic_dimension.sparse_projection import StoredSparse, store
from minipeft.lab.experiments.vision import pictures
from minipeft.lab.framework import layer_diagram, runner
from minipeft.lab.framework.experiment import NOT_REPRODUCED, REPRODUCED, UNDECIDED, select
from minipeft.models import MLP
from minipeft.peft import IntrinsicConfig, get_peft_model
from minipeft.peft.projections import Sparse

MORE = ("intrinsic_dimension", "latency", "memory", "throughput", "vision")


def finished(name, mode, value):
    """Every row of an experiment, the result of each run being ``value(config)``."""
    experiment = experiments.load(name)
    rows = []
    while True:
        wanted = list({runner.key(c): c for c in experiment.runs(mode, rows)}.values())
        if len(wanted) == len(rows):
            return rows
        rows = [{**c, **value(c), "seconds": 0.0} for c in wanted]


def outcomes(name, rows):
    return [v.outcome for v in experiments.load(name).verdicts(rows)]


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("mode", ["quick", "full"])
def test_a_config_is_json_and_stands_once(name, mode):
    experiment = experiments.load(name)
    configs = experiment.runs(mode, [])
    assert configs
    assert len({runner.key(c) for c in configs}) == len(configs)
    assert [json.loads(json.dumps(c)) for c in configs] == configs
    assert experiment.name == name
    assert name in experiments.NAMES


def test_a_stored_projection_has_the_entries_of_a_sparse_one():
    total, d = 6000, 40
    parts = [StoredSparse(size, d, total, (3, i)) for i, size in enumerate((1000, 5000))]
    P = np.concatenate([np.stack([p.apply(e) for e in np.eye(d)], axis=1) for p in parts])  # (D, d)
    q = total**-0.5
    assert np.mean(P != 0) == pytest.approx(q, rel=0.1)
    assert set(np.abs(P[P != 0]).round(9)) == {round((total * q) ** -0.5, 9)}
    np.testing.assert_allclose(np.linalg.norm(P, axis=0), 1.0, atol=0.4)
    drawn = np.concatenate([np.stack([Sparse(1000, d, total, (3, 0)).apply(e) for e in np.eye(d)], axis=1)])
    assert np.mean(P[:1000] ** 2) == pytest.approx(np.mean(drawn**2), rel=0.2)
    y = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_allclose(parts[0].transpose(y), P[:1000].T @ y, rtol=1e-4, atol=1e-5)
    assert parts[0].apply(np.ones(d, dtype=np.float32)).dtype == parts[0].transpose(y).dtype == np.float32


def test_a_stored_projection_is_that_of_its_seed():
    a, b, c = (StoredSparse(500, 20, 6000, seed) for seed in ((1, 0), (1, 0), (1, 1)))
    assert (a.rows == b.rows).all()
    assert (a.values == b.values).all()
    assert len(a.rows) != len(c.rows) or (a.rows != c.rows).any()


def test_what_is_stored_is_what_trains():
    x, labels = np.ones((2, 6), dtype=np.float32), np.array([0, 1])
    model = store(get_peft_model(MLP((6, 5, 2)), IntrinsicConfig(d=4, projection="sparse")))
    (theta,) = model.trained().values()
    loss = model.loss(x, labels)
    loss.backward()
    slope = float(theta.grad @ theta.grad)
    assert slope > 0
    theta.data -= 1e-3 * theta.grad
    assert loss.item() - model.loss(x, labels).item() == pytest.approx(1e-3 * slope, rel=0.05)
    with pytest.raises(ValueError, match="only sparse projections are stored, these are"):
        store(get_peft_model(MLP((6, 5, 2)), IntrinsicConfig(d=4)))


def crossing_at(d90):
    """Accuracies that reach nine tenths of the full one at d90[study]."""

    def value(config):
        need = d90(config)
        share = 1.0 if config["d"] == 0 else min(1.0, 0.9 * (config["d"] / need) ** 0.3)
        wobble = 0.002 * (config["seed"] % 3)
        total = 199_210 if config.get("data") == "mnist" else 64_656
        return {"value": 0.95 * share + wobble - 0.05 * (config["rate"] == 0.5), "D": total}

    return value


def published_d90(config):
    """As the papers have it."""
    if config["kind"] == "language model":
        return {0: 2500, 100: 1300, 300: 600, 1000: 250}[config["pretrained"]] * (0.6 if config["said"] else 1)
    return {"500 labels": 90, "500 labels shuffled": 700}.get(config["study"], 620)


def test_the_published_dimensions_are_reproduced():
    rows = finished("intrinsic_dimension", "full", crossing_at(published_d90))
    assert set(outcomes("intrinsic_dimension", rows)) == {REPRODUCED}
    assert all(r["rate"] != 0.5 for r in select(rows, stage="final")), "the rate that lost on validation is not used"


def test_other_dimensions_are_not():
    def contrary(config):
        if config["kind"] == "language model":
            return {0: 250, 100: 600, 300: 1300, 1000: 2500}[config["pretrained"]] / (0.5 if config["said"] else 1)
        return {"500 labels": 390, "500 labels shuffled": 210, "network": 130, "pixels shuffled": 900}.get(
            config["study"], 900
        )

    rows = finished("intrinsic_dimension", "full", crossing_at(contrary))
    assert set(outcomes("intrinsic_dimension", rows)) == {NOT_REPRODUCED}


def test_dimensions_beyond_what_was_tried_are_undecided():
    rows = finished("intrinsic_dimension", "full", crossing_at(lambda config: 1e6))
    assert set(outcomes("intrinsic_dimension", rows)) == {UNDECIDED, NOT_REPRODUCED}
    first = intrinsic_dimension.tables(rows)[0].rows[0]
    assert first[4] == "> 1,000"
    assert outcomes("intrinsic_dimension", rows)[1:] == [UNDECIDED] * 6


def test_pixels_are_moved_and_labels_kept_in_number():
    config = {"data": "digits", "n": 50, "judged": "fitted", "seed": 3, "stage": "final", "change": "none"}
    plain, _ = training.sample(config)
    moved, _ = training.sample({**config, "change": "pixels"})
    mixed, (_, judged) = training.sample({**config, "change": "labels"})
    assert (np.sort(plain["x"]) == np.sort(moved["x"])).all()
    assert (plain["x"] != moved["x"]).any()
    assert (np.bincount(plain["labels"]) == np.bincount(mixed["labels"])).all()
    assert (plain["labels"] != mixed["labels"]).any()
    assert (judged == mixed["labels"]).all()


def test_what_is_judged_was_not_trained_on():
    config = {"data": "digits", "n": 1000, "judged": "held out", "seed": 0, "change": "none"}
    parts = {}
    for stage in ("tune", "final"):
        train, (x, _) = training.sample({**config, "stage": stage})
        parts[stage] = {row.tobytes() for row in x}
        assert not parts[stage] & {row.tobytes() for row in train["x"]}
    assert not parts["tune"] & parts["final"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What the quick runs of an experiment share, made once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            experiments.load(name).prepare("quick", made[name])
        return made[name]

    return folder


def twice(name, config, folders):
    experiment = experiments.load(name)
    first, second = (dict(experiment.run(config, folders(name))) for _ in range(2))
    assert json.loads(json.dumps(first)) == first
    return first, second


@pytest.mark.parametrize("kind", ["network", "language model"])
@pytest.mark.parametrize("d", [0, 60])
def test_one_config_of_the_intrinsic_dimension_gives_one_row(kind, d, folders):
    configs = intrinsic_dimension.runs("quick", [])
    config = next(c for c in configs if c["kind"] == kind)
    config = {**config, "d": d, "rate": 3e-3 if d == 0 else 0.15, "steps": 8}
    first, second = twice("intrinsic_dimension", config, folders)
    assert first == second
    assert 0 < first["value"] <= 1


@pytest.mark.parametrize("method", vision.METHODS)
def test_one_config_of_vision_gives_one_row(method, folders):
    config = next(c for c in vision.runs("quick", []) if c["method"] == method and c["task"] == "count")
    first, second = twice("vision", {**config, "steps": 4}, folders)
    assert first == second
    assert (first["without head"] == 0) == (method == "probe")


def test_every_method_has_as_many_settings():
    for mode in ("quick", "full"):
        assert len({len(vision.settings(m, mode)) for m in vision.METHODS}) == 1


def test_the_tasks_have_nine_names_in_three_groups_and_no_image_twice():
    assert [len(tasks) for tasks in pictures.GROUPS.values()] == [3, 3, 3]
    assert {t for tasks in pictures.GROUPS.values() for t in tasks} == pictures.UPON.keys()
    parts = pictures.splits(np.zeros(900), 300, seed=1)
    assert [len(p) for p in parts.values()] == [300, 150, 450]
    assert len({*parts["train"], *parts["val"], *parts["test"]}) == 900


def test_composed_images_show_what_their_label_says():
    rng = np.random.default_rng(0)
    ones = (np.ones((40, 8, 8), dtype=np.float32), np.zeros(40, dtype=np.int64))
    images, labels = pictures.count(ones, rng)
    quarters = images.reshape(40, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(40, 4)
    assert ((quarters > 0).sum(axis=1) == labels + 1).all()
    assert set(labels) == {0, 1, 2, 3}
    images, labels = pictures.location(ones, rng)
    for image, place in zip(images, labels, strict=True):
        rows, columns = np.nonzero(image)
        assert (rows.min(), columns.min()) == (2 * (place // 3), 2 * (place % 3))
        assert image.sum() == 16
    corner = np.zeros((40, 8, 8), dtype=np.float32)
    corner[:, 0, 0] = 1
    images, labels = pictures.orientation((corner, labels), rng)
    where = {0: (0, 0), 1: (7, 0), 2: (7, 7), 3: (0, 7)}
    assert all(image[where[k]] == 1 for image, k in zip(images, labels, strict=True))


def suite_scores(means):
    def value(config):
        wobble = 0.001 * (config["seed"] % 3)
        return {"value": means[config["method"]] + wobble, "trained": 10, "without head": 5}

    return value


def test_verdicts_of_vision():
    published = dict(zip(vision.METHODS, (0.69, 0.58, 0.745, 0.76, 0.753, 0.756, 0.73, 0.72), strict=True))
    rows = finished("vision", "full", suite_scores(published))
    assert outcomes("vision", rows) == [REPRODUCED] * 4
    contrary = dict(zip(vision.METHODS, (0.9, 0.8, 0.745, 0.7, 0.6, 0.61, 0.73, 0.72), strict=True))
    assert outcomes("vision", finished("vision", "full", suite_scores(contrary))) == [NOT_REPRODUCED] * 4
    equal = dict.fromkeys(vision.METHODS, 0.7)
    assert outcomes("vision", finished("vision", "full", suite_scores(equal)))[:2] == [UNDECIDED] * 2


def test_the_mean_of_a_method_is_that_of_its_groups():
    rows = [
        {"split": "test", "method": "LoRA", "group": g, "task": t, "seed": 0, "value": v}
        for g, t, v in (("natural", "a", 0.5), ("natural", "b", 0.7), ("structured", "c", 0.2))
    ]
    scores = vision.by_group(rows)["LoRA"]
    assert scores["natural"] == [pytest.approx(0.6)]
    assert scores["mean"] == [pytest.approx(0.4)]


def ratios(small, large, merged=0.0):
    """Overheads of AdapterL (and half as much again of AdapterH) on small and on large batches."""

    def value(config):
        o = small if config["batch"] * config["length"] == 1 else large
        wobble = 0.002 * config["turn"]
        times = {"LoRA, merged": 1 + merged + wobble, "AdapterL": 1 + o + wobble, "AdapterH": 1 + 1.5 * o + wobble}
        return {"base ms": 1.0, **times, **{f"{m} FLOPs": 1.02 for m in latency.METHODS}}

    return value


def test_verdicts_of_latency():
    rows = finished("latency", "full", ratios(0.2, 0.03))
    assert outcomes("latency", rows) == [REPRODUCED] * 4
    rows = finished("latency", "full", ratios(-0.1, 0.05, merged=0.2))
    assert outcomes("latency", rows) == [NOT_REPRODUCED] * 4
    rows = finished("latency", "full", ratios(0.0, 0.0, merged=0.029))
    assert outcomes("latency", rows) == [UNDECIDED] * 4


def test_verdicts_of_throughput():
    def value(gain, slope):
        def of(config):
            tokens = 1000 * config["batch"] ** slope * (1 + 0.001 * config["turn"])
            return {
                "full tokens/s": tokens, "LoRA tokens/s": gain * tokens, "speed-up": gain + 0.001 * config["turn"],
                "full bytes": 100 + 10 * config["batch"], "LoRA bytes": 30 + 10 * config["batch"],
                "full FLOPs": 3, "LoRA FLOPs": 2,
            }  # fmt: skip

        return of

    assert outcomes("throughput", finished("throughput", "full", value(1.2, 0.2))) == [REPRODUCED] * 3
    assert outcomes("throughput", finished("throughput", "full", value(0.8, -0.1))) == [NOT_REPRODUCED] * 3
    level = finished("throughput", "full", value(1.0, 0.0))
    assert outcomes("throughput", level) == [UNDECIDED, UNDECIDED, NOT_REPRODUCED]
    assert next(row[1:3] for row in throughput.tables(level)[1].rows) == (1, 8)


def test_one_run_of_each_timed_experiment(folders):
    config = {**latency.runs("quick", [])[-1], "repeats": 1, "d_model": 16, "n_layers": 1, "r": 2}
    row = latency.run(config, folders("latency"))
    assert all(row[m] > 0 for m in latency.METHODS)
    assert row["LoRA, merged FLOPs"] == 1 < row["AdapterL FLOPs"] < row["AdapterH FLOPs"]
    config = {**throughput.runs("quick", [])[0], "repeats": 1, "d_model": 16, "n_layers": 1}
    row = throughput.run(config, folders("throughput"))
    assert row["full bytes"] > row["LoRA bytes"]
    assert row["full FLOPs"] > row["LoRA FLOPs"]


@pytest.fixture(scope="module")
def memory_rows(tmp_path_factory):
    rows = []
    for c in memory.runs("quick", []):
        c = {**c, "d_model": 32, "n_layers": 2, "length": 16} if c["kind"] == "step" else c
        rows.append({**c, **memory.run(c, tmp_path_factory.getbasetemp()), "seconds": 0.0})
    return rows


def test_memory_is_counted_as_the_formulas_say(memory_rows):
    found = {v.claim: v.outcome for v in memory.verdicts(memory_rows)}
    assert next(o for c, o in found.items() if "closed formulas" in c) == REPRODUCED
    assert next(o for c, o in found.items() if "ZeRO" in c) == REPRODUCED
    assert next(o for c, o in found.items() if "350 GB" in c) == REPRODUCED
    assert next(o for c, o in found.items() if "1.2 TB" in c) == NOT_REPRODUCED


def test_memory_that_is_not_as_foreseen_is_told(memory_rows):
    wrong = [
        {**r, "formula gradients": 1, "measured": 2 * r.get("foreseen", 1), "counted parameters": 0, "bytes": 1}
        if r["kind"] != "gpt3"
        else {**r, "LoRA": 1.0}
        for r in memory_rows
    ]
    found = outcomes("memory", wrong)
    assert found[:3] == [NOT_REPRODUCED] * 3
    assert found[4:] == [NOT_REPRODUCED] * 3


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("intrinsic_dimension", crossing_at(published_d90)),
        ("vision", suite_scores(dict.fromkeys(vision.METHODS, 0.7))),
        ("latency", ratios(0.2, 0.03)),
    ],
)
def test_figures_and_tables_come_of_the_rows(name, made, tmp_path):
    from minipeft.lab.framework import report

    rows = finished(name, "full", made)
    part = report.section(experiments.load(name), "full", rows, tmp_path)
    assert part.figures
    for path, caption in part.figures.items():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".svg").is_file()
        assert caption.endswith(".")
    for path in report.write([part], tmp_path):
        assert path.stat().st_size > 1000


def test_the_layer_is_drawn_from_what_runs_in_it():
    shown = {name: layer_diagram.layer_rows(method) for name, method in layer_diagram.PLACES.items()}
    trained = {name: [c.path for row in rows for c in row if c.trained] for name, rows in shown.items()}
    assert trained == {
        "adapters": ["attention.adapter", "feed_forward.adapter"],
        "prefix tuning": ["attention.core.prefix"],
        "LoRA": ["attention.q_proj", "attention.v_proj"],
    }
    beside = [[c.path for c in row] for row in shown["LoRA"] if len(row) > 1]
    assert beside == [["attention.q_proj", "attention.k_proj", "attention.v_proj"]]


def test_watching_a_layer_leaves_it_as_it_was():
    from minipeft.nn import TransformerLayer

    layer = TransformerLayer(8, 2, 16, rng=0)
    before = [vars(m).keys() for _, m in layer.named_modules()]
    seen = layer_diagram.calls(layer, 8)
    assert [c.path for c in seen if c.leaf][:2] == ["attention_norm", "attention.q_proj"]
    assert [vars(m).keys() for _, m in layer.named_modules()] == before


def idx(values):
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def test_images_are_read(tmp_path):
    images = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 256
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.array([3, 1])))
    got, labels = load_fashion(tmp_path)
    np.testing.assert_allclose(got * 255, images, rtol=1e-6)
    assert labels.tolist() == [3, 1]
    for digit in range(10):
        values = [0.5] * (28 * 28 * (1 + digit % 2))
        (tmp_path / f"{digit}.json").write_text(json.dumps({"data": values}))
    got, labels = load_mnist(tmp_path)
    assert got.shape == (15, 28, 28)
    assert np.bincount(labels).tolist() == [1, 2] * 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no gzip", "expected a gzipped IDX file"),
        (gzip.compress(b"\0\0\x0d\1", mtime=0), "expected an IDX file of bytes"),
        (gzip.compress(b"\0\0\x08\3\0\0", mtime=0), "ends within its header"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\5ab", mtime=0), "5,.*but 2 values follow"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, said):
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(FileError, match=said):
        read_idx(path)


def test_missing_images(tmp_path):
    with pytest.raises(FileError, match="images of the digit 0"):
        load_mnist(tmp_path)
    with pytest.raises(ValueError, match='"train" or "t10k"'):
        load_fashion(tmp_path, "test")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((2, 28, 28))))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(3)))
    with pytest.raises(FileError, match=r"labels of shape \(3,\)"):
        load_fashion(tmp_path)


def test_a_report_elsewhere_with_reasons(tmp_path, capsys):
    from minipeft.cli import main

    reasons = tmp_path / "reasons.md"
    reasons.write_text("# Why\n\n## sizes\n\nThe head is counted.\n\nSo is <the> rest.\n\n## other\n\nNo.\n")
    where = tmp_path / "docs"
    command = ["lab", "sizes", "--out", str(tmp_path / "rows"), "--report", str(where)]
    assert main([*command, "--reasons", str(reasons)]) == 0
    text = (where / "findings.md").read_text()
    assert "Made by `minipeft lab sizes --quick`" in text
    assert "The head is counted.\n\nSo is <the> rest." in text
    assert "No." not in text
    assert "<p>So is &lt;the&gt; rest.</p>" in (where / "findings.html").read_text()
    assert main([*command, "--reasons", str(where)]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["lab", "sizes", "--report", str(reasons)]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def without_times(rows):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in rows]


def some_runs(mode, rows):
    """The choice on one study and what follows from it."""
    return [c for c in intrinsic_dimension.runs(mode, rows) if c["study"] == "100 labels" and c["d"] in (0, 80)]


def test_a_study_on_a_dask_cluster_gives_the_same_rows(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    few = dataclasses.replace(intrinsic_dimension.EXPERIMENT, runs=some_runs)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        there = runner.run(few, "quick", tmp_path / "a", cluster=cluster.scheduler_address, progress=False)
    here = runner.run(few, "quick", tmp_path / "b", progress=False)
    assert len(here) == 12
    assert without_times(there) == without_times(here)


@pytest.mark.slow
def test_a_study_killed_again_and_again_goes_on_to_the_same_rows(tmp_path):
    command = [sys.executable, "-m", "minipeft", "lab", "intrinsic_dimension", "--quick", "--jobs", "2", "--json"]
    log = tmp_path / "a" / "intrinsic_dimension-quick.jsonl"
    for rows in (5, 40, 80):
        child = subprocess.Popen(
            [*command, "--out", str(log.parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        while child.poll() is None and not (log.is_file() and log.read_text().count("\n") >= rows):
            time.sleep(0.05)
        assert child.poll() is None, "it was not over when it was killed"
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    results = []
    for folder in (log.parent, tmp_path / "b"):
        done = subprocess.run([*command, "--out", str(folder)], check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout))
    a, b = (without_times(r["rows"]["intrinsic_dimension"]) for r in results)
    assert len(a) > 100
    assert a == b
    assert results[0]["verdicts"] == results[1]["verdicts"]
