"""The programs of the README run as they stand, in an empty folder."""

import json

import numpy as np
from readme import README, programs

import minipeft as mp
from minipeft.peft import PeftModel


def run(i, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"}
    exec(compile(programs()[i], f"{README}, program {i}", "exec"), names)
    return names


def test_the_readme_has_two_programs():
    assert ["fit(" in program for program in programs()] == [True, False]


def test_the_first_program_trains_uses_and_saves_an_adapter(tmp_path, monkeypatch, capsys):
    made = run(0, tmp_path, monkeypatch)
    losses = made["history"].losses
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1
    printed = capsys.readouterr().out
    assert "trainable params: 9,216 ||" in printed
    assert "def " in printed
    assert isinstance(made["model"], PeftModel)
    assert made["model"].trainable_counts()[0] == 9216
    with mp.no_grad():
        assert not np.array_equal(made["model"](made["ids"]).data, made["base_logits"].data)
    assert [p.name for p in tmp_path.iterdir()] == ["my-adapter"]
    assert json.loads((tmp_path / "my-adapter/minipeft_config.json").read_text())["task_type"] == "CAUSAL_LM"


def test_the_second_program_calls_a_function_by_hand(tmp_path, monkeypatch):
    made = run(1, tmp_path, monkeypatch)
    assert [made[name].shape for name in ("z", "dx", "dA", "dB")] == [(2, 5, 4), (2, 5, 6), (3, 6), (4, 3)]


def test_type_checkers_find_the_hints():
    assert (README.parent / "minipeft/py.typed").exists()
