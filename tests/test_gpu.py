"""What a GPU is asked for beside its kernels: that it is there, TF32, its memory's peak; and the command line on it."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from devices import available
from tiny_gguf import small_llama, write_llama

import minipeft as mp
from minipeft.accounting.peak import memory_of
from minipeft.backend import arrays, cuda
from minipeft.cli import main
from minipeft.files import read_safetensors

TRAIN = ["--steps", "4", "--batch-size", "2", "--length", "12", "--r", "2"]


class FakeError(Exception):
    pass


def fake_cupy(devices=1, version="14.2.0", capability="90"):
    """As much of CuPy as `minipeft.backend.cuda` asks, to see what it asks for."""
    compute = {"type": 1}
    math_mode = []

    def count():
        if devices is None:
            raise FakeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return devices

    class Pool:
        used, total, freed = 100, 512, 0

        def used_bytes(self):
            return self.used

        def total_bytes(self):
            return self.total

        def free_all_blocks(self):
            self.freed += 1

    hooks = []

    class Hook:
        def __enter__(self):
            hooks.append(self)

        def __exit__(self, *_):
            hooks.remove(self)

    pool = Pool()
    properties = {"name": b"Card", "major": 9, "minor": 0, "totalGlobalMem": 2**30}
    handle = SimpleNamespace(get_cublas_handle=lambda: "handle")
    return SimpleNamespace(
        __version__=version,
        ndarray=type("ndarray", (), {}),
        asarray=None,
        asnumpy=None,
        compute=compute,
        math_mode=math_mode,
        pool=pool,
        hooks=hooks,
        get_default_memory_pool=lambda: pool,
        _core=SimpleNamespace(
            set_compute_type=lambda dtype, kind: compute.update(type=kind),
            get_compute_type=lambda dtype: compute["type"],
        ),
        cuda=SimpleNamespace(
            runtime=SimpleNamespace(
                CUDARuntimeError=FakeError, getDeviceCount=count, getDeviceProperties=lambda index: properties
            ),
            Device=lambda: SimpleNamespace(compute_capability=capability, id=0),
            device=handle,
            cublas=SimpleNamespace(setMathMode=lambda handle, mode: math_mode.append(mode)),
            MemoryHook=Hook,
        ),
    )


def without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(arrays._by_name, "cuda", raising=False)


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (None, r"needs CuPy 14 or newer; run `pip install -e \"\.\[gpu\]\"` in "),
        (fake_cupy(version="13.6.0"), r"needs CuPy 14 or newer, which keeps float32; found 13\.6\.0"),
        (fake_cupy(devices=None), r"CUDA finds no GPU \(cudaErrorNoDevice.*\); use device \"cpu\""),
        (fake_cupy(devices=0), r"CUDA finds no GPU; use device \"cpu\""),
    ],
)
def test_what_is_missing_for_a_gpu_is_said(cupy, message, monkeypatch):
    without_cupy(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for ask in (cuda.library, lambda: mp.to_device(np.ones(2), "cuda"), mp.allow_tf32, cuda.describe):
        with pytest.raises(mp.NoGpuError, match=message):
            ask()
    with pytest.raises(mp.NoGpuError, match=message), mp.accounting.peak_memory():
        pass


def test_tf32_is_off_until_it_is_asked_for_and_set_for_both_kinds_of_products(monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert not cuda.tf32_allowed()
    mp.allow_tf32()
    assert cuda.tf32_allowed()
    assert cupy.math_mode == [3]
    mp.allow_tf32(False)
    assert not cuda.tf32_allowed()
    assert cupy.math_mode == [3, 0]
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(capability="75"))
    mp.allow_tf32(False)
    with pytest.raises(ValueError, match=r"compute capability 8\.0 or above, this one has 7\.5"):
        mp.allow_tf32()


def test_the_peak_of_the_pool_follows_its_allocations(monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with mp.accounting.peak_memory() as memory:
        (hook,) = cupy.hooks
        for n in (512, 1024):
            hook.malloc_postprocess(device_id=0, size=n - 1, mem_size=n, mem_ptr=1, pmem_id=1)
        hook.free_postprocess(device_id=0, mem_size=1024, mem_ptr=1, pmem_id=1)
        hook.malloc_postprocess(device_id=0, size=1, mem_size=512, mem_ptr=1, pmem_id=1)
        cupy.pool.total = 4096
    assert (memory.used, memory.peak, memory.held) == (100 + 1024, 100 + 1536, 4096)
    assert cupy.hooks == []
    cuda.free_memory()
    assert cupy.pool.freed == 1


def test_a_forecast_reads_the_peak_of_the_pool_since_it_was_last_read(monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with memory_of("cuda") as lap:
        (hook,) = cupy.hooks
        assert lap() == (100, 100)
        hook.malloc_postprocess(device_id=0, size=1024, mem_size=1024, mem_ptr=1, pmem_id=1)
        hook.free_postprocess(device_id=0, mem_size=512, mem_ptr=1, pmem_id=1)
        assert lap() == (612, 1124)
        assert lap() == (612, 612)
    assert cupy.hooks == []


def test_info_describes_the_gpu(monkeypatch, capsys):
    from minipeft.cli import info

    monkeypatch.setattr(info, "installed", lambda name: "14.2.0")
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    assert main(["info"]) == 0
    assert "gpu          Card (9.0), 1.0 GiB; pool: 100 B of 512 B used; TF32 off" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(devices=0))
    assert main(["info", "--json"]) == 0
    assert "finds no GPU" in json.loads(capsys.readouterr().out)["gpu"]


@pytest.fixture
def llama(tmp_path):
    return write_llama(small_llama(), tmp_path / "llama.gguf")


@pytest.mark.parametrize(
    "command", [["generate", "hello", "--model", "MODEL"], ["train", "--model", "MODEL"], ["compare", "--quick"]]
)
def test_a_missing_gpu_is_one_line_and_nothing_is_begun(command, llama, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    without_cupy(monkeypatch)
    for more, message in (
        (["--device", "cuda"], 'device "cuda" needs CuPy 14 or newer; run `pip install'),
        (["--device", "tpu"], "--device: unknown device 'tpu'; expected one of"),
        (["--tf32"], "--tf32: TF32 needs a GPU; add --device cuda"),
    ):
        assert main([str(llama) if a == "MODEL" else a for a in command] + more) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [llama.name]


def test_a_benchmark_of_a_gpu_without_one_is_one_line(monkeypatch, capsys):
    pytest.importorskip("torch")
    without_cupy(monkeypatch)
    assert main(["bench", "gpu"]) == 2
    err = capsys.readouterr().err
    assert err.startswith('minipeft bench: bench gpu: device "cuda" needs CuPy 14')
    assert err.count("\n") == 1


def test_generating_and_training_from_the_command_line_on_a_device(gpu, llama, tmp_path, capsys):
    text = tmp_path / "prose.txt"
    text.write_text("hello hell, the bell fell well. " * 60)
    made = {}
    for device in ("cpu", gpu):
        with available(device):
            out = tmp_path / device
            command = ["train", "--model", str(llama), "--data", str(text), "--out", str(out), *TRAIN]
            assert main([*command, "--device", device, "--json"]) == 0
            report = json.loads(capsys.readouterr().out)
            command = ["generate", "--model", str(llama), "--adapter", str(out), "--max-new-tokens", "5", "hello"]
            assert main([*command, "--device", device, "--json"]) == 0
            made[device] = report, json.loads(capsys.readouterr().out)["ids"]
    (cpu, ids), (other, other_ids) = made.values()
    np.testing.assert_allclose(other["losses"], cpu["losses"], rtol=1e-4)
    assert other_ids == ids
    name = "adapter_model.safetensors"
    saved = [read_safetensors(tmp_path / d / name)[0] for d in ("cpu", gpu) if (tmp_path / d / name).exists()]
    assert [set(s) for s in saved[1:]] == [set(saved[0])]


@pytest.mark.slow
def test_comparing_on_a_device(gpu, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    from dataclasses import replace

    from minipeft.lab.experiments import compare as lab
    from minipeft.lab.framework import tasks

    splits = tasks._digit_splits()
    monkeypatch.setattr(tasks, "_digit_splits", lambda: tuple(part[:330] for part in splits))  # launches are slow here
    task = lab.TASKS["digits"]
    methods = {name: task.methods[name] for name in ("full", "LoRA")}
    budget = replace(lab.quick(task.budget), steps=2)
    monkeypatch.setitem(lab.TASKS, "digits", replace(task, methods=methods))
    row = lab.run(lab.Run("digits", "LoRA", 1e-3, 0, "val", 2), pretrained(task, tmp_path), gpu)
    assert 0.0 <= row["value"] <= 1.0
    assert lab.cost(task, "LoRA", pretrained(task, tmp_path), gpu) == lab.cost(task, "LoRA", tmp_path / "base")
    assert budget.steps == 2


def pretrained(task, folder):
    from minipeft.lab.framework.tasks import DIGITS
    from minipeft.models import ViT

    if not (folder / "base").exists():
        ViT(DIGITS).save_pretrained(folder / "base")
    return folder / "base"
