"""What a step gains by reusing memory: a training step with `Buffers` compared with one without, in turn.

PyTorch is not loaded, and each shape has its own process, since whatever other packages have done to the C library's
allocator changes the ratio. A fault is a page of 4 kB that the operating system has to map first.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from minipeft.bench import Part, Row
from minipeft.bench.profile import our_model
from minipeft.bench.step import QUICK, REPEATS, SHAPES, WEIGHTS, in_own_process, quartiles
from minipeft.bench.torch_side import batch_of, shifted
from minipeft.buffers import Buffers
from minipeft.optim import AdamW
from minipeft.train import train_step
from minipeft.train.step import pools

if sys.platform != "win32":
    import resource


class Nothing(Buffers):
    """A pool that is never used: NumPy allocates every array."""

    @contextmanager
    def lent(self) -> Iterator[None]:
        yield


def faults() -> int:
    """Return the pages that this process has been given so far; 0 on Windows, which does not tell."""
    pages = 0
    if sys.platform != "win32":
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return pages


def parts(quick: bool = False) -> list[Part]:
    """Return one part a shape and mode: the ratio of a step with buffers to one without, and the faults of both."""
    shapes = QUICK if quick else REPEATS
    return [
        Part(f"{name} {mode}", partial(in_own_process, name, mode, shapes[name], module=__name__), WEIGHTS[name])
        for name in shapes
        for mode in ("lora", "full")
    ]


def measure(name: str, mode: str, repeats: int) -> Row:
    """Return the row of one shape, measured in this process."""
    from threadpoolctl import threadpool_limits

    shape = SHAPES[name]
    ids, labels = batch_of(shape)
    batch = {"ids": ids, "labels": shifted(labels)}
    model = our_model(shape, mode)
    optimizer = AdamW(model, lr=1e-4)
    kinds = {"with": Buffers(), "without": Nothing()}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    pages: dict[str, list[int]] = {kind: [] for kind in kinds}
    with threadpool_limits(shape.threads, user_api="blas"):
        for i in range(repeats + 2):
            for kind, buffers in kinds.items():
                pools[optimizer] = buffers
                before, start = faults(), time.perf_counter()
                train_step(model, batch, optimizer, shards=shape.shards)
                if i >= 2:
                    seconds[kind].append(time.perf_counter() - start)
                    pages[kind].append(faults() - before)
    low, middle, high = quartiles([a / b for a, b in zip(*seconds.values(), strict=True)])
    return {
        "shape": name,
        "mode": mode,
        "ratio": middle,
        "lower quartile": low,
        "upper quartile": high,
        "ms": 1e3 * quartiles(seconds["with"])[1],
        "ms without": 1e3 * quartiles(seconds["without"])[1],
        "faults": quartiles([float(n) for n in pages["with"]])[1],
        "faults without": quartiles([float(n) for n in pages["without"]])[1],
        "held MB": kinds["with"].held_bytes / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
