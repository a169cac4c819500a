"""Where a download works: a locked folder in the cache, removed at the end, or by the next fetch after a kill."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = "lock"
GRACE = 60.0  # seconds in which a folder without a lock may belong to a process that is about to lock it
LEFTOVER = re.compile(r"\.(?P<name>[^.]+)\.[^.]+\.(?P<kind>download|part|old)")


@contextmanager
def workspace(cache: Path, name: str) -> Iterator[Path]:
    """Yield a new folder in the cache for fetching ``name``, locked as long as this process lives."""
    folder = cache / f".{name}.{secrets.token_hex(8)}.download"
    folder.mkdir(parents=True)
    try:
        with (folder / LOCK).open("wb") as file:
            _lock(file)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(cache: Path, names: Collection[str]) -> None:
    """Remove what killed processes left in the cache of fetching one of ``names``; running ones are left alone.

    A process makes its workspace before its other folders, so these are listed first: if no workspace of that name is
    locked afterwards, nobody owns them any more. An ``.old`` folder goes only if its successor is in place.
    """
    found = [(m["name"], m["kind"], p) for p in _entries(cache) if (m := LEFTOVER.fullmatch(p.name))]
    leftovers = [(name, kind, path) for name, kind, path in found if name in names]
    busy = set()
    for path in _entries(cache):
        m = LEFTOVER.fullmatch(path.name)
        if m and m["name"] in names and m["kind"] == "download":
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                busy.add(m["name"])
    for name, kind, path in leftovers:
        if kind != "download" and name not in busy and (kind == "part" or (cache / name).is_dir()):
            shutil.rmtree(path, ignore_errors=True)


def _entries(cache: Path) -> list[Path]:
    try:
        return list(cache.iterdir())
    except OSError:  # no cache yet
        return []


def _is_abandoned(folder: Path) -> bool:
    """Return whether no process holds the lock of a workspace; False if that cannot be found out."""
    try:
        with (folder / LOCK).open("r+b") as file:
            return _lock(file)
    except FileNotFoundError:
        try:
            return time.time() - folder.stat().st_mtime > GRACE
        except FileNotFoundError:
            return False
    except OSError:
        return False


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed, by this process's end at the latest; return False if that fails."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
