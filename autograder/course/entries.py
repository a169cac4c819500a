"""List what a class handed in. Every entry of a folder is a submission, whatever it is.

Three kinds are skipped and named: what systems leave behind (``.DS_Store``, ``Thumbs.db``, ``__MACOSX``, …), the list
of a Gradescope export, and the folder of the grades.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autograder.course.export import METADATA, ClassError, Student, submitters
from autograder.homeworks.homework import Homework
from autograder.submission.intake import IntakeError, content, left_by_system, readable_name

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}  # on Windows
LONGEST_ID = 64
DIGITS = (8, 16, 32, 64)  # of a digest, as many as keep the ids apart
SUFFIX = re.compile(r"(\.tar)?\.(7z|[A-Za-z][A-Za-z0-9]{0,5})\Z")


@dataclass(frozen=True)
class Entry:
    """A submission: its id, which names its pages on every platform, its place, and the students who handed it in."""

    id: str
    path: Path
    students: tuple[Student, ...]

    @property
    def file(self) -> str:
        """Return its name in the folder as text."""
        return readable_name(self.path.name)

    @property
    def name(self) -> str:
        """Return the names of its students, or its name in the folder if none is known."""
        return ", ".join(s.name for s in self.students if s.name) or self.file


def entries(folder: Path, out: Path | None = None) -> tuple[list[Entry], list[str]]:
    """Return the submissions of a folder or of a Gradescope export in the order of their ids, and the names skipped.

    A folder that only the export's list names is a submission, too: a missing one. out: the folder of the grades.
    Raises ClassError if there is no submission, or if the export's list cannot be read.
    """
    if not folder.is_dir():
        raise ClassError(
            f"{folder} is not a folder; expected a folder with a folder, a zip or a file for each submission"
        )
    known = submitters(folder / METADATA)
    try:
        with os.scandir(folder) as found:
            folders = {e.name: e.is_dir(follow_symlinks=False) for e in found}
    except OSError as error:
        raise ClassError(f"{folder} cannot be read: {error.strerror}") from None
    own = os.path.realpath(out) if out else ""
    skipped = [
        n for n in folders if left_by_system(n) or (known and n == METADATA) or os.path.realpath(folder / n) == own
    ]
    stems = {n: n if is_folder else _stem(n) for n, is_folder in folders.items() if n not in skipped}
    stems |= {n: n for n in known if n not in stems.values()}
    if not stems:
        skips = f" (skipped: {', '.join(map(readable_name, sorted(skipped)))})" if skipped else ""
        raise ClassError(f"{folder} holds no submission{skips}")
    ids = identify(stems)
    whose = {n: known.get(s) or (Student(unicodedata.normalize("NFC", readable_name(s))),) for n, s in stems.items()}
    return (
        sorted((Entry(ids[n], folder / n, whose[n]) for n in stems), key=lambda e: e.id),
        sorted(map(readable_name, skipped)),
    )


def _stem(name: str) -> str:
    """Return a file's name without its suffix."""
    return SUFFIX.sub("", name) or name


def identify(stems: Mapping[str, str]) -> dict[str, str]:
    """Return an id for each name: its stem if that is a safe file name on every platform, else a part and a digest.

    No two ids differ only in capitals.
    """
    plain = {name: _slug(stem) for name, stem in stems.items()}
    ids = {n: plain[n] if plain[n] == stems[n] else f"{plain[n]}-{_digest(n, DIGITS[0])}" for n in stems}
    for digits in DIGITS:
        counts = Counter(i.casefold() for i in ids.values())
        clash = [n for n, i in ids.items() if counts[i.casefold()] > 1]
        ids |= {n: f"{plain[n]}-{_digest(n, digits, exact=True)}" for n in clash}
    return ids


def _slug(stem: str) -> str:
    """Return the letters, digits, ``-``, ``_``, ``.`` and ``@`` of a name: ``Müller`` becomes ``Muller``."""
    letters = unicodedata.normalize("NFKD", stem)
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    slug = re.sub(r"[^A-Za-z0-9_.@-]+", "_", letters)[:LONGEST_ID].strip("-_.@") or "submission"
    return f"file_{slug}" if slug.partition(".")[0].casefold() in RESERVED else slug


def _digest(name: str, digits: int, exact: bool = False) -> str:
    """Return a hash of a name. exact: of its bytes; otherwise both Unicode forms of an accented letter are equal."""
    data = os.fsencode(name if exact else unicodedata.normalize("NFC", name))
    return hashlib.sha256(data).hexdigest()[:digits]


def digest(entry: Entry, homework: Homework) -> str:
    """Return a hash of a submission: its students, the names of its files and what is graded of their bytes.

    What cannot be read counts with the reason.
    """
    total = hashlib.sha256(repr((entry.path.name, entry.students)).encode("utf-8", "surrogatepass"))
    try:
        for name, data in content(entry.path, homework):
            total.update(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
            total.update(hashlib.sha256(data).digest())
    except IntakeError as error:
        total.update(str(error).encode("utf-8", "surrogatepass"))
    return total.hexdigest()
