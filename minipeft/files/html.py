"""HTML pages: one file each, without scripts and without anything fetched, readable in light and in dark."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --soft: #666; --line: #ddd; --full: #19713a;
  --part: #8a5a00; --none: #b3261e; --panel: #f6f6f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --soft: #a0a0a0; --line: #3a3a3a;
  --full: #6fcf8f; --part: #e0b050; --none: #ff8a80; --panel: #1f1f1f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.1rem; line-height: 1.3; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.wide { overflow-x: auto; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
figcaption { color: var(--soft); font-size: .85rem; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def esc(words: Any) -> str:
    """Return a text in which HTML finds nothing to do."""
    return html.escape(str(words), quote=True)


def page(title: str, body: Iterable[str], style: str = "", images: bool = False) -> str:
    """Return a whole page.

    Args:
        title: as text.
        body: pieces of HTML, escaped where they were text.
        style: rules that follow those of `STYLE`.
        images: the body has images, as data.
    """
    policy = POLICY + "; img-src data:" if images else POLICY
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{esc(title)}</title>",
            f"<style>{STYLE}{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def table(head: str, rows: Iterable[str], label: str = "") -> str:
    """Return a table.

    Args:
        head: the cells of its first row, such as ``<th>name</th>``.
        rows: the others, each a ``<tr>``.
        label: what a screen reader calls it. With a label it scrolls on its own if it is wider than the page.
    """
    inside = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide" role="region" tabindex="0" aria-label="{esc(label)}">{inside}</div>' if label else inside
