"""What the commands share: arguments that several of them take, checks of their values, and modules for staff."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from minipeft.cli.arguments import Parser, Subparsers, check_output, check_output_file
from minipeft.cli.process import UserError

SHARED: dict[str, dict[str, Any]] = {  # options and arguments that mean the same in each command that takes them
    "homework": {"metavar": "HOMEWORK", "help": "a homework: its name, or its folder"},
    "--homework": {"metavar": "HOMEWORK", "help": "a homework: its name, or its folder", "required": True},
    "names": {"metavar": "HOMEWORK", "nargs": "*", "help": "names of homeworks (default: all)"},
    "--json": {"action": "store_true", "help": "print JSON"},
    "--seed-file": {"type": Path, "metavar": "FILE", "help": "a file that holds the seed (default: a new one)"},
}


def add_command(
    commands: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    description: str,
    epilog: str | None = None,
    staff: bool = False,
) -> Parser:
    """Add a command and return its parser.

    Args:
        commands: the commands so far.
        name: what the user types.
        run: what the command does; it returns the exit code.
        help: its line in the list of commands.
        description: what its own --help says above the options.
        epilog: what it says below them.
        staff: it needs the library's answers, which a handout lacks.
    """
    parser = commands.add_parser(name, help=help, description=description, epilog=epilog)
    parser.set_defaults(run=run, staff=staff, outputs={})
    return parser


def add_shared(parser: Any, name: str, **changed: Any) -> None:
    """Add an argument of `SHARED` to a command or to one of its groups; ``changed`` replaces some of its settings."""
    parser.add_argument(name, **{**SHARED[name], **changed})


def add_output(parser: Parser, option: str, metavar: str = "FILE", **settings: Any) -> None:
    """Add an option that names a FILE or a FOLDER to write; `check_outputs` checks it before the command runs."""
    action = parser.add_argument(option, type=Path, metavar=metavar, **settings)
    parser.get_default("outputs")[action.dest] = (option, metavar)


def add_reports(parser: Parser) -> None:
    """Add the options for reports as files."""
    add_output(parser, "--html", help="write the report as one HTML page, too")
    add_output(parser, "--markdown", help="write the report as Markdown, too")


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError, before anything is run, unless what the options name can be written."""
    for dest, (option, metavar) in args.outputs.items():
        path = getattr(args, dest)
        if metavar == "FILE":
            check_output_file(option, path)
        elif path is not None:
            check_output(option, path)


def check_seconds(option: str, value: float) -> None:
    """Raise UserError unless the option's value is a number of seconds above 0."""
    if not value > 0:
        raise UserError(f"{option} must be a number of seconds above 0, got {value}")


def read_seed(path: Path | None) -> str | None:
    """Return the seed that a --seed-file holds; None if there is no such option."""
    return path.read_text("utf-8").strip() if path else None


def part(name: str) -> Any:
    """Import a module of the autograder. Raises UserError if it does not exist, as in a handout."""
    try:
        return import_module(f"autograder.{name}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("autograder."):
            raise
        raise UserError(
            "this command is for the course staff, and this is a handout: it has check, try and submit"
        ) from None
