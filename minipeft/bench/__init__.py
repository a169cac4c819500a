"""Measurements, one a file, run by ``minipeft bench NAME``: ratios taken pair by pair, and medians.

Each module has ``parts(quick)``: what it measures, in the order in which the rows are printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from minipeft.files.table import Columns

Row = dict[str, Any]


class Part(NamedTuple):
    """One part of a measurement.

    label: what is measured, for the progress bar.
    measure: measures it and returns its rows.
    weight: about how long it takes, compared with the other parts.
    """

    label: str
    measure: Callable[[], Iterable[Row]]
    weight: float = 1.0


BENCHES = {
    "step": "a training step, LoRA and full, compared with PyTorch eager + PEFT (needs the extra [parity])",
    "hips": "the same at the teaching size, compared with HIPS autograd (needs [parity])",
    "profile": "where a LoRA step at GPT-2 small's shape spends its time, by operation, and its lower bound",
    "allocator": "a training step where the C library keeps freed memory, compared with one where it does not",
    "memory": "peak memory of a training step, each side in its own process (needs [parity])",
    "forward": "SmolLM2's forward and cached generation, compared with transformers (needs [parity])",
    "memory_saving": "checkpointing and blockwise attention: memory and time, compared with the default",
    "scaling": "time per counted FLOP over widths and lengths; the top K layers compared with all",
    "latency": "a forward pass with merged LoRA, AdapterL and AdapterH, by batch and length",
    "gpu": "a training step compared with PyTorch eager + PEFT on one GPU, TF32 off and on (needs [parity] and [gpu])",
    "swap": "switching, disabling, merging and loading adapters, compared with a forward pass",
}

NUMBER = len("1.23e-05")  # characters of the longest float


class Table:
    """Rows with the same keys as lines of text that can be printed one by one.

    Columns are as wide as the rows that were given at first need; ``slack`` leaves room for wider ones.
    """

    def __init__(self, rows: Iterable[Row], slack: int = 0):
        rows = list(rows)
        self.header = list(rows[0])
        lines = [[_cell(row.get(name)) for name in self.header] for row in rows]
        self.numeric = [isinstance(value, (int, float)) for value in rows[0].values()]
        self.columns = Columns([self.header, *lines], self.numeric)
        if slack:
            widths = zip(self.columns.widths, self.numeric, strict=True)
            self.columns.widths = [max(w, NUMBER if n else w + slack) for w, n in widths]

    def head(self) -> str:
        """Return the names of the columns and a rule below them."""
        return f"{self.columns.line(self.header)}\n{self.columns.rule()}"

    def line(self, row: Row) -> str:
        """Return the line of a row; numbers have three significant digits."""
        return self.columns.line([_cell(row.get(name)) for name in self.header])


def table(rows: list[Row]) -> str:
    """Return rows with the same keys as a table for the terminal; numbers have three significant digits."""
    made = Table(rows)
    return "\n".join([made.head(), *map(made.line, rows)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"
    return "" if value is None else str(value)
