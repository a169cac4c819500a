"""Taking in a submission: a folder, a zip or a single file. Text is read; nothing is run, linked or unpacked to disk.

take(path, homework)    a `Submission`; IntakeError where the named files are not there, which costs no attempt
"""

from __future__ import annotations

import ast
import codecs
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from autograder.homework import Homework
from autograder.strip import stubs

MOST_ENTRIES = 200
MOST_DEPTH = 4
FILE_LIMIT = 256 * 1024  # bytes of one file
ZIP_LIMIT = 5 * 1024 * 1024  # bytes of the zip itself
RATIO = 100  # uncompressed to compressed, above which a file is no program
SMALL = 64 * 1024  # bytes for which no ratio is asked
ENCODINGS = ("utf-8", "utf-8-sig", "ascii", "iso8859-1", "iso8859-15", "cp1252")  # others decode to odder things
IGNORED = ("__MACOSX", ".DS_Store", "__pycache__", ".git", ".ipynb_checkpoints")


class IntakeError(ValueError):
    """What was handed in cannot be graded; the message is for the student. It costs no attempt."""


@dataclass(frozen=True)
class Submission:
    """A submission as text.

    sources: by module of the library, the student's file, or the stub where that was missing or is no Python. errors:
    by module, (what is wrong, line), for those that could not be taken. missing: names of files that did not come.
    notes: sentences for the student.
    """

    sources: Mapping[str, str]
    errors: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def take(path: str | Path, homework: Homework) -> Submission:
    """The submission at ``path``: a folder, a zip, or one of the homework's files.

    Of everything there, only regular files with the names of the homework's files are read. They may lie in a folder,
    as long as there is one such folder. IntakeError where there is none or more than one, or where limits are passed.
    """
    path = Path(path)
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise IntakeError(f"there is nothing at {path.name!r}: {error.strerror}") from None
    wanted = [f.stub for f in homework.files]
    if stat.S_ISDIR(mode):
        found, others = _from_folder(path, wanted)
    elif stat.S_ISREG(mode):
        with _opened(path) as file:
            if path.name in wanted:
                found, others = {path.name: _read(file, path.name)}, []
            elif zipfile.is_zipfile(file):
                found, others = _from_zip(file, wanted)
            else:
                raise IntakeError(f"{shown(path.name)} is neither a zip nor one of {', '.join(wanted)}")
    else:
        raise IntakeError(f"{shown(path.name)} is neither a file nor a folder")
    if not found:
        raise IntakeError(_nothing(wanted, others))
    return _as_text(found, homework)


def shown(name: str) -> str:
    """A file's name as it may be printed."""
    return ascii(name[:80])


def _nothing(wanted: list[str], others: list[str]) -> str:
    came = f"it has {', '.join(shown(n) for n in others[:8])}" if others else "it has no files"
    return f"expected {' and '.join(wanted)}; {came}. Hand in the zip that `python -m autograder submit` makes."


def _opened(path: Path) -> io.BufferedReader:
    """A regular file, opened without following a link or waiting for a pipe."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise IntakeError(f"{shown(path.name)} cannot be read: {error.strerror}") from None
    file = os.fdopen(fd, "rb")
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        file.close()
        raise IntakeError(f"{shown(path.name)} is no regular file")
    return file


def _read(file: IO[bytes], name: str) -> bytes:
    data = file.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise IntakeError(f"{shown(name)} is larger than {FILE_LIMIT // 1024} KiB")
    return data


def _choose(places: list[PurePosixPath], wanted: list[str]) -> tuple[dict[str, PurePosixPath], list[str]]:
    """Which of the files are the homework's: those in the one folder that has any; and the names of the others."""
    seen: dict[str, PurePosixPath] = {}
    for place in places:
        other = seen.setdefault(str(place).casefold(), place)
        if other is not place:
            raise IntakeError(f"two files differ in nothing but capitals, or not at all: {shown(str(place))}")
    folders = sorted({p.parent for p in places if p.name in wanted})
    if len(folders) > 1:
        raise IntakeError(
            f"the files lie in more than one folder ({', '.join(shown(str(f)) for f in folders[:4])}): hand in one"
        )
    chosen = {p.name: p for p in places if p.name in wanted}
    return chosen, [str(p) for p in places if p.name not in wanted]


def _from_folder(root: Path, wanted: list[str]) -> tuple[dict[str, bytes], list[str]]:
    def walk(folder: Path, depth: int) -> Iterator[PurePosixPath]:
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.name in IGNORED or entry.name.startswith("._"):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < MOST_DEPTH:
                    yield from walk(Path(entry.path), depth + 1)
            else:
                yield PurePosixPath(Path(entry.path).relative_to(root).as_posix())

    places = []
    for place in walk(root, 0):
        places.append(place)
        if len(places) > MOST_ENTRIES:
            raise IntakeError(f"more than {MOST_ENTRIES} files")
    chosen, others = _choose(places, wanted)
    found = {}
    for name, place in chosen.items():
        if stat.S_ISLNK(os.lstat(root / place).st_mode):
            raise IntakeError(f"{shown(name)} is a link: hand in the file itself")
        with _opened(root / place) as file:
            found[name] = _read(file, name)
    return found, others


