"""The kill matrix: the counts, the goals, and what is not as it should be, as text, JSON and HTML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autograder.feedback.report import esc, page
from autograder.homeworks.folder import load_homework
from autograder.selftest.concepts import MISLEADING, RIGHT
from autograder.selftest.rows import Row
from minipeft.files.html import table as html_table
from minipeft.files.table import columns

GOALS = {"killed": 1.0, "localized": 0.95, "known": 0.90}


@dataclass
class Summary:
    """The counts of a homework or of all."""

    mutants: int = 0
    killed: int = 0
    localized: int = 0
    known: int = 0
    hints: int = 0
    misleading: int = 0
    equivalent: int = 0
    equivalent_wrong: int = 0
    variants: int = 0
    false_positives: int = 0
    reference_wrong: int = 0
    stub_wrong: int = 0
    idle_wrong: int = 0
    flakes: int = 0
    seconds: float = 0.0

    @property
    def missed(self) -> list[str]:
        """The goals that are missed, in words."""
        found = []
        for name, goal in GOALS.items():
            got = getattr(self, name)
            if got < goal * self.mutants:
                found.append(f"{name}: {got} of {self.mutants} mutants, the goal is {goal:.0%}")
        for name, words in {
            "false_positives": "variants lost points",
            "reference_wrong": "references lost points or have outputs of a scale that tests little",
            "stub_wrong": "untouched stubs got points",
            "idle_wrong": "homeworks gave points to functions that return None",
            "flakes": "items differ by seed, by threads or in the worker",
            "equivalent_wrong": "mutants that are called equivalent lost points",
        }.items():
            if getattr(self, name):
                found.append(f"{getattr(self, name)} {words}, the goal is 0")
        return found


WRONG = {  # by kind of item, what is counted if it came out as it must not
    "reference": "reference_wrong",
    "stub": "stub_wrong",
    "idle": "idle_wrong",
    "variant": "false_positives",
    "mutant": "equivalent_wrong",
}


def summarize(rows: Iterable[Row]) -> Summary:
    """Return the counts over these rows."""
    s = Summary()
    for row in rows:
        s.seconds += row.seconds
        s.flakes += bool(row.unstable)
        if row.kind == "mutant" and not row.equivalent:
            s.mutants += 1
            s.killed += row.killed
            s.localized += row.localized
            s.known += row.hint_right
            s.hints += row.family_out == RIGHT
            s.misleading += row.family_out == MISLEADING
        else:
            s.variants += row.kind == "variant"
            s.equivalent += row.kind == "mutant"
            setattr(s, WRONG[row.kind], getattr(s, WRONG[row.kind]) + row.wrong)
    return s


def describe(rows: Sequence[Row]) -> list[str]:
    """The kill matrix of a homework, and a line for everything that is not as it should be."""
    name = rows[0].homework
    problems = [p.id for p in load_homework(name).problems]
    lines = ["", f"{name}: points kept by problem", f"{'':42}" + "".join(f"{p:>6}" for p in problems)]
    for row in rows:
        kept = (row.worst(p) for p in problems)
        cells = "".join(f"{'.' if share == 1.0 else f'{100 * share:.0f}%':>6}" for share in kept)
        lines.append(f"{row.kind:>9} {row.id[:31]:31} {cells}  {complaint(row)}".rstrip())
        if row.kind in ("reference", "variant", "idle"):
            lines += [f"{'':10}{line}" for line in row.failures[:8]]
        lines += [f"{'':10}{line}" for line in row.unstable]
        if row.kind == "mutant" and not row.equivalent and row.killed and not row.hint_right:
            lines.append(f"{'':10}its hint: {row.hint}")
            lines += [f"{'':10}told: {text}" for text in row.told[:3]]
    return lines


def complaint(row: Row) -> str:
    """Return in a few words what is wrong with a row."""
    if row.equivalent:
        return "NOT EQUIVALENT" if row.wrong else f"equivalent: {row.equivalent}"
    if row.kind != "mutant":
        return "" if not row.wrong else "FALSE POSITIVE" if row.kind == "variant" else "WRONG"
    words = []
    if not row.killed:
        words.append(f"SURVIVES ({row.problem})")
    if not row.localized:
        words.append(f"ALSO FAILS {', '.join(sorted(row.lost - {row.problem, *row.also}))}")
    if row.killed and not row.hint_right:
        words.append("OTHER HINT")
    return ", ".join(words)


HEADS = (
    "homework", "mutants", "killed", "localized", "known", "hints", "misled", "variants", "false +", "flakes", "CPU s",
)  # fmt: skip


HINTS = (
    "known: told its own hint. hints: named rightly by a grader that knows neither the mutant nor its kin; misled: "
    "another cause is named then"
)


def counts(names: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    """Return a line of `HEADS` for each homework, and one for all."""
    lines = []
    for name in [*names, "all"]:
        s = summarize(r for r in rows if name in (r.homework, "all"))
        found = [s.mutants, s.killed, s.localized, s.known, s.hints, s.misleading]
        found += [s.variants, s.false_positives, s.flakes]
        lines.append([name, *map(str, found), f"{s.seconds:.1f}"])
    return lines


def table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the counts for the terminal."""
    body = columns(HEADS, counts(names, rows), [False] + [True] * (len(HEADS) - 1))
    return f"{body}\n{HINTS}"


