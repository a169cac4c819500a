"""Logs of finished work: one JSON object a line, appended as it is finished, so that a kill loses nothing before it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minipeft.files.errors import FileError


def append_row(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append a row to a log and wait until it is on the disk; on any exception the log stays as it was.

    A last line that a kill cut off is ended first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        left = memoryview((b"" if file.read(1) in (b"", b"\n") else b"\n") + json.dumps(row).encode() + b"\n")
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


def read_rows(path: str | Path, *fields: str) -> list[dict[str, Any]]:
    """Return the rows of a log that have the given fields; a line that a kill cut off is left out.

    A log that does not exist has no rows. Raises FileError for a file whose lines are something else.
    """
    path = Path(path)
    rows, foreign = [], False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            foreign = foreign or not line.startswith("{")
            continue
        if isinstance(row, dict) and all(name in row for name in fields):
            rows.append(row)
        else:
            foreign = True
    if foreign and not rows:
        raise FileError(f"{path}: expected a log with {', '.join(fields)} in each line; name another folder")
    return rows
