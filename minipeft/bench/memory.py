"""Peak memory of a training step: each side in a process of its own, PyTorch never loaded beside ours.

GPT-2 small's shape and the teaching size, LoRA and full, against stock and tuned PyTorch + PEFT; beside ours the bytes
that the accounting predicts. Resident memory as the operating system counts it, less what the process had before it
built its model is shown too.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from typing import Any

from minipeft.accounting import memory
from minipeft.bench.step import SHAPES
from minipeft.bench.torch_side import Shape, batch_of, keep_pages, shifted, their_base
from minipeft.models import DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, get_peft_model
from minipeft.train import train_step

CASES = [("gpt2", "lora"), ("gpt2", "full"), ("d64", "lora")]
STEPS = 3


def run() -> list[dict[str, Any]]:
    """One row a case: megabytes at the peak of ours, stock and tuned, and the ratios."""
    rows = []
    for name, mode in CASES:
        with tempfile.TemporaryDirectory() as folder:
            _child(name, "save", "stock", folder)
            ours = _child(name, mode, "ours", folder)
            stock = _child(name, mode, "stock", folder)
            tuned = _child(name, mode, "tuned", folder)
        rows.append(
            {
                "shape": name,
                "mode": mode,
                "ours MB": ours["peak"],
                "stock MB": stock["peak"],
                "tuned MB": tuned["peak"],
                "ours / stock": ours["peak"] / stock["peak"],
                "ours / tuned": ours["peak"] / tuned["peak"],
                "predicted MB": ours["predicted"] + ours["before"],
                "predicted / measured": (ours["predicted"] + ours["before"]) / ours["peak"],
            }
        )
    return rows


def _child(*case: str) -> dict[str, float]:
    command = [sys.executable, "-m", "minipeft.bench.memory", *case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        missing = [line for line in done.stderr.splitlines() if line.startswith("ModuleNotFoundError")]
        if missing:
            raise ModuleNotFoundError(missing[-1], name=missing[-1].split("'")[1].split(".")[0])
        raise RuntimeError(f"the case {case} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak() -> float:
    """Megabytes that this process had at most; Linux counts in kB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def ours(shape: Shape, mode: str, folder: str) -> dict[str, float]:
    """Our steps, in this process."""
    before = peak()
    model: Any = DecoderLM.from_pretrained(folder).train()
    if mode == "lora":
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj"]))
    optimizer = AdamW(model, lr=1e-4)
    ids, labels = batch_of(shape)
    batch = {"ids": ids, "labels": shifted(labels)}
    for _ in range(STEPS):
        train_step(model, batch, optimizer, shards=shape.shards)
    measured = peak()
    loss = model.loss(**batch)
    return {"peak": measured, "before": before, "predicted": memory(model, optimizer, loss).total / 1e6}


def theirs(shape: Shape, mode: str, tuned: bool) -> dict[str, float]:
    """Their steps, in this process."""
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
    return {"peak": peak(), "before": before, "predicted": 0.0}


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
