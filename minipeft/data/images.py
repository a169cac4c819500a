"""Grey images: MNIST's digits and Fashion-MNIST, once `minipeft fetch` has downloaded them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from minipeft.files.errors import FileError

PIXELS = 28


def load_mnist(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (10000, 28, 28) float32 in [0, 1] and labels (10000,) int64, digit by digit.

    Raises FileError for a folder without the ten files, or one that does not hold whole images.
    """
    images, labels = [], []
    for digit in range(10):
        path = Path(folder) / f"{digit}.json"
        try:
            values = np.array(json.loads(path.read_text(encoding="utf-8"))["data"], dtype=np.float32)
            images.append(values.reshape(-1, PIXELS, PIXELS))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"{path}: expected MNIST's images of the digit {digit} ({error})") from error
        labels.append(np.full(len(images[-1]), digit))
    return np.concatenate(images), np.concatenate(labels)


def load_fashion(folder: str | Path, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 28, 28) float32 in [0, 1] and labels (n,) int64; part: "train" (60,000) or "t10k" (10,000).

    Raises ValueError for another part, FileError for files that are missing or no IDX files of images and labels.
    """
    if part not in ("train", "t10k"):
        raise ValueError(f'the part is "train" or "t10k", got {part!r}')
    images = read_idx(Path(folder) / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(Path(folder) / f"{part}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise FileError(f"{folder}: {part} has images of shape {images.shape} and labels of shape {labels.shape}")
    return images.astype(np.float32) / 255.0, labels.astype(np.int64)


def read_idx(path: Path) -> np.ndarray:
    """Return the array of bytes in a gzipped IDX file: two zeros, the type 8, the number of axes, lengths, values.

    Raises FileError for a file that is missing, cut off, or of another type.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise FileError(f"{path}: expected a gzipped IDX file ({error})") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise FileError(f"{path}: expected an IDX file of bytes, got one that begins with {raw[:4]!r}")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise FileError(f"{path}: ends within its header")
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], dtype=">i4"))
    values = np.frombuffer(raw[start:], dtype=np.uint8)
    if min(shape, default=0) < 0 or values.size != int(np.prod(shape)):
        raise FileError(f"{path}: its header says {shape}, but {values.size} values follow")
    return values.reshape(shape)
