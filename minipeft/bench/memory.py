"""Peak memory of a training step: each side has its own process, and minipeft's never loads PyTorch.

GPT-2 small's shape and two smaller ones, LoRA and full, compared with stock and tuned PyTorch + PEFT: the peak of the
whole process's resident memory, loading included.

The table also has the memory of a step as the accounting foresees it and as measured. Measured is the peak of the steps
after the first, which makes the optimizer's state, minus what was resident before the first step without the
parameters: the interpreter, the imported packages, BLAS's memory for each thread, and the remains of loading. Memory
that the C library keeps after it was freed is in the measured peak and not in the foreseen one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import Forecast
from minipeft.backend import in_threads
from minipeft.bench import Part, Row
from minipeft.bench.step import QUICK, SHAPES, WEIGHTS
from minipeft.bench.torch_side import Shape, batch_of, keep_pages, shifted, their_base
from minipeft.models import DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.train import train_step

if sys.platform != "win32":
    import resource

CASES = [("gpt2", "lora"), ("gpt2", "full"), ("d256", "lora"), ("d256", "full"), ("d64", "lora")]
STEPS = 3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def parts(quick: bool = False) -> list[Part]:
    """Return one part a case, with its row: the peak of each side, ratios, and a step as measured and foreseen."""
    peak()  # if it cannot be measured here, say so now
    cases = [case for case in CASES if case[0] in QUICK and case[1] == "lora"] if quick else CASES
    return [Part(f"{name} {mode}", partial(compare, name, mode), WEIGHTS[name]) for name, mode in cases]


def compare(name: str, mode: str) -> list[Row]:
    """Return the row of one case."""
    with tempfile.TemporaryDirectory() as folder:
        _child(name, "save", "stock", folder)
        ours = _child(name, mode, "ours", folder)
        stock = _child(name, mode, "stock", folder)
        tuned = _child(name, mode, "tuned", folder)
    return [
        {
            "shape": name,
            "mode": mode,
            "ours MB": ours["peak"],
            "stock MB": stock["peak"],
            "tuned MB": tuned["peak"],
            "ours / stock": ours["peak"] / stock["peak"],
            "ours / tuned": ours["peak"] / tuned["peak"],
            "before MB": ours["before"],
            "step MB": ours["step"],
            "foreseen MB": ours["foreseen"],
            "foreseen / step": ours["foreseen"] / ours["step"],
        }
    ]


def _child(*case: str) -> dict[str, float]:
    command = [sys.executable, "-m", "minipeft.bench.memory", *case]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        missing = [line for line in done.stderr.splitlines() if line.startswith("ModuleNotFoundError")]
        if missing:
            raise ModuleNotFoundError(missing[-1], name=missing[-1].split("'")[1].split(".")[0])
        raise RuntimeError(f"the case {case} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak() -> float:
    """Return the peak of resident memory in megabytes, since the start or since `forget_peak`; OSError on Windows."""
    if STATUS.exists():
        return _status("VmHWM")
    if sys.platform != "win32":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    raise OSError("the peak of memory cannot be measured on Windows: run this on Linux or macOS")


def resident() -> float:
    """Return the resident memory in megabytes; its peak so far if the system does not tell."""
    return _status("VmRSS") if STATUS.exists() else peak()


def _status(name: str) -> float:
    lines = STATUS.read_text("utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e6


def forget_peak() -> None:
    """Restart the peak from the current memory, if the system can; otherwise it is that of the whole process."""
    try:
        CLEAR.write_text("5", "utf-8")
    except OSError:
        return


def _product(threads: Sequence[Any]) -> None:
    x = np.ones((1024, 1024), dtype=np.float32)
    np.matmul(x, x)


def ours(shape: Shape, mode: str, folder: str) -> dict[str, float]:
    """Take minipeft's steps in this process."""
    in_threads(_product, range(shape.shards), shape.shards)
    model: Any = DecoderLM.from_pretrained(folder).train()
    if mode == "lora":
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj"]))
    optimizer = AdamW(model, lr=1e-4)
    ids, labels = batch_of(shape)
    batch = {"ids": ids, "labels": shifted(labels)}
    before = resident() - sum(p.data.nbytes for p in model.parameters()) / 1e6
    whole = 0.0
    for _ in range(STEPS):
        train_step(model, batch, optimizer, shards=shape.shards)
        if not whole:
            whole = peak()
            forget_peak()
    step = peak()
    foreseen = Forecast(model, optimizer, batch, shape.shards).peak(shape.batch) / 1e6
    return {"peak": max(whole, step), "before": before, "step": step - before, "foreseen": foreseen}


def theirs(shape: Shape, mode: str, tuned: bool) -> dict[str, float]:
    """Take PyTorch's steps in this process."""
    import torch

    if tuned:
        keep_pages()
    before = peak()
    model = their_base(shape, tuned)
    if mode == "lora":
        import peft

        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True)
        model = peft.get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids, labels = (torch.tensor(x) for x in batch_of(shape))
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return {"peak": peak(), "before": before}


def _main(name: str, mode: str, side: str, folder: str) -> None:
    shape = SHAPES[name]
    if mode == "save":
        their_base(shape, tuned=False).save_pretrained(folder)
        result: dict[str, float] = {}
    elif side == "ours":
        result = ours(shape, mode, folder)
    else:
        result = theirs(shape, mode, side == "tuned")
    print(json.dumps(result))


if __name__ == "__main__":
    _main(*sys.argv[1:])
