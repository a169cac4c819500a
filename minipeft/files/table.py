"""Texts in columns, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


class Columns:
    """Columns as wide as their widest text; those in ``right`` are aligned at the right."""

    def __init__(self, lines: Sequence[Sequence[str]], right: Sequence[bool]):
        self.widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        self.right = right

    def line(self, cells: Sequence[str]) -> str:
        """Return the line of these cells."""
        columns = zip(cells, self.widths, self.right, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip()

    def rule(self) -> str:
        """Return the rule below the header."""
        return "  ".join("-" * w for w in self.widths)


def columns(header: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Return a table: the header, a rule, and the lines."""
    table = Columns([header, *lines], right)
    return "\n".join([table.line(header), table.rule(), *map(table.line, lines)])
