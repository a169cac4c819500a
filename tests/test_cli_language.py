"""`minipeft generate` and `minipeft train` on a small Llama in a GGUF file."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
from tiny_gguf import small_llama, write_llama

from minipeft.accounting import Forecast
from minipeft.accounting.peak import GRAIN
from minipeft.cli import main
from minipeft.cli.arguments import default_jobs
from minipeft.data import BytePairs
from minipeft.data.bpe import LETTERS
from minipeft.files import FileError, read_safetensors, write_json
from minipeft.generate import generate
from minipeft.lab.experiments.language import Plan, Prose, finetune, perplexity, read_prose, windows
from minipeft.models import DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, PeftModel, get_peft_model

TEXT = "hello hell, the bell fell well. " * 60
SHORT = ["--steps", "6", "--batch-size", "2", "--length", "12", "--r", "2"]


@pytest.fixture
def llama(tmp_path):
    return write_llama(small_llama(), tmp_path / "llama.gguf")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(TEXT)
    return path


def trained(llama, text, out, *more):
    return main(["train", "--model", str(llama), "--data", str(text), "--out", str(out), *SHORT, *more])


def test_generate_prints_the_text_and_its_continuation(llama, capsys):
    assert main(["generate", "--model", str(llama), "--max-new-tokens", "5", "hello"]) == 0
    out = capsys.readouterr()
    tokenizer = BytePairs.from_gguf(llama)
    ids = generate(
        DecoderLM.from_pretrained(llama), np.array([tokenizer.encode("hello")]), max_new_tokens=5, eos=tokenizer.eos
    )
    assert out.out == tokenizer.decode(ids[0]) + "\n"
    assert "tokens" in out.err
    assert main(["generate", "--model", str(llama), "--max-new-tokens", "5", "--json", "hello"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ids"] == ids[0, -len(facts["ids"]) :].tolist()
    assert facts["text"] == tokenizer.decode(facts["ids"])


def test_a_text_may_begin_with_a_dash(llama, capsys):
    for args in (["-hello"], ["-hello", "--seed", "1"], ["--", "-hello"], ["-h e"], ["-5"]):
        assert main(["generate", "--model", str(llama), "--max-new-tokens", "1", *args]) == 0
        assert capsys.readouterr().out.startswith(args[-1] if args[0] == "--" else args[0])


HALF, EURO, REPLACEMENT = [0xE2, 0x82], [0xE2, 0x82, 0xAC], [0xEF, 0xBF, 0xBD]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize(
    "raw", [HALF, EURO, [*EURO, *HALF], [*HALF, *EURO], [*REPLACEMENT], [0x41, 0xFF], [*HALF, 0x41, *HALF], [0xF0]]
)
def test_the_streamed_text_is_the_decoded_text_to_the_last_byte(raw, encoding, llama, monkeypatch):
    tokenizer = BytePairs.from_gguf(llama)
    ids = [tokenizer.ids[LETTERS[b]] for b in raw]
    monkeypatch.setattr(sys.modules["minipeft.generate"], "stream", lambda *a, **k: iter([np.array([i]) for i in ids]))
    text = tokenizer.decode(ids)
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding, newline="\n"))
    assert main(["generate", "--model", str(llama), "hello"]) == 0
    assert out.getvalue() == f"hello{text}\n".encode(encoding, "replace")
    out.seek(0)
    out.truncate()
    assert main(["generate", "--model", str(llama), "hello", "--json"]) == 0
    assert json.loads(out.getvalue().decode(encoding))["text"] == text


def test_ctrl_c_ends_the_line_of_a_streamed_text(llama, monkeypatch, capsys):
    def stream(*args, **kwargs):
        yield np.array([BytePairs.from_gguf(llama).ids["he"]])
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["minipeft.generate"], "stream", stream)
    assert main(["generate", "--model", str(llama), "hello"]) == 130
    assert capsys.readouterr().out == "hellohe\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "nothing.gguf", "hello"], "--model nothing.gguf: no such file, and no downloadable model of that"),
        (["--model", "LLAMA", ""], "the text is empty"),
        (["--model", "LLAMA", "--max-new-tokens", "5", "--temperature", "-1", "hello"], "temperature"),
        (["--model", "LLAMA", "--max-new-tokens", "5", "--temperature", "1", "--top-p", "2", "hello"], "top_p"),
        (["--model", "LLAMA", "--max-new-tokens", "400", "hello"], "400"),
        (["--model", "LLAMA", "--adapter", "nothing", "hello"], "nothing"),
        (["--model", "LLAMA", "--chat", "hello"], "chat template"),
    ],
)
def test_a_mistake_in_generate_is_one_line(args, message, llama, capsys):
    assert main(["generate", *(str(llama) if a == "LLAMA" else a for a in args)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("minipeft generate: ")


def test_train_saves_an_adapter_that_generate_takes(llama, text, tmp_path, capsys):
    out = tmp_path / "adapter"
    assert trained(llama, text, out, "--lr", "0.02", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["perplexity_after"]["validation"] < report["perplexity_before"]["validation"]
    assert len(report["losses"]) == 6
    assert json.loads((out / "minipeft_training.json").read_text())["losses"] == report["losses"]
    assert {f.name for f in tmp_path.iterdir()} == {"llama.gguf", "prose.txt", "adapter"}, "no checkpoint is left"
    model = PeftModel.from_pretrained(DecoderLM.from_pretrained(llama), out)
    rows = windows(np.array(BytePairs.from_gguf(llama).encode(read_prose(str(text)).test)), 12, 8192)
    assert perplexity(model, rows) == pytest.approx(report["perplexity_after"]["test"], rel=1e-6)
    assert main(["generate", "--model", str(llama), "--adapter", str(out), "--max-new-tokens", "2", "hello"]) == 0


def test_train_takes_any_method_by_its_configuration(llama, text, tmp_path, capsys):
    write_json(tmp_path / "ia3.json", {"peft_type": "IA3"})
    assert trained(llama, text, tmp_path / "adapter", "--config", str(tmp_path / "ia3.json")) == 0
    assert "IA3: " in capsys.readouterr().out
    write_json(tmp_path / "odd.json", {"peft_type": "LORAA"})
    assert trained(llama, text, tmp_path / "other", "--config", str(tmp_path / "odd.json")) == 2
    assert "unknown peft_type 'LORAA'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_adapter_that_is_there_is_not_replaced_unless_told(llama, text, tmp_path, capsys):
    out = tmp_path / "adapter"
    out.mkdir()
    (out / "precious").write_text("mine")
    assert trained(llama, text, out) == 0
    saved = {f.name: f.read_bytes() for f in out.iterdir()}
    capsys.readouterr()
    assert trained(llama, text, out, "--seed", "1") == 2
    assert "holds an adapter already; name another folder, or replace it with --fresh" in capsys.readouterr().err
    assert {f.name: f.read_bytes() for f in out.iterdir()} == saved
    assert trained(llama, text, out, "--seed", "1", "--fresh") == 0
    assert {f.name for f in out.iterdir()} == saved.keys()
    assert {name for name in saved if (out / name).read_bytes() == saved[name]} >= {"precious"}
    assert (out / "minipeft_model.safetensors").read_bytes() != saved["minipeft_model.safetensors"]
    for name in ("minipeft_model.safetensors", "minipeft_config.json"):
        (out / name).unlink()
    assert trained(llama, text, out) == 2, "an adapter of Hugging Face is one, too"


def test_train_works_in_the_current_folder_and_fresh_removes_only_what_it_wrote(llama, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = {"training.json": b"mine", "minipeft_unfinished/notes": b"mine", "prose.txt": text.read_bytes()}
    (tmp_path / "minipeft_unfinished").mkdir()
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "save_pretrained", interrupt)
        assert trained(llama, text, ".") == 130
    unfinished = ("minipeft_unfinished/training.json", "minipeft_unfinished/training.safetensors")
    assert all((tmp_path / name).exists() for name in unfinished)
    assert trained(llama, text, ".", "--fresh") == 0
    files = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file()}
    assert files == {*mine, *SAVED, "llama.gguf"}
    assert {name: (tmp_path / name).read_bytes() for name in mine} == mine


def interrupt(*args):
    raise KeyboardInterrupt


SAVED = {f"{whose}_{what}" for whose in ("adapter", "minipeft") for what in ("config.json", "model.safetensors")}
SAVED |= {"minipeft_training.json"}


def test_an_unfinished_run_with_other_settings_says_how_to_start_over(llama, text, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "save_pretrained", interrupt)
        assert trained(llama, text, tmp_path / "out") == 130
    capsys.readouterr()
    for options in (["--r", "3"], ["--seed", "7"], ["--steps", "3"]):
        assert trained(llama, text, tmp_path / "out", *options) == 2
        assert capsys.readouterr().err.endswith("; --fresh starts over\n")
    assert trained(llama, text, tmp_path / "out", "--seed", "7", "--fresh") == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == SAVED


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing_half_written(llama, text, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    assert trained(llama, text, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("minipeft train: ")
    assert "cannot write there (No space left on device); make room there, or name another folder" in err
    assert "Traceback" not in err
    assert {f.name for f in tmp_path.iterdir()} == {"llama.gguf", "prose.txt"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "no-such.txt"], "no-such.txt: expected the name austen, or a text file in UTF-8"),
        (["--targets", "q_porj"], "q_porj"),
        (["--alpha", "nan"], "lora_alpha must be finite, got nan"),
        (["--alpha", "0"], "lora_alpha is 0, so that nothing would be changed"),
        (["--length", "4000"], "prose.txt is too short: its train part has"),
        (["--data", "EMPTY"], "empty.txt is empty; expected a text to train on"),
        (["--data", os.devnull], f"{os.devnull} is empty"),
        (["--lr", "1e30"], "the loss became nan"),
        (["--memory-budget", "9KiB"], "a memory budget of 9.0 KiB is below the smallest that works"),
    ],
)
def test_a_mistake_in_train_is_one_line_and_leaves_nothing(args, message, llama, text, tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    args = [str(tmp_path / "empty.txt") if a == "EMPTY" else a for a in args]
    with np.errstate(all="ignore"):
        assert trained(llama, text, tmp_path / "adapter", *args) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert {f.name for f in tmp_path.iterdir()} == {"llama.gguf", "prose.txt", "empty.txt"}


def test_a_budget_that_cannot_be_kept_is_told_before_the_text_is_read(llama, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(BytePairs, "encode", None)
    monkeypatch.setattr("minipeft.lab.experiments.language.perplexity", None)
    assert trained(llama, text, tmp_path / "adapter", "--memory-budget", "1") == 2
    out = capsys.readouterr()
    assert "a memory budget of 1 B is below the smallest that works" in out.err
    assert out.out == ""


def test_a_folder_that_cannot_be_written_is_told_before_the_training(llama, text, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "adapter", tmp_path / "file" / "deep" / "adapter"):
        assert trained(llama, text, out) == 2
        printed = capsys.readouterr()
        assert "file is a file; name a folder" in printed.err
        assert printed.out == ""
    assert trained(llama, text, tmp_path / "new" / "deep" / "adapter", "--targets", "q_porj") == 2
    assert not (tmp_path / "new").exists(), "a mistake leaves no empty folder"
    assert trained(llama, text, tmp_path / "new" / "deep" / "adapter") == 0
    out = capsys.readouterr().out
    assert re.search(r"base: perplexity [\d.]+ on validation, [\d.]+ on test\n", out)
    assert re.search(r"\n6 steps, 1 evaluations, in \d+ s; best step: 6\nadapted: perplexity [\d.]+ on", out)


def test_train_within_a_memory_budget_takes_fewer_windows_at_once(llama, text, tmp_path, capsys):
    assert trained(llama, text, tmp_path / "free", "--json") == 0
    free = json.loads(capsys.readouterr().out)
    model = get_peft_model(DecoderLM.from_pretrained(llama), LoraConfig(r=2, target_modules="all-linear"))
    ids = np.zeros((2, 12), dtype=np.int64)
    budget = Forecast(model, AdamW(model), {"ids": ids, "labels": ids}).needs(1, accumulating=True) + GRAIN
    assert trained(llama, text, tmp_path / "within", "--memory-budget", f"{budget}B", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (free["at_once"], report["at_once"]) == (None, 1)
    np.testing.assert_allclose(report["losses"], free["losses"], rtol=1e-4)
    assert trained(llama, text, tmp_path / "told", "--memory-budget", "1GB") == 0
    assert "\nwithin 1GB: 2 of 2 windows at once\n" in capsys.readouterr().out


def test_a_budget_that_is_no_size_is_told_by_its_name(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--memory-budget", "lots"])
    assert caught.value.code == 2
    assert "--memory-budget: expected a size in bytes, such as" in capsys.readouterr().err


def test_a_batch_is_shared_out_among_the_cores(llama, text, tmp_path, capsys):
    losses = {}
    for shards in (1, 2, None):
        more = () if shards is None else ("--shards", str(shards))
        assert trained(llama, text, tmp_path / f"{shards}", "--json", *more) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["plan"]["shards"] == (shards or min(default_jobs(), 2))  # of two windows
        losses[shards] = report["losses"]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-4)
    assert losses[None] == losses[min(default_jobs(), 2)]


@pytest.mark.parametrize("command", [["train"], ["generate", "hello"]])
def test_a_seed_below_zero_is_told_by_its_name(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--seed", "-1"])
    assert caught.value.code == 2
    assert "argument --seed: expected a whole number of at least 0, got '-1'" in capsys.readouterr().err


@pytest.mark.parametrize("lr", ["0", "-1", "nan", "inf", "fast"])
def test_a_rate_must_be_a_number_above_zero(lr, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--lr", lr])
    assert caught.value.code == 2
    assert "expected a number above 0" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_reached_and_the_same_command_goes_on_to_the_same_adapter(llama, text, tmp_path):
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "minipeft", "train", "--model", str(llama), "--data", str(text)]
    command += ["--batch-size", "2", "--length", "12", "--steps", "400"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, "--out", str(whole)], env=env, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "--out", str(cut)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    reached = cut / "minipeft_unfinished" / "training.json"
    while not reached.exists() and process.poll() is None:  # written every 25 steps
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert [f.name for f in cut.iterdir()] == ["minipeft_unfinished"]
    assert 25 <= json.loads(reached.read_text())["step"] < 400
    step = json.loads(reached.read_text())["step"]
    done = subprocess.run([*command, "--out", str(cut)], env=env, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"going on from {cut}/minipeft_unfinished (--fresh starts over)\n")
    assert f" s from step {step} on; best step" in done.stdout
    for name in ("minipeft_model.safetensors", "adapter_model.safetensors"):
        (a, about_a), (b, about_b) = read_safetensors(cut / name), read_safetensors(whole / name)
        assert about_a == about_b
        assert {n: x.tobytes() for n, x in a.items()} == {n: x.tobytes() for n, x in b.items()}
    assert {f.name for f in cut.iterdir()} == SAVED


def test_windows_are_spread_evenly_and_share_nothing():
    rows = windows(np.arange(101), 10, 40)
    np.testing.assert_array_equal(rows[:, 0], [0, 20, 50, 70])
    assert rows.shape == (4, 11)
    np.testing.assert_array_equal(windows(np.arange(101), 10, 10**9)[:, 0], np.arange(0, 100, 10))
    np.testing.assert_array_equal(windows(np.arange(5), 10, 8192), [np.arange(5)])
    with pytest.raises(ValueError, match="at least 2"):
        windows(np.arange(1), 10, 8192)


def test_perplexity_is_the_exponential_of_the_mean_surprise():
    model = small_llama()
    rows = np.random.default_rng(0).integers(0, 264, (5, 8))
    surprise = []
    for row in rows:
        z = model(row[None, :-1]).data[0].astype(np.float64)
        for t, token in enumerate(row[1:]):
            surprise.append(np.log(np.exp(z[t]).sum()) - z[t, token])
    assert perplexity(model, rows, batch_size=2) == pytest.approx(np.exp(np.mean(surprise)), rel=1e-5)


def test_a_file_is_cut_in_three_parts(text, tmp_path):
    prose = read_prose(str(text))
    assert prose.train + prose.validation + prose.test == TEXT
    assert len(prose.train) == 8 * len(TEXT) // 10
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(FileError, match="text file in UTF-8"):
        read_prose(str(tmp_path / "latin"))


def test_the_same_seed_gives_the_same_adapter_and_the_base_is_as_it_was(llama):
    tokenizer = BytePairs.from_gguf(llama)
    prose = Prose("p", TEXT, TEXT, TEXT)
    reports = []
    for _ in range(2):
        model = small_llama()
        before = {n: p.data.copy() for n, p in model.named_parameters()}
        peft, report = finetune(
            model, tokenizer.encode, prose, LoraConfig(r=2), Plan(steps=3, batch_size=2, length=9), progress=False
        )
        base = peft.unload()
        assert all(np.array_equal(p.data, before[n]) for n, p in base.named_parameters())
        reports.append({k: v for k, v in report.items() if k != "seconds"})
    assert reports[0] == reports[1]
