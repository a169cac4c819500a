"""Collect why points were lost: diagnoses, and the reasons that a report gives.

`diagnose` makes diagnoses in another process. Here are only their words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from autograder.feedback.words import NO_EXPLANATION, PLAIN, Cause, filled, hidden_text, known_names, question, sentence
from autograder.grading.check import Failure, Verdict
from autograder.homeworks.formula import sentences
from autograder.homeworks.mutant import mutants

MAP_CELLS = 24  # a map has at most so many squares a side


@dataclass(frozen=True)
class Picture:
    """A map of where an array is wrong.

    errors: at most `MAP_CELLS` × `MAP_CELLS` absolute errors, 0 where it is right and inf where it is not finite.
    caption: what is shown.
    """

    errors: np.ndarray
    caption: str


@dataclass(frozen=True)
class Diagnosis:
    """A failure explained.

    causes: at most two, "" where none was recognized. hint: of the known mistake that it is, "" if it is none.
    entries: details in words, for a public case. trouble: what the diagnosis itself raised, for staff.
    """

    failure: Failure
    causes: tuple[Cause, ...] = ()
    hint: str = ""
    entries: str = ""
    picture: Picture | None = None
    trouble: str = ""

    @property
    def cause(self) -> str:
        """The category; "" if none was recognized."""
        return self.causes[0].kind if self.causes else "known mistake" if self.hint else ""

    @property
    def text(self) -> str:
        """What is said of a public case."""
        f = self.failure
        return self._with([c.text for c in self.causes], sentence(f"{f.output}: {f.reason}"))

    def hidden(self, known: Iterable[str]) -> str:
        """Return what is said of a hidden case. known: the names that may be told, see `words.known_names`."""
        names = frozenset(known)
        told = [hidden_text(c.parts, c.names, names) for c in self.causes]
        return self._with(told, filled((PLAIN[self.failure.kind],), (self.failure.output,)))

    def _with(self, told: Sequence[str], plain: str) -> str:
        listed = [*filter(None, told[:1] if self.hint else told), *filter(None, [self.hint])]
        text = " ".join(dict.fromkeys(listed)) or plain
        return f"{text} {NO_EXPLANATION}" if self.trouble and not listed else text


@dataclass
class Reason:
    """One thing that is wrong, said once. aspects and places: where; places are those of public cases, with what came.

    picture: of the first of them that has one.
    """

    text: str
    aspects: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    picture: Picture | None = None


def reasons(verdict: Verdict, found: Sequence[Diagnosis], hidden: bool) -> list[Reason]:
    """Return why a problem lost points. Diagnoses that differ only in drawn numbers are one reason."""
    known = known_names(verdict)
    by_text: dict[str, Reason] = {}
    for d in found:
        category = d.hidden(known)
        reason = by_text.setdefault(category, Reason(category if hidden else d.text))
        if d.failure.aspect not in reason.aspects:
            reason.aspects.append(d.failure.aspect)
        if not hidden:
            place = f"{d.failure.case}: {d.failure.output}"
            reason.places.append(f"{place}: {d.entries}" if d.entries else place)
            reason.picture = reason.picture or d.picture
    return list(by_text.values())


def hints(homework: str) -> frozenset[str]:
    """Return the sentences about a homework's known mistakes, also as questions, and about its formulas."""
    known = [m.hint for m in mutants(homework)]
    return frozenset([*map(sentence, known), *map(question, known)]) | sentences(homework)
