"""Which submissions look alike: fingerprints of what students wrote, without what the handout gave them.

Winnowing (Schleimer, Wilkerson & Aiken 2003): a program is read as tokens, without comments and layout; each run of K
tokens is a gram, and of every WINDOW grams in a row the smallest hash is kept. So two programs that share
K + WINDOW - 1 tokens in a row share a fingerprint. Names stay as they are: renaming everything hides a copy, and
reading every name alike would make all solutions of a short function one. It is a place to look, never a verdict.

Everything counts that is not a line of the stub, wherever it is in the file. A text is one token of its program, and a
program of its own: what is given to ``exec`` has the fingerprints that it would have as code.
"""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import stubs

K = 14  # tokens of a gram
WINDOW = 6  # grams of which one is kept
MOST = 4096  # fingerprints of a submission: more than a program of 60 kB has; of a larger one the smallest are kept
PIECE = 8  # characters: a longer word, such as a program in base64, is read as several tokens
COMMON = 0.2  # what a larger share of the class has is the homework's, not a student's
LEAST = 12  # fingerprints, below which a program is too short to compare
PAIRS_AT_ONCE = 1 << 22
FACTOR = np.uint64(0x9E3779B97F4A7C15)
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """Two submissions: how many fingerprints they share, and the share of the smaller one's."""

    a: str
    b: str
    shared: int
    share: float


def regions(homework: Homework, sources: Mapping[str, str]) -> list[list[str]]:
    """Return what a student wrote, as lists of tokens: a file outside of its stub's lines, and each text in it."""
    blank = stubs(homework)
    found = []
    for f in homework.files:
        given = blank[f.stub]
        found += tokens(sources.get(f.module, given), given)
    return found


def tokens(program: str, given: str = "") -> list[list[str]]:
    """Return the tokens of a program that are not in a line or a text of ``given``, and those of each text in it.

    What Python cannot read is split into words.
    """
    lines = set(map(str.strip, given.split("\n")))
    texts = {t.string for t in tokenize.generate_tokens(io.StringIO(given).readline) if t.type == tokenize.STRING}
    ours = {row for row, line in enumerate(program.split("\n"), 1) if line.strip() in lines}
    code: list[str] = []
    found = [code]
    try:
        for token in tokenize.generate_tokens(io.StringIO(program).readline):
            if token.type in SKIPPED or token.start[0] in ours or token.string in texts:
                continue
            text = _text(token)
            code.append(token.string if text is None else "TEXT")
            if text:
                found.append(_words(text))
    except (tokenize.TokenError, SyntaxError, ValueError):
        code += _words(program)
    return found


def _text(token: tokenize.TokenInfo) -> str | None:
    """Return what a token that is a text holds, None for other tokens."""
    if token.type != tokenize.STRING:
        return token.string if tokenize.tok_name[token.type] == "FSTRING_MIDDLE" else None
    prefix, _, rest = token.string.partition(token.string[-1])
    if "f" in prefix.lower():  # before Python 3.12
        return rest
    value = ast.literal_eval(token.string)
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _words(text: str) -> list[str]:
    """Return the words of a text; as Python would read it, if it is code."""
    try:
        read = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in SKIPPED]
    except (tokenize.TokenError, SyntaxError):
        read = WORD.findall(text)
    found: list[str] = []
    for word in read:
        found += [word[i : i + PIECE] for i in range(0, len(word), PIECE)] if len(word) > 4 * PIECE else [word]
    return found


def fingerprints(written: list[list[str]]) -> frozenset[int]:
    """Return the fingerprints of lists of tokens: at most `MOST` hashes of 64 bits, the same in every process."""
    hashed: dict[str, int] = {}
    for word in itertools.chain.from_iterable(written):
        if word not in hashed:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            hashed[word] = int.from_bytes(digest, "big")
    found: set[int] = set()
    for words in written:
        if len(words) >= K:
            grams = np.zeros(len(words) - K + 1, np.uint64)
            each = np.array([hashed[word] for word in words], np.uint64)
            for i in range(K):
                grams = grams * FACTOR + each[i : i + len(grams)]  # modulo 2^64
            grams ^= grams >> np.uint64(29)
            windows = sliding_window_view(grams, min(WINDOW, len(grams)))
            found.update(np.unique(windows.min(axis=1)).tolist())
    return frozenset(sorted(found)[:MOST])


def pairs(prints: Mapping[str, frozenset[int]], at_least: float = 0.4) -> list[Pair]:
    """Return the pairs of submissions that share at least that much of the smaller one's fingerprints.

    The most alike come first. Fingerprints that more than a fifth of the class have (and more than three) are left out.
    """
    names = sorted(prints)
    every = np.array([h for name in names for h in sorted(prints[name])], np.uint64)
    owners = np.repeat(np.arange(len(names)), [len(prints[name]) for name in names])
    order = np.argsort(every, kind="stable")  # each fingerprint's owners in a row
    _, starts, counts = np.unique(every[order], return_index=True, return_counts=True)
    owners, rare = owners[order], counts <= max(3, int(COMMON * len(names)))
    sizes = np.bincount(owners[np.repeat(rare, counts)], minlength=len(names))
    shared = np.zeros((len(names), len(names)), np.int64)
    for holders in np.unique(counts[rare & (counts > 1)]).tolist():
        rows = owners[starts[rare & (counts == holders)][:, None] + np.arange(holders)]
        first, second = np.triu_indices(holders, 1)
        for some in np.array_split(rows, 1 + len(rows) * len(first) // PAIRS_AT_ONCE):
            both = some[:, first] * len(names) + some[:, second]
            shared += np.bincount(both.ravel(), minlength=shared.size).reshape(shared.shape)
    smaller = np.minimum(sizes[:, None], sizes)
    alike = (smaller >= LEAST) & (shared >= at_least * np.maximum(smaller, 1))
    found = []
    for a, b in zip(*(index.tolist() for index in np.nonzero(alike)), strict=True):
        n = int(shared[a, b])
        found.append(Pair(names[a], names[b], n, n / int(smaller[a, b])))
    return sorted(found, key=lambda p: (-p.share, -p.shared, p.a, p.b))
