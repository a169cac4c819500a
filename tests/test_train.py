"""Training: shards, evaluation, early stop, checkpoints, Ctrl-C, and the same bits after a resume."""

import errno
import io
import signal
import threading

import numpy as np
import pytest
from families import FAMILIES, gpt2

import minipeft as mp
from minipeft import nn
from minipeft.accounting import count_flops
from minipeft.data import Batches
from minipeft.files import FileError, read_json, read_safetensors, write_json
from minipeft.optim import SGD, AdamW, LinearSchedule
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.train import TrainingError, backward, fit, has_checkpoint, remove_checkpoint, train_step


class Noisy(nn.Module):
    """A small classifier with dropout."""

    def __init__(self):
        self.one, self.drop, self.two = nn.Linear(5, 8, rng=0), nn.Dropout(0.3), nn.Linear(8, 4, rng=1)

    def loss(self, x, labels):
        h = self.drop(mp.ops.relu(self.one(mp.Tensor(x))))
        return mp.ops.cross_entropy(self.two(h), labels)


def problem(n=23):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    return Batches({"x": x, "labels": (x[:, 0] > 0) + 2 * (x[:, 1] > 1)}, 4, seed=3) if n else None


def bits(model):
    return {n: p.data.copy() for n, p in model.named_parameters()}


def same(a, b):
    return all(np.array_equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("shards", [2, 3])
def test_shards_give_the_same_loss_and_gradients(family, shards, rng):
    model, batch = family(rng)
    model.to(np.float64)
    whole = backward(model, batch)
    grads = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    assert backward(model, batch, shards) == pytest.approx(whole, rel=1e-12)
    for n, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, grads[n], rtol=1e-9, atol=1e-12)


def test_shards_do_not_depend_on_timing():
    results = []
    for _ in range(3):
        model = Noisy()
        optimizer = AdamW(model, lr=0.01)
        batch = next(iter(problem().epoch(0)))
        losses = [train_step(model, batch, optimizer, shards=2, rng=(7, s)) for s in range(5)]
        results.append((losses, bits(model)))
    for losses, values in results[1:]:
        assert losses == results[0][0]
        assert same(values, results[0][1])


def test_a_shard_without_a_label_is_left_out(rng):
    model, batch = gpt2(rng)
    model.to(np.float64)
    batch["labels"][0] = -100
    whole = backward(model, batch)
    assert backward(model, batch, shards=3) == pytest.approx(whole, rel=1e-12)
    batch["labels"][:] = -100
    with pytest.raises(ValueError, match="every label"):
        backward(model, batch, shards=3)


def test_training_lowers_the_loss_and_reports_each_step():
    model = Noisy()
    history = fit(model, problem(), AdamW(model, lr=0.02), epochs=20, progress=False)
    assert len(history.steps) == 20 * 6
    assert [row["step"] for row in history.steps] == list(range(1, 121))
    assert np.mean(history.losses[-12:]) < 0.6 * np.mean(history.losses[:12])
    assert model.training


