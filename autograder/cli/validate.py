"""``python -m autograder validate``: any results.json, any autograder.zip."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from autograder.cli.arguments import add_command, add_shared
from autograder.cli.show import printable
from minipeft.cli.arguments import Subparsers


def add_validate(commands: Subparsers) -> None:
    """Add the command to the parser."""
    validate = add_command(
        commands,
        "validate",
        run_validate,
        help="is this a results.json, or an autograder.zip?",
        description="Say what is wrong with a results.json or an autograder.zip.",
    )
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    add_shared(validate, "--json")


def run_validate(args: argparse.Namespace) -> int:
    """Print what is wrong with each file; return 1 if one has an error."""
    from autograder.course.gradescope import complaints as of_zip
    from autograder.feedback.results import Complaint, validate

    found = {str(p): [Complaint(t) for t in of_zip(p)] if p.suffix == ".zip" else validate(p) for p in args.files}
    wrong = any(c.error for complaints in found.values() for c in complaints)
    if args.json:
        rows = {p: [{"error": c.error, "text": c.text} for c in complaints] for p, complaints in found.items()}
        print(json.dumps(rows))
        return int(wrong)
    for path, complaints in found.items():
        for c in complaints:
            print(f"{path}: {'error' if c.error else 'warning'}: {printable(c.text)}")
        if not any(c.error for c in complaints):
            print(f"{path}: valid")
    return int(wrong)
