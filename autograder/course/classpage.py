"""Write the page of a class: its scores, which problems fail most, which mistakes occur, which programs look alike.

The page is one HTML file without scripts. All text from submissions is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from autograder.course.gradebook import FAILED, GRADED, REFUSED
from autograder.feedback.report import esc, named
from autograder.feedback.report import page as whole_page
from autograder.feedback.results import FULL, NONE, PART, points, state
from autograder.homeworks.homework import Homework
from autograder.submission.similarity import pairs
from minipeft.files.html import table

BINS = 10
LONGEST = 300  # characters of what came out of a submission
MISTAKES = 5  # listed for a problem
STYLE = """
.facts { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; padding: 0; list-style: none; }
h2 { margin: 1.6rem 0 .4rem; } h3 { margin: 1rem 0 .2rem; font-size: 1rem; }
td.n, th.n { padding-right: .9rem; } table { overflow-wrap: normal; }
.why { padding-left: .9rem; } .why span { display: block; max-width: min(34rem, 60vw); white-space: normal; }
.who { display: table; width: max-content; max-width: 14rem; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 600px) { .share { display: none; } .who { max-width: 8rem; } .counts { font-size: .9rem; }
  td.n, th.n { padding-right: .5rem; } th.counts { white-space: normal; } }
.counted td { vertical-align: baseline; }
.bar { display: flex; height: 1rem; min-width: 8rem; border-radius: 3px; overflow: hidden; background: var(--line); }
.bar span { display: block; height: 100%; }
.bar .full { background: var(--full); } .bar .part { background: var(--part); } .bar .none { background: var(--none); }
svg.plain { background: none; border: 0; }
svg.plain rect { fill: var(--soft); } svg.plain text { fill: var(--ink); font-size: 12px; }
"""


def page(homework: Homework, records: Sequence[dict[str, Any]], skipped: Sequence[str] = ()) -> str:
    """Return the page of a class. skipped: names in the folder that are not submissions."""
    records = sorted(records, key=lambda r: r["id"])
    graded = [r for r in records if r["status"] == "graded"]
    scores = [r["score"] for r in graded]
    most = points(homework.points)
    body = [f"<h1>{esc(homework.title)}</h1>", '<ul class="facts">']
    kinds = Counter(r["status"] for r in records)
    facts = [f"{len(records)} submissions", *(f"{kinds[kind]} {kind}" for kind in (GRADED, REFUSED, FAILED))]
    if scores:
        facts += [f"mean {fmean(scores):.1f} of {most:g}", f"median {median(scores):.1f}"]
        facts.append(f"{sum(s >= most for s in scores)} with all points")
    body += [f"<li>{esc(fact)}</li>" for fact in facts]
    body += ["</ul>", histogram(scores, most) if scores else "", "<h2>Problems</h2>", problems(homework, graded)]
    body += ["<h2>What goes wrong</h2>", *mistakes(homework, graded)]
    body += ["<h2>Programs that look alike</h2>", alike(graded), "<h2>Submissions</h2>", everyone(homework, records)]
    if skipped:
        items = "".join(f"<li>{esc(name, LONGEST)}</li>" for name in skipped)
        body.append(f"<h2>Skipped</h2><p>These are not submissions and have no row.</p><ul>{items}</ul>")
    return whole_page(f"{homework.name}: the class", body, STYLE)


def histogram(scores: Sequence[float], most: float) -> str:
    """Return a drawing of how many submissions have how many points."""
    counts = Counter(min(BINS - 1, int(BINS * s / most)) for s in scores)
    tallest = max(counts.values())
    width, height, foot = 560, 150, 34
    step = width / BINS
    parts = []
    for i in range(BINS):
        n = counts.get(i, 0)
        h = (height - 20) * n / tallest
        x = i * step + 2
        if n:
            parts.append(f'<rect x="{x:.1f}" y="{height - h:.1f}" width="{step - 4:.1f}" height="{h:.1f}"/>')
            parts.append(f'<text x="{x + step / 2 - 2:.1f}" y="{height - h - 4:.1f}" text-anchor="middle">{n}</text>')
    for i in range(BINS + 1):
        anchor = "start" if i == 0 else "end" if i == BINS else "middle"
        label = f"{most * i / BINS:g}"
        parts.append(f'<text x="{i * step:.1f}" y="{height + 15}" text-anchor="{anchor}">{label}</text>')
    parts.append(f'<text x="{width / 2}" y="{height + 31}" text-anchor="middle">points</text>')
    what = f"Submissions by points, in {BINS} steps up to {most:g}"
    size = f'width="{width}" height="{height + foot}" viewBox="0 0 {width} {height + foot}"'
    return f'<figure><svg class="plain" role="img" aria-label="{esc(what)}" {size}>{"".join(parts)}</svg></figure>'


def problems(homework: Homework, graded: Sequence[dict[str, Any]]) -> str:
    """Return a row for each problem: its mean, and how many have all, some or none of its points."""
    rows = []
    for p in homework.problems:
        most = points(p.points)
        got = [r["problems"].get(p.id, 0.0) for r in graded]
        kinds = Counter(state(g, most) for g in got)
        bar = "".join(
            f'<span class="{kind}" style="width:{100 * kinds[kind] / len(got):.2f}%"></span>'
            for kind in (FULL, PART, NONE)
            if got
        )
        mean = f"{fmean(got):.2f} of {most:g}" if got else ""
        numbers = f"{kinds[FULL]} / {kinds[PART]} / {kinds[NONE]}"
        rows.append(
            f"<tr><td>{esc(p.id)}</td><td>{named(p.title)}</td><td class=n>{mean}</td>"
            f"<td class='n counts'>{numbers}</td>"
            f'<td class="share"><div class="bar">{bar}</div></td></tr>'
        )
    head = "<th>no.</th><th>title</th><th class=n>mean</th>"
    head += "<th class='n counts'>all / some / none</th><th class=share>share</th>"
    return table(head, rows, "Problems")


def mistakes(homework: Homework, graded: Sequence[dict[str, Any]]) -> list[str]:
    """Return the most common reasons for lost points: once for whole files, then by problem."""
    notes = commonest(Counter(r["note"] for r in graded if r["note"]))
    parts = [f"<h3>Before any problem</h3>{notes}"] if notes else []
    for p in homework.problems:
        told = commonest(Counter(reason for r in graded for reason in set(r["reasons"].get(p.id, ()))))
        if told:
            parts.append(f"<h3>{esc(p.id)} {named(p.title)}</h3>{told}")
    return parts or ["<p>Nothing.</p>"]


def commonest(told: Counter[str]) -> str:
    """Return a table of the most common sentences with their counts; "" if there are none."""
    listed = sorted(told.items(), key=lambda item: (-item[1], item[0]))[:MISTAKES]
    rows = [f"<tr><td class=n>{n} ×</td><td>{esc(text, LONGEST)}</td></tr>" for text, n in listed]
    return f'<table class="counted"><tbody>{"".join(rows)}</tbody></table>' if rows else ""


def alike(graded: Sequence[dict[str, Any]]) -> str:
    """Return a table of the pairs of programs that share much, as places to look."""
    names = {r["id"]: r["name"] for r in graded}
    found = pairs({r["id"]: frozenset(r["prints"]) for r in graded})
    if not found:
        return "<p>None.</p>"
    rows = (
        f'<tr><td><a href="staff/{esc(p.a)}.html">{esc(names[p.a], LONGEST)}</a></td>'
        f'<td><a href="staff/{esc(p.b)}.html">{esc(names[p.b], LONGEST)}</a>'
        f"</td><td class=n>{100 * p.share:.0f} %</td><td class=n>{p.shared}</td></tr>"
        for p in found[:100]
    )
    note = "The share of the shorter program's fingerprints that the other has too; a place to look, never a verdict."
    head = "<th>one</th><th>other</th><th class=n>alike</th><th class=n>shared</th>"
    return f'<p class="places">{note}</p>{table(head, rows, "Programs that look alike")}'


def everyone(homework: Homework, records: Sequence[dict[str, Any]]) -> str:
    """Return a row for each submission: a link to its staff page, and its scores or why it was refused."""
    head = "".join(f"<th class=n>{esc(p.id)}</th>" for p in homework.problems)
    rows = []
    for r in records:
        most = points(homework.points)
        if r["status"] == "graded":
            got = [(r["problems"].get(p.id, 0.0), points(p.points)) for p in homework.problems]
            cells = "".join(f'<td class="n {state(have, full)}">{have:g}</td>' for have, full in got)
            total = f"{r['score']:g}"
        else:
            cells = f'<td class="why" colspan="{len(homework.problems)}"><span>{esc(r["note"], LONGEST)}</span></td>'
            total = esc(r["status"])
        link = f'<a class="who" href="staff/{esc(r["id"])}.html">{esc(r["name"], LONGEST)}</a>'
        file = f'<span class="who places">{esc(r["file"], LONGEST)}</span>' if r["file"] != r["name"] else ""
        rows.append(f'<tr><td>{link}{file}</td><td class="n {state(r["score"] or 0.0, most)}">{total}</td>{cells}</tr>')
    return table(f"<th>submission</th><th class=n>score</th>{head}", rows, "Submissions")
