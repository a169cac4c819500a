"""Training on a device: one wait a step, few uploads, the same as on the CPU; resumed, saved and loaded there."""

import emulate
import numpy as np
import pytest
import strict
from devices import available, comparison

import minipeft as mp
from minipeft import models as M
from minipeft.backend import device_of, to_numpy
from minipeft.data import Batches
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, PeftModel, get_peft_model
from minipeft.train import fit, train_step


def small(seed=0):
    config = M.DecoderConfig.gpt2(vocab_size=31, d_model=12, n_layers=2, n_heads=3, context=16)
    return M.DecoderLM(config, rng=seed)


def prepared(mode, device):
    model = small()
    if mode == "lora":
        model = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear"))
    model.to(np.float64 if device != "strict" else np.float32).to(device)
    return model, AdamW(model, lr=1e-3, weight_decay=0.1)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_training_step_waits_for_the_device_once_and_does_what_the_cpu_does(mode, other_device, rng):
    ids = rng.integers(0, 31, (3, 7))
    batch = {"ids": ids, "labels": np.where(ids > 3, ids, -100), "mask": np.arange(7) < np.array([[7], [4], [7]])}
    trained = []
    for device in ("cpu", other_device):
        model, optimizer = prepared(mode, "strict" if other_device == "strict" else device)
        model.to(device)
        losses = []
        for max_norm in (0.05, None, 100.0):
            strict.Syncs.count = strict.Syncs.sizes = 0
            losses.append(train_step(model, batch, optimizer, max_norm=max_norm))
            if device in ("strict", "emulated"):
                assert strict.Syncs.count == 1  # loss and norm together
            if device == "emulated":  # without kernels, rows that are met twice are counted
                assert strict.Syncs.sizes == 0
        assert all(device_of(x) == device for slots in optimizer.state.values() for x in slots.values())
        trained.append([np.array(losses), *(to_numpy(p.data) for p in optimizer.params.values())])
    assert trained[0][0][2] < trained[0][0][0]
    for a, b in zip(*trained, strict=True):
        comparison(other_device)(b, a, rtol=1e-7, atol=1e-9)


def test_a_step_on_a_gpu_takes_one_launch_for_all_parameters_and_a_few_uploads(rng):
    with available("emulated"):
        counts = []
        for n_layers in (1, 3):
            config = M.DecoderConfig.gpt2(vocab_size=31, d_model=12, n_layers=n_layers, n_heads=3, context=16)
            model = M.DecoderLM(config).to("emulated")
            optimizer = AdamW(model, lr=1e-3)
            batch = {"ids": rng.integers(0, 31, (2, 5)), "labels": rng.integers(0, 31, (2, 5))}
            for _ in range(2):
                emulate.device.launches.clear()
                strict.Syncs.uploads = 0
                train_step(model, batch, optimizer, max_norm=1e-6)
            for name in ("adamw", "squares", "scale"):
                assert emulate.device.launches.count(name) == 1
            counts.append(strict.Syncs.uploads)
        assert counts[0] == counts[1] == 7  # ids, positions, rows with labels, labels; addresses for three kernels


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_no_operand_of_a_product_is_copied_in_a_step(mode, rng, monkeypatch):
    with available("emulated"):
        model, optimizer = prepared(mode, "emulated")
        ids = rng.integers(0, 31, (2, 5))
        refuse = lambda *_, **__: pytest.fail("an operand was copied")  # noqa: E731
        monkeypatch.setitem(vars(strict.strict_xp), "ascontiguousarray", refuse)
        train_step(model, {"ids": ids, "labels": ids}, optimizer)
        assert emulate.device.launches.count("gemm_batched") == 6 * 2  # two a layer forward, four backward


def test_shards_are_refused_on_a_gpu(gpu, rng):
    model, optimizer = prepared("lora", gpu)
    ids = rng.integers(0, 31, (4, 5))
    with pytest.raises(ValueError, match="on a GPU a batch stays whole: shards=1, not 2"):
        train_step(model, {"ids": ids, "labels": ids}, optimizer, shards=2)


def test_a_run_on_a_device_is_resumed_to_the_same_bits(device, tmp_path, rng):
    ids = rng.integers(0, 31, (8, 6))
    batches = Batches({"ids": ids, "labels": ids}, 2)
    results = []
    for stops in ((6,), (3, 6)):
        folder = tmp_path / str(len(stops))
        for steps in stops:
            model, optimizer = prepared("lora", device)
            fit(model, batches, optimizer, steps=steps, checkpoint=folder, resume=True, max_norm=1.0, progress=False)
        results.append({name: to_numpy(p.data) for name, p in optimizer.params.items()})
    for name, x in results[0].items():
        assert np.array_equal(x, results[1][name]), name


def test_an_adapter_is_saved_from_a_device_and_loaded_on_it(device, tmp_path, rng):
    model, optimizer = prepared("lora", device)
    ids = rng.integers(0, 31, (4, 5))
    train_step(model, {"ids": ids, "labels": ids}, optimizer)
    with mp.no_grad():
        expected = to_numpy(model(ids).data)
    model.save_pretrained(tmp_path / "adapter")
    base = small().to(np.float64 if device != "strict" else np.float32).to(device)
    again = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert all(device_of(p.data) == device for p in again.parameters())
    with mp.no_grad():
        np.testing.assert_allclose(to_numpy(again(ids).data), expected, rtol=1e-5, atol=1e-6)
