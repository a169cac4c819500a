"""A derivation beside the code: each formula next to the line of the library that computes it."""

from __future__ import annotations

import inspect
from typing import Any


class Derivation(str):
    """A Markdown table of formulas and lines of code."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return str(self)


def derivation(of: Any, *steps: tuple[str, str] | tuple[str, str, str]) -> Derivation:
    """A table with a row for each step: (formula in LaTeX, line of code), or with a third text that says why.

    of: the function, method or class of the library that the lines stand in. Raises ValueError for a line that does not
    stand there, and for lines that come in another order than there, so that the two columns cannot drift apart.
    """
    lines = [line.split("  # ")[0].strip() for line in inspect.getsource(of).splitlines()]
    rows, start = [], 0
    for formula, code, *why in steps:
        if code not in lines[start:]:
            known = "comes earlier in" if code in lines else "is no line of"
            raise ValueError(f"{code!r} {known} {of.__qualname__}; quote its lines, in their order")
        start = lines.index(code, start) + 1
        rows.append((f"${formula}$", f"`{code}`", *why))
    header = ("formula", f"line of `{of.__qualname__}`", "because")[: max(map(len, rows))]
    cells = [header, ("---",) * len(header), *(row + ("",) * (len(header) - len(row)) for row in rows)]
    return Derivation("\n".join("| " + " | ".join(row) + " |" for row in cells))
