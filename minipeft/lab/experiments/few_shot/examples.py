"""The examples of both tasks: lines of code, prose and comments, and sentences of reviews."""

from __future__ import annotations

import io
import json
import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minipeft.data.sentiment import SOURCES, load_sentiment, split_sentiment
from minipeft.few_shot import Encode, Example

LINES, REVIEWS = "lines", "reviews"
HERE = {LINES: "code and documentation", REVIEWS: "imdb"}
ELSEWHERE = {LINES: ("code and comments",), REVIEWS: ("amazon", "yelp")}
SHORTEST_LINE, LONGEST_LINE = 10, 24  # characters: 17 lines with their labels fit into 512
LONGEST_REVIEW = 16  # tokens


def sample(pool: Sequence[Example], k: int, seed: int) -> list[Example]:
    """Return k examples, as many of each label, in a random order."""
    rng = np.random.default_rng((seed, k, 11))
    picked: list[Example] = []
    for label in (0, 1):
        of_label = [e for e in pool if e[1] == label]
        picked += [of_label[i] for i in rng.choice(len(of_label), k // 2, replace=False)]
    return [picked[i] for i in rng.permutation(k)]


def load(task: str, folder: Path, encode: Encode) -> dict[str, dict[str, list[Example]]]:
    """Return examples by domain and part; every part starts with as many pairs of both labels as it has."""
    if task == LINES:
        found = json.loads((folder / "lines.json").read_text(encoding="utf-8"))
        return {d: {p: [(t, int(c)) for t, c in part] for p, part in parts.items()} for d, parts in found.items()}
    data = load_sentiment()
    examples: dict[str, dict[str, list[Example]]] = {}
    for source in SOURCES:
        texts, labels = split_sentiment({source: data[source]}, seed=2024)
        examples[source] = {}
        for part in texts:
            pairs = zip(texts[part], labels[part], strict=True)
            short = [(t, int(c)) for t, c in pairs if len(encode(t)) <= LONGEST_REVIEW and "\n" not in t]
            examples[source][part] = _alternating(short)
    return examples


def _alternating(examples: Sequence[Example]) -> list[Example]:
    """Return the examples in a random order, labels in turn as long as there are both."""
    order = np.random.default_rng(7).permutation(len(examples))
    by_label = [[examples[i] for i in order if examples[i][1] == c] for c in (0, 1)]
    n = min(map(len, by_label))
    paired = [e for pair in zip(by_label[0][:n], by_label[1][:n], strict=True) for e in pair]
    return [*paired, *by_label[0][n:], *by_label[1][n:]]


def code_and_comments(source: str, start: int) -> tuple[list[str], list[str]]:
    """Return the lines of code and the comments (without their #) after the character ``start``.

    Python's tokenizer tells them apart. Lines inside strings of several lines are neither.
    """
    first = source.count("\n", 0, start) + 2
    lines = source.split("\n")
    comments, neither = [], set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            neither.add(token.start[0])
            if token.start[0] >= first:
                comments.append(token.string.lstrip("#:! "))
        elif token.type == tokenize.STRING and "\n" in token.string:
            neither.update(range(token.start[0], token.end[0] + 1))
    return [lines[i - 1] for i in range(first, len(lines)) if i not in neither], comments


def lines(documentation: str, code: Sequence[str], comments: Sequence[str]) -> dict[str, dict[str, list[Example]]]:
    """Return the two domains of the lines task, each in three parts that share no line."""
    prose = documentation.split("\n")
    half = len(code) // 2
    domains = {HERE[LINES]: (prose, code[:half]), ELSEWHERE[LINES][0]: (comments, code[half:])}
    seen: set[str] = set()
    found = {}
    for domain, kinds in domains.items():
        parts: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
        for label, texts in enumerate(kinds):
            plain = dict.fromkeys(t.strip() for t in texts)
            new = [t for t in plain if SHORTEST_LINE <= len(t) <= LONGEST_LINE and t not in seen]
            kept = [t for t in new if sum(c.isalpha() for c in t) > 5]
            seen.update(kept)
            order = np.random.default_rng(5).permutation(len(kept))
            ends = (len(kept) // 2, len(kept) * 6 // 10)
            for part, indices in zip(parts, np.split(order, ends), strict=True):
                parts[part] += [(kept[i], label) for i in indices]
        found[domain] = {part: _alternating(examples) for part, examples in parts.items()}
    return found