def _from_zip(file: io.BufferedReader, wanted: list[str]) -> tuple[dict[str, bytes], list[str]]:
    if os.fstat(file.fileno()).st_size > ZIP_LIMIT:
        raise IntakeError(f"the zip is larger than {ZIP_LIMIT // 2**20} MiB")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ENTRIES:
                raise IntakeError(f"the zip has {len(entries)} entries: at most {MOST_ENTRIES}")
            by_place = {}
            places = []
            for entry in entries:
                place = _safe(entry)
                if entry.is_dir() or any(part in IGNORED or part.startswith("._") for part in place.parts):
                    continue
                places.append(place)
                by_place[place] = entry
            chosen, others = _choose(places, wanted)
            return {name: _unpacked(archive, by_place[place]) for name, place in chosen.items()}, others
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, IntakeError):
            raise
        raise IntakeError(f"the zip cannot be read: {ascii(str(error))[:80]}") from None


def _safe(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's path; IntakeError where it leads out of the folder or is no plain file."""
    name = entry.orig_filename
    place = PurePosixPath(name)
    if "\\" in name or "\0" in name or ":" in name or place.is_absolute() or ".." in place.parts or not place.parts:
        raise IntakeError(f"the zip has an entry with the path {shown(name)}: expected plain names")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise IntakeError(f"the zip has an entry {shown(name)} that is a link or a device: expected plain files")
    if entry.flag_bits & 1:
        raise IntakeError("the zip is encrypted")
    return place


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    name = PurePosixPath(entry.filename).name
    if entry.file_size > FILE_LIMIT:
        raise IntakeError(f"{shown(name)} is larger than {FILE_LIMIT // 1024} KiB")
    if entry.file_size > SMALL and entry.file_size > RATIO * max(1, entry.compress_size):
        raise IntakeError(f"{shown(name)} is packed {RATIO} times smaller than it is: that is no program")
    with archive.open(entry) as file:
        return _read(file, name)


def _as_text(found: Mapping[str, bytes], homework: Homework) -> Submission:
    blank = stubs(homework)
    sources, errors, missing, notes = {}, {}, [], []
    for f in homework.files:
        sources[f.module] = blank[f.stub]
        if f.stub not in found:
            missing.append(f.stub)
            notes.append(f"{f.stub} did not come with the submission: its problems count as not written.")
            continue
        try:
            sources[f.module] = decoded(found[f.stub], f.stub)
        except SyntaxError as error:
            line = error.lineno or 0
            errors[f.module] = (f"{type(error).__name__}: {error.msg}", line)
            where = f", line {line}" if line else ""
            notes.append(f"{f.stub}{where} is no Python ({error.msg}): its problems count as not written.")
    return Submission(sources, errors, tuple(missing), tuple(notes))


def decoded(data: bytes, name: str) -> str:
    """A Python file as text with ``\\n`` at the ends of lines; SyntaxError with a line number where it is no Python."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if codecs.lookup(encoding).name not in ENCODINGS:
            raise LookupError(encoding)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        why = "the text is neither in UTF-8 nor in a common encoding that its first lines name: save it as UTF-8"
        raise SyntaxError(why, (name, 0, 0, "")) from None
    text = re.sub(r"\r\n?", "\n", text)
    if not text.endswith("\n"):
        text += "\n"
    if encoding not in ("utf-8", "utf-8-sig"):  # it is UTF-8 from here on
        text = re.sub(r"coding[:=]\s*[-\w.]+", "coding: utf-8", text, count=1)
    readable(text, name)
    return text


PARSE_SECONDS = 5  # of processor time: how busy the machine is must not decide what is Python
PARSE = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({PARSE_SECONDS}, {PARSE_SECONDS}))
try:
    compile(sys.stdin.buffer.read().decode(), "file", "exec", dont_inherit=True)
except SyntaxError as error:
    print(json.dumps([error.msg, error.lineno]))
"""
PARSE_PATIENCE = 300.0  # seconds


def readable(text: str, name: str) -> None:
    """SyntaxError where a text is no Python, or where reading it takes too long or breaks the reader.

    Another process tries it first: a file can be made such that the parser of Python runs for minutes, or out of stack.
    """
    command = [sys.executable, "-I", "-S", "-c", PARSE]
    try:
        tried = subprocess.run(command, input=text.encode(), capture_output=True, timeout=PARSE_PATIENCE)
    except subprocess.TimeoutExpired:
        raise SyntaxError("reading it takes too long", (name, 0, 0, "")) from None
    if tried.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise SyntaxError("reading it takes too long", (name, 0, 0, ""))
    if tried.returncode < 0:
        raise SyntaxError("it is nested too deeply", (name, 0, 0, ""))
    try:
        ast.parse(text, name)
    except ValueError as error:
        raise SyntaxError(str(error), (name, 0, 0, "")) from None
    except (RecursionError, MemoryError):
        raise SyntaxError("it is nested too deeply", (name, 0, 0, "")) from None
    if (
        tried.stdout
    ):  # it can be parsed and not compiled: code before ``from __future__``, ``return`` outside a function
        message, line = json.loads(tried.stdout)
        raise SyntaxError(message, (name, line, 0, ""))
