"""Write and read the frames of JSON and plain arrays that the trusted side and a worker exchange.

    magic "MPG2" | u32 length of the header | u64 length of the arrays | header: JSON | the arrays

Each array is at a multiple of ALIGNED, in C order and little-endian. The lengths come first, so a frame can be passed
on without being read.

The header is ``{"arrays": [{"dtype": "f8", "shape": [2, 3]}, …], "value": tree}``. In the tree, null, booleans,
numbers, strings and lists are themselves, and an object is one of

    {"a": 0}        array 0
    {"d": {…}}      a dict
    {"f": "nan"}    a float that JSON lacks: nan, inf, -inf
    {"o": "set"}    something else, of which only the name of its type is sent

Nothing is unpickled or evaluated. All of a header is checked before the first array is created. This file is copied to
the worker, so it imports only NumPy.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"MPG2"
PREFIX = struct.Struct("<4sIQ")
ALIGNED = 64  # bytes
CHUNK = 1 << 20  # bytes
MAX_HEADER = 256 * 1024  # bytes
MAX_ARRAYS = 1024
MAX_NDIM = 8
MAX_BYTES = 64 * 1024 * 1024  # of all arrays of a frame
LONGEST_MESSAGE = 2000  # characters of an exception's text
MAX_DEPTH = 12  # of lists and dicts inside each other
DTYPES = {name: np.dtype("<" + name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}
DTYPES["b1"] = np.dtype("bool")
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class FrameError(ValueError):
    """A frame is malformed, or a message does not fit into one; the message says what was expected."""


@dataclass(frozen=True)
class Opaque:
    """The name of a type, instead of a value that no frame can hold."""

    type: str


def encode(message: Any) -> bytes:
    """Return the frame of a message: None, booleans, numbers, strings, arrays, lists and dicts of these.

    The other side reads arrays as plain ones of the same dtype (one of `DTYPES`), tuples as lists, anything else as
    `Opaque`. Raises FrameError if the message is too large for a frame.
    """
    arrays: list[np.ndarray] = []

    def tree(x: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise FrameError(f"lists inside lists {depth} deep: at most {MAX_DEPTH}")
        if x is None or isinstance(x, bool):
            return x
        if isinstance(x, str):
            return x.encode("utf-8", "replace").decode()
        if isinstance(x, int) and -(2**63) <= x < 2**64:
            return int(x)
        if isinstance(x, float):
            return float(x) if math.isfinite(x) else {"f": str(float(x))}
        if isinstance(x, np.ndarray) and x.dtype.newbyteorder("<") in NAMES:
            arrays.append(x)
            return {"a": len(arrays) - 1}
        if isinstance(x, (list, tuple)):
            return [tree(v, depth + 1) for v in x]
        if isinstance(x, dict):
            return {"d": {str(k): tree(v, depth + 1) for k, v in x.items()}}
        kind = f"array of {x.dtype}" if isinstance(x, np.ndarray) else getattr(x, "type", type(x).__name__)
        return {"o": str(kind)[:80].encode("utf-8", "replace").decode()}

    value = tree(message, 0)
    listed = [{"dtype": NAMES[x.dtype.newbyteorder("<")], "shape": list(x.shape)} for x in arrays]
    header = json.dumps({"arrays": listed, "value": value}, allow_nan=False, separators=(",", ":")).encode()
    header += b" " * (-(PREFIX.size + len(header)) % ALIGNED)
    total = sum(_padded(x.nbytes) for x in arrays)
    for what, size, most in (
        ("arrays", len(arrays), MAX_ARRAYS),
        ("bytes of header", len(header), MAX_HEADER),
        ("bytes of arrays", total, MAX_BYTES),
        ("axes", max((x.ndim for x in arrays), default=0), MAX_NDIM),
    ):
        if size > most:
            raise FrameError(f"{size} {what}: a frame has at most {most}")
    parts: list[Any] = [PREFIX.pack(MAGIC, len(header), total), header]
    for x in arrays:
        plain = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<"))
        parts += [plain.reshape(-1).view(np.uint8), bytes(_padded(x.nbytes) - x.nbytes)]
    return b"".join(parts)


def _padded(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED


@dataclass(frozen=True)
class Header:
    """A header that has passed every check: what each array is, the tree, the bytes of all arrays."""

    arrays: tuple[tuple[np.dtype, tuple[int, ...], int], ...]  # dtype, shape, bytes
    value: Any
    payload: int


def parse_prefix(data: bytes) -> tuple[int, int]:
    """Return the lengths of the header and of the arrays. Raises FrameError if these bytes begin no frame."""
    magic, length, payload = PREFIX.unpack(data)
    if magic != MAGIC:
        raise FrameError(f"a frame begins with {MAGIC!r}, got {magic!r}")
    if not 0 < length <= MAX_HEADER:
        raise FrameError(f"a header of {length} bytes: expected 1 to {MAX_HEADER}")
    if payload > MAX_BYTES:
        raise FrameError(f"{payload} bytes of arrays: at most {MAX_BYTES}")
    return int(length), int(payload)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FrameError("a key comes twice")
    return found


def _no_constant(text: str) -> Any:
    raise FrameError(f"{text} is no JSON")


def parse_header(data: bytes) -> Header:
    """Return the header, fully checked. Raises FrameError for anything that `encode` would not write."""
    try:
        raw = json.loads(data.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_no_constant)
    except FrameError:
        raise
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the header is no JSON: {str(error)[:80]}") from None
    if not isinstance(raw, dict) or set(raw) != {"arrays", "value"} or not isinstance(raw["arrays"], list):
        raise FrameError('the header must be {"arrays": [...], "value": ...}')
    if len(raw["arrays"]) > MAX_ARRAYS:
        raise FrameError(f"{len(raw['arrays'])} arrays: at most {MAX_ARRAYS}")
    arrays = tuple(_array(entry) for entry in raw["arrays"])
    payload = sum(_padded(nbytes) for *_, nbytes in arrays)
    if payload > MAX_BYTES:
        raise FrameError(f"{payload} bytes of arrays: at most {MAX_BYTES}")
    _check_tree(raw["value"], len(arrays), 0)
    return Header(arrays, raw["value"], payload)


def _array(entry: Any) -> tuple[np.dtype, tuple[int, ...], int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape"}:
        raise FrameError('an array must be {"dtype": ..., "shape": [...]}')
    name, shape = entry["dtype"], entry["shape"]
    if not isinstance(name, str) or name not in DTYPES:
        raise FrameError(f"a dtype must be one of {', '.join(DTYPES)}, got {str(name)[:20]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_NDIM:
        raise FrameError(f"a shape must be a list of at most {MAX_NDIM} sizes")
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(n or 1 for n in shape) > MAX_BYTES:
        raise FrameError(f"sizes must be integers from 0 on, with a product of at most {MAX_BYTES}")
    return DTYPES[name], tuple(shape), math.prod(shape) * DTYPES[name].itemsize


def _check_tree(x: Any, n_arrays: int, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise FrameError(f"lists inside lists: at most {MAX_DEPTH} deep")
    if isinstance(x, str):
        try:
            x.encode("utf-8")
        except UnicodeEncodeError:
            raise FrameError("a string with half a surrogate pair") from None
    elif isinstance(x, list):
        for v in x:
            _check_tree(v, n_arrays, depth + 1)
    elif isinstance(x, dict):
        _check_tagged(x, n_arrays, depth)
    elif isinstance(x, int) and not -(2**63) <= x < 2**64:
        raise FrameError("an integer of more than 64 bits")
    elif isinstance(x, float) and not math.isfinite(x):
        raise FrameError("a number too large for a float")


def _check_tagged(x: dict[str, Any], n_arrays: int, depth: int) -> None:
    tag, v = next(iter(x.items())) if len(x) == 1 else ("", None)
    if tag == "d" and isinstance(v, dict):
        for key, value in v.items():
            _check_tree(key, n_arrays, depth)
            _check_tree(value, n_arrays, depth + 1)
    elif tag == "o" and isinstance(v, str) and len(v) <= 80:
        _check_tree(v, n_arrays, depth)
    elif not (tag == "a" and type(v) is int and 0 <= v < n_arrays) and not (
        tag == "f" and isinstance(v, str) and v in FLOATS
    ):
        raise FrameError(f"an object of the tree that means nothing: {str(tag)[:20]!r}")


def build(header: Header, payload: bytes | bytearray | memoryview) -> Any:
    """Return the message of a checked header and its payload. Arrays are views of the payload if it is writeable."""
    if len(payload) != header.payload:
        raise FrameError(f"expected {header.payload} bytes of arrays, got {len(payload)}")
    arrays, start = [], 0
    for dtype, shape, nbytes in header.arrays:
        flat = np.frombuffer(payload, np.uint8, nbytes, start)
        flat = flat if flat.flags.writeable else flat.copy()
        if dtype == DTYPES["b1"]:  # any byte but 0 is True; NumPy expects 1
            arrays.append((flat != 0).reshape(shape))
        else:
            arrays.append(flat.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False))
        start += _padded(nbytes)

    return _value(header.value, arrays)


def _value(x: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(x, list):
        return [_value(v, arrays) for v in x]
    if not isinstance(x, dict):
        return x
    ((tag, v),) = x.items()
    if tag in ("a", "f"):
        return arrays[v] if tag == "a" else FLOATS[v]
    if tag == "o":
        return Opaque(v)
    return {key: _value(entry, arrays) for key, entry in v.items()}


def decode(data: bytes | bytearray) -> Any:
    """Return the message of one whole frame. Raises FrameError for anything else, also for bytes after it."""
    if len(data) < PREFIX.size or len(data) != frame_size(data):
        raise FrameError(f"expected a whole frame and nothing more, got {len(data)} bytes")
    start = PREFIX.size + parse_prefix(bytes(data[: PREFIX.size]))[0]
    return build(parse_header(bytes(data[PREFIX.size : start])), memoryview(data)[start:])


def frame_size(data: bytes | bytearray) -> int:
    """Return the bytes of a whole frame by its first bytes."""
    return PREFIX.size + sum(parse_prefix(bytes(data[: PREFIX.size])))


def receive(fd: int) -> bytearray | None:
    """Read the bytes of the next frame, and no more; None if there are no more."""
    prefix = bytearray(PREFIX.size)
    if not _fill(fd, prefix, 0):
        return None
    data = bytearray(frame_size(prefix))
    data[: PREFIX.size] = prefix
    return data if _fill(fd, data, PREFIX.size) else None


def _fill(fd: int, data: bytearray, start: int) -> bool:
    """Read until ``data`` is full. Returns False if the stream ends before."""
    while start < len(data):
        chunk = os.read(fd, min(len(data) - start, CHUNK))
        if not chunk:
            return False
        data[start : start + len(chunk)] = chunk
        start += len(chunk)
    return True


def send(fd: int, data: bytes) -> None:
    """Write every byte."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class Collector:
    """Collect the bytes of one frame as they come. Only the lengths at its beginning are read.

    most: the largest number of bytes of a whole frame. More bytes, or bytes after the frame, raise a FrameError.
    """

    def __init__(self, most: int = PREFIX.size + MAX_HEADER + MAX_BYTES):
        self.data = bytearray()
        self.most = most

    def feed(self, chunk: bytes | bytearray) -> bool:
        """Add a chunk. Returns True once ``data`` is a whole frame."""
        self.data += chunk
        if len(self.data) < PREFIX.size:
            return False
        size = frame_size(self.data)
        if size > self.most:
            raise FrameError(f"a frame of {size} bytes: at most {self.most}")
        if len(self.data) > size:
            raise FrameError("bytes behind the frame")
        return len(self.data) == size
