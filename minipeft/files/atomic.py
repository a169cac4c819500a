"""Writing so that no half-written file is ever seen: to a temporary name in the same folder, synced, then renamed.

A temporary name holds the machine and the process that made it. An exception removes what has that name; what a killed
process left is removed by the next write to the same path.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minipeft.files.errors import FileError

TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>\w*)-(?P<process>\d{1,9})-[0-9a-f]{16}\.part", re.DOTALL)
LONGEST = 40  # characters of a name that a temporary name repeats: file systems allow 255 bytes
DAY = 86400.0  # seconds
NO_FOLDER_SYNC = {errno.EACCES, errno.EINVAL, errno.ENOTSUP}
FULL = {errno.ENOSPC, errno.EDQUOT}
_active: set[str] = set()  # the temporary names that this process uses


def check_file(path: Path) -> None:
    """Raise FileError unless ``path`` is a regular file, a link to one, or a name that is free.

    A rename would replace anything else there, such as a device, by a file.
    """
    if os.path.lexists(path) and not path.is_file():
        kinds = {"folder": path.is_dir(), "pipe": path.is_fifo(), "device": path.exists(), "broken link": True}
        what = next(kind for kind, it_is in kinds.items() if it_is)
        raise FileError(f"{path} is a {what}; name a file")


@contextmanager
def atomic_path(path: str | Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; it replaces ``path`` on success and is removed on any exception.

    mode: permissions of the new file, from which the process's umask is taken.

    Raises FileError, before anything is written, if ``path`` is a folder, a device, a pipe or a broken link.
    """
    path = Path(path)
    check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = is_staged(path)
    with temporary(path) as part:
        part.touch(mode, exist_ok=False)
        mode = part.stat().st_mode
        yield part
        os.chmod(part, mode)  # some writers (safetensors) make files that only their owner can read
        if not staged:
            sync(part)
        os.replace(part, path)
    if not staged:
        sync(path.parent)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` on success and is removed on any exception.

    A folder that is at ``path`` by then is kept, and the new one dropped. Only for private folders whose existence
    means that they are complete, such as those of the cache; `sets.file_set` writes into folders that users name.
    Raises FileError if ``path`` is a file, or its folder cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path) and not path.is_dir():
        raise FileError(f"{path} is a file; name a folder")
    with writing_into(path.parent), temporary(path) as part:
        part.mkdir(parents=True)
        yield part
        for inside in part.rglob("*"):
            sync(inside)
        sync(part)
        try:
            os.rename(part, path)
        except OSError:
            if not path.is_dir():
                raise
        sync(path.parent)


def check_writable(folder: str | Path) -> None:
    """Check that files can be written into ``folder``, by writing one and removing it; call it before long work.

    A folder that does not exist is created for the check and removed after it.
    Raises FileError if it cannot be written, or is a file.
    """
    folder = Path(folder)
    with writing_into(folder), temporary(folder / "check") as part:
        part.mkdir(parents=True)
        (part / "check").write_bytes(bytes(4096))  # a full disk still takes an empty file
        sync(part / "check")


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Create ``folder`` and its parents; remove those of them that are still empty at the end.

    Another process may remove them while they are empty: what is written there begins with ``mkdir(parents=True)``.
    Raises FileError, saying what to do, if the folder is a file or the system cannot write there.
    """
    missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        elsewhere = isinstance(error.filename, str) and not Path(error.filename).is_relative_to(folder)
        if is_staged(folder) or (elsewhere and error.filename not in map(str, missing)):
            raise  # the error of the set that is staged there, or of a file that the caller reads
        raise _unwritable(folder, error) from error
    finally:
        for p in missing:
            with suppress(OSError):
                p.rmdir()


def _unwritable(folder: Path, error: OSError) -> FileError:
    for path in (folder, *folder.parents):
        if os.path.lexists(path) and not os.path.isdir(path):
            return FileError(f"{path} is a {'file' if os.path.exists(path) else 'broken link'}; name a folder")
    advice = "make room there" if error.errno in FULL else "make it writable"
    return FileError(f"{folder}: cannot write there ({error.strerror or error}); {advice}, or name another folder")


def is_staged(path: Path) -> bool:
    """True in a temporary folder of this process, which is synced and renamed as a whole."""
    return not _active.isdisjoint(path.parts)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield a new name in the folder of ``path``; whatever has that name in the end is removed."""
    remove_abandoned(path)
    part = _new_name(path)
    _active.add(part.name)
    try:
        yield part
    finally:
        _remove(part)
        _active.discard(part.name)


def _new_name(path: Path) -> Path:
    return path.parent / f".{path.name[:LONGEST]}.{_host()}-{os.getpid()}-{secrets.token_hex(8)}.part"


def _host() -> str:
    return re.sub(r"\W", "_", platform.node())[:LONGEST]


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left under temporary names of ``path``, if that is possible."""
    remove_all_abandoned(path.parent, path.name[:LONGEST])


def remove_all_abandoned(folder: Path, of: str = "") -> None:
    """Remove what killed processes left under temporary names in ``folder``. of: only those of this name."""
    try:
        names = os.listdir(folder)
    except OSError:  # no folder yet, or one whose names cannot be read
        return
    for name in names:
        found = TEMPORARY.fullmatch(name)
        if found and of in ("", found["name"]) and _is_abandoned(folder / name, found):
            taken = _new_name(folder / found["name"])
            with suppress(OSError):
                os.rename(folder / name, taken)  # at once, should its process live after all
            _remove(taken)


def _is_abandoned(part: Path, found: re.Match[str]) -> bool:
    """True if the process that made a temporary name has ended, or, where that is unknown, was idle for a day."""
    process = int(found["process"])
    if found["host"] == _host():
        if process == os.getpid():
            return part.name not in _active
        if os.name == "posix":
            try:
                os.kill(process, 0)  # sends nothing
            except ProcessLookupError:
                return True
            except PermissionError:  # it runs as another user
                pass
            return False
    with suppress(OSError):
        return time.time() - part.stat().st_mtime > DAY
    return False


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's names where the system can do that, are on the disk."""
    if path.is_dir():
        if os.name == "nt":
            return
        try:
            _sync(path, os.O_RDONLY)
        except OSError as error:
            if error.errno not in NO_FOLDER_SYNC:
                raise
    else:
        _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
