"""A graded submission on the terminal, as JSON, and as files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from minipeft.cli.arguments import write_text

if TYPE_CHECKING:
    from autograder.grading.grade import Graded


def show(done: Graded, args: argparse.Namespace, hidden: bool) -> None:
    """Write the reports that the options ask for, and print the result as text, or as JSON with --json."""
    from autograder.feedback import report
    from autograder.feedback.results import results

    if args.html is not None:
        write_text(args.html, report.html(done, hidden))
    if args.markdown is not None:
        write_text(args.markdown, report.markdown(done, hidden))
    if args.json:
        print(json.dumps(results(done, hidden=hidden), allow_nan=False))
        return
    for remark in done.remarks:
        print(f"{remark.file}, line {remark.line}: {printable(remark.text)}")
    print(report.text(done, hidden, colour=shows_colours()))


def printable(text: str) -> str:
    """Return text of a submission as a terminal may show it."""
    from autograder.feedback.results import clean

    return clean(text)


def shows_colours() -> bool:
    """Return whether standard output is a terminal that knows escape sequences; the old console of Windows does not."""
    return sys.stdout.isatty() and (sys.platform != "win32" or "WT_SESSION" in os.environ)
