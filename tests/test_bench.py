"""The benchmarks run on small sizes and print tables; nothing here is timed."""

import json
import re
import sys

import pytest

from minipeft.bench import BENCHES, Part, table
from minipeft.cli import main


def test_a_table_has_a_column_a_key():
    rows = [{"what": "a", "ms": 12.3456, "ratio": 1.5e-5}, {"what": "bb", "ms": 0.0, "ratio": None}]
    assert table(rows).splitlines() == [
        "what    ms     ratio",
        "----  ----  --------",
        "a     12.3  1.50e-05",
        "bb    0.00",
    ]


def test_every_benchmark_is_listed_and_exists(capsys):
    from importlib import import_module

    assert main(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == BENCHES
    for name in BENCHES:
        assert callable(import_module(f"minipeft.bench.{name}").parts)


@pytest.mark.parametrize("name", sorted(BENCHES.keys() - {"gpu"}))  # which asks for one before it has parts
def test_quick_measures_less_and_every_part_has_a_label_of_its_own(name):
    from importlib import import_module

    module = import_module(f"minipeft.bench.{name}")
    few, all_of_them = module.parts(quick=True), module.parts()
    assert 1 <= len(few) <= len(all_of_them)
    assert few != all_of_them
    for parts in (few, all_of_them):
        assert len({part.label for part in parts}) == len(parts)
        assert all(part.weight > 0 for part in parts)


def interrupted_after(rows):
    def stop():
        raise KeyboardInterrupt

    return [*(Part(row["what"], lambda row=row: [row]) for row in rows), Part("never", stop)]


def test_rows_are_printed_as_they_come_and_stay_after_ctrl_c(monkeypatch, capsys):
    import minipeft.bench.swap as swap

    rows = [{"what": "first", "ms": 1.5}, {"what": "a second one", "ms": 12345.0}]
    monkeypatch.setattr(swap, "parts", lambda quick: interrupted_after(rows))
    assert main(["bench", "swap"]) == 130
    assert capsys.readouterr().out.splitlines() == [
        "what                     ms",
        "-----------------  --------",
        "first                  1.50",
        "a second one       1.23e+04",
    ]
    assert main(["bench", "swap", "--json"]) == 130
    assert json.loads(capsys.readouterr().out) == rows


def test_a_bar_on_stderr_names_the_part_and_tells_the_time_that_is_left(monkeypatch, capsys):
    import minipeft.bench.swap as swap

    monkeypatch.setattr(
        swap, "parts", lambda quick: [Part("one", lambda: [{"ms": 1.0}], 3.0), Part("two", lambda: [{"ms": 2.0}])]
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["bench", "swap"]) == 0
    err = capsys.readouterr().err
    assert "swap: one" in err
    assert re.search(r"swap: two: +75%\|.*so far, 00:0\d left", err)


def test_swap_on_a_small_model(monkeypatch, capsys):
    from minipeft.bench import swap
    from minipeft.models import DecoderConfig

    small = DecoderConfig.gpt2(vocab_size=50257, d_model=8, n_layers=2, n_heads=2, context=128)
    monkeypatch.setattr(swap.DecoderConfig, "gpt2", staticmethod(lambda **_: small))
    assert main(["bench", "swap", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert next(r["action"] for r in rows) == "set_adapter, there and back"
    assert all(r["ms"] > 0 for r in rows)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_benchmark_that_lacks_a_package_says_what_to_install(missing, monkeypatch, capsys):
    import minipeft.bench.swap as swap

    def parts(quick):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(swap, "parts", parts)
    assert main(["bench", "swap"]) == 2
    assert f'bench swap needs {missing}; run `pip install -e ".[parity]"` in ' in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch):
    """The shapes of the benchmarks, small enough for a test."""
    from dataclasses import replace

    from minipeft.bench import step

    shape = replace(step.SHAPES["d64"], d_model=8, n_heads=2, vocab_size=19, length=6, batch=4)
    monkeypatch.setattr(step, "SHAPES", {"d64": shape, "gpt2": replace(shape, name="gpt2", shards=2)})
    monkeypatch.setattr(step, "REPEATS", {"d64": 2, "gpt2": 2})
    for name in ("profile", "hips"):
        module = __import__(f"minipeft.bench.{name}", fromlist=["SHAPES"])
        monkeypatch.setattr(module, "SHAPES", step.SHAPES)
    return step


def rows_of(capsys, *command):
    assert main(["bench", *command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_profile_names_every_function_and_leaves_the_library_as_it_was(tiny, monkeypatch, capsys):
    import numpy as np

    from minipeft.bench import profile
    from minipeft.ops.linear import Linear

    monkeypatch.setattr(profile, "kept_up", lambda product, seconds: 1e9)
    product, forward = np.matmul, Linear.forward
    rows = rows_of(capsys, "profile")
    assert (np.matmul, Linear.forward) == (product, forward)
    assert [r["what"] for r in rows[:2]] == ["the whole step", "floor: FLOPs at the sgemm rate"]
    calls = {r["what"]: r["calls"] for r in rows}
    assert calls["LoRALinear.forward"] == calls["LoRALinear.backward"] == 2 * 3
    assert calls["Linear.forward"] == 2 * 3
    assert calls["Activation.backward"] == 2
    assert "Linear.backward" in calls  # dX flows to the adapters below
    for r in rows[2:-1]:
        assert 0 <= r["in products, ms"] <= r["ms"] * 1.01


def test_allocator_compares_processes(tiny, monkeypatch):
    from minipeft.bench import allocator

    monkeypatch.setattr(allocator, "SHAPES", tiny.SHAPES)
    kept = allocator.measure("gpt2", "lora", False, 2)
    assert kept["ms"] > 0
    assert kept["faults"] >= 0
    rows = iter([{"ms": ms, "faults": 1.0, "peak MB": 2.0} for ms in (1, 2, 3, 4, 9, 9)])
    monkeypatch.setattr(allocator, "in_own_process", lambda *case, module: [next(rows)])
    (row,) = allocator.compared("gpt2", "lora", 2)
    assert row["ratio"] == 0.75
    assert (row["ms"], row["ms without"]) == (3, 4)


def test_profile_counts_a_product_inside_the_function_that_makes_it():
    from minipeft.bench.profile import Times

    times = Times()
    inner = times.product(lambda: None)
    times.around("outer", inner)()
    inner()
    assert set(times.products) == {"outer", "elsewhere"}
    assert times.calls == {"outer": 1}


def test_latency_and_scaling_on_small_models(monkeypatch, capsys):
    from minipeft.bench import latency, scaling

    monkeypatch.setattr(latency, "SIZES", {"vocab_size": 11, "d_model": 32, "n_layers": 1, "n_heads": 2, "context": 4})
    monkeypatch.setattr(latency, "GRID", ((2, 4), (1, 1)))
    monkeypatch.setattr(latency, "REPEATS", 1)
    rows = rows_of(capsys, "latency")
    assert {(r["batch"], r["length"]) for r in rows} == {(2, 4), (1, 1)}
    assert {r["method"] for r in rows} == {"LoRA, merged", "AdapterL", "AdapterH"}

    monkeypatch.setattr(scaling, "WIDTHS", (32,))
    monkeypatch.setattr(scaling, "LENGTHS", (64,))
    monkeypatch.setattr(scaling, "REPEATS", 1)
    real = scaling.Stepper.__init__
    monkeypatch.setattr(
        scaling.Stepper,
        "__init__",
        lambda self, d, length, batch, n_layers, method, shards=1: real(self, 32, 8, 2, n_layers, method, shards),
    )
    rows = rows_of(capsys, "scaling")
    against = {r["what"].split(",")[0]: r["FLOP / full"] for r in rows if r["FLOP / full"] is not None}
    assert against["top 1 of 8"] < against["top 2 of 8"] < against["top 4 of 8"] < 1
    assert against["LoRA on the top 1 of 8"] < against["top 4 of 8"]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT asks transformers
def test_step_on_a_tiny_shape_agrees_before_it_measures(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "kept_up", lambda product: 1e9)
    for mode in ("lora", "full"):
        row = tiny.measure("d64", mode, "stock", 0.5, 2)
        assert row["largest disagreement"] < 1e-3
        assert row["pairs"] >= 2


@pytest.mark.parity
def test_hips_autograd_has_the_same_loss_and_gradients(tiny, monkeypatch, capsys):
    from minipeft.bench import hips

    monkeypatch.setattr(hips, "REPEATS", 1)
    rows = rows_of(capsys, "hips")
    assert [r["mode"] for r in rows] == ["lora", "full"]
    assert all(r["largest disagreement"] < 1e-3 for r in rows)


def test_memory_saving_on_a_small_model(monkeypatch, capsys):
    from minipeft.bench import memory_saving

    monkeypatch.setattr(memory_saving, "SIZES", {"vocab_size": 31, "d_model": 32, "n_layers": 3, "n_heads": 4})
    monkeypatch.setattr(memory_saving, "GRID", ((2, 48),))
    monkeypatch.setattr(memory_saving, "BLOCK", 16)
    monkeypatch.setattr(memory_saving, "REPEATS", 2)
    assert main(["bench", "memory_saving", "--json"]) == 0
    rows = {row["variant"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["default", "checkpointing", "blockwise", "both"]
    assert rows["default"]["time ratio"] == 1.0
    kept = [rows[v]["kept MB"] for v in ("both", "checkpointing", "blockwise", "default")]
    assert kept[0] == kept[1] < kept[2] < kept[3]
    assert rows["default"]["GFLOP"] < rows["checkpointing"]["GFLOP"]
