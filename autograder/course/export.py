"""Read ``submission_metadata.yml`` of a Gradescope export: who handed in what.

Only lines in the form that Gradescope writes are read, and only the list of submitters that follows a folder's name.
What students may have written, such as the output of their programs, comes later and is not read:

    submission_123:
      :submitters:
      - :name: Jane Doe
        :sid: '0042'
        :email: jane@example.org
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from autograder.feedback.results import clean

METADATA = "submission_metadata.yml"
LONGEST = 200  # characters of a name, a number or an address
LINE, LARGEST = 10_000, 1 << 28  # characters of a line that are read; bytes of the list
ESCAPES = {"n": " ", "t": " ", "r": " ", "0": "", "N": " ", "_": " ", "L": " ", "P": " ", "e": "", "a": "", "b": ""}


@dataclass(frozen=True)
class Student:
    """A student, as far as is known."""

    name: str
    sid: str = ""
    email: str = ""


class ClassError(ValueError):
    """A class cannot be graded as asked; the message says what was expected."""


def submitters(path: Path) -> dict[str, tuple[Student, ...]]:
    """Return the students of each submission of an export by the name of its folder; {} if there is no such list.

    Raises ClassError if the list cannot be read, or names something other than a folder next to it.
    """
    if path.is_symlink() or not path.is_file():
        return {}
    if path.stat().st_size > LARGEST:
        raise ClassError(f"{path} has {path.stat().st_size} bytes; expected at most {LARGEST}: cut it after the names")
    found: dict[str, list[dict[str, str]]] = {}
    students: list[dict[str, str]] = []
    where, field = "", ""  # after a folder's name: "folder"; in its list of submitters: "list"
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            for line in _short(lines):
                if match := re.fullmatch(r"(?![\s#-])(.+?):\s*", line):
                    students = found.setdefault(plain(match[1]), [])
                    where = "folder"
                elif where == "folder" and re.fullmatch(r"\s+:submitters:\s*", line):
                    where = "list"
                elif where == "list" and (match := re.fullmatch(r"\s+- :(\w+):(.*)", line.rstrip("\n"))):
                    field = match[1]
                    students.append({field: match[2].strip()})
                elif where == "list" and students and (match := re.fullmatch(r" {4,}:(\w+):(.*)", line.rstrip("\n"))):
                    field = match[1]
                    students[-1][field] = match[2].strip()
                elif where == "list" and students and re.match(r" {4,}\S", line):
                    students[-1][field] = _folded(students[-1][field], line.strip())
                else:
                    where = ""
    except OSError as error:
        raise ClassError(f"{path} cannot be read: {error.strerror}") from None
    for folder in found:
        if not folder or folder in (".", "..") or re.search(r"[/\\\0]", folder):
            raise ClassError(f"{path} names {folder[:80]!r}: expected the names of folders next to it")
    return {folder: tuple(map(_student, whose)) for folder, whose in found.items()}


def _short(lines: TextIO) -> Iterator[str]:
    """Yield the beginning of every line, whatever its length."""
    fresh = True  # after the end of a line
    while part := lines.readline(LINE):
        if fresh:
            yield part
        fresh = part.endswith("\n")


def _student(fields: dict[str, str]) -> Student:
    values = (clean(" ".join(plain(fields.get(name, "")).split()), LONGEST) for name in ("name", "sid", "email"))
    return Student(*values)


def _folded(before: str, line: str) -> str:
    """Join a value and its continuation in the next line."""
    before = before[:LINE]
    return before[:-1] + line.removeprefix("\\") if before.endswith("\\") else f"{before} {line}"


def plain(text: str) -> str:
    """Return a YAML scalar as text, without its quotes and escapes."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(x\w{2}|u\w{4}|U\w{8}|.)", _unescaped, text[1:-1])
    return "" if text in ("~", "null") else text


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) == 1:
        return ESCAPES.get(code, code)
    try:
        return chr(int(code[1:], 16)).encode("utf-8", "replace").decode()
    except (ValueError, OverflowError):
        return "\N{REPLACEMENT CHARACTER}"
