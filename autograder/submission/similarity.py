"""Which submissions look alike: fingerprints of what students wrote, without what the handout gave them.

Winnowing (Schleimer, Wilkerson & Aiken 2003): the tokens of a region are read without comments, texts and layout;
each run of K tokens is a gram, and of every WINDOW grams in a row the smallest hash is kept. So two regions that share
K + WINDOW - 1 tokens in a row share a fingerprint. Names stay as they are: renaming everything hides a copy, and
reading every name alike would make all solutions of a short function one. It is a place to look, never a verdict.
"""

from __future__ import annotations

import hashlib
import io
import keyword
import tokenize
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import functions, stubs

K = 14  # tokens of a gram
WINDOW = 6  # grams of which one is kept
COMMON = 0.2  # what a larger share of the class has is the homework's, not a student's
LEAST = 12  # fingerprints, below which a program is too short to compare
SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class Pair:
    """Two submissions: how many fingerprints they share, and the share of the smaller one's."""

    a: str
    b: str
    shared: int
    share: float


def regions(homework: Homework, sources: Mapping[str, str]) -> str:
    """What a student wrote: functions that the stub lacks, or has with another body."""
    blank = stubs(homework)
    written = []
    for f in homework.files:
        source = sources.get(f.module, "")
        try:
            mine, given = functions(source), functions(blank[f.stub])
        except SyntaxError:
            continue
        texts = {n: _text(blank[f.stub], node.lineno, node.end_lineno) for n, node in given.items()}
        for name, node in mine.items():
            text = _text(source, node.lineno, node.end_lineno)
            if texts.get(name) != text:
                written.append(_text(source, node.body[0].lineno, node.end_lineno))
    return "\n".join(written)


def _text(source: str, first: int, last: int | None) -> str:
    return "\n".join(source.split("\n")[first - 1 : last])


def tokens(text: str) -> list[str]:
    """The tokens of a piece of a program, texts as one token; what cannot be read is left out."""
    found: list[str] = []
    lines = text.split("\n")
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    reader = io.StringIO("\n".join(line[indent:] for line in lines) + "\n").readline
    try:
        for token in tokenize.generate_tokens(reader):
            if token.type in SKIPPED:
                continue
            kind = token.type
            plain = kind in (tokenize.NAME, tokenize.OP, tokenize.NUMBER) or keyword.iskeyword(token.string)
            found.append(token.string if plain else tokenize.tok_name[kind])
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass
    return found


def fingerprints(text: str) -> frozenset[int]:
    """The fingerprints of a text: 8-byte hashes that do not depend on the process."""
    words = tokens(text)
    grams = [" ".join(words[i : i + K]).encode() for i in range(len(words) - K + 1)]
    hashes = [int.from_bytes(hashlib.blake2b(g, digest_size=8).digest(), "big") for g in grams]
    if len(hashes) <= WINDOW:
        return frozenset(hashes)
    return frozenset(min(hashes[i : i + WINDOW]) for i in range(len(hashes) - WINDOW + 1))


def pairs(prints: Mapping[str, frozenset[int]], at_least: float = 0.4) -> list[Pair]:
    """Pairs of submissions that share at least that much of the smaller one's fingerprints, the most alike first.

    Fingerprints that more than a fifth of the class have (and more than three) are left out before.
    """
    counts = Counter(h for own in prints.values() for h in own)
    most = max(3, int(COMMON * len(prints)))
    rare = {name: {h for h in own if counts[h] <= most} for name, own in prints.items()}
    holders: dict[int, list[str]] = {}
    for name in sorted(rare):
        for h in rare[name]:
            holders.setdefault(h, []).append(name)
    shared: Counter[tuple[str, str]] = Counter()
    for names in holders.values():
        shared.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    found = []
    for (a, b), n in shared.items():
        smaller = min(len(rare[a]), len(rare[b]))
        if smaller >= LEAST and n / smaller >= at_least:
            found.append(Pair(a, b, n, n / smaller))
    return sorted(found, key=lambda p: (-p.share, -p.shared, p.a, p.b))
