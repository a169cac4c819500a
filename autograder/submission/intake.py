"""Read a submission: a folder, a zip or a single file. Nothing is run, followed or unpacked to disk.

take(path, homework)    a `Submission`; IntakeError if the files are not there, which costs no attempt
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
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import stubs
from autograder.submission.syntax import why_not

MOST_ENTRIES = 200
MOST_DEPTH = 4
FILE_LIMIT = 256 * 1024  # bytes of one file
ZIP_LIMIT = 5 * 1024 * 1024  # bytes of the zip itself
RATIO = 100  # uncompressed to compressed, above which a file is no program
SMALL = 64 * 1024  # bytes for which no ratio is asked
ENCODINGS = ("utf-8", "utf-8-sig", "ascii", "iso8859-1", "iso8859-15", "cp1252")  # others decode to odder things
SYSTEM_NAMES = {  # left behind by systems and tools, in small letters
    *("__macosx", ".ds_store", ".localized", ".spotlight-v100", ".trashes", ".fseventsd", "thumbs.db", "ehthumbs.db"),
    *("desktop.ini", "$recycle.bin", "system volume information", ".directory", "lost+found"),
    *("__pycache__", ".ipynb_checkpoints", ".git", ".gitignore", ".gitattributes", ".gitkeep"),
}
ARCHIVES = (
    ".tar", ".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".7z", ".rar", ".z", ".lzma",
)  # fmt: skip
KINDS = {
    stat.S_IFLNK: "a link, which is not followed",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
WHAT_TO_DO = "Hand in the zip that `python -m autograder submit` makes."


class IntakeError(ValueError):
    """A submission that cannot be graded; the message is for the student. It costs no attempt."""


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
    """Read the submission at ``path``: a folder, a zip, or a file of the homework.

    Of everything there, only regular files with the names of the homework's files are read; a suffix may be in
    capitals. They may be in a folder, as long as there is one such folder. If the homework has one file, a single
    Python file is taken for it whatever its name. Links, pipes and devices are not opened.

    Raises IntakeError if the files are not there or there twice, cannot be read, or pass a limit.
    """
    path = Path(path)
    wanted = [f.stub for f in homework.files]
    if _is_folder(path):
        found, others = _from_folder(path, wanted)
    else:
        with _opened(path) as file:
            found, others = _from_file(file, path.name, wanted)
    if not found:
        raise IntakeError(_nothing(wanted, others))
    return _as_text(found, homework)


def content(path: Path, homework: Homework) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each file of a submission, and of those that `take` would read the bytes.

    Raises IntakeError if something there cannot be read.
    """
    wanted = [f.stub for f in homework.files]
    if not _is_folder(path):
        with _opened(path) as file:
            yield path.name, _read(file, path.name, ZIP_LIMIT)
        return
    places, deep = _listed(path)
    yield from ((name, b"") for name in deep)
    for place in places:
        if not _stub(place.name, wanted):
            yield str(place), b""
            continue
        with _opened(path / place) as file:
            yield str(place), _read(file, place.name, FILE_LIMIT)


def readable_name(name: str) -> str:
    """Return a file name for printing: control characters, direction marks and bytes outside UTF-8 are escaped."""
    broken = {c: f"\\x{ord(c) - 0xDC00:02x}" for c in name if 0xDC80 <= ord(c) <= 0xDCFF}
    return "".join(c if c.isprintable() else broken.get(c) or c.encode("unicode_escape").decode() for c in name)


def shown(name: str) -> str:
    """Return a file name in quotes for printing."""
    return f"'{readable_name(name[:80])}'"


def left_by_system(name: str) -> bool:
    """Return whether systems or tools leave files of that name behind, which nobody hands in."""
    return name.casefold() in SYSTEM_NAMES or name.startswith("._")


def _nothing(wanted: list[str], others: list[str]) -> str:
    came = f"it has {', '.join(shown(n) for n in others[:8])}" if others else "it has no files"
    deep = f" (what is more than {MOST_DEPTH} folders deep is not read)" if any(n.endswith("/") for n in others) else ""
    return f"expected {' and '.join(wanted)}; {came}{deep}. {WHAT_TO_DO}"


