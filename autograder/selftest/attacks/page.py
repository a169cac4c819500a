"""The table of attacks as a page: what each does, and what became of it by route and layers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby

assert sys.platform == "linux"

from autograder.selftest.attacks import GROUPS, LAYERS, PLACES, ROUTES, Attack
from autograder.selftest.attacks.attempt import Outcome

ROUTE_NAMES = {"grade": "`grade`", "class": "`grade-all`", "gradescope": "Gradescope", "staff": "`grade --full`"}
SHORT = {"all layers": "all", "a user": "user", "a container": "container"}
Key = tuple[str, str, str, str]
HEAD = """\
# Attacks on the grader

Written by `python -m autograder selftest --attacks all --markdown docs/attacks.md`, as root. An attack is the library's
own program with one function replaced, or the stubs with all of them replaced, or an odd thing to hand in. It is graded
by each command that staff runs, with each set of layers, next to an honest submission.

An attack is *held* when the problem that it replaces has no points and the others have all of theirs (a program that
computes nothing has at most 1 % of a homework's); results.json is valid; what a student reads holds neither the seed
nor any text of the submission's; no page has markup, no cell a formula; a class has a row for each entry; the grader
ended in time and stayed below 300 MiB; no process, no file and no shared memory is left. A program that reaches what it
wants then computes the right answer, so its points would tell.

A cell names the problem that was attacked; an empty one was not tried, and a table may come from a part of a run.
*all*: root, with every layer; *user*: an ordinary user, with Landlock and seccomp; *container*: root with the
capabilities, the system calls, half a core and the 768 MB of Docker's defaults, on a kernel without Landlock."""


def summary(found: Mapping[Key, Outcome]) -> str:
    """Return what failed, a line each, and how many held."""
    failed = [f"FAILED  {', '.join(key)}: {text}" for key, o in found.items() for text in o.wrong]
    held = sum(not o.wrong for o in found.values())
    attacks = len({key[0] for key in found})
    longest = max((o.seconds for o in found.values()), default=0.0)
    most = max((o.bytes for o in found.values()), default=0)
    total = f"{held} of {len(found)} attempts held, of {attacks} attacks"
    return "\n".join([*failed, f"{total}; the longest took {longest:.0f} s, the largest grader {most >> 20} MiB"])


def markdown(attacks: Sequence[Attack], found: Mapping[Key, Outcome]) -> str:
    """Return the page."""
    columns = [(r, n) for r in ROUTES for n in LAYERS if any(k[2:] == (r, n) for k in found)]
    lines = [
        *HEAD.splitlines(),
        "",
        f"{summary(found).splitlines()[-1]}.",
        "",
        "| problem | goes through |",
        "|---|---|",
        *(f"| {p.problem} of `{p.homework}` | {p.aspect} |" for p in PLACES.values()),
    ]
    heads = [f"{ROUTE_NAMES[r]} {SHORT[n]}" for r, n in columns]
    failures = []
    for group, chosen in groupby(attacks, key=lambda a: a.group):
        title, stops = GROUPS[group]
        lines += ["", f"## {title}", "", stops, "", f"| attack | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
        for a in chosen:
            row = {key[2:]: (key[1], o) for key, o in found.items() if key[0] == a.id}
            cells = [_cell(*row[c]) if c in row else "" for c in columns]
            lines.append(f"| {a.id}: {a.says.replace('|', '/')} | {' | '.join(cells)} |")
            failures += [
                f"- {', '.join(k)}: {'; '.join(o.wrong)}" for k, o in found.items() if k[0] == a.id and o.wrong
            ]
    if failures:
        lines += ["", "## What failed", "", *failures]
    return "\n".join(lines) + "\n"


def _cell(place: str, outcome: Outcome) -> str:
    return f"**FAILED** {place}" if outcome.wrong else place
