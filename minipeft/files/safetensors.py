"""safetensors files: eight bytes of header length, a JSON header, raw arrays. Checked before a byte of data is used."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from minipeft.files.atomic import atomic_path
from minipeft.files.causes import HEAD, otherwise
from minipeft.files.errors import FileError
from minipeft.files.sets import current

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
        **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
        **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
    }.items()
}
LONGEST_HEADER = 100_000_000  # the format's own bound
PART = 1 << 16  # numbers


@dataclass(frozen=True)
class Entry:
    """One array of a file: its type as the file names it, its shape, and where its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def safetensors_header(path: str | Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Names, types, shapes and metadata of a file, without its data.

    Raises FileError for a file that is missing, truncated or inconsistent: the header is bounded by the file's size
    before it is read, and the arrays must fill the data exactly, in order, without overlap or gap.
    """
    path = current(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD)
            length = int.from_bytes(head[:8], "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                sizes = f"its header would have {length} bytes and the file has {size}"
                reason = otherwise(head, f"{sizes}; it is truncated or of another kind")
                raise FileError(f"{path}: expected a whole safetensors file, but {reason}")
            file.seek(8)
            raw = file.read(length)
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: the safetensors header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise FileError(f"{path}: the safetensors header must be an object, got {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileError(f"{path}: __metadata__ must map names to strings")
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            raise FileError(
                f"{path}: the data of {name!r} starts at byte {entry.start}, expected {end} (overlap or gap)"
            )
        end = entry.end
    if 8 + length + end != size:
        raise FileError(f"{path}: the arrays end at byte {8 + length + end}, but the file has {size}; it is truncated")
    return entries, metadata


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _entry(path: Path, name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{path}: {name!r} must have dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileError(f"{path}: {name!r} has the type {dtype!r}; expected one of {sorted(DTYPES)}")
    if not _naturals(shape) or len(shape) > 32:
        raise FileError(f"{path}: {name!r} has the shape {_short(shape)}; expected up to 32 whole numbers >= 0")
    if not _naturals(offsets) or len(offsets) != 2:
        raise FileError(f"{path}: {name!r} has the offsets {_short(offsets)}; expected [start, end]")
    need = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != need:
        raise FileError(
            f"{path}: {name!r} of shape {shape} needs {need} bytes, its offsets give {offsets[1] - offsets[0]}"
        )
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _short(value: Any) -> str:
    """A JSON value for a message; numbers of thousands of digits have no place there."""
    return json.dumps(value)[:80]


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a file and its metadata; BF16 comes as float32. Raises FileError as `safetensors_header` does."""
    path = current(path)
    entries, metadata = safetensors_header(path)
    arrays: dict[str, np.ndarray] = {}
    with path.open("rb") as file:
        base = 8 + int.from_bytes(file.read(8), "little")
        for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
            file.seek(base + entry.start)
            count = math.prod(entry.shape)
            read = _read_bf16 if entry.dtype == "BF16" else np.fromfile
            x = read(file, DTYPES[entry.dtype], count)
            if x.size != count:
                raise FileError(f"{path}: the data of {name!r} ends early; the file changed while it was read")
            if entry.dtype == "BOOL" and x.view(np.uint8).max(initial=0) > 1:
                raise FileError(f"{path}: {name!r} has the type BOOL, but a byte of it is neither 0 nor 1")
            try:
                arrays[name] = x.reshape(entry.shape)
            except ValueError as error:  # no entries, but sizes beyond what NumPy takes
                raise FileError(f"{path}: {name!r} has the shape {list(entry.shape)}: {error}") from error
    return arrays, metadata


def _read_bf16(file: IO[bytes], dtype: np.dtype[Any], count: int) -> np.ndarray:
    """The upper halves of ``count`` float32, as float32; in parts, so that beside the result there is little."""
    wide = np.empty(count, dtype=np.uint32)
    for start in range(0, count, PART):
        part = np.fromfile(file, dtype, min(PART, count - start))
        if part.size < min(PART, count - start):
            return np.empty(0, dtype=np.float32)
        wide[start : start + part.size] = part
    wide <<= 16
    return wide.view(np.float32)


def write_safetensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the arrays and metadata, whole or not at all (by the safetensors library).

    The same arrays and metadata give the same bytes. Raises FileError for an array of a type that the format does not
    have, or a name or metadata that it cannot hold; OSError if the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    for name, x in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise FileError(f"{path}: nothing was written, no array can have the name {name!r}")
        if not isinstance(x, np.ndarray) or x.dtype.newbyteorder("<") not in DTYPES.values():
            kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise FileError(f"{path}: nothing was written, {name!r} is {kind}; expected an array of numbers or bools")
    if metadata and not all(isinstance(s, str) for item in metadata.items() for s in item):
        raise FileError(f"{path}: nothing was written, the metadata must map strings to strings, got {dict(metadata)}")
    contiguous = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in arrays.items()}
    with atomic_path(path) as part:
        try:
            save_file(contiguous, part, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:  # the library's error for a full disk has the number only in its text
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        _sort_metadata(part)


def _sort_metadata(path: Path) -> None:
    """Put the metadata in the order of its names, in place (the library writes it in a random one)."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(raw) > length:
                raise ValueError(f"{path}: the header grew from {length} to {len(raw)} bytes")
            file.seek(8)
            file.write(raw.ljust(length))
