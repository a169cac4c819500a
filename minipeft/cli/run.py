"""The command line: ``minipeft bench | compare | fetch | generate | info | lab | train``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from minipeft.cli.arguments import INTERRUPTED, USER_MISTAKE, Parser, UserError
from minipeft.cli.bench import add_bench
from minipeft.cli.compare import add_compare
from minipeft.cli.fetch import add_fetch
from minipeft.cli.generate import add_generate
from minipeft.cli.info import add_info
from minipeft.cli.lab import add_lab
from minipeft.cli.train import add_train


def build_parser() -> Parser:
    """The parser of all commands."""
    import minipeft

    parser = Parser(prog="minipeft", description="Parameter-efficient fine-tuning from scratch, in NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"minipeft {minipeft.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for add in (add_compare, add_lab, add_fetch, add_generate, add_train, add_bench, add_info):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when done, 2 for a mistake of the user's, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    from minipeft.data.fetch import FetchError
    from minipeft.files import FileError
    from minipeft.peft import PeftError
    from minipeft.train import TrainingError

    try:
        return args.run(args)
    except (UserError, FetchError, FileError, PeftError, TrainingError, OSError) as error:
        print(f"minipeft {args.command}: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print(f"minipeft {args.command}: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
