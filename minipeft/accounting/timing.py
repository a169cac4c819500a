"""Times that can be compared: everything in turn, so that what disturbs one disturbs the others as much."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def seconds_of(work: Callable[[], object], rest: float = 0.0) -> float:
    """Return the seconds of a call, after a rest of so many seconds."""
    time.sleep(rest)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(
    works: Mapping[str, Callable[[], object]], repeats: int, unmeasured: int = 3, rest: float = 0.0
) -> dict[str, list[float]]:
    """Return the seconds of each work, ``repeats`` of each, taken one after the other round by round.

    Args:
        works: what to time, by name.
        repeats: how many rounds count.
        unmeasured: how many rounds come before those.
        rest: seconds of rest before each call. Without it, threads of OpenMP that wait for more work by spinning would
            take the processor from the next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(unmeasured + repeats):
        for name, work in works.items():
            took = seconds_of(work, rest)
            if i >= unmeasured:
                seconds[name].append(took)
    return seconds


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the median of the ratios of times that were taken next to each other."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))
