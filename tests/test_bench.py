"""The benchmarks run on small sizes and print tables; nothing here is timed."""

import json

import pytest

from minipeft.bench import BENCHES, table
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
        assert callable(import_module(f"minipeft.bench.{name}").run)


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

    def run():
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(swap, "run", run)
    assert main(["bench", "swap"]) == 2
    assert f'bench swap needs {missing}; install it with `pip install "minipeft[parity]"`' in capsys.readouterr().err
