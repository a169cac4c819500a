"""Measurements, one a file, run by ``minipeft bench NAME``: ratios taken pair by pair, and medians."""

from __future__ import annotations

from typing import Any

BENCHES = {
    "step": "a training step, LoRA and full, beside PyTorch eager + PEFT (needs the extra [parity])",
    "hips": "the same at the teaching size beside HIPS autograd (needs [parity])",
    "profile": "where a LoRA step at GPT-2 small's shape spends its time, by operation, beside the floor",
    "buffers": "a training step in memory that it takes again, beside one in new memory each time",
    "memory": "peak memory of a training step, each side in its own process (needs [parity])",
    "forward": "SmolLM2's forward and cached generation beside transformers' (needs [parity])",
    "memory_saving": "checkpointing and blockwise attention: memory and time beside the default",
    "scaling": "time for each counted FLOP over widths and lengths; the top K layers beside all",
    "latency": "a forward pass with merged LoRA, AdapterL and AdapterH, batch by length",
    "gpu": "a training step beside PyTorch eager + PEFT on one GPU, TF32 off and on (needs [parity] and [gpu])",
    "swap": "switching, disabling, merging and loading adapters, beside a forward pass",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as a table for the terminal; numbers with three significant digits."""
    header = list(rows[0])
    lines = [[_cell(row.get(name)) for name in header] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    numeric = [isinstance(rows[0][name], (int, float)) for name in header]

    def line(cells: list[str]) -> str:
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, lines)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"
    return "" if value is None else str(value)
