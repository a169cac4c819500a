"""The report of experiments: every table, figure and verdict, in Markdown and as one HTML page without scripts."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipeft.files import html
from minipeft.files.atomic import atomic_path
from minipeft.files.table import columns
from minipeft.lab.framework.experiment import Experiment, Row, Table, Verdict


@dataclass
class Section:
    """One experiment, finished: its rows, tables and verdicts, its figures with their captions."""

    experiment: Experiment
    mode: str
    rows: Sequence[Row]
    tables: list[Table]
    verdicts: list[Verdict]
    figures: Mapping[Path, str] = field(default_factory=dict)
    reasons: str = ""  # written by hand: why something came out as it did

    @property
    def seconds(self) -> float:
        """Return the time of all runs together, in seconds."""
        return sum(r.get("seconds", 0.0) for r in self.rows)


def section(experiment: Experiment, mode: str, rows: Sequence[Row], out: Path, reasons: str = "") -> Section:
    """Return the section of an experiment and draw its figures into ``out/figures``."""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figures = experiment.draw(rows, folder / experiment.name) if experiment.draw is not None else {}
    return Section(experiment, mode, rows, experiment.tables(rows), experiment.verdicts(rows), figures, reasons)


def read_reasons(path: Path) -> dict[str, str]:
    """Return paragraphs by experiment from a Markdown file with a heading ``## NAME`` for each."""
    parts = re.split(r"^## +(\S+) *$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def cell(value: Any) -> str:
    """Return a text as it is, and a float with three significant digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def text(table: Table) -> str:
    """Return a table for the terminal."""
    lines = [[cell(v) for v in row] for row in table.rows]
    numeric = [
        all(isinstance(v, (int, float)) or v is None for v in column) for column in zip(*table.rows, strict=True)
    ]
    body = columns(table.header, lines, numeric or [False] * len(table.header))
    return "\n".join([table.title, body, *([table.note] if table.note else [])])


def _tables_and_published(part: Section) -> list[Table]:
    published = [
        Table(
            f"Published: {p.title}",
            p.header,
            p.rows,
            f"Source: {p.source}" + ("" if p.read else " (remembered, not read)"),
        )
        for p in part.experiment.published
    ]
    return [*part.tables, *published]


def markdown(sections: Sequence[Section], folder: Path, command: str = "") -> str:
    """Return the report; figures are linked relative to ``folder``. command: makes these rows."""
    made = [f"Made by `{command}`, {sum(s.seconds for s in sections) / 60:,.0f} minutes of running time.", ""]
    lines = ["# Findings", "", *(made if command else []), *_summary_lines(sections)]
    for part in sections:
        e = part.experiment
        lines += [f"## {e.title}", "", f"*Claim.* {e.claim}", ""]
        if e.data:
            lines += [f"*Data.* {e.data}", ""]
        for v in part.verdicts:
            lines.append(f"- **{v.outcome}**: {v.claim}: {v.because}.")
        lines += ["", *([part.reasons, ""] if part.reasons else [])]
        for path, caption in part.figures.items():
            lines += [f"![{caption}]({path.relative_to(folder).as_posix()})", "", f"*{caption}*", ""]
        for table in _tables_and_published(part):
            lines += [
                f"**{table.title}**",
                "",
                "| " + " | ".join(table.header) + " |",
                "|" + "---|" * len(table.header),
            ]
            lines += ["| " + " | ".join(cell(v).replace("|", "\\|") for v in row) + " |" for row in table.rows]
            lines += ["", *([table.note, ""] if table.note else [])]
        lines += [f"{len(part.rows)} runs ({part.mode}), {part.seconds:,.0f} s of running time.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary_lines(sections: Sequence[Section]) -> list[str]:
    lines = ["| experiment | claim | verdict |", "|---|---|---|"]
    lines += [f"| {s.experiment.name} | {v.claim} | {v.outcome}: {v.because} |" for s in sections for v in s.verdicts]
    return [*lines, ""]


STYLE = """
th, td { padding: .2rem .6rem; font-size: .9rem; }
img { max-width: 100%; height: auto; }
.note { color: var(--soft); font-size: .9rem; }
.reproduced { border-left: .4rem solid #2a7; } .not { border-left: .4rem solid #c44; }
.undecided { border-left: .4rem solid #999; }
.verdict { padding: .2rem .8rem; margin: .4rem 0; background: var(--panel); }
"""


def page(sections: Sequence[Section]) -> str:
    """Return the report as one HTML page that contains its figures."""
    esc, parts = html.esc, ["<h1>Findings</h1>"]
    for part in sections:
        parts.append(f'<h2 id="{esc(part.experiment.name)}">{esc(part.experiment.title)}</h2>')
        parts.append(f"<p><em>Claim.</em> {esc(part.experiment.claim)}</p>")
        if part.experiment.data:
            parts.append(f"<p><em>Data.</em> {esc(part.experiment.data)}</p>")
        for v in part.verdicts:
            kind = v.outcome.partition(" ")[0]
            parts.append(f'<p class="verdict {kind}"><b>{esc(v.outcome)}</b>: {esc(v.claim)}: {esc(v.because)}.</p>')
        parts += [f"<p>{esc(paragraph)}</p>" for paragraph in part.reasons.split("\n\n") if paragraph]
        for path, caption in part.figures.items():
            data = base64.b64encode(path.read_bytes()).decode()
            image = f'<img alt="{esc(caption)}" src="data:image/png;base64,{data}">'
            parts.append(f"<figure>{image}<figcaption>{esc(caption)}</figcaption></figure>")
        for table in _tables_and_published(part):
            head = "".join(f"<th>{esc(h)}</th>" for h in table.header)
            rows = ("<tr>" + "".join(f"<td>{esc(cell(v))}</td>" for v in row) + "</tr>" for row in table.rows)
            note = f'<p class="note">{esc(table.note)}</p>' if table.note else ""
            parts.append(f"<h3>{esc(table.title)}</h3>{html.table(head, rows, table.title)}{note}")
        parts.append(f'<p class="note">{len(part.rows)} runs ({esc(part.mode)}), {part.seconds:,.0f} s.</p>')
    return html.page("Findings", parts, STYLE, images=True)


def write(sections: Sequence[Section], out: Path, command: str = "") -> tuple[Path, Path]:
    """Write ``findings.md`` and ``findings.html`` into ``out`` and return their paths."""
    paths = out / "findings.md", out / "findings.html"
    for path, content in zip(paths, (markdown(sections, out, command), page(sections)), strict=True):
        with atomic_path(path) as part:
            part.write_text(content, encoding="utf-8")
    return paths