def test_the_order_and_the_masks_repeat_with_the_seed():
    results = []
    for seed in (0, 0, 1):
        model = Noisy()
        fit(model, problem(), AdamW(model, lr=0.02), steps=15, seed=seed, progress=False)
        results.append(bits(model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize("stop", [1, 4, 6, 7, 13])
def test_resuming_gives_the_same_bits(stop, tmp_path):
    def make():
        model = Noisy()
        return model, AdamW(model, lr=LinearSchedule(0.02, 15, warmup=3))

    model, optimizer = make()
    whole = fit(model, problem(), optimizer, steps=15, progress=False)

    class Stop(Exception):
        pass

    interrupted, optimizer = make()
    calls = []

    def tripwire(_):
        calls.append(1)
        if len(calls) == stop + 1:
            raise Stop
        return 0.0

    with pytest.raises(Stop):
        fit(
            interrupted, problem(), optimizer, steps=15, progress=False, checkpoint=tmp_path / "c", checkpoint_every=1,
            evaluate=tripwire, evaluate_every=1,
        )  # fmt: skip
    resumed, optimizer = make()
    history = fit(resumed, problem(), optimizer, steps=15, progress=False, checkpoint=tmp_path / "c", resume=True)
    assert history.losses == whole.losses
    assert same(bits(resumed), bits(model))


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tmp_path, capsys):
    model = Noisy()

    class Pressed:
        def __init__(self, batches):
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def epoch(self, e):
            for i, batch in enumerate(self.batches.epoch(e)):
                if e == 1 and i == 2:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        fit(model, Pressed(problem()), AdamW(model, lr=0.02), steps=20, progress=False, checkpoint=tmp_path / "c")
    assert "interrupted after step 8" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["c"]
    again = Noisy()
    history = fit(
        again, problem(), AdamW(again, lr=0.02), steps=20, progress=False, checkpoint=tmp_path / "c", resume=True
    )
    whole = Noisy()
    assert history.losses == fit(whole, problem(), AdamW(whole, lr=0.02), steps=20, progress=False).losses
    assert same(bits(again), bits(whole))


class Pressing(Noisy):
    """Presses Ctrl-C while it computes, ``times`` times in its step ``at``."""

    def __init__(self, at, times=1):
        super().__init__()
        self.calls, self.at, self.times = 0, at, times

    def loss(self, x, labels):
        self.calls += 1
        if self.calls == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().loss(x, labels)


@pytest.mark.parametrize("shards", [1, 2])
def test_ctrl_c_inside_a_step_lets_it_finish(shards, tmp_path, capsys):
    whole = Noisy()
    settings = {"steps": 9, "progress": False, "shards": shards}
    losses = fit(whole, problem(), AdamW(whole, lr=0.02), **settings).losses
    model = Pressing(at=5)
    with pytest.raises(KeyboardInterrupt):
        fit(model, problem(), AdamW(model, lr=0.02), checkpoint=tmp_path / "c", **settings)
    assert "interrupted after step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = Noisy()
    history = fit(again, problem(), AdamW(again, lr=0.02), checkpoint=tmp_path / "c", resume=True, **settings)
    assert history.losses == losses
    assert same(bits(again), bits(whole))


def test_a_second_ctrl_c_does_not_wait_and_keeps_the_checkpoint_of_before(tmp_path, capsys):
    model = Pressing(at=5, times=2)
    with pytest.raises(KeyboardInterrupt):
        fit(
            model, problem(), AdamW(model, lr=0.02), steps=9, progress=False, checkpoint=tmp_path / "c",
            checkpoint_every=2,
        )  # fmt: skip
    assert "interrupted inside step 5; the checkpoint of step 4 is in" in capsys.readouterr().err
    assert read_json(tmp_path / "c" / "training.json")["step"] == 4


def test_ctrl_c_in_an_evaluation_loses_none(tmp_path):
    def run(press, folder, resume=False):
        model = Noisy()
        calls = []

        def evaluate(m):
            calls.append(1)
            if len(calls) == press:
                signal.raise_signal(signal.SIGINT)
            return float(np.abs(m.two.weight.data).sum())

        history = fit(
            model, problem(), AdamW(model, lr=0.02), steps=10, evaluate=evaluate, evaluate_every=3, progress=False,
            checkpoint=folder, resume=resume,
        )  # fmt: skip
        return history, bits(model)

    whole, values = run(None, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(2, tmp_path / "c")
    assert [row["step"] for row in read_json(tmp_path / "c" / "training.json")["evaluations"]] == [3]
    resumed, again = run(None, tmp_path / "c", resume=True)
    assert resumed == whole
    assert [row["step"] for row in resumed.evaluations] == [3, 6, 9, 10]
    assert same(again, values)


def test_training_works_outside_the_main_thread():
    losses = []
    model = Noisy()
    thread = threading.Thread(
        target=lambda: losses.extend(fit(model, problem(), SGD(model, 0.1), steps=3, progress=False).losses)
    )
    thread.start()
    thread.join()
    assert len(losses) == 3


def test_early_stop_puts_the_best_weights_back():
    model = Noisy()
    values = iter([3.0, 1.0, 2.0, 2.5, 9.0])
    kept = []

    def evaluate(m):
        assert not m.training
        kept.append(bits(m))
        return {"loss": next(values), "other": 0.0}

    history = fit(
        model, problem(), SGD(model, 0.1), steps=100, evaluate=evaluate, evaluate_every=2, patience=2, progress=False
    )
    assert [row["loss"] for row in history.evaluations] == [3.0, 1.0, 2.0, 2.5]
    assert history.best_step == 4
    assert history.stopped_early
    assert len(history.steps) == 8
    assert same(bits(model), kept[1])
    values = iter([1.0, 2.0])
    fit(
        model,
        problem(),
        SGD(model, 0.1),
        steps=4,
        evaluate=evaluate,
        evaluate_every=2,
        restore_best=False,
        progress=False,
    )
    assert same(bits(model), kept[-1])
    assert not same(bits(model), kept[-2])
    best = fit(
        model, problem(), SGD(model, 0.1), steps=4, evaluate=lambda m: 1.0, evaluate_every=2, higher_is_better=True,
        progress=False,
    ).best_step  # fmt: skip
    assert best == 2


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_first_tensor():
    model = Noisy()
    model.drop.eval()

    def poison(m):
        m.two.weight.data[0, 1] = np.nan
        return 0.0

    with pytest.raises(TrainingError, match=r"step 4: the loss became nan; first tensor .*: parameter two.weight"):
        fit(model, problem(), SGD(model, 0.1), steps=9, evaluate=poison, evaluate_every=3, progress=False)
    assert model.training
    assert not model.drop.training  # each module as it was


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_the_first_activation_that_is_not_finite_is_named(shards, rng):
    model, batch = gpt2(rng)
    model.stack.layers[1].feed_forward.up_proj.bias.data[3] = 1e38
    model.stack.layers[1].feed_forward.down_proj.weight.data[2, 3] = 1e30
    before = bits(model)
    with pytest.raises(TrainingError, match=r"the output of stack\.layers\.1\.feed_forward\.down_proj; try a smaller"):
        train_step(model, batch, AdamW(model), shards)
    assert same(bits(model), before)
    assert all("forward" not in vars(module) for _, module in model.named_modules())


def test_an_input_or_a_gradient_that_is_not_finite_is_named():
    model, batch = Noisy(), next(iter(problem().epoch(0)))
    spoilt = {**batch, "x": batch["x"] * np.float32(np.nan)}
    with pytest.raises(TrainingError, match="the batch's x"):
        train_step(model, spoilt, SGD(model, 0.1))

    class Steep(mp.Function):
        @staticmethod
        def forward(ctx, x):
            return x.copy()

        @staticmethod
        def backward(ctx, dz):
            return dz * np.inf

    model.loss = lambda x, labels: mp.ops.cross_entropy(
        model.two(Steep.apply(mp.ops.relu(model.one(mp.Tensor(x))))), labels
    )
    before = bits(model)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(TrainingError, match=r"norm became (nan|inf); .*: gradient of one.bias"),
    ):
        train_step(model, batch, SGD(model, 0.1), max_norm=1.0)
    assert same(bits(model), before)


def test_parameters_that_are_not_finite_never_reach_a_checkpoint(tmp_path):
    model = Noisy()
    optimizer = SGD(model, lr=lambda step: 0.1 if step < 4 else float("nan"))
    with pytest.raises(TrainingError, match=r"step 5: parameter one\.weight is not finite"):
        fit(model, problem(), optimizer, steps=5, progress=False, checkpoint=tmp_path / "c", checkpoint_every=4)
    assert read_json(tmp_path / "c" / "training.json")["step"] == 4


def test_an_evaluation_may_be_infinite_but_not_nan(tmp_path):
    values = [np.inf, np.nan, 2.0]

    def make(metrics):
        model, calls = Noisy(), iter(metrics)
        return model, lambda m: {"perplexity": next(calls), "f1": np.nan}

    model, evaluate = make(values)
    with pytest.raises(TrainingError, match="step 2: evaluate gave perplexity = nan"):
        fit(model, problem(), SGD(model, 0.1), steps=3, evaluate=evaluate, evaluate_every=1, progress=False)
    model, evaluate = make([np.inf, 3.0, 2.0])
    optimizer = SGD(model, 0.1)
    fit(model, problem(), optimizer, steps=1, evaluate=evaluate, progress=False, checkpoint=tmp_path / "c")
    model, _ = make([])
    history = fit(
        model, problem(), SGD(model, 0.1), steps=3, evaluate=evaluate, evaluate_every=1, progress=False,
        checkpoint=tmp_path / "c", resume=True,
    )  # fmt: skip
    assert [row["perplexity"] for row in history.evaluations] == [np.inf, 3.0, 2.0]
    assert all(np.isnan(row["f1"]) for row in history.evaluations)
    assert history.best_step == 3


def test_masks_differ_from_step_to_step_without_a_seed():
    model, batch = Noisy(), next(iter(problem().epoch(0)))
    optimizer = SGD(model, 1e-30)
    first = [train_step(model, batch, optimizer) for _ in range(3)]
    assert len(set(first)) == 3
    optimizer.steps = 0
    assert [train_step(model, batch, optimizer) for _ in range(3)] == first


def test_clipping_limits_the_step():
    model, batch = Noisy(), next(iter(problem().epoch(0)))
    before = bits(model)
    train_step(model, batch, SGD(model, 1.0), max_norm=0.01)
    moved = np.sqrt(sum(((p.data - before[n]) ** 2).sum() for n, p in model.named_parameters()))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_a_checkpoint_holds_the_trained_tensors_alone(tmp_path):
    peft, batches = peft_problem()
    fit(peft, batches, AdamW(peft), steps=3, progress=False, checkpoint=tmp_path / "c")
    arrays, _ = read_safetensors(tmp_path / "c" / "training.safetensors")
    assert all("lora" in name for name in arrays)
    assert len(arrays) == 12 * 3
    facts = read_json(tmp_path / "c" / "training.json")
    assert (facts["step"], facts["epoch"], facts["batch_of_epoch"], len(facts["steps"])) == (3, 1, 1, 3)


def peft_problem(r=2, base=0, rows=slice(None), batch_size=2):
    model, _ = gpt2(np.random.default_rng(0))
    model.stack.norm.bias.data[0] = base
    _, batch = gpt2(np.random.default_rng(0))
    batch = {name: x[rows] for name, x in batch.items()}
    return get_peft_model(model, LoraConfig(r=r)), Batches(batch, batch_size)


@pytest.mark.parametrize(
    ("changes", "kwargs", "message"),
    [
        ({"r": 3}, {}, r"other trained tensors .* 12 differ, the first is '.*lora_A"),
        ({"base": 0.5}, {}, "frozen_base was"),
        ({"rows": [1, 0, 2]}, {}, "first_batch was"),
        ({"batch_size": 1}, {}, "batches was 2, now 3"),
        ({}, {"seed": 5}, "seed was 0, now 5"),
        ({}, {"shards": 2}, "shards was 1, now 2"),
        ({}, {"max_norm": 1.0}, "max_norm was None, now 1.0"),
        ({}, {"optimizer": lambda p: SGD(p, 1e-3)}, "optimizer.kind was 'AdamW', now 'SGD'"),
        ({}, {"optimizer": lambda p: AdamW(p, 2e-3)}, r"optimizer.lr was 0.001, now 0.002"),
        ({}, {"steps": 1}, "of step 2, beyond the 1 steps"),
    ],
)
def test_a_checkpoint_fits_only_its_own_run(changes, kwargs, message, tmp_path):
    peft, batches = peft_problem()
    fit(peft, batches, AdamW(peft), steps=2, progress=False, checkpoint=tmp_path / "c")
    other, batches = peft_problem(**changes)
    before = bits(other)
    kwargs = {"steps": 4, **kwargs}
    optimizer = kwargs.pop("optimizer", AdamW)(other)
    with pytest.raises(FileError, match=message):
        fit(other, batches, optimizer, progress=False, checkpoint=tmp_path / "c", resume=True, **kwargs)
    assert same(bits(other), before)
    assert read_json(tmp_path / "c" / "training.json")["step"] == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda facts: {},
        lambda facts: {k: v for k, v in facts.items() if k != "best_value"},
        lambda facts: {**facts, "step": "two"},
        lambda facts: {**facts, "steps": facts["steps"][:1]},
        lambda facts: {**facts, "evaluations": [[1, 2]]},
        lambda facts: {**facts, "optimizer_steps": None},
    ],
)
def test_a_broken_checkpoint_is_refused_and_changes_nothing(spoil, tmp_path):
    peft, batches = peft_problem()
    optimizer = AdamW(peft)
    fit(peft, batches, optimizer, steps=2, progress=False, checkpoint=tmp_path / "c")
    path = tmp_path / "c" / "training.json"
    write_json(path, spoil(read_json(path)))
    other, batches = peft_problem()
    optimizer, before = AdamW(other), bits(other)
    with pytest.raises(FileError, match=r"training\.json"):
        fit(other, batches, optimizer, steps=4, progress=False, checkpoint=tmp_path / "c", resume=True)
    assert same(bits(other), before)
    assert (optimizer.steps, optimizer.state) == (0, {})


