"""Syntax that one Python reads and an older one does not: the student's may be newer than the grader's.

why_not(error)      why a file could not be read here, with both versions if newer syntax explains it
too_new(text)       what a program that is read here has that `LEAST` cannot read
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autograder.homeworks.homework import Homework

LEAST = (3, 11)  # a grader has this Python or a newer one: `requires-python` of pyproject.toml
HERE = sys.version_info[:2]

TYPE, PARAMETERS, DEFAULTS = "a type statement", "type parameters", "defaults of type parameters"
QUOTES = "an f-string with its own quotes, a backslash or a comment inside"
EXCEPT, TEMPLATE = "except without parentheses", "a t-string"
LINES = (  # how the line looks that an older Python rejects, what that is, and the first Python that reads it
    (r"\s*type\s+\w+\s*(\[.*\])?\s*=", TYPE, (3, 12)),
    (r"\s*(async\s+)?(def|class)\s+\w+\s*\[[^\]]*=", DEFAULTS, (3, 13)),
    (r"\s*(async\s+)?(def|class)\s+\w+\s*\[", PARAMETERS, (3, 12)),
    (r"\s*except\*?\s+[\w.]+\s*,[^()]*:", EXCEPT, (3, 14)),
    (r".*(?<!\w)([tT][rR]?|[rR][tT])['\"]", TEMPLATE, (3, 14)),
    (r".*(?<!\w)([fF][rR]?|[rR][fF])(['\"])[^'\"]*\{([^}'\"]*[\[({,+=]\s*)?[fFrR]{0,2}\2\S", QUOTES, (3, 12)),
)
MESSAGES = (  # what an older Python says where the line does not tell
    (r"f-string expression part cannot include", QUOTES, (3, 12)),
    (r"f-string: expressions nested too deeply", "an f-string with a nested format", (3, 12)),
)
LONGEST_LINE = 300  # characters that are looked at: the patterns try many places, and a submission is not trusted
ONLY = re.compile(r"(?P<what>.*) (?:is|are) only supported in Python (?P<major>\d+)\.(?P<minor>\d+) and greater")
NAMES = {"Type statement": TYPE, "Type parameter lists": PARAMETERS, "Type parameter defaults": DEFAULTS}
NAMES |= {"t-strings": TEMPLATE, "except expressions without parentheses": EXCEPT}


@dataclass(frozen=True)
class Newer:
    """Syntax of a newer Python. what: its name; version: the first Python that reads it; line: where it is."""

    what: str
    version: tuple[int, int]
    line: int

    def __str__(self) -> str:
        return f"uses syntax of Python {written(self.version)} or newer ({self.what})"


def written(version: tuple[int, int]) -> str:
    """Return a version as people write it."""
    return f"{version[0]}.{version[1]}"


def why_not(error: SyntaxError, here: tuple[int, int] = HERE) -> str:
    """Return why a file cannot be read, as the end of a sentence that begins with its name.

    here: the version of the Python that could not. If newer syntax explains the error, both versions are named.
    """
    if not error.lineno:  # the text was not decoded, or not parsed in time
        return f"cannot be read ({error.msg})"
    newer = _newer_than(error, here)
    if newer is not None:
        return f"{newer}, and the grader runs Python {written(here)}"
    return f"is not valid Python {written(here)}, which the grader runs ({error.msg})"


def _newer_than(error: SyntaxError, here: tuple[int, int]) -> Newer | None:
    """Return the newer syntax that the line of an error, or its message, points to."""
    line = (error.text or "")[:LONGEST_LINE]
    told = [(pattern, line, what, version) for pattern, what, version in LINES]
    told += [(pattern, error.msg, what, version) for pattern, what, version in MESSAGES]
    for pattern, text, what, version in told:
        if version > here and re.match(pattern, text):
            return Newer(what, version, error.lineno or 0)
    return None


def too_new(text: str, least: tuple[int, int] = LEAST) -> Newer | None:
    """Return the first syntax in a program that an older Python than this one cannot read; None if there is none.

    Only what the grammar says is seen: whether a function is in an older library is not.
    """
    if least >= HERE:
        return None
    try:
        ast.parse(text, feature_version=least)
    except SyntaxError as error:
        said = ONLY.match(error.msg)
        if said is None:
            return _newer_than(error, least) or Newer(error.msg, HERE, error.lineno or 0)
        version = (int(said["major"]), int(said["minor"]))
        return Newer(NAMES.get(said["what"], said["what"].lower()), version, error.lineno or 0)
    try:
        line = next(_fstrings(text), 0) if least < (3, 12) else 0
    except (SystemError, tokenize.TokenError):  # tokenize of Python 3.12 and 3.13 fails on some f-strings over lines
        line = 0
    return Newer(QUOTES, (3, 12), line) if line else None


def _fstrings(text: str) -> Iterator[int]:
    """Yield the lines of f-strings that Python 3.11 cannot read, which takes each for one string token first."""
    start, end, middle = (getattr(tokenize, f"FSTRING_{part}", -1) for part in ("START", "END", "MIDDLE"))
    quotes: list[str] = []  # of the f-strings that are open
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        outer = quotes[:-1] if token.type in (middle, end) else quotes
        ends = any(q in token.string for q in outer) or ("\n" in token.string and any(len(q) == 1 for q in outer))
        if outer and (ends or "\\" in token.string or token.type == tokenize.COMMENT):
            yield token.start[0]
        if token.type == start:
            quotes.append(token.string.lstrip("fFrR"))
        elif token.type == end:
            quotes.pop()


def too_new_files(homework: Homework, sources: Mapping[str, str]) -> list[str]:
    """Return a sentence for each file of a submission that a grader with the least Python could not read."""
    found = ((f.stub, too_new(sources[f.module])) for f in homework.files if f.module in sources)
    return [
        f"{stub}, line {newer.line}: {newer}. A grader with Python {written(LEAST)} cannot read this file, and its "
        "problems would get no points: write it without."
        for stub, newer in found
        if newer is not None
    ]
