"""Training: shards, evaluation, early stop, checkpoints, Ctrl-C, and the same bits after a resume."""

import numpy as np
import pytest
from families import FAMILIES, gpt2

import minipeft as mp
from minipeft import nn
from minipeft.data import Batches
from minipeft.files import FileError
from minipeft.optim import SGD, AdamW, LinearSchedule
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.train import TrainingError, backward, fit, train_step


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
    best = fit(
        model, problem(), SGD(model, 0.1), steps=4, evaluate=lambda m: 1.0, evaluate_every=2, higher_is_better=True,
        progress=False,
    ).best_step  # fmt: skip
    assert best == 2


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_first_tensor():
    model = Noisy()

    def poison(m):
        m.two.weight.data[0, 1] = np.nan
        return 0.0

    with pytest.raises(TrainingError, match=r"step 4: the loss became nan; first tensor .*: parameter two.weight"):
        fit(model, problem(), SGD(model, 0.1), steps=9, evaluate=poison, evaluate_every=3, progress=False)
    assert model.training


def test_clipping_limits_the_step():
    model, batch = Noisy(), next(iter(problem().epoch(0)))
    before = bits(model)
    train_step(model, batch, SGD(model, 1.0), max_norm=0.01)
    moved = np.sqrt(sum(((p.data - before[n]) ** 2).sum() for n, p in model.named_parameters()))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_a_checkpoint_holds_the_trained_tensors_alone_and_fits_only_its_own_run(rng, tmp_path):
    from minipeft.files import read_safetensors

    def make(r):
        model, batch = gpt2(np.random.default_rng(0))
        peft = get_peft_model(model, LoraConfig(r=r))
        return peft, Batches(batch, 2)

    peft, batches = make(2)
    fit(peft, batches, AdamW(peft), steps=2, progress=False, checkpoint=tmp_path / "c")
    arrays, _ = read_safetensors(tmp_path / "c" / "training.safetensors")
    assert all("lora" in name for name in arrays)
    assert len(arrays) == 12 * 3
    other, batches = make(3)
    before = bits(other)
    with pytest.raises(FileError, match="other trained tensors"):
        fit(other, batches, AdamW(other), steps=4, progress=False, checkpoint=tmp_path / "c", resume=True)
    assert same(bits(other), before)
    peft, batches = make(2)
    with pytest.raises(FileError, match="optimizer 'AdamW', this run 'SGD'"):
        fit(peft, batches, SGD(peft, 0.1), steps=4, progress=False, checkpoint=tmp_path / "c", resume=True)
    with pytest.raises(FileError, match="seed"):
        fit(peft, batches, AdamW(peft), steps=4, seed=5, progress=False, checkpoint=tmp_path / "c", resume=True)
    (tmp_path / "c" / "training.json").write_text("{}")
    with pytest.raises(FileError, match=r"training\.json"):
        fit(peft, batches, AdamW(peft), steps=4, progress=False, checkpoint=tmp_path / "c", resume=True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "either steps or epochs"),
        ({"steps": 1, "epochs": 1}, "either steps or epochs"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 1, "patience": 2}, "patience needs evaluate"),
        ({"steps": 1, "resume": True}, "checkpoint folder"),
        ({"steps": 1, "shards": 0}, "shards must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit(kwargs, message):
    model = Noisy()
    with pytest.raises(ValueError, match=message):
        fit(model, problem(), SGD(model, 0.1), progress=False, **kwargs)
