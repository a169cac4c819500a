"""Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), as GPT-2 and SmolLM2 have it."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from minipeft.files.cache import cached
from minipeft.files.config import shown
from minipeft.files.errors import FileError
from minipeft.files.gguf import read_gguf

CONTROL = 3  # the token type of GGUF for what is not text
TOKENIZERS = {  # by key of GGUF, without "tokenizer.ggml.": the values that are implemented
    "model": ("gpt2",),
    "pre": ("smollm", "gpt-2"),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix"), (False,)),
}
PIECES = re.compile(r" ?L+| ?N+| ?O+|[ S]+(?![LNO])|[ S]+")  # over the classes of a text's characters
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
SPACES = {chr(c) for c in (*range(9, 14), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F)}
SPACES |= {"\u3000"}


def _byte_letters() -> list[str]:
    """Return a printable character for each byte: itself if it is printable, else one from 256 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


LETTERS = _byte_letters()
BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


class BytePairs:
    """Text -> ids: the text is cut into words, and in each word's bytes the pair merged earliest is merged first.

    tokens: the vocabulary, bytes written as GPT-2 writes them; merges: pairs "a b", the earliest first; special: ids of
    tokens that stand for themselves wherever they occur in a text. digits_alone: each digit is a word (SmolLM2).
    unknown: the id of a byte that no token has; without one it is left out. eos: the id that ends a text.
    Raises ValueError for a merge whose result is no token.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[str],
        special: Sequence[int] = (),
        digits_alone: bool = False,
        unknown: int | None = None,
        eos: int | None = None,
        template: str | None = None,
    ):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks: dict[tuple[str, str], int] = {}
        for rank, merge in enumerate(merges):
            left, _, right = merge.partition(" ")
            if left + right not in self.ids or not (left and right):
                raise ValueError(f"the merge {merge!r} makes no token of the vocabulary")
            self.ranks[left, right] = rank
        self.special = {self.tokens[i]: i for i in special}
        longest_first = sorted(self.special, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if self.special else None
        self.digits_alone = digits_alone
        self.unknown, self.eos, self.template = unknown, eos, template
        self._known: dict[str, list[int]] = {}

    @classmethod
    def from_gguf(cls, source: str | Path) -> BytePairs:
        """Return the tokenizer in a GGUF file, or in something fetched, by its name; FileError if it cannot be read."""
        path = Path(source)
        if not path.exists():
            path = cached(str(source)) or path
        gguf = read_gguf(path / "model.gguf" if path.is_dir() else path)
        m = {key.removeprefix("tokenizer.").removeprefix("ggml."): value for key, value in gguf.metadata.items()}
        for key, accepted in TOKENIZERS.items():
            value = m.get(key, accepted[-1] if key.startswith("add_") else None)
            if not isinstance(value, (str, bool)) or value not in accepted:
                known = " or ".join(map(repr, accepted))
                raise FileError(f"{path}: tokenizer.ggml.{key} is {shown(value)}; only {known} is implemented")
        tokens, merges, types = m.get("tokens"), m.get("merges"), m.get("token_type", np.ones(0, int))
        if not (_strings(tokens) and _strings(merges)):
            raise FileError(f"{path}: tokenizer.ggml.tokens and tokenizer.ggml.merges must be lists of strings")
        if not isinstance(types, np.ndarray) or len(types) not in (0, len(tokens)):
            raise FileError(f"{path}: tokenizer.ggml.token_type must have a number for each of {len(tokens)} tokens")
        for key in ("unknown_token_id", "eos_token_id"):
            value = m.get(key, 0)
            if type(value) is not int or not 0 <= value < len(tokens):
                raise FileError(f"{path}: tokenizer.ggml.{key} is {shown(value)}, which is not the id of a token")
        template = m.get("chat_template")
        if not isinstance(template, (str, type(None))):
            raise FileError(f"{path}: tokenizer.chat_template must be text, got {shown(template)}")
        special = np.flatnonzero(types == CONTROL).tolist()
        unknown, eos = m.get("unknown_token_id"), m.get("eos_token_id")
        try:
            return cls(tokens, merges, special, m["pre"] == "smollm", unknown, eos, template)
        except ValueError as error:
            raise FileError(f"{path}: tokenizer.ggml.merges: {error}") from error

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text; special=False reads "<|im_end|>" and its like as plain text (what a user typed, say)."""
        parts = self._special.split(text) if special and self._special else [text]
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self.special[part])
            else:
                for word in words(part, self.digits_alone):
                    ids += self.pieces(word)
        return ids

    def pieces(self, word: str) -> list[int]:
        """The ids of one word."""
        if word not in self._known:
            parts = self._merged([LETTERS[b] for b in word.encode("utf-8", "replace")])
            found = [self.ids.get(part, self.unknown) for part in parts]
            if len(self._known) < 100_000:
                self._known[word] = [i for i in found if i is not None]
            else:
                return [i for i in found if i is not None]
        return self._known[word]

    def _merged(self, parts: list[str]) -> list[str]:
        while len(parts) > 1:
            ranks = [self.ranks.get(pair, len(self.ranks)) for pair in pairwise(parts)]
            best = min(ranks)
            if best == len(self.ranks):
                break
            left, right = parts[ranks.index(best)], parts[ranks.index(best) + 1]
            merged, i = [], 0
            while i < len(parts):
                if parts[i] == left and parts[i + 1 : i + 2] == [right]:
                    merged.append(left + right)
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        return parts

    def decode(self, ids: Sequence[int] | np.ndarray, special: bool = False) -> str:
        """The text of ids (n,), without the special tokens unless ``special``; half a character becomes U+FFFD."""
        return self.bytes(ids, special).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int], special: bool = False) -> Iterator[str]:
        """Yield the text of ids one by one; joined, the pieces equal `decode` of all ids.

        A character whose bytes are spread over several ids comes with the last of them.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            yield decoder.decode(self.bytes([i], special))
        yield decoder.decode(b"", final=True)

    def bytes(self, ids: Sequence[int] | np.ndarray, special: bool = False) -> bytes:
        """The bytes of ids (n,); ValueError for an id outside of the vocabulary."""
        out = bytearray()
        for i in np.asarray(ids, dtype=np.int64).reshape(-1).tolist():
            if not 0 <= i < len(self.tokens):
                raise ValueError(f"{i} is no token id: the vocabulary has 0 … {len(self.tokens) - 1}")
            token = self.tokens[i]
            if token in self.special:
                out += token.encode() if special else b""
            elif all(letter in BYTES for letter in token):
                out += bytes(BYTES[letter] for letter in token)
            else:
                out += token.encode()
        return bytes(out)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation, {"role": …, "content": …} each, by the model's own template, ready for an answer.

        Raises ValueError if the model has no template, or one that fails. Needs jinja2 (the extra `chat`).
        """
        if self.template is None:
            raise ValueError("this tokenizer has no chat template")
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            text = environment.from_string(self.template).render(messages=list(messages), add_generation_prompt=True)
        except Exception as error:  # a template is a program of somebody's, which may raise anything
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ValueError(f"the chat template failed ({reason})") from error
        return self.encode(text)


def _strings(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(v, str) for v in values)


def _class(c: str) -> str:
    if c == " ":
        return " "
    if c in SPACES:
        return "S"
    kind = unicodedata.category(c)[0]
    return kind if kind in "LN" else "O"


def words(text: str, digits_alone: bool = False) -> Iterator[str]:
    """The text cut as GPT-2 does: contractions, letters, digits or other signs with the space before them, spaces."""
    classes = "".join(map(_class, text))
    stretches = re.finditer(r"N|[^N]+", classes) if digits_alone else re.finditer(r".+", classes)
    for stretch in stretches:
        at, end = stretch.span()
        while at < end:
            contraction = next((c for c in CONTRACTIONS if text.startswith(c, at) and at + len(c) <= end), None)
            if contraction is None:
                match = PIECES.match(classes, at, end)
                assert match is not None
                stop = match.end()
            else:
                stop = at + len(contraction)
            yield text[at:stop]
            at = stop
