"""Write the report of a graded submission for a student or the staff, as text, Markdown and HTML.

The HTML is one file that has no script and fetches nothing. All text from a submission is escaped, after control
characters and direction marks are removed. If the place of an error says more than words, a small map shows it: one
square for each entry, darker for larger errors. Of a hidden case only the category of the mistake is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autograder.feedback.reasons import Picture, Reason, reasons
from autograder.feedback.results import (
    FULL,
    MARKS,
    NONE,
    NOT_RUN,
    OUTPUT_LIMIT,
    PART,
    PLACES,
    aspects,
    clean,
    earned,
    notes,
    points,
    state,
)
from autograder.grading.grade import Graded
from autograder.homeworks.homework import Problem
from minipeft.files.html import esc as escape
from minipeft.files.html import page as whole_page
from minipeft.files.html import table

SIGNS = {FULL: "✓", PART: "½", NONE: "✗"}


@dataclass
class Part:
    """A problem of the report."""

    problem: Problem
    points: float
    aspects: list[tuple[str, str]]  # see `results.aspects`
    reasons: list[Reason]
    more: list[str]
    run: bool = True

    @property
    def state(self) -> str:
        """All points, some, or none."""
        return state(self.points, points(self.problem.points))


def parts(done: Graded, hidden: bool) -> list[Part]:
    """Return the problems of a graded submission, in order."""
    found = []
    for problem in done.homework.problems:
        verdict = done.verdicts.get(problem.id)
        if verdict is None:
            found.append(Part(problem, 0.0, [], [], [], run=False))
        elif verdict.not_run:
            found.append(Part(problem, 0.0, [], [], [verdict.not_run]))
        else:
            why = reasons(verdict, done.words.get(problem.id, ()), hidden)
            more = [] if hidden else done.more.get(problem.id, [])
            found.append(Part(problem, earned(problem, verdict), aspects(verdict), why, list(more)))
    return found


# Text

COLOURS = {FULL: "\x1b[32m", PART: "\x1b[33m", NONE: "\x1b[31m"}


def text(done: Graded, hidden: bool, colour: bool = False) -> str:
    """Return the report for a terminal. colour: with escape sequences."""

    def paint(words: str, state: str) -> str:
        return f"{COLOURS[state]}{words}\x1b[0m" if colour else words

    lines = [clean(note) for note in notes(done, hidden)]
    for part in parts(done, hidden):
        p = part.problem
        score = f"{part.points:g} of {points(p.points):g}" if part.run else NOT_RUN
        lines += ["", paint(f"{p.id:5} {clean(p.title, 200):50} {score:>12}", part.state)]
        if part.state != FULL:
            for kind, aspect in part.aspects:
                lines.append(f"      {paint(MARKS[kind], kind)}  {clean(aspect, 200)}")
            for reason in part.reasons:
                where = f"{', '.join(reason.aspects)}: " if hidden else ""
                lines.append(f"      - {clean(where + reason.text, 1000)}")
                lines += [f"          {clean(place, 300)}" for place in reason.places[:PLACES]]
                lines += [f"          and {len(reason.places) - PLACES} more"] if len(reason.places) > PLACES else []
            lines += [f"      - {clean(sentence, 1000)}" for sentence in part.more]
    lines += ["", f"{done.homework.name}: {total(done):g} of {done.homework.points:g} points"]
    return "\n".join(lines).lstrip("\n")


def total(done: Graded) -> float:
    """Return the points, rounded as in results.json."""
    return points(sum(earned(p, done.verdicts.get(p.id)) for p in done.homework.problems))


# Markdown


def escaped(words: str) -> str:
    """Return a text without any markup that Markdown would act on."""
    for sign in "\\`*_{}[]()<>#+-.!|~&$":
        words = words.replace(sign, f"\\{sign}")
    return words.replace("\n", " ")


def markdown(done: Graded, hidden: bool) -> str:
    """Return the report as Markdown."""
    lines = [f"# {escaped(done.homework.title)}", "", f"**{total(done):g} of {done.homework.points:g} points**", ""]
    lines += [f"- {escaped(clean(note))}" for note in notes(done, hidden)]
    lines += ["", "| problem | | points |", "|---|---|---:|"]
    found = parts(done, hidden)
    for part in found:
        score = f"{part.points:g} of {points(part.problem.points):g}" if part.run else NOT_RUN
        lines.append(f"| {escaped(part.problem.id)} | {escaped(part.problem.title)} | {score} |")
    for part in found:
        if part.state == FULL or not part.run:
            continue
        lines += ["", f"## {escaped(part.problem.id)} {escaped(part.problem.title)}", ""]
        lines += [f"- {MARKS[kind].strip()}: {escaped(aspect)}" for kind, aspect in part.aspects]
        for reason in part.reasons:
            where = f"{', '.join(reason.aspects)}: " if hidden else ""
            lines += ["", escaped(clean(where + reason.text, 1000))]
            if reason.places:
                lines += ["", *(f"- {escaped(clean(place, 300))}" for place in reason.places[:PLACES])]
        for sentence in part.more:
            lines += ["", escaped(clean(sentence, 1000))]
    return "\n".join(lines) + "\n"


# HTML

STYLE = """
h2 { margin: 0; }
.score { font-size: 1.15rem; margin: 0 0 1rem; }
.full { color: var(--full); } .part { color: var(--part); } .none { color: var(--none); }
table { width: 100%; }
th { white-space: nowrap; }
td:first-child { width: 1%; white-space: nowrap; }
.n { padding-right: 0; }
a { color: inherit; }
section { margin: 1.5rem 0; padding: 1rem; background: var(--panel); border-radius: 6px; }
header { display: flex; gap: 1rem; justify-content: space-between; align-items: baseline; }
ul { margin: .5rem 0; padding-left: 1.2rem; }
.aspects { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.reason { margin: 1rem 0 0; }
.reason p { margin: 0; }
.places { color: var(--soft); font-size: .9rem; }
figure { margin: .6rem 0 0; }
svg { max-width: 100%; height: auto; border: 1px solid var(--line); background: #fff; display: block; }
pre { white-space: pre-wrap; background: var(--panel); padding: .8rem; border-radius: 6px; font-size: .85rem; }
"""


def esc(words: Any, limit: int = OUTPUT_LIMIT) -> str:
    """Return a text escaped for HTML and cut, without control characters and direction marks."""
    return escape(clean(str(words), limit))


def named(words: str) -> str:
    """Return a name with dots as HTML: on a narrow screen it breaks after a dot."""
    return esc(words).replace(".", ".<wbr>")


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """Return a whole page. body: pieces of HTML in which text is escaped."""
    return whole_page(clean(title), body, STYLE + style)


def html(done: Graded, hidden: bool, title: str = "") -> str:
    """Return the report as a page. title: its heading, the homework's title by default."""
    title = title or done.homework.title
    found = parts(done, hidden)
    body = [f"<h1>{esc(title)}</h1>", f'<p class="score">{total(done):g} of {done.homework.points:g} points</p>']
    body += [f"<p>{esc(note)}</p>" for note in notes(done, hidden)]
    rows = []
    for part in found:
        p = part.problem
        score = f"{part.points:g} of {points(p.points):g}" if part.run else NOT_RUN
        name = named(p.title) if part.state == FULL else f'<a href="#p{esc(p.id)}">{named(p.title)}</a>'
        rows.append(f'<tr><td>{esc(p.id)}</td><td>{name}</td><td class="n {part.state}">{score}</td></tr>')
    body.append(table("<th>no.</th><th>title</th><th class=n>points</th>", rows))
    body += [section(part) for part in found if part.state != FULL]
    if done.remarks:
        body.append("<h2>Worth a look</h2><p>No points depend on it.</p><ul>")
        body += [f"<li>{esc(r.file)}, line {r.line}: {esc(r.text)}</li>" for r in done.remarks]
        body.append("</ul>")
    if done.log and not hidden:
        body.append(f"<h2>Printed by the program</h2><pre>{esc(done.log)}</pre>")
    return page(title, body)


def plain(title: str, made: Mapping[str, Any]) -> str:
    """Return the page of a submission from its results alone: one that was refused, or not graded to the end."""
    told = [t for t in made["tests"] if t["output"] != NOT_RUN]
    parts = [f"<h2>{esc(t['name'])}: {t['score']:g} of {t['max_score']:g}</h2><p>{esc(t['output'])}</p>" for t in told]
    return page(title, [f"<h1>{esc(title)}</h1>", *(f"<p>{esc(p)}</p>" for p in made["output"].split("\n")), *parts])


def section(part: Part) -> str:
    """Return the section about a problem that lost points."""
    p = part.problem
    score = f"{part.points:g} of {points(p.points):g}" if part.run else NOT_RUN
    lines = [
        f'<section id="p{esc(p.id)}"><header><h2>{esc(p.id)} {named(p.title)}</h2>'
        f'<span class="n {part.state}">{score}</span></header>'
    ]
    if part.aspects:
        lines.append('<ul class="aspects">')
        for kind, aspect in part.aspects:
            lines.append(f'<li><span class="{kind}">{SIGNS[kind]}</span> {esc(aspect)}</li>')
        lines.append("</ul>")
    for reason in part.reasons:
        lines.append('<div class="reason">')
        if not reason.places:
            lines.append(f'<p class="places">{esc(", ".join(reason.aspects))}</p>')
        lines.append(f"<p>{esc(reason.text)}</p>")
        if reason.places:
            more = len(reason.places) - PLACES
            shown = [*reason.places[:PLACES], *([f"and {more} more"] if more > 0 else [])]
            lines.append(f'<ul class="places">{"".join(f"<li>{esc(place)}</li>" for place in shown)}</ul>')
        if reason.picture is not None:
            lines.append(error_map(reason.picture))
        lines.append("</div>")
    lines += [f'<div class="reason"><p>{esc(sentence)}</p></div>' for sentence in part.more]
    lines.append("</section>")
    return "\n".join(lines)


def error_map(picture: Picture) -> str:
    """Return a drawing of where an output is wrong."""
    error = picture.errors
    finite = error[np.isfinite(error)]
    scale = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    side = max(6, min(14, 320 // error.shape[1], 200 // error.shape[0]))
    cells = []
    for (i, j), x in np.ndenumerate(error):
        if x > 0:
            shade = "#000" if not np.isfinite(x) else blend(float(x) / scale)
            cells.append(f'<rect x="{j * side}" y="{i * side}" width="{side}" height="{side}" fill="{shade}"/>')
    width, height = error.shape[1] * side, error.shape[0] * side
    what = esc(picture.caption)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return (
        f'<figure><svg role="img" aria-label="{what}" shape-rendering="crispEdges" {size}>{"".join(cells)}</svg>'
        f"<figcaption>{what}</figcaption></figure>"
    )


def blend(share: float) -> str:
    """Return a red between light and dark, by the logarithm of the share of the largest error over four decades."""
    t = min(1.0, max(0.0, 1 + np.log10(max(share, 1e-4)) / 4))
    light, dark = (253, 224, 210), (140, 20, 20)
    return "#" + "".join(f"{round(a + (b - a) * t):02x}" for a, b in zip(light, dark))
