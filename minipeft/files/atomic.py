"""Writing so that nothing half-written stays behind: to a temporary name, then renamed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    Raises NotADirectoryError where ``path`` is a file; of two processes that replace one folder at the same moment,
    one may get an OSError, and the other's folder is there, whole.
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
    try:
        os.replace(part, path)  # does it where nothing stands, or an empty folder
        return
    except OSError:
        if not path.is_dir():
            raise
    if not replace:
        return
    old = _beside(path, "old")
    try:
        os.replace(path, old)
        os.replace(part, path)
    finally:  # Ctrl-C may come between the two: the old folder then goes back
        if old.exists():
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(old, path)


def _beside(path: Path, suffix: str) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.{suffix}"