def _unusable(name: str, wanted: list[str]) -> str:
    """Why a file that is neither the homework's nor a zip is refused, and what to do."""
    lower = name.casefold()
    if lower.endswith(ARCHIVES):
        return f"{shown(name)} is an archive, but not a zip. {WHAT_TO_DO}"
    if lower.endswith(".ipynb"):
        return f"{shown(name)} is a notebook: copy what you wrote into {' and '.join(wanted)}. {WHAT_TO_DO}"
    if lower.endswith(".zip"):
        return f"{shown(name)} is not a zip, or it is damaged. {WHAT_TO_DO}"
    return f"{shown(name)} is neither a zip nor {' or '.join(wanted)}. {WHAT_TO_DO}"


def _is_folder(path: Path) -> bool:
    """True for a folder, False for a regular file; IntakeError for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError as error:
        raise IntakeError(f"there is nothing at {shown(path.name)}: {error.strerror}") from None
    except OSError as error:
        raise IntakeError(f"{shown(path.name)} cannot be read: {error.strerror}") from None
    kind = stat.S_IFMT(mode)
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        what = KINDS.get(kind, "neither a file nor a folder")
        raise IntakeError(f"{shown(path.name)} is {what}: hand in the file or the folder itself")
    return kind == stat.S_IFDIR


def _opened(path: Path) -> io.BufferedReader:
    """A regular file, opened without following a link or waiting for a pipe."""
    if _is_folder(path):
        raise IntakeError(f"{shown(path.name)} is a folder: expected a file")
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise IntakeError(f"{shown(path.name)} cannot be read: {error.strerror}") from None
    file = os.fdopen(fd, "rb")
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # another one by now
        file.close()
        raise IntakeError(f"{shown(path.name)} is not a regular file")
    return file


def _read(file: IO[bytes], name: str, most: int) -> bytes:
    """At most ``most`` bytes of a file and one more, which tells that there are more."""
    try:
        return file.read(most + 1)
    except OSError as error:
        raise IntakeError(f"{shown(name)} cannot be read: {error.strerror or error}") from None


def _program(file: IO[bytes], name: str) -> bytes:
    data = _read(file, name, FILE_LIMIT)
    if len(data) > FILE_LIMIT:
        raise IntakeError(f"{shown(name)} is larger than {FILE_LIMIT // 1024} KiB")
    return data


def _stub(name: str, wanted: list[str]) -> str:
    """The file of the homework with that name, its suffix perhaps in capitals; "" if there is none."""
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower() if stem + suffix.lower() in wanted else ""


def _choose(places: list[PurePosixPath], wanted: list[str]) -> tuple[dict[str, PurePosixPath], list[str]]:
    """Which of the files are the homework's: those in the one folder that has any; and the names of the others."""
    seen: dict[str, PurePosixPath] = {}
    for place in places:
        other = seen.setdefault(str(place).casefold(), place)
        if other is not place:
            raise IntakeError(f"two files differ in nothing but capitals, or not at all: {shown(str(place))}")
    chosen = {_stub(p.name, wanted): p for p in places if _stub(p.name, wanted)}
    folders = sorted({str(p.parent) for p in places if _stub(p.name, wanted)})
    if len(folders) > 1:
        raise IntakeError(f"the files are in more than one folder ({', '.join(map(shown, folders[:4]))}): hand in one")
    return chosen, [str(p) for p in places if not _stub(p.name, wanted)]


def _listed(root: Path) -> tuple[list[PurePosixPath], list[str]]:
    """The files below a folder, and the folders that are too deep to be read, with a slash at their end."""
    places, deep, left = [], [], MOST_ENTRIES
    todo = [(root, 0)]
    while todo:
        folder, depth = todo.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(islice(found, left + 1))
            left -= len(entries)
            if left < 0:
                raise IntakeError(f"more than {MOST_ENTRIES} files and folders")
            for entry in entries:
                place = PurePosixPath(Path(entry.path).relative_to(root).as_posix())
                if left_by_system(entry.name):
                    continue
                if not entry.is_dir(follow_symlinks=False):
                    places.append(place)
                elif depth < MOST_DEPTH:
                    todo.append((Path(entry.path), depth + 1))
                else:
                    deep.append(f"{place}/")
        except OSError as error:
            raise IntakeError(f"the folder {shown(folder.name)} cannot be read: {error.strerror}") from None
    return sorted(places), sorted(deep)


def _from_folder(root: Path, wanted: list[str]) -> tuple[dict[str, bytes], list[str]]:
    places, deep = _listed(root)
    chosen, others = _choose(places, wanted)
    found = {}
    for name, place in chosen.items():
        with _opened(root / place) as file:
            found[name] = _program(file, place.name)
    return found, others + deep


