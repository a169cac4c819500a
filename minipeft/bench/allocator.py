"""What a step gains where the C library keeps freed memory: a step with `keep_freed_memory` over one without.

Each has its own process, since a setting of the allocator cannot be taken back; pairs of processes alternate. PyTorch
is not loaded. A fault is a page of 4 kB that the operating system has to map first.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

from minipeft.backend import keep_freed_memory
from minipeft.bench import Part, Row
from minipeft.bench.profile import our_model
from minipeft.bench.step import QUICK, REPEATS, SHAPES, WEIGHTS, in_own_process, quartiles
from minipeft.bench.torch_side import batch_of, shifted
from minipeft.optim import AdamW
from minipeft.train.shards import backward

PAIRS = 3


def parts(quick: bool = False) -> list[Part]:
    """Return one part a shape and mode: the ratio of a step with kept memory to one without, and the faults of both."""
    shapes = QUICK if quick else REPEATS
    return [
        Part(f"{name} {mode}", partial(compared, name, mode, shapes[name]), WEIGHTS[name])
        for name in shapes
        for mode in ("lora", "full")
    ]


def compared(name: str, mode: str, repeats: int) -> list[Row]:
    """Return the row of one shape: medians over pairs of processes."""
    one = partial(in_own_process, name, mode, module=__name__)
    pairs = [(*one(True, repeats), *one(False, repeats)) for _ in range(PAIRS)]
    low, middle, high = quartiles([a["ms"] / b["ms"] for a, b in pairs])
    row: Row = {"shape": name, "mode": mode, "ratio": middle, "lower quartile": low, "upper quartile": high}
    for which, rows in zip(("", " without"), zip(*pairs, strict=True), strict=True):
        row |= {f"{key}{which}": quartiles([r[key] for r in rows])[1] for key in ("ms", "faults", "peak MB")}
    return [row]


def measure(name: str, mode: str, keep: bool, repeats: int) -> Row:
    """Return the milliseconds and faults of a step in this process, and its largest resident size."""
    from threadpoolctl import threadpool_limits

    shape = SHAPES[name]
    ids, labels = batch_of(shape)
    batch = {"ids": ids, "labels": shifted(labels)}
    model = our_model(shape, mode)
    optimizer = AdamW(model, lr=1e-4)
    if keep and not keep_freed_memory():
        raise RuntimeError("bench allocator needs Linux with glibc, and an environment without MALLOC_ settings")
    seconds, pages = [], []
    with threadpool_limits(shape.threads, user_api="blas"):
        for _ in range(repeats + 2):
            before, start = usage()[0], time.perf_counter()
            optimizer.zero_grad()
            backward(model, batch, shape.shards)
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            pages.append(float(usage()[0] - before))
    faults = quartiles(pages[2:])[1]
    return {"ms": 1e3 * quartiles(seconds[2:])[1], "faults": faults, "peak MB": usage()[1] * 1024 / 1e6}


def usage() -> tuple[int, int]:
    """Return the pages that this process has been given so far, and its largest resident size in kB; 0 off Linux."""
    pages = size = 0
    if sys.platform == "linux":
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        pages, size = used.ru_minflt, used.ru_maxrss
    return pages, size


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
