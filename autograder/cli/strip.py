"""``python -m autograder strip``: the stubs of homeworks."""

from __future__ import annotations

import argparse

from autograder.cli.arguments import add_command, add_shared, part
from minipeft.cli.arguments import Subparsers


def add_strip(commands: Subparsers) -> None:
    """Add the command to the parser."""
    strip = add_command(
        commands,
        "strip",
        run_strip,
        help="write the stubs of homeworks",
        description="Write the stubs of these homeworks, or of all, out of the library.",
        staff=True,
    )
    add_shared(strip, "names")
    strip.add_argument("--check", action="store_true", help="only say which are not what the library gives")


def run_strip(args: argparse.Namespace) -> int:
    """Write the stubs, or with --check print which differ from the library."""
    code: int = part("homeworks.strip").main(args.names, check=args.check)
    return code
