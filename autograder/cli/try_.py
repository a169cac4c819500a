"""``python -m autograder try``: a real, small model trained with one's own module."""

from __future__ import annotations

import argparse

from autograder.cli.arguments import add_command, add_shared, part
from autograder.homeworks.folder import load_homework
from minipeft.cli.arguments import Subparsers


def add_try(commands: Subparsers) -> None:
    """Add the command to the parser."""
    plug = add_command(
        commands,
        "try",
        run_try,
        help="train a small model with your own module",
        description="Plug the filled files of a homework into the library and train a real, small model.",
    )
    add_shared(plug, "homework")
    plug.add_argument("--quick", action="store_true", help="a few steps only")


def run_try(args: argparse.Namespace) -> int:
    """Train a small model with the homework's files."""
    code: int = part("course.tryout").main(load_homework(args.homework).folder, args.quick)
    return code
