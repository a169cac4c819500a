"""The suite of tasks: nine, in three groups, each made from images that the model was not pretrained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from minipeft.data.digits import load_digits
from minipeft.data.fetch import fetch
from minipeft.data.images import load_fashion, load_mnist

Pictures = tuple[np.ndarray, np.ndarray]  # images (n, S, S) and labels (n,)
GROUPS: dict[str, tuple[str, ...]] = {
    "natural": ("MNIST", "digits", "held-out clothes"),
    "specialized": ("noisy", "coarse", "inverted"),
    "structured": ("count", "location", "orientation"),
}
QUICK_GROUPS: dict[str, tuple[str, ...]] = {
    "natural": ("digits",),
    "specialized": ("noisy", "inverted"),
    "structured": ("count", "orientation"),
}
HELD_OUT = (2, 4, 6, 9)  # pullover, coat, shirt, ankle boot


def groups(mode: str) -> dict[str, tuple[str, ...]]:
    """Return the tasks of a mode by group."""
    return GROUPS if mode == "full" else QUICK_GROUPS


@lru_cache(maxsize=8)
def source(name: str) -> Pictures:
    """Return images and labels in a fixed order; "digits 5 to 9" of scikit-learn's become the classes 0 to 4."""
    if name == "MNIST":
        images, labels = load_mnist(fetch("mnist"))
    elif name == "clothes":
        images, labels = load_fashion(fetch("fashion"))
    elif name == "held-out clothes":
        images, labels = load_fashion(fetch("fashion"), "t10k")
        keep = np.isin(labels, HELD_OUT)
        images, labels = images[keep], np.searchsorted(HELD_OUT, labels[keep])
    else:
        images, labels = load_digits()
        if name == "digits 5 to 9":
            images, labels = images[labels >= 5], labels[labels >= 5] - 5
    order = np.random.default_rng(2024).permutation(len(labels))
    return images[order], labels[order]


def coarse(images: np.ndarray, k: int) -> np.ndarray:
    """Return means of k x k pixels: (n, S, S) -> (n, S / k, S / k)."""
    n, side, _ = images.shape
    return images.reshape(n, side // k, k, side // k, k).mean(axis=(2, 4))


def enlarged(images: np.ndarray, k: int) -> np.ndarray:
    """Return each pixel as k x k: (n, S, S) -> (n, k S, k S)."""
    return images.repeat(k, axis=1).repeat(k, axis=2)


def noisy(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Add Gaussian noise of standard deviation 0.5 to each pixel."""
    images, labels = pictures
    return (images + 0.5 * rng.standard_normal(images.shape)).astype(np.float32), labels


def count(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Put one to four of the images, halved, into the quarters of a picture: the class is their number less one."""
    small = coarse(pictures[0], 2)  # (n, s, s)
    n, s, _ = small.shape
    labels = rng.integers(0, 4, (n,))
    taken = rng.random((n, 4)).argsort(axis=1).argsort(axis=1) <= labels[:, None]  # so many of the four quarters
    parts = small[rng.integers(0, n, (n, 4))] * taken[:, :, None, None]
    return parts.reshape(n, 2, 2, s, s).transpose(0, 1, 3, 2, 4).reshape(n, 2 * s, 2 * s), labels


def location(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Put one image, halved in size, at one of 3 x 3 places: the class is the place."""
    small = coarse(pictures[0], 2)
    n, s, _ = small.shape
    labels = rng.integers(0, 9, (n,))
    images = np.zeros((n, 2 * s, 2 * s), dtype=np.float32)
    for i, (row, column) in enumerate(zip(labels // 3 * (s // 2), labels % 3 * (s // 2), strict=True)):
        images[i, row : row + s, column : column + s] = small[i]
    return images, labels


def orientation(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Rotate an image by 0, 90, 180 or 270 degrees: the class is the angle."""
    images = pictures[0]
    labels: np.ndarray = rng.integers(0, 4, len(images))
    return np.stack([np.rot90(x, k) for x, k in zip(images, labels, strict=True)]), labels


Change = Callable[[Pictures, np.random.Generator], Pictures]
UPON: dict[str, tuple[str, Change]] = {  # task: the images that it starts from, and what is done to them
    "MNIST": ("MNIST", lambda p, rng: p),
    "digits": ("small digits", lambda p, rng: (np.pad(enlarged(p[0], 3), ((0, 0), (2, 2), (2, 2))), p[1])),
    "held-out clothes": ("held-out clothes", lambda p, rng: p),
    "noisy": ("MNIST", noisy),
    "coarse": ("MNIST", lambda p, rng: (enlarged(coarse(p[0], 4), 4), p[1])),
    "inverted": ("held-out clothes", lambda p, rng: (1 - p[0], p[1])),
    "count": ("MNIST", count),
    "location": ("held-out clothes", location),
    "orientation": ("held-out clothes", orientation),
}


@lru_cache(maxsize=2)
def suite(task: str, mode: str) -> Pictures:
    """Return the images and labels of a task, in a fixed order; in quick runs all from the digits 5 to 9."""
    rng = np.random.default_rng((2024, 3))
    if mode == "quick":
        change = UPON[task][1] if task != "digits" else UPON["MNIST"][1]
        return change(source("digits 5 to 9"), rng)
    name, change = UPON[task]
    images, labels = source(name)
    return change((images[:4000], labels[:4000]), rng)


def splits(labels: np.ndarray, n: int, seed: int) -> dict[str, np.ndarray]:
    """Return places of images: "test" the last half (at most 1,000), "val" up to 200 before it, "train" n others."""
    size = len(labels)
    test = min(1000, size // 2)
    val = min(200, (size - test) // 3)
    pool = size - test - val
    train = np.random.default_rng((seed, 5)).permutation(pool)[:n]
    return {"train": train, "val": np.arange(pool, pool + val), "test": np.arange(pool + val, size)}
