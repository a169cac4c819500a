"""``minipeft bench``: measurements of speed and memory."""

from __future__ import annotations

import argparse
import json

from minipeft.cli.arguments import Subparsers
from minipeft.cli.process import UserError
from minipeft.files.names import unknown_name


def add_bench(commands: Subparsers) -> None:
    """Add the command to the parser."""
    bench = commands.add_parser(
        "bench",
        help="measure speed and memory",
        description="Run a measurement and print its table: ratios taken in turn, medians of several.",
    )
    bench.add_argument("name", nargs="?", metavar="NAME", help="which; without it, what there is")
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.set_defaults(run=run_bench)


def run_bench(args: argparse.Namespace) -> int:
    from importlib import import_module

    from minipeft.bench import BENCHES, table
    from minipeft.cuda import NoGpuError

    if args.name is None:
        print(json.dumps(BENCHES, indent=2) if args.json else "\n".join(f"{n:<10} {s}" for n, s in BENCHES.items()))
        return 0
    if args.name not in BENCHES:
        raise UserError(unknown_name("bench", args.name, BENCHES))
    try:
        rows = import_module(f"minipeft.bench.{args.name}").run()
    except NoGpuError as error:
        raise UserError(f"bench {args.name}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("minipeft"):
            raise
        raise UserError(
            f'bench {args.name} needs {error.name}; install it with `pip install "minipeft[parity]"`'
        ) from error
    print(json.dumps(rows, indent=2) if args.json else table(rows))
    return 0
