"""Batches whose order depends on (seed, epoch) alone, so that training can resume to the same bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np


class Batches:
    """Rows of several arrays of one length, in batches.

    trim: the name of a boolean mask (n, T); every (n, T) array then loses the columns at the right that are
    padding in the whole batch. Raises ValueError for arrays of different lengths or a batch size below 1.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        trim: str | None = None,
    ):
        if not isinstance(arrays, Mapping):
            raise TypeError(f"Batches: expected a dict of arrays by name first, got {type(arrays).__name__}")
        arrays = as_arrays(arrays)
        lengths = {name: len(x) for name, x in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Batches: the arrays must have one length, got {lengths}")
        if batch_size < 1:
            raise ValueError(f"Batches: the batch size must be at least 1, got {batch_size}")
        if trim is not None and trim not in arrays:
            raise ValueError(f"Batches: trim names {trim!r}, which is not among {sorted(arrays)}")
        if trim is not None and (arrays[trim].ndim != 2 or arrays[trim].dtype != bool):
            mask = arrays[trim]
            raise ValueError(f"Batches: the mask {trim!r} must be (n, T) bool, got {mask.shape} {mask.dtype}")
        self.arrays = dict(arrays)
        self.size = next(iter(lengths.values()))
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.trim = trim
        if len(self) == 0:
            raise ValueError(f"Batches: {self.size} rows make no batch of {batch_size}")

    def __len__(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def epoch(self, e: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of epoch e."""
        order = np.random.default_rng((self.seed, e)).permutation(self.size) if self.shuffle else np.arange(self.size)
        for i in range(len(self)):
            rows = order[i * self.batch_size : (i + 1) * self.batch_size]
            batch = {name: x[rows] for name, x in self.arrays.items()}
            if self.trim is not None:
                mask = batch[self.trim]  # (B, T)
                width = int(np.flatnonzero(mask.any(axis=0)).max(initial=-1)) + 1  # up to the last real token
                batch = {name: x[:, :width] if x.shape == mask.shape else x for name, x in batch.items()}
            yield batch


class LanguageModelBatches:
    """Random windows of a text: ids (B, T) and labels (B, T), labels[:, t] being the token after ids[:, t].

    An epoch has as many windows as the text has lengths; they depend only on (seed, epoch).
    Raises ValueError for a text shorter than a window, or a batch size or length below 1.
    """

    def __init__(self, tokens: np.ndarray | Sequence[int], batch_size: int, length: int, seed: int = 0):
        if batch_size < 1 or length < 1:
            raise ValueError(f"the batch size and the length must be at least 1, got {batch_size} and {length}")
        if len(tokens) < length + 1:
            raise ValueError(f"a text of {len(tokens)} tokens has no window of {length} and the token after it")
        self.tokens = np.asarray(tokens)
        self.batch_size = batch_size
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return max(1, len(self.tokens) // (self.batch_size * self.length))

    def epoch(self, e: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of epoch e."""
        rng = np.random.default_rng((self.seed, e))
        for _ in range(len(self)):
            starts = rng.integers(0, len(self.tokens) - self.length, self.batch_size)
            windows = self.tokens[starts[:, None] + np.arange(self.length + 1)]  # (B, T + 1)
            yield {"ids": windows[:, :-1], "labels": windows[:, 1:]}


def as_arrays(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch with arrays for its lists."""
    return {name: np.asarray(x) if isinstance(x, list) else x for name, x in batch.items()}


class Repeated:
    """The batches of a list, the same in each epoch."""

    def __init__(self, batches: Sequence[Mapping[str, Any]]):
        self.batches = [as_arrays(batch) for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, e: int) -> Iterator[Mapping[str, Any]]:
        """The batches of epoch e."""
        return iter(self.batches)


def as_batches(batches: Any, steps: int | None = None) -> Any:
    """Return ``batches`` if it has ``len()`` and ``epoch(e)``, else `Repeated` for an iterable of batches.

    steps: read at most this many from the iterable. Raises TypeError for anything else, naming what was given.
    """
    if hasattr(batches, "epoch") and hasattr(batches, "__len__"):
        return batches
    expected = "expected Batches, or a list of batches that are dicts of arrays"
    if isinstance(batches, Mapping):
        raise TypeError(f"{expected}; got one dict: for a single batch give [batch]")
    if not isinstance(batches, Iterable):
        raise TypeError(f"{expected}; got {type(batches).__name__}")
    listed = list(islice(batches, steps))
    odd = [type(batch).__name__ for batch in listed if not isinstance(batch, Mapping)]
    if odd:
        raise TypeError(f"{expected}; got {type(batches).__name__} of {odd[0]}")
    return Repeated(listed)
