"""``python -m autograder check``: one's own program on the public cases."""

from __future__ import annotations

import argparse
from dataclasses import replace

from autograder.cli.arguments import add_command, add_reports, add_shared
from autograder.cli.show import printable, show
from autograder.homeworks.folder import load_homework
from minipeft.cli.arguments import Subparsers


def add_check(commands: Subparsers) -> None:
    """Add the command to the parser."""
    check = add_command(
        commands,
        "check",
        run_check,
        help="your own program on the public cases",
        description="Run the files of a homework's folder on the public cases and say what is wrong.",
    )
    add_shared(check, "homework")
    check.add_argument("--problem", action="append", metavar="ID", help="only this problem (may be given again)")
    add_reports(check)
    add_shared(check, "--json")


def run_check(args: argparse.Namespace) -> int:
    """Check the program of a homework's folder, with full feedback; return 1 unless all points are earned."""
    from autograder.public import check
    from autograder.submission.intake import take

    homework = load_homework(args.homework)
    chosen = [homework.problem(name) for name in args.problem or ()]
    done = check(homework, take(homework.folder, homework), args.problem, differences=True)
    if chosen:
        done.homework = replace(homework, problems=tuple(chosen))
    show(done, args, hidden=False)
    if done.log and not args.json:
        print(f"\nprinted by your program:\n{printable(done.log)}")
    return 0 if all(v.share == 1.0 for v in done.verdicts.values()) else 1
