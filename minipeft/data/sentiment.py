"""3 × 1,000 sentences about films, goods and restaurants, labelled positive or negative (Kotzias et al. 2015)."""

from __future__ import annotations

import json

import numpy as np

from minipeft.files.cache import cached
from minipeft.files.errors import FileError

SOURCES = ("imdb", "amazon", "yelp")


def load_sentiment() -> dict[str, tuple[list[str], np.ndarray]]:
    """For each source its sentences and labels (n,), 1 for positive.

    Raises FileError where they have not been fetched, or a file of them is missing or damaged.
    """
    folder = cached("sentiment")
    if folder is None:
        raise FileError("the sentences have not been fetched; run `minipeft fetch sentiment`")
    result = {}
    for source in SOURCES:
        path = folder / f"{source}.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(f"{path}: {error}; remove {folder} and run `minipeft fetch sentiment`") from error
        labelled = [e for e in entries if e.get("class") in (0, 1)]  # each file has one entry without a class
        sentences = [e["text"].strip() for e in labelled]
        result[source] = (sentences, np.array([e["class"] for e in labelled], dtype=np.int64))
    return result


def split_sentiment(
    data: dict[str, tuple[list[str], np.ndarray]],
    seed: int = 0,
    parts: tuple[float, float, float] = (0.5, 0.1, 0.4),
) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Sentences and labels of the splits "train", "val" and "test", stratified by source and label.

    A sentence that comes twice, but for case, spaces and punctuation, is kept once: no split knows another's sentences.
    Raises ValueError for parts that do not sum to one.
    """
    if abs(sum(parts) - 1.0) > 1e-9 or min(parts) < 0:
        raise ValueError(f"the parts must be positive and sum to 1, got {parts}")
    rng = np.random.default_rng(seed)
    names = ("train", "val", "test")
    sentences: dict[str, list[str]] = {n: [] for n in names}
    labels: dict[str, list[int]] = {n: [] for n in names}
    seen: set[str] = set()
    for texts, classes in data.values():
        for label in (0, 1):
            unique = []
            for text, c in zip(texts, classes, strict=True):
                plain = "".join(c for c in text.lower() if c.isalnum())
                if c == label and plain not in seen:
                    seen.add(plain)
                    unique.append(text)
            order = rng.permutation(len(unique))
            ends = np.cumsum([round(p * len(unique)) for p in parts[:2]])
            for name, rows in zip(names, np.split(order, ends), strict=True):
                sentences[name] += [unique[i] for i in rows]
                labels[name] += [label] * len(rows)
    return sentences, {n: np.array(y, dtype=np.int64) for n, y in labels.items()}
