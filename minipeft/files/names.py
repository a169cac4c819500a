"""What to say about a name that is unknown: which known ones are close to it, and which there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def close_to(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return "; did you mean 'a' or 'b'?" for the known names closest to ``name``, or "" if none is close."""
    found = difflib.get_close_matches(name, list(known), n=n)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a ``name`` that is not among the ``known`` ones; kind: what it names, such as "task"."""
    known = list(known)
    guess = close_to(name, known)
    return f"unknown {kind} {name!r}{f'{guess} There' if guess else '; there'} are: {', '.join(known)}"