def as_json(names: Sequence[str], rows: Sequence[Row], seconds: float) -> str:
    """Return everything as JSON."""

    def counts(s: Summary) -> dict[str, Any]:
        return {**asdict(s), "missed": s.missed}

    record = {
        "seconds": seconds,
        "all": counts(summarize(rows)),
        "homeworks": {n: counts(summarize(r for r in rows if r.homework == n)) for n in names},
        "rows": [asdict(r) for r in rows],
    }
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


STYLE = """
body { max-width: 80rem; }
td, th { padding: .15rem .5rem; border-bottom: 1px solid var(--line); font-size: .85rem; }
td.cell { text-align: right; font-variant-numeric: tabular-nums; color: #1c1c1c; }
td.own { outline: 1px solid var(--ink); outline-offset: -1px; }
tr.wrong td:first-child { color: var(--none); font-weight: 600; }
"""


def html(names: Sequence[str], rows: Sequence[Row], seconds: float) -> str:
    """Return the kill matrix as a page: what each item keeps of each problem, a mutant's own problem framed."""
    missed = [f'<p class="none">missed: {esc(line)}</p>' for line in summarize(rows).missed]
    body = ["<h1>Self-test of the autograder</h1>", *(missed or ['<p class="full">All goals met.</p>'])]
    lines = (f"<tr><td>{esc(line[0])}</td>{_cells(line[1:])}</tr>" for line in counts(names, rows))
    body.append(html_table("".join(f"<th>{esc(h)}</th>" for h in HEADS), lines, "Counts"))
    body.append(f"<p>{seconds:.0f} s. {esc(HINTS)}</p>")
    for name in names:
        problems = [p.id for p in load_homework(name).problems]
        head = "".join(f"<th>{esc(h)}</th>" for h in ("kind", "name", *problems, "what is wrong"))
        lines = (_line(row, problems) for row in rows if row.homework == name)
        body += [f"<h2>{esc(name)}</h2>", html_table(head, lines, name)]
    return page("Self-test of the autograder", body, STYLE)


def _line(row: Row, problems: Sequence[str]) -> str:
    note = complaint(row)
    lines = [note, *row.unstable, *(row.failures[:8] if row.kind != "mutant" else [])]
    if row.kind == "mutant" and not row.hint_right and not row.equivalent:
        lines += [f"told: {text}" for text in row.told[:2]]
    wrong = ' class="wrong"' if (note and not row.equivalent) or row.unstable else ""
    shown = "<br>".join(esc(line) for line in (*lines, row.hint) if line)
    cells = "".join(_cell(row.worst(p), p == row.problem) for p in problems)
    return f"<tr{wrong}><td>{esc(row.kind)}</td><td>{esc(row.id)}</td>{cells}<td>{shown}</td></tr>"


def _cells(numbers: Sequence[str]) -> str:
    return "".join(f'<td class="n">{n}</td>' for n in numbers)


def _cell(share: float, own: bool) -> str:
    """A share of a problem: white for all, darker the more is lost."""
    light = round(255 - 130 * (1.0 - share))
    words = "" if share == 1.0 else f"{100 * share:.0f}"
    return f'<td class="cell{" own" if own else ""}" style="background: rgb(255, {light}, {light})">{words}</td>'
