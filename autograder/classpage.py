"""The page of a class: how it did, which problem fails most, which mistakes occur, which programs look alike.

One HTML file without scripts; whatever came out of a submission is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from autograder.homework import Homework
from autograder.report import FULL, NONE, PART, esc, state
from autograder.report import page as whole_page
from autograder.results import points
from autograder.similarity import pairs

BINS = 10
MISTAKES = 5  # listed for a problem
STYLE = """
.facts { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; padding: 0; list-style: none; }
.wide { overflow-x: auto; }
h2 { margin: 1.6rem 0 .4rem; } h3 { margin: 1rem 0 .2rem; font-size: 1rem; }
td.n, th.n { padding-right: .9rem; } table { overflow-wrap: normal; }
.who { display: inline-block; width: max-content; max-width: 24rem; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 600px) { .share { display: none; } .who { max-width: 8rem; } .counts { white-space: normal; } }
.bar { display: flex; height: 1rem; min-width: 8rem; border-radius: 3px; overflow: hidden; background: var(--line); }
.bar span { display: block; height: 100%; }
.bar .full { background: var(--full); } .bar .part { background: var(--part); } .bar .none { background: var(--none); }
svg.plain { background: none; border: 0; }
svg.plain rect { fill: var(--soft); } svg.plain text { fill: var(--ink); font-size: 12px; }
"""


def page(homework: Homework, records: Sequence[dict[str, Any]]) -> str:
    """The class in one page."""
    records = sorted(records, key=lambda r: r["id"])
    graded = [r for r in records if r["status"] == "graded"]
    scores = [r["score"] for r in graded]
    most = points(homework.points)
    body = [f"<h1>{esc(homework.title)}</h1>", '<ul class="facts">']
    facts = [f"{len(records)} submissions", f"{len(records) - len(graded)} could not be taken in"]
    if scores:
        facts += [f"mean {fmean(scores):.1f} of {most:g}", f"median {median(scores):.1f}"]
        facts.append(f"{sum(s >= most for s in scores)} with all points")
    body += [f"<li>{esc(fact)}</li>" for fact in facts]
    body += ["</ul>", histogram(scores, most) if scores else "", "<h2>Problems</h2>", problems(homework, graded)]
    body += ["<h2>What goes wrong</h2>", *mistakes(homework, graded)]
    body += ["<h2>Programs that look alike</h2>", alike(graded), "<h2>Submissions</h2>", everyone(homework, records)]
    return whole_page(f"{homework.name}: the class", body, STYLE)


def histogram(scores: Sequence[float], most: float) -> str:
    """How many submissions have how many points."""
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
    """A row a problem: its mean, and how many have all, some or none of its points."""
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
            f"<tr><td>{esc(p.id)}</td><td>{esc(p.title)}</td><td class=n>{mean}</td><td class='n counts'>{numbers}</td>"
            f'<td class="share"><div class="bar">{bar}</div></td></tr>'
        )
    head = "<tr><th></th><th>problem</th><th class=n>mean</th>"
    head += "<th class='n counts'>all / some / none</th><th class=share></th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def mistakes(homework: Homework, graded: Sequence[dict[str, Any]]) -> list[str]:
    """For each problem, the reasons that most submissions were told."""
    parts = []
    for p in homework.problems:
        told = Counter(reason for r in graded for reason in set(r["reasons"].get(p.id, ())))
        if told:
            listed = sorted(told.items(), key=lambda item: (-item[1], item[0]))[:MISTAKES]
            rows = "".join(f"<tr><td class=n>{n}</td><td>{esc(reason)}</td></tr>" for reason, n in listed)
            parts.append(f"<h3>{esc(p.id)} {esc(p.title)}</h3><table>{rows}</table>")
    return parts or ["<p>Nothing.</p>"]


def alike(graded: Sequence[dict[str, Any]]) -> str:
    """Pairs that share much, as places to look."""
    found = pairs({r["id"]: frozenset(r["prints"]) for r in graded})
    if not found:
        return "<p>None.</p>"
    rows = "".join(
        f'<tr><td><a href="staff/{esc(p.a)}.html">{esc(p.a)}</a></td><td><a href="staff/{esc(p.b)}.html">{esc(p.b)}</a>'
        f"</td><td class=n>{100 * p.share:.0f} %</td><td class=n>{p.shared}</td></tr>"
        for p in found[:100]
    )
    note = "The share of the shorter program's fingerprints that the other has too; a place to look, never a verdict."
    head = "<tr><th></th><th></th><th class=n>alike</th><th class=n>shared</th></tr>"
    return f'<p class="places">{note}</p><div class="wide"><table>{head}{rows}</table></div>'


def everyone(homework: Homework, records: Sequence[dict[str, Any]]) -> str:
    """A row a submission, with a link to the staff's page of it."""
    head = "".join(f"<th class=n>{esc(p.id)}</th>" for p in homework.problems)
    rows = []
    for r in records:
        most = points(homework.points)
        got = [(r["problems"].get(p.id, 0.0), points(p.points)) for p in homework.problems]
        cells = "".join(f'<td class="n {state(have, full)}">{have:g}</td>' for have, full in got)
        shown = esc(f"{r['id']} {r['name']}".strip())
        total = f"{r['score']:g}" if r["status"] == "graded" else esc(r["status"])
        link = f'<a class="who" href="staff/{esc(r["id"])}.html">{shown}</a>'
        rows.append(f'<tr><td>{link}</td><td class="n {state(r["score"], most)}">{total}</td>{cells}</tr>')
    body = "".join(rows)
    return f'<div class="wide"><table><tr><th></th><th class=n>score</th>{head}</tr>{body}</table></div>'
