"""BERT's tokenizer: words, then the longest known pieces of each (Devlin et al. 2019)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minipeft.files.errors import FileError

LONGEST_WORD = 100
SPECIAL = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")
CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


class WordPiece:
    """Text -> ids by greedy longest match; pieces inside a word start with "##". Lower-cases and strips accents.

    What counts as punctuation or an accent is up to this Python's Unicode tables; other implementations may have
    older ones. "[MASK]" and its like in a text stand for themselves. Raises ValueError for a vocabulary without them.
    """

    def __init__(self, vocab: Sequence[str]):
        self.vocab = list(vocab)
        self.ids = {piece: i for i, piece in enumerate(self.vocab)}
        missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if t not in self.ids]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}; expected BERT's vocab.txt")
        self.pad, self.unknown = self.ids["[PAD]"], self.ids["[UNK]"]
        self.first, self.last = self.ids["[CLS]"], self.ids["[SEP]"]
        self._known: dict[str, list[int]] = {}

    @classmethod
    def from_file(cls, path: str | Path) -> WordPiece:
        """From a vocab.txt, one piece a line; FileError where it is missing or no vocabulary."""
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")  # no other separator: a piece may be one
            return cls(lines[:-1] if lines[-1] == "" else lines)
        except (OSError, ValueError) as error:
            raise FileError(f"{path}: expected a WordPiece vocabulary, one piece a line ({error})") from error

    def words(self, text: str) -> list[str]:
        """The words and punctuation marks of ``text``, cleaned, in lower case, without accents."""
        spaced = "".join(_spaced(c) for c in text)
        words: list[str] = []
        for raw in spaced.split():
            lower = "".join(c.lower() for c in raw)  # one by one: str.lower() knows of a sigma at the end of a word
            plain = "".join(c for c in unicodedata.normalize("NFD", lower) if unicodedata.category(c) != "Mn")
            word = ""
            for c in plain:
                if _is_punctuation(c):
                    words += [word, c] if word else [c]
                    word = ""
                else:
                    word += c
            if word:
                words.append(word)
        return words

    def pieces(self, word: str) -> list[int]:
        """The ids of the longest known pieces of ``word`` from left to right; [UNK] where there are none."""
        if word in self._known:
            return self._known[word]
        ids: list[int] = []
        start = 0
        while start < len(word) <= LONGEST_WORD:
            for end in range(len(word), start, -1):
                found = self.ids.get(word[start:end] if start == 0 else "##" + word[start:end])
                if found is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                break
        result = ids if start == len(word) else [self.unknown]
        self._known[word] = result
        return result

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """[CLS] pieces [SEP], cut to ``max_length`` ids in all; ValueError where that leaves no room for the two."""
        ids: list[int] = []
        for part in SPECIAL.split(text):
            if part in self.ids and SPECIAL.fullmatch(part):
                ids.append(self.ids[part])
            else:
                ids += [i for word in self.words(part) for i in self.pieces(word)]
        if max_length is not None:
            if max_length < 2:
                raise ValueError(f"max_length must leave room for [CLS] and [SEP], got {max_length}")
            ids = ids[: max_length - 2]
        return [self.first, *ids, self.last]

    def batch(self, texts: Sequence[str], max_length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """ids (B, T) int64, padded on the right, and mask (B, T), True for real tokens."""
        rows = [self.encode(t, max_length) for t in texts]
        T = max((len(r) for r in rows), default=0)
        ids = np.full((len(rows), T), self.pad, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        lengths = np.array([len(r) for r in rows], dtype=np.int64)
        return ids, np.arange(T) < lengths[:, None]


def _spaced(c: str) -> str:
    """The character, a space in its place, spaces around it (Chinese), or nothing (control characters)."""
    code = ord(c)
    if c in "\t\n\r" or unicodedata.category(c) == "Zs":
        return " "
    if code in (0, 0xFFFD) or unicodedata.category(c).startswith("C"):
        return ""
    return f" {c} " if any(low <= code <= high for low, high in CHINESE) else c


def _is_punctuation(c: str) -> bool:
    """ASCII that is neither letter nor digit nor space, and Unicode's punctuation."""
    code = ord(c)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(c).startswith("P")
