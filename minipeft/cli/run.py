"""The parser of all commands, and how the one that was chosen is run."""

from __future__ import annotations

from collections.abc import Sequence

from minipeft.cli.arguments import Parser
from minipeft.cli.bench import add_bench
from minipeft.cli.compare import add_compare
from minipeft.cli.fetch import add_fetch
from minipeft.cli.generate import add_generate
from minipeft.cli.info import add_info
from minipeft.cli.lab import add_lab
from minipeft.cli.process import run_command
from minipeft.cli.train import add_train


def build_parser() -> Parser:
    """Return the parser of all commands."""
    import minipeft

    parser = Parser(prog="minipeft", description="Parameter-efficient fine-tuning from scratch, in NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"minipeft {minipeft.__version__}")
    commands = parser.add_commands()
    for add in (add_compare, add_lab, add_fetch, add_generate, add_train, add_bench, add_info):
        add(commands)
    return parser


def run(argv: Sequence[str] | None) -> int:
    """Run one command line and return its exit code."""
    return run_command("minipeft", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    from minipeft.data.fetch import FetchError
    from minipeft.files import FileError
    from minipeft.peft import PeftError
    from minipeft.train import TrainingError

    return run_command(
        f"minipeft {args.command}",
        lambda: args.run(args),
        (FetchError, FileError, PeftError, TrainingError),
        "interrupted; what was finished is kept",
    )
