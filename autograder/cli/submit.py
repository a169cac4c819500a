"""``python -m autograder submit``: the zip to hand in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from autograder.cli.arguments import add_command, add_output, add_shared
from autograder.cli.show import printable
from autograder.homeworks.folder import load_homework
from minipeft.cli.arguments import Subparsers


def add_submit(commands: Subparsers) -> None:
    """Add the command to the parser."""
    submit = add_command(
        commands,
        "submit",
        run_submit,
        help="make the zip to hand in",
        description="Put exactly the files of a homework into a zip, and say what is not written yet.",
    )
    add_shared(submit, "homework")
    add_output(submit, "--out", help="the zip (default: HOMEWORK.zip in this folder)")
    add_shared(submit, "--json")


def run_submit(args: argparse.Namespace) -> int:
    """Write the zip, and print which functions are still missing."""
    from autograder.course.submit import pack

    homework = load_homework(args.homework)
    packed = pack(homework, homework.folder, args.out or Path(f"{homework.name}.zip"))
    if args.json:
        made = {"path": str(packed.path), "unwritten": dict(packed.unwritten), "warnings": packed.warnings}
        print(json.dumps(made))
        return 0
    print(f"{packed.path} holds {', '.join(sorted(f.stub for f in homework.files))}")
    for problem in homework.problems:
        missing = packed.unwritten.get(problem.id)
        print(f"  {problem.id}  {'not written: ' + ', '.join(missing) if missing else 'written'}")
    for warning in packed.warnings:
        print(printable(warning))
    return 0
