"""Jane Austen's six novels (public domain), out of the R package that `minipeft fetch austen` gets."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from minipeft.files.cache import cached
from minipeft.files.errors import FileError

NOVELS = ("emma", "mansfield_park", "northanger_abbey", "persuasion", "pride_and_prejudice", "sense_and_sensibility")
STRINGS, CHARACTERS = 16, 9  # R's types of a vector of strings, and of one of them
LARGEST_NOVEL = 4_000_000  # bytes unpacked


def load_austen(folder: str | Path | None = None) -> dict[str, str]:
    """Return {novel: text}, the lines joined, 4.0 million characters in all.

    folder: has Rdata.rdb (default: the fetched one). Raises FileError if it is missing or damaged.
    """
    found = Path(folder) if folder is not None else cached("austen")
    if found is None:
        raise FileError("austen has not been fetched; run `minipeft fetch austen`")
    path = found / "Rdata.rdb"
    try:
        raw = path.read_bytes()
        texts = ["\n".join(r_strings(chunk)) for chunk in chunks(raw)]
    except (OSError, ValueError, zlib.error, struct.error) as error:
        raise FileError(f"{path}: expected the six novels of janeaustenr ({error})") from error
    if len(texts) != len(NOVELS):
        raise FileError(f"{path}: expected {len(NOVELS)} novels, got {len(texts)}")
    return dict(zip(NOVELS, texts, strict=True))


def chunks(raw: bytes) -> list[bytes]:
    """Return the objects of an R database: each is its unpacked length in four bytes, then zlib; ValueError if not."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from(">I", raw, at)
        if size > LARGEST_NOVEL:
            raise ValueError(f"an object of {size} bytes")
        packed = zlib.decompressobj()
        chunk = packed.decompress(raw[at + 4 :], LARGEST_NOVEL)
        if len(chunk) != size or not packed.eof:
            raise ValueError(f"the object at byte {at} unpacks to {len(chunk)} bytes, expected {size}")
        found.append(chunk)
        at = len(raw) - len(packed.unused_data)
    return found


def r_strings(data: bytes) -> list[str]:
    """Return a vector of strings in R's serialization (format X, version 3); ValueError for anything else."""
    if data[:2] != b"X\n" or struct.unpack_from(">I", data, 2)[0] != 3:
        raise ValueError("no R object of version 3")
    at = 14 + 4 + struct.unpack_from(">I", data, 14)[0]  # versions, then the name of the encoding
    kind, count = struct.unpack_from(">II", data, at)
    if kind & 255 != STRINGS or count > len(data) // 8:
        raise ValueError("no vector of strings")
    at += 8
    strings = []
    for _ in range(count):
        kind, size = struct.unpack_from(">Ii", data, at)
        at += 8
        if kind & 255 != CHARACTERS or not 0 <= size <= len(data) - at:
            raise ValueError(f"no string at byte {at}")
        strings.append(data[at : at + size].decode("utf-8"))
        at += size
    return strings
