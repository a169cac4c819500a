"""Writing so that nothing half-written stays behind: to a temporary name, then renamed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ATTEMPTS = 100  # to rename a folder into place while other processes do the same


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; renamed to it on success, removed on any exception (Ctrl-C too)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path, "part")
    part.touch(exist_ok=False)
    mode = part.stat().st_mode
    try:
        yield part
        os.chmod(part, mode)  # some writers (safetensors) make files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place on success and vanishes on any exception.

    What stood at ``path`` before is removed only after the new folder is there. replace: False keeps a folder that
    stands there by then (another process was quicker) and drops the new one.
    Several processes may write one folder at once: the last one's stays. Raises NotADirectoryError for a file there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path, "part")
    part.mkdir()
    try:
        yield part
        _place(part, path, replace)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _place(part: Path, path: Path, replace: bool) -> None:
    """Move ``part`` to ``path``. What stands there goes aside first, and comes back if that cannot be finished."""
    aside: list[Path] = []
    placed = False
    try:
        for attempt in range(ATTEMPTS):  # others may do the same: whoever comes last stays
            try:
                os.replace(part, path)  # does it where nothing stands, or an empty folder
                placed = True
                return
            except OSError:
                if attempt == ATTEMPTS - 1 or path.is_file():
                    raise
            if not replace and path.is_dir():
                return
            aside.append(_beside(path, "old"))
            with suppress(FileNotFoundError):  # another process was quicker
                os.replace(path, aside[-1])
    finally:
        for old in reversed(aside):
            if not placed:
                with suppress(OSError):  # something stands there by now, or this one was never moved
                    os.replace(old, path)
            if placed or path.exists():
                shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.{suffix}"
