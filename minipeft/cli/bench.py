"""``minipeft bench``: measurements of speed and memory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from minipeft.cli.arguments import Parser, Subparsers
from minipeft.cli.process import UserError, needs_extra
from minipeft.files.names import unknown_name

if TYPE_CHECKING:
    from minipeft.bench import Part, Row


def add_bench(commands: Subparsers) -> None:
    """Add the command to the parser."""
    bench = commands.add_parser(
        "bench",
        help="measure speed and memory",
        description="Run a benchmark and print its table. Both sides are timed in turn; ratios are medians.",
    )
    bench.add_argument("name", nargs="?", metavar="NAME", help="the benchmark; without a name, list them")
    bench.add_argument("--quick", action="store_true", help="use small sizes and few repeats, to check that it works")
    bench.add_argument("--json", action="store_true", help="print JSON at the end instead of the table")
    bench.set_defaults(run=partial(run_bench, bench))


def run_bench(parser: Parser, args: argparse.Namespace) -> int:
    parser.require_name(args)
    from minipeft.backend.cuda import NoGpuError
    from minipeft.bench import BENCHES

    if args.name is None:
        print(json.dumps(BENCHES, indent=2) if args.json else "\n".join(f"{n:<13} {s}" for n, s in BENCHES.items()))
        return 0
    if args.name not in BENCHES:
        raise UserError(unknown_name("benchmark", args.name, BENCHES))
    rows: list[Row] = []
    try:
        with needs_extra(f"bench {args.name}", "parity"):
            parts = import_module(f"minipeft.bench.{args.name}").parts(args.quick)
            measure(args.name, parts, rows, show=not args.json)
    except NoGpuError as error:
        raise UserError(f"bench {args.name}: {error}") from error
    finally:  # after Ctrl-C, too: what was measured
        if args.json and rows:
            print(json.dumps(rows, indent=2))
    return 0


def measure(name: str, parts: Sequence[Part], rows: list[Row], show: bool) -> None:
    """Append the rows of all parts to ``rows``, and print each at once if ``show``, above a bar with the time left."""
    from tqdm import tqdm

    from minipeft.bench import Table

    table: Table | None = None
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left"
    hidden = None if show else True  # None: hidden unless stderr is a terminal
    with tqdm(total=sum(part.weight for part in parts), bar_format=form, disable=hidden, ncols=80) as bar:
        for part in parts:
            bar.set_description(f"{name}: {part.label}")
            found = list(part.measure())
            if show:
                table = table or Table(found, slack=12)
                bar.write("\n".join([*(() if rows else [table.head()]), *map(table.line, found)]))
                sys.stdout.flush()
            rows += found
            bar.update(part.weight)
