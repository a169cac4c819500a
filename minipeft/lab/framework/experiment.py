"""What an experiment of the lecture is: a claim, what was published, a grid of runs, and a verdict from the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Config = dict[str, Any]  # one run: plain JSON values
Row = dict[str, Any]  # one finished run: its config, and what came out
MODES = ("quick", "full")
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided at this size"


@dataclass(frozen=True)
class Published:
    """A table of the lecture or of a paper. read: its figures were seen in a text; otherwise they are remembered."""

    title: str
    source: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    read: bool = True


@dataclass(frozen=True)
class Table:
    """What an experiment shows: cells are texts, or numbers for three significant digits."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """A claim, and what these rows say of it, with the figures."""

    claim: str
    outcome: str
    because: str

    def __post_init__(self) -> None:
        if self.outcome not in (REPRODUCED, NOT_REPRODUCED, UNDECIDED):
            raise ValueError(f"a verdict is one of {(REPRODUCED, NOT_REPRODUCED, UNDECIDED)}, got {self.outcome!r}")


def no_preparation(mode: str, folder: Path) -> None:
    """Do nothing: for an experiment that needs no preparation."""


@dataclass(frozen=True)
class Experiment:
    """One experiment of the lecture.

    runs(mode, rows): every run that is known to be needed, given the finished rows (a choice made on validation rows
    brings its test runs): asked again until nothing is missing. run(config, folder): one run; what it returns depends
    on the config alone. prepare(mode, folder): what all runs share (a pretrained model), made once. tables, verdicts:
    from the rows. draw(rows, stem): figures, through ``plots.py``; their captions by path.
    """

    name: str
    title: str
    claim: str
    runs: Callable[[str, Sequence[Row]], list[Config]]
    run: Callable[[Config, Path], Mapping[str, Any]]
    tables: Callable[[Sequence[Row]], list[Table]]
    verdicts: Callable[[Sequence[Row]], list[Verdict]]
    draw: Callable[[Sequence[Row], Path], Mapping[Path, str]] | None = None
    prepare: Callable[[str, Path], None] = no_preparation
    published: tuple[Published, ...] = ()
    data: str = ""
    needs: tuple[str, ...] = field(default=())  # what `minipeft fetch` must get first


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the rows whose entries have the wanted values."""
    return [r for r in rows if all(r.get(k) == v for k, v in wanted.items())]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation over seeds (0 for one)."""
    from statistics import fmean, stdev

    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def percent(values: Sequence[float]) -> str:
    """Return mean ± standard deviation of shares, in percent."""
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


def outcome(yes: bool, no: bool | None = None) -> str:
    """Return REPRODUCED if yes, NOT_REPRODUCED if no (by default: if not yes), and UNDECIDED if neither."""
    return REPRODUCED if yes else NOT_REPRODUCED if no or no is None else UNDECIDED


def above(a: Sequence[float], b: Sequence[float] | float, margin: float = 0.0) -> str:
    """Return whether the mean of a is above that of b less ``margin``, by two standard errors of their difference.

    b: a number has no error. Too few values (one in a group) are undecided.
    """
    groups = [(*mean_and_spread(g), len(g)) for g in (a, b) if not isinstance(g, (int, float))]
    other = b if isinstance(b, (int, float)) else groups[1][0]
    error = 2 * sum(s * s / n for _, s, n in groups) ** 0.5
    gap = groups[0][0] - other + margin
    enough = min(n for *_, n in groups) > 1
    return outcome(enough and gap > error, enough and gap < -error)


def decided(difference: float, p: float, level: float) -> str:
    """Return whether a difference is above 0, undecided if its p-value is not below ``level``."""
    return outcome(p < level and difference > 0, p < level and difference < 0)


def all_of(outcomes: Sequence[str]) -> str:
    """Return REPRODUCED if all are, and NOT_REPRODUCED if one is not."""
    return outcome(set(outcomes) == {REPRODUCED}, NOT_REPRODUCED in outcomes)


def chosen(rows: Sequence[Row], knob: str, score: str = "value", higher_is_better: bool = True) -> Any:
    """Return the value of ``knob`` with the best mean of ``score``; values with a diverged run (None) are out.

    Raises ValueError where every value diverged.
    """
    means = {}
    for value in dict.fromkeys(r[knob] for r in rows):
        scores = [r[score] for r in rows if r[knob] == value]
        if None not in scores:
            means[value] = mean_and_spread(scores)[0]
    if not means:
        raise ValueError(f"every value of {knob} diverged: {sorted({r[knob] for r in rows})}")
    return (max if higher_is_better else min)(means, key=lambda v: means[v])


def tuned(tuning: Sequence[Config], rows: Sequence[Row], knob: str, higher_is_better: bool = True) -> Any:
    """Return the value of ``knob`` that `chosen` picks among the runs ``tuning``, or None until all have finished."""
    done = [r for c in tuning for r in select(rows, **c)]
    return chosen(done, knob, higher_is_better=higher_is_better) if len(done) == len(tuning) else None
