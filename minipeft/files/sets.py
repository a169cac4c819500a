"""Files that belong together, such as tensors and their configuration, saved into a folder that may hold other files.

`file_set` yields a staging folder inside the folder. When all of its files are written and synced, one rename gives it
the name `.minipeft-save`: this commits the new set. Then its files are renamed to their places, JSON last, and the
empty staging folder is removed. A kill before the commit leaves the old set. A kill after it leaves `.minipeft-save`,
whose files count instead of those of the same names beside it: `current` says where to read a file. The next read or
save moves them to their places (`finish`), unless the folder can only be read. The folder itself is never renamed, so
it may be a link, a mount point or the current folder, and files of other names are not touched.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from minipeft.files.atomic import remove_abandoned, sync, temporary, writing_into
from minipeft.files.errors import FileError

COMMITTED = ".minipeft-save"
OBSOLETE = ".obsolete"


@contextmanager
def file_set(folder: str | Path, obsolete: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Yield a staging folder; on success its files become files of ``folder`` together, on any exception none does.

    folder: created if it does not exist. obsolete: files of an earlier set, {name: SHA-256}; one that the new set does
    not replace is removed, provided that its contents still have that sum.
    Of several processes that save at once, the last to commit prevails.
    Raises FileError if the folder cannot be written.
    """
    folder = Path(folder)
    with writing_into(folder), temporary(folder / COMMITTED[1:]) as part:
        part.mkdir(parents=True)
        yield part
        _stage_removals(part, obsolete or {})
        for file in part.iterdir():
            if (folder / file.name).is_dir():
                raise FileError(f"{folder / file.name}: a folder is in the way of the file; rename it")
            sync(file)
        sync(part)
        _commit(part, folder)
    try:
        finish(folder)
    except OSError as error:
        raise FileError(
            f"{folder}: saved in {COMMITTED} there, since {Path(error.filename2 or error.filename or folder).name} "
            f"cannot be replaced ({error.strerror}); make that possible, and the next read or save does it"
        ) from error


def _stage_removals(part: Path, obsolete: Mapping[str, str]) -> None:
    left = {name: digest for name, digest in obsolete.items() if not (part / name).exists()}
    if left:
        (part / OBSOLETE).write_text("".join(f"{digest}  {name}\n" for name, digest in left.items()), encoding="utf-8")


def _commit(part: Path, folder: Path) -> None:
    """Rename the staging folder to its committed name, after the moves of an earlier set that has that name."""
    while True:
        finish(folder)
        try:
            return os.rename(part, folder / COMMITTED)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another save was committed just now
                raise


def finish(folder: Path) -> None:
    """Move the files of a committed set to their places; several processes may do so at once, and any may be killed."""
    committed = folder / COMMITTED
    if not _is_committed(committed):
        return
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = os.listdir(committed)
    sync(folder)  # the committed name, before anything is moved
    for name in sorted(names, key=lambda name: (name.endswith(".json"), name)):
        with suppress(FileNotFoundError):  # another process was quicker
            if name == OBSOLETE:
                _remove_obsolete(committed / name, folder)
            else:
                os.replace(committed / name, folder / name)
    sync(folder)
    with suppress(OSError):  # another process was quicker, or has committed another set
        os.rmdir(committed)


def _remove_obsolete(listed: Path, folder: Path) -> None:
    for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        with suppress(FileNotFoundError):
            if Path(name).name == name and sha256(folder / name) == digest:
                os.unlink(folder / name)
    os.unlink(listed)


def current(path: str | Path) -> Path:
    """Return where to read the file ``path``: there, or in a committed set whose files could not be moved yet."""
    path = Path(path)
    committed = path.parent / COMMITTED
    if not _is_committed(committed):
        return path
    with suppress(OSError):  # a folder that can only be read
        finish(path.parent)
    return committed / path.name if os.path.lexists(committed / path.name) else path


def remove_set(folder: str | Path, *names: str) -> None:
    """Remove the files of a set that was saved, whole or cut short; also the folder, if nothing else is in it."""
    folder = Path(folder)
    if folder.is_dir():
        finish(folder)
        remove_abandoned(folder / COMMITTED[1:])
        for name in names:
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            folder.rmdir()


def _is_committed(folder: Path) -> bool:
    """True for a folder, but not for a link to one: what it leads to would be moved."""
    return os.path.isdir(folder) and not os.path.islink(folder)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["current", "file_set", "finish", "remove_set", "sha256"]
