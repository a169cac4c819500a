"""Language data that every Python has: its documentation, and its own source code. And a tokenizer of characters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from minipeft.files.config import read_json, write_json
from minipeft.files.errors import FileError

UNKNOWN = "\ufffd"
SOURCE_MODULES: tuple[str, ...] = (
    "argparse",
    "ast",
    "calendar",
    "configparser",
    "csv",
    "datetime",
    "difflib",
    "fractions",
    "statistics",
)
SOURCE_MODULES += ("heapq", "inspect", "random", "shutil", "string", "textwrap", "tokenize", "traceback", "zipfile")


def documentation_topics() -> dict[str, str]:
    """Python's help topics by name, in alphabetical order (they differ a little between Python versions)."""
    from pydoc_data.topics import topics

    return {name: topics[name] for name in sorted(topics)}


def documentation_text() -> str:
    """All of Python's help topics as one text, some 465,000 characters of English prose and tables."""
    return "\n".join(documentation_topics().values())


def library_source() -> str:
    """The source code of some modules of Python's standard library as one text: another kind of text, also for free."""
    from importlib.util import find_spec

    texts = []
    for name in SOURCE_MODULES:
        spec = find_spec(name)
        origin = None if spec is None else spec.origin
        if origin is not None and origin.endswith("__init__.py"):
            files = sorted(Path(origin).parent.glob("*.py"))
        else:
            files = [Path(origin)] if origin and Path(origin).suffix == ".py" else []
        texts += [file.read_text(encoding="utf-8") for file in files]
    if not texts:
        raise FileError("this Python has no source code of its standard library; install a full one")
    return "\n".join(texts)


class CharTokenizer:
    """One token a character: id 0 is the unknown character, the others follow in the order of their code points."""

    def __init__(self, characters: Iterable[str]):
        self.characters = [UNKNOWN, *sorted(set(characters) - {UNKNOWN})]
        self.ids = {c: i for i, c in enumerate(self.characters)}

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """A tokenizer that knows every printable ASCII character and every one of ``text`` that is common enough.

        Characters seen fewer than 20 times become the unknown one, so that odd symbols do not swell the vocabulary.
        """
        values, counts = np.unique(
            np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4"), return_counts=True
        )
        common = {chr(v) for v in values[counts >= 20]}
        return cls(common | {chr(c) for c in range(32, 127)} | {"\n"})

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Ids (n,) int64 of the n characters of ``text``; unknown ones get 0."""
        return np.array([self.ids.get(c, 0) for c in text], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; IndexError for an id that is not in the vocabulary."""
        known = [int(i) for i in ids]
        odd = [i for i in known if not 0 <= i < self.vocab_size]
        if odd:
            raise IndexError(f"the id {odd[0]} is not in the vocabulary of {self.vocab_size}; expected 0 and above")
        return "".join(self.characters[i] for i in known)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        write_json(path, {"characters": "".join(self.characters[1:])})

    @classmethod
    def load(cls, path: str | Path) -> CharTokenizer:
        """Read a vocabulary; FileError where the file holds none."""
        characters = read_json(path).get("characters")
        if not isinstance(characters, str):
            raise FileError(f"{path}: expected the field 'characters', a string")
        return cls(characters)


@lru_cache(maxsize=1)
def characters() -> tuple[CharTokenizer, np.ndarray, np.ndarray]:
    """A tokenizer of both texts; as ids, Python's documentation (to pretrain on) and its source code (to adapt to)."""
    documentation, code = documentation_text(), library_source()
    tokenizer = CharTokenizer.from_text(documentation + code)
    return tokenizer, tokenizer.encode(documentation), tokenizer.encode(code)


def stretches(ids: np.ndarray) -> dict[str, np.ndarray]:
    """The ids of a text (L,) in stretches of 4,096, (n, 4096): of every ten eight are "train", then "val", then "test".

    Neighbours share a style, so parts of one half each would differ; whole stretches share no window.
    """
    rows = ids[: len(ids) // 4096 * 4096].reshape(-1, 4096)
    turn = np.arange(len(rows)) % 10
    return {"train": rows[turn < 8], "val": rows[turn == 8], "test": rows[turn == 9]}
