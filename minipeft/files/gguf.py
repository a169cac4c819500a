"""GGUF files (version 2 and 3): metadata, then named tensors, some in blocks of few bits. Read, never written."""

from __future__ import annotations

import math
import struct
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from minipeft.files.causes import HEAD, likely_kind
from minipeft.files.errors import FileError

NUMBERS = {
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4"},
    **{6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"},
}
STRING, ARRAY = 8, 9
LARGEST = 2**63
LONGEST_STRING, PART = 1 << 20, 1 << 14  # bytes


def _blocks(raw: np.ndarray, size: int) -> np.ndarray:
    return raw.reshape(-1, size)


def _halves(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 at byte ``start`` of each block, as float32 (n, 1)."""
    return blocks[:, start : start + 2].copy().view("<f2").astype(np.float32)


def _nibbles(blocks: np.ndarray) -> np.ndarray:
    """The 4-bit numbers of (n, 16) bytes, (n, 32): all low halves, then all high ones."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=1).astype(np.float32)


def _q4_0(raw: np.ndarray) -> np.ndarray:
    b = _blocks(raw, 18)
    return _halves(b, 0) * (_nibbles(b[:, 2:]) - 8)


def _q4_1(raw: np.ndarray) -> np.ndarray:
    b = _blocks(raw, 20)
    return _halves(b, 0) * _nibbles(b[:, 4:]) + _halves(b, 2)


def _q8_0(raw: np.ndarray) -> np.ndarray:
    b = _blocks(raw, 34)
    return _halves(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _bf16(raw: np.ndarray) -> np.ndarray:
    wide = raw.view("<u2").astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


@dataclass(frozen=True)
class Kind:
    """A tensor type: its name, the values and bytes of a block, and what reads whole blocks of bytes (n,)."""

    name: str
    values: int
    size: int
    read: Callable[[np.ndarray], np.ndarray]


KINDS = {
    0: Kind("F32", 1, 4, lambda raw: raw.view("<f4")),
    1: Kind("F16", 1, 2, lambda raw: raw.view("<f2").astype(np.float32)),
    2: Kind("Q4_0", 32, 18, _q4_0),
    3: Kind("Q4_1", 32, 20, _q4_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    30: Kind("BF16", 1, 2, _bf16),
}
OTHER_KINDS = {  # ggml's other types, whose blocks are not read
    **{6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"},
    **{24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
    **{4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 40: "NVFP4", 41: "Q1_0"},
}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its type, its shape as NumPy has it (the slowest axis first), and its bytes in the file."""

    kind: Kind
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class GGUF:
    """A file that was opened: its metadata, and the place of each tensor; `array` reads one."""

    path: Path
    metadata: dict[str, Any]
    entries: dict[str, Entry]

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32, dequantized: d q (Q4_0 with q - 8, Q8_0) or d q + m (Q4_1) for each block of 32.

        Raises FileError where the file has no such tensor, or has changed since it was opened.
        """
        if name not in self.entries:
            raise FileError(f"{self.path}: the tensor {name!r} is missing")
        entry = self.entries[name]
        with self.path.open("rb") as file:
            file.seek(entry.start)
            raw = np.fromfile(file, dtype=np.uint8, count=entry.size)
        if raw.size != entry.size:
            raise FileError(f"{self.path}: the data of {name!r} ends early; the file changed while it was read")
        return entry.kind.read(raw).reshape(entry.shape)


def read_gguf(path: str | Path) -> GGUF:
    """Open a GGUF file: its metadata and the places of its tensors; the data is read by `GGUF.array`.

    Every length is held against what is left of the file before anything of that length is read or made.
    Raises FileError for a file that is missing, truncated, inconsistent, or of a version or tensor type that is not
    implemented. Source: the GGUF specification (ggml, docs/gguf.md).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(path, file, path.stat().st_size).read()
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error


class _Reader:
    def __init__(self, path: Path, file: IO[bytes], size: int):
        self.path, self.file, self.size, self.at = path, file, size, 0

    def error(self, text: str) -> FileError:
        return FileError(f"{self.path}: {text}")

    def take(self, n: int) -> bytes:
        if n > self.size - self.at:
            raise self.error(f"{n} bytes should follow byte {self.at}, but the file has {self.size}; it is truncated")
        raw = self.file.read(n)
        if len(raw) != n:
            raise self.error("the file changed while it was read")
        self.at += n
        return raw

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, smallest: int, what: str) -> int:
        """A number of things that take at least ``smallest`` bytes each."""
        n: int = self.number("Q")
        if n * smallest > self.size - self.at:
            raise self.error(f"{n} {what} do not fit into the {self.size - self.at} bytes left; it is truncated")
        return n

    def string(self) -> str:
        n = self.count(1, "bytes of a string")
        if n > LONGEST_STRING:
            raise self.error(f"a string at byte {self.at} of {n} bytes; expected at most {LONGEST_STRING}")
        decoder = getincrementaldecoder("utf-8")()  # by parts: one bad byte in a long string costs no buffer for all
        try:
            parts = [decoder.decode(self.take(min(PART, n - i)), i + PART >= n) for i in range(0, n, PART)]
            return "".join(parts)
        except UnicodeDecodeError as error:
            raise self.error(f"a string before byte {self.at} is not UTF-8 ({error.reason})") from None

    def value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind in NUMBERS:
            return self.numbers(kind, 1)[0].item()
        if kind != ARRAY:
            raise self.error(f"the metadata {key!r} has the type {kind}; expected 0 … 12")
        of = self.number("I")
        if of == STRING:
            return [self.string() for _ in range(self.count(8, "strings"))]
        if of not in NUMBERS:
            raise self.error(f"the metadata {key!r} is an array of type {of}; expected numbers or strings")
        return self.numbers(of, self.count(np.dtype(NUMBERS[of]).itemsize, "numbers"))

    def numbers(self, kind: int, n: int) -> np.ndarray:
        dtype = np.dtype(NUMBERS[kind])
        raw = self.take(n * dtype.itemsize)
        return np.frombuffer(raw, np.uint8) != 0 if kind == 7 else np.frombuffer(raw, dtype)

    def read(self) -> GGUF:
        head = self.file.read(HEAD)
        self.file.seek(0)
        if self.size < 24 or self.take(4) != b"GGUF":
            kind = "" if head.startswith(b"GGUF") else likely_kind(head)
            raise self.error(f"expected a GGUF file, but it {f'is {kind}' if kind else 'does not begin as one'}")
        version = self.number("I")
        if int.from_bytes(version.to_bytes(4, "big"), "little") in (1, 2, 3):
            raise self.error("big-endian GGUF; only little-endian is read (gguf_convert_endian.py converts it)")
        if version not in (2, 3):
            raise self.error(f"GGUF version {version}; only 2 and 3 are read")
        n_tensors = self.count(24, "tensors")  # a name's length, the number of axes, a type, an offset
        n_metadata = self.count(13, "metadata")
        metadata: dict[str, Any] = {}
        for _ in range(n_metadata):
            key = self.string()
            if key in metadata:
                raise self.error(f"the metadata {key!r} appears twice")
            metadata[key] = self.value(key, self.number("I"))
        places = dict(self.places(n_tensors))
        if len(places) != n_tensors:
            raise self.error("a tensor's name appears twice")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or isinstance(alignment, bool) or not 8 <= alignment <= 2**20:
            raise self.error(f"general.alignment is {alignment!r}; expected a number of bytes from 8 on")
        data = -(-self.at // alignment) * alignment
        entries = {name: Entry(kind, shape, data + start, size) for name, (kind, shape, start, size) in places.items()}
        end = data if entries else 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
            if entry.start < end or entry.start % alignment:
                raise self.error(f"the data of {name!r} begins at byte {entry.start}, inside another's or not aligned")
            end = entry.start + entry.size
        if end > self.size:
            raise self.error(f"the tensors end at byte {end}, but the file has {self.size}; it is truncated")
        return GGUF(self.path, metadata, entries)

    def places(self, n: int) -> Iterator[tuple[str, tuple[Kind, tuple[int, ...], int, int]]]:
        for _ in range(n):
            name = self.string()
            axes = self.number("I")
            if not 1 <= axes <= 4:
                raise self.error(f"{name!r} has {axes} axes; expected 1 … 4")
            shape = tuple(self.number("Q") for _ in range(axes))[::-1]  # the file has the fastest first
            code, start = self.number("I"), self.number("Q")
            if code not in KINDS:
                known = ", ".join(k.name for k in KINDS.values())
                other = OTHER_KINDS.get(code, f"number {code}")
                raise self.error(
                    f"{name!r} has the tensor type {other}; only {known} are implemented. Take a file in one of these"
                )
            kind = KINDS[code]
            count = math.prod(shape)
            if count >= LARGEST or start >= LARGEST or any(s >= LARGEST for s in shape) or shape[-1] % kind.values:
                raise self.error(f"{name!r} has the shape {shape}, which {kind.name} cannot hold")
            yield name, (kind, shape, start, count // kind.values * kind.size)


__all__ = ["GGUF", "Entry", "read_gguf"]