def _from_file(file: io.BufferedReader, name: str, wanted: list[str]) -> tuple[dict[str, bytes], list[str]]:
    stub = _stub(name, wanted)
    if not stub and len(wanted) == 1 and os.path.splitext(name)[1].lower() == ".py":
        stub = wanted[0]
    if stub:
        return {stub: _program(file, name)}, []
    try:
        if not zipfile.is_zipfile(file):
            raise IntakeError(_unusable(name, wanted))
        return _from_zip(file, wanted)
    except IntakeError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and struct have errors of their own for what is damaged
        raise IntakeError(f"the zip cannot be read: {ascii(str(error) or type(error).__name__)[:80]}") from None


def _from_zip(file: io.BufferedReader, wanted: list[str]) -> tuple[dict[str, bytes], list[str]]:
    if os.fstat(file.fileno()).st_size > ZIP_LIMIT:
        raise IntakeError(f"the zip is larger than {ZIP_LIMIT // 2**20} MiB")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_ENTRIES:
            raise IntakeError(f"the zip has {len(entries)} entries: at most {MOST_ENTRIES}")
        by_place = {}
        places = []
        for entry in entries:
            place = _safe(entry)
            if entry.orig_filename.endswith(("/", "\\")) or any(map(left_by_system, place.parts)):
                continue
            places.append(place)
            by_place[place] = entry
        chosen, others = _choose(places, wanted)
        return {name: _unpacked(archive, by_place[place], place.name) for name, place in chosen.items()}, others


def _safe(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's path; IntakeError if it leads out of the folder or is not a plain file.

    Some programs on Windows, PowerShell's Compress-Archive among them, separate folders by a backslash.
    """
    name = entry.orig_filename
    place = PurePosixPath(name.replace("\\", "/"))
    if "\0" in name or ":" in name or place.is_absolute() or ".." in place.parts or not place.parts:
        raise IntakeError(f"the zip has an entry with the path {shown(name)}: expected plain names")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise IntakeError(f"the zip has an entry {shown(name)} that is a link or a device: expected plain files")
    if entry.flag_bits & 1:
        raise IntakeError("the zip is encrypted: hand in one without a password")
    return place


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> bytes:
    if entry.file_size > FILE_LIMIT:
        raise IntakeError(f"{shown(name)} is larger than {FILE_LIMIT // 1024} KiB")
    if entry.file_size > SMALL and entry.file_size > RATIO * max(1, entry.compress_size):
        raise IntakeError(f"{shown(name)} has a compression ratio above {RATIO}:1; refusing to unpack it")
    with archive.open(entry) as file:
        return _program(file, name)


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
            why = why_not(error)
            errors[f.module] = (f"{type(error).__name__}: the file {why}", line)
            where = f", line {line}" if line else ""
            notes.append(f"{f.stub}{where} {why}: its problems count as not written.")
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


PARSE_SECONDS = 2  # of processor time: how busy the machine is must not decide what is Python
MOST_NODES = 50_000  # statements and expressions of a file: ten times as many as the longest of the library has
PARSE = f"""
import ast, json, sys
if sys.platform != "win32":
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({PARSE_SECONDS}, {PARSE_SECONDS}))
text = sys.stdin.buffer.read().decode()
try:
    compile(text, "file", "exec", dont_inherit=True)
    if sum(1 for _ in ast.walk(ast.parse(text))) > {MOST_NODES}:
        print(json.dumps(["it has more than {MOST_NODES} statements and expressions: no problem needs so many", 0]))
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
    if sys.platform != "win32" and tried.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise SyntaxError("reading it takes too long", (name, 0, 0, ""))
    if tried.returncode not in (0, 1):  # a signal, or an error code of Windows
        raise SyntaxError("it is nested too deeply", (name, 0, 0, ""))
    message, line = json.loads(tried.stdout or "[null, 0]")
    try:
        if message is None or line:
            ast.parse(text, name)
    except ValueError as error:
        raise SyntaxError(str(error), (name, 0, 0, "")) from None
    except (RecursionError, MemoryError):
        raise SyntaxError("it is nested too deeply", (name, 0, 0, "")) from None
    if message is not None:  # it is too long, or can be parsed and not compiled: ``return`` outside a function
        raise SyntaxError(message, (name, line, 0, ""))
