"""A training step compared with PyTorch eager + PEFT on one processor: same weights, data, threads, no dropout.

Loss and gradients are compared first. Then steps are taken in turn, ours and theirs, and the ratio of each pair kept:
the table has their median and quartiles. The floor is a step's counted FLOPs at the rate that the better library keeps
up in large products, measured between the pairs. `minipeft bench step` runs every case in its own process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting import count_flops
from minipeft.accounting.timing import in_turn
from minipeft.backend import to_numpy
from minipeft.bench import Part, Row
from minipeft.bench.torch_side import TARGETS, Shape, batch_of, both, keep_pages, shifted
from minipeft.optim import AdamW
from minipeft.train import backward, train_step

SHAPES = {
    s.name: s
    for s in (
        Shape("d64", d_model=64, n_layers=2, n_heads=4, vocab_size=256, length=32, threads=1),
        Shape("d256", d_model=256, n_layers=4, n_heads=4, vocab_size=512, length=128, shards=2),
        Shape("gpt2", d_model=768, n_layers=12, n_heads=12, vocab_size=50257, length=128, shards=2),
    )
}
REPEATS = {"d64": 200, "d256": 40, "gpt2": 8}
REST = 0.02  # seconds: OpenMP's threads spin for some milliseconds
PAUSES = 4  # in which the rate of large products is measured
WEIGHTS = {"d64": 1.0, "d256": 2.0, "gpt2": 6.0}  # of a case's time, starting PyTorch included
QUICK = {"d64": 20, "d256": 8}  # shapes and their repeats
CASES = [
    *((s, m, b, 0.0) for s in SHAPES for m in ("lora", "full") for b in ("stock", "tuned")),
    *((s, "lora", "tuned", 0.5) for s in SHAPES),
]


def parts(quick: bool = False) -> list[Part]:
    """Return one part a shape, mode and baseline: the median ratio of our step to theirs with its quartiles."""
    made = []
    for name, mode, baseline, masked in CASES:
        if not quick or (name in QUICK and baseline == "tuned"):
            label = f"{name} {mode} {baseline}{' masked' if masked else ''}"
            repeats = (QUICK if quick else REPEATS)[name]
            made.append(Part(label, partial(in_own_process, name, mode, baseline, masked, repeats), WEIGHTS[name]))
    return made


def in_own_process(*case: Any, module: str = "minipeft.bench.step") -> list[Row]:
    """Return the row of a case, measured in a fresh process, since a tuned allocator stays tuned.

    Raises RuntimeError if the process fails.
    """
    command = [sys.executable, "-m", module, json.dumps(case)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        missing = [line for line in done.stderr.splitlines() if line.startswith("ModuleNotFoundError")]
        if missing:
            raise ModuleNotFoundError(missing[-1], name=missing[-1].split("'")[1].split(".")[0])
        raise RuntimeError(f"the case {case} failed:\n{done.stderr[-2000:]}")
    return [json.loads(done.stdout.splitlines()[-1])]


def measure(name: str, mode: str, baseline: str, masked: float, repeats: int) -> Row:
    """Return the row of one case, measured in this process."""
    import torch
    from threadpoolctl import threadpool_limits

    shape, tuned = SHAPES[name], baseline == "tuned"
    if tuned:
        keep_pages()
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = both(shape, mode, tuned, Path(folder))
    ids, labels = batch_of(shape, masked)
    batch = {"ids": ids, "labels": shifted(labels)}
    torch_ids, torch_labels = torch.tensor(ids), torch.tensor(labels)
    with threadpool_limits(shape.threads, user_api="blas"):
        torch.set_num_threads(shape.threads)
        worst = disagreement(theirs, ours, batch, torch_ids, torch_labels, mode, shape)
        trained = [p for p in theirs.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
        own = AdamW(ours, lr=1e-4, weight_decay=0.01)

        def their_step() -> None:
            optimizer.zero_grad(set_to_none=True)
            theirs(input_ids=torch_ids, labels=torch_labels).loss.backward()
            optimizer.step()

        def our_step() -> None:
            train_step(ours, batch, own, shards=shape.shards)

        products = {"numpy": large_product(np), "torch": large_product(torch)}
        pairs: list[tuple[float, ...]] = []
        rates = []
        for _ in range(PAUSES):
            seconds = in_turn({"ours": our_step, "theirs": their_step}, -(-repeats // PAUSES), unmeasured=1, rest=REST)
            pairs += zip(*seconds.values(), strict=True)
            rates.append(max(map(kept_up, products.values())))
        with count_flops() as flops:
            our_step()
        rate = statistics.median(rates)
    ratios = [a / b for a, b in pairs]
    low, middle, high = quartiles(ratios)
    ours_s = statistics.median(a for a, _ in pairs)
    return {
        "shape": name,
        "mode": mode if not masked else f"{mode}, {masked:.0%} masked",
        "baseline": baseline,
        "ratio": middle,
        "lower quartile": low,
        "upper quartile": high,
        "ours / GEMM floor": ours_s / (flops.total / rate),
        "ours ms": 1e3 * ours_s,
        "theirs ms": 1e3 * statistics.median(b for _, b in pairs),
        "GFLOP": flops.total / 1e9,
        "sgemm GFLOP/s": rate / 1e9,
        "largest disagreement": worst,
        "pairs": len(pairs),
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    a, b, c = np.quantile(values, [0.25, 0.5, 0.75])
    return float(a), float(b), float(c)


def large_product(library: Any, n: int = 1536) -> tuple[Callable[[], Any], int]:
    """Return a product of two float32 matrices n × n by NumPy or PyTorch, and its FLOPs."""
    x: Any = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    if library is not np:
        x = library.tensor(x)
    return lambda: x @ x, 2 * n**3


def kept_up(product: tuple[Callable[[], Any], int], seconds: float = 0.2) -> float:
    """Return the FLOPs a second of the product, repeated for that many seconds: the sustained rate."""
    run, flops = product
    run()
    start, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        run()
        done += 1
    return done * flops / elapsed


def disagreement(theirs: Any, ours: Any, batch: Any, ids: Any, labels: Any, mode: str, shape: Shape) -> float:
    """Return the largest difference of a gradient relative to its largest entry; AssertionError if losses differ."""
    loss = theirs(input_ids=ids, labels=labels).loss
    loss.backward()
    our_loss = backward(ours, batch, shards=shape.shards)
    if abs(our_loss - loss.item()) > 1e-5 * abs(our_loss):
        raise AssertionError(f"the losses differ: ours {our_loss}, theirs {loss.item()}")
    worst = 0.0
    d = shape.d_model
    base = theirs.base_model.model if mode == "lora" else theirs
    model = ours.base_model if mode == "lora" else ours
    for layer, block in zip(model.stack.layers, base.transformer.h, strict=True):
        attention = [getattr(layer.attention, name) for name in TARGETS]
        if mode == "lora":
            c_attn = block.attn.c_attn
            pairs = [(sum(a.lora_A.grad for a in attention), c_attn.lora_A["default"].weight.grad)]
            dB = c_attn.lora_B["default"].weight.grad
            pairs += [(a.lora_B.grad, dB[i * d : (i + 1) * d]) for i, a in enumerate(attention)]
        else:
            dW = block.attn.c_attn.weight.grad
            pairs = [(a.weight.grad, dW[:, i * d : (i + 1) * d].T) for i, a in enumerate(attention)]
            pairs.append((layer.feed_forward.up_proj.weight.grad, block.mlp.c_fc.weight.grad.T))
        for a, b in pairs:
            a, b = to_numpy(a), b.cpu().numpy()
            worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    if worst > 1e-3:
        raise AssertionError(f"the gradients differ by {worst} of their largest entry")
    for p in [*theirs.parameters(), *ours.parameters()]:
        p.grad = None
    return worst


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
