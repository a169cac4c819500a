"""The command line: ``python -m autograder check | submit | grade | grade-all | …``, one file a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from autograder.cli.arguments import check_outputs, part
from autograder.cli.check import add_check
from autograder.cli.grade import add_grade
from autograder.cli.grade_all import add_grade_all
from autograder.cli.gradescope import add_gradescope
from autograder.cli.handout import add_handout
from autograder.cli.selftest import add_selftest
from autograder.cli.strip import add_strip
from autograder.cli.submit import add_submit
from autograder.cli.try_ import add_try
from autograder.cli.validate import add_validate
from autograder.homeworks.homework import HomeworkError
from minipeft.cli.arguments import Parser
from minipeft.cli.process import run_command

COMMANDS = (  # in the order of --help
    add_check, add_submit, add_grade, add_grade_all, add_gradescope, add_validate, add_strip, add_handout, add_selftest,
    add_try,
)  # fmt: skip


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog="python -m autograder", description="Homework: checked, handed in, graded.")
    commands = parser.add_commands()
    for add in COMMANDS:
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when all is right, 1 when something is not, 2 after a user's mistake."""
    return run_command("autograder", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    from autograder.sandbox.parent_limits import ConfinementError
    from autograder.submission.intake import IntakeError
    from minipeft.files.errors import FileError

    mistakes = (HomeworkError, IntakeError, ConfinementError, FileError)
    return run_command(f"autograder {args.command}", lambda: _run(args), mistakes)


def _run(args: argparse.Namespace) -> int:
    if args.staff:
        part("course.handout")  # a handout lacks it
    check_outputs(args)
    code: int = args.run(args)
    return code
