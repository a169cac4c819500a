"""Times that can be compared: everything in turn, so that what disturbs one disturbs the others as much."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def in_turn(works: Mapping[str, Callable[[], object]], repeats: int, unmeasured: int = 3) -> dict[str, list[float]]:
    """Seconds of each work, ``repeats`` of each, one after the other round by round; the first rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(unmeasured + repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if i >= unmeasured:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """The median of the ratios of times that were taken beside each other."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))