def test_a_checkpoint_without_its_arrays_is_refused(tmp_path):
    peft, batches = peft_problem()
    fit(peft, batches, AdamW(peft), steps=2, progress=False, checkpoint=tmp_path / "c")
    path = tmp_path / "c" / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileError, match="truncated"):
        fit(peft, batches, AdamW(peft), steps=4, progress=False, checkpoint=tmp_path / "c", resume=True)


def test_a_failed_write_leaves_the_checkpoint_of_before(tmp_path, monkeypatch):
    def write(path, arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = Noisy()
    fit(model, problem(), SGD(model, 0.1), steps=2, progress=False, checkpoint=tmp_path / "c")
    monkeypatch.setattr("minipeft.train.state.write_safetensors", write)
    with pytest.raises(FileError, match=r"c: cannot write there \(No space left on device\); make room there"):
        fit(model, problem(), SGD(model, 0.1), steps=4, progress=False, checkpoint=tmp_path / "c", resume=True)
    assert sorted(f.name for f in (tmp_path / "c").iterdir()) == ["training.json", "training.safetensors"]
    assert read_json(tmp_path / "c" / "training.json")["step"] == 2


def test_a_checkpoint_folder_may_hold_foreign_files_and_no_checkpoint(tmp_path):
    (tmp_path / "notes").write_text("mine")
    model = Noisy()
    options = {"steps": 2, "progress": False, "checkpoint": tmp_path, "resume": True}
    assert fit(model, problem(), SGD(model, 0.1), **options).resumed_at == 0
    assert has_checkpoint(tmp_path)
    assert fit(model, problem(), SGD(model, 0.1), **options).resumed_at == 2
    remove_checkpoint(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["notes"]
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_checkpoint_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    model = Noisy()
    before = bits(model)
    with pytest.raises(FileError, match="file is a file; name a folder"):
        fit(model, problem(), SGD(model, 0.1), steps=2, progress=False, checkpoint=tmp_path / "file" / "c")
    assert same(bits(model), before)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "either steps or epochs"),
        ({"steps": 1, "epochs": 1}, "either steps or epochs"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 1, "patience": 2}, "patience needs evaluate"),
        ({"steps": 1, "resume": True}, "checkpoint folder"),
        ({"steps": 1, "checkpoint_every": 1}, "checkpoint folder"),
        ({"steps": 1, "checkpoint_every": 0, "checkpoint": "c"}, "checkpoint_every must be at least 1"),
        ({"steps": 1, "evaluate_every": 0}, "evaluate_every must be at least 1"),
        ({"steps": 1, "shards": 0}, "shards must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit(kwargs, message):
    model = Noisy()
    with pytest.raises(ValueError, match=message):
        fit(model, problem(), SGD(model, 0.1), progress=False, **kwargs)


def test_a_model_whose_parameters_the_optimizer_does_not_hold_is_refused():
    model = Noisy()
    optimizer = SGD(model.two, 0.1)
    with pytest.raises(ValueError, match=r"2 trainable parameters .* the first is 'one.weight'"):
        fit(model, problem(), optimizer, steps=1, progress=False)
    model.one.requires_grad_(False)
    fit(model, problem(), optimizer, steps=1, progress=False)


def test_an_epoch_of_another_length_than_it_says_is_refused():
    class Nine:
        def __len__(self):
            return 9

        def epoch(self, e):
            return problem().epoch(e)

    model = Noisy()
    with pytest.raises(ValueError, match=r"len\(batches\) says 9, but epoch 0 gave 6"):
        fit(model, Nine(), SGD(model, 0.1), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_bar_is_drawn_on_a_terminal_alone(terminal, progress, shown, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stream)
    model = Noisy()
    fit(model, problem(), SGD(model, 0.1), steps=4, progress=progress)
    assert ("4/4" in stream.getvalue()) == shown
    assert shown or not stream.getvalue()


def test_a_batch_that_cannot_be_split_is_refused():
    model, batch = Noisy(), next(iter(problem().epoch(0)))
    with pytest.raises(ValueError, match="one length"):
        backward(model, {**batch, "x": batch["x"][:3]}, shards=2)
    with pytest.raises(ValueError, match="needs the array labels"):
        backward(model, {"x": batch["x"], "labels": batch["labels"].tolist()}, shards=2)


def test_flops_of_all_shards_are_counted(rng):
    model, batch = gpt2(rng)
    with count_flops() as one:
        backward(model, batch)
    with count_flops() as three:
        backward(model, batch, shards=3)
    assert (three.forward, three.backward) == (one.forward, one.backward)
