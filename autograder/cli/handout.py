"""``python -m autograder handout``: what students get."""

from __future__ import annotations

import argparse

from autograder.cli.arguments import add_command, add_output, add_shared, part
from autograder.homeworks.folder import load_homework
from minipeft.cli.arguments import Subparsers
from minipeft.cli.process import UserError


def add_handout(commands: Subparsers) -> None:
    """Add the command to the parser."""
    handout = add_command(
        commands,
        "handout",
        run_handout,
        help="what students get: a homework beside the library without its answers",
        description="Write a folder with a homework, the library without the answers, and `check` and `submit`.",
        staff=True,
    )
    add_shared(handout, "homework")
    add_output(handout, "--out", "FOLDER", required=True, help="a new folder")


def run_handout(args: argparse.Namespace) -> int:
    """Write the handout of a homework into a new folder."""
    homework = load_homework(args.homework)
    build = part("course.handout").build
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"{args.out} is there already: --out takes a new or an empty folder")
    build(homework, args.out)
    print(f"{args.out} holds {homework.name}; its README.md says how to install, check and hand in")
    return 0
