"""``python -m autograder selftest``: is the grader right, and is it safe?"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

from autograder.cli.arguments import add_command, add_output, add_shared, part
from minipeft.cli.arguments import Subparsers
from minipeft.cli.process import UserError


def add_selftest(commands: Subparsers) -> None:
    """Add the command to the parser."""
    selftest = add_command(
        commands,
        "selftest",
        run_selftest,
        help="is the grader right?",
        description="Grade the reference, the stubs, every mutant and every variant over many seeds.",
        staff=True,
    )
    add_shared(selftest, "names")
    selftest.add_argument("--seeds", type=int, default=20, metavar="N", help="how many seeds (default: %(default)s)")
    add_output(selftest, "--out", "FOLDER", help="where to write the result as JSON and HTML")
    selftest.add_argument("--quick", action="store_true", help="two seeds, one number of threads")
    selftest.add_argument("--attacks", action="store_true", help="try the hostile submissions instead")
    selftest.add_argument("--attack", action="append", metavar="NAME", help="only this one of them; can be repeated")
    selftest.add_argument(
        "--configuration",
        action="append",
        metavar="NAME",
        help="only in this one: all layers, no Landlock, a container",
    )
    add_output(selftest, "--markdown", help="write the table of attacks as Markdown, too")


def run_selftest(args: argparse.Namespace) -> int:
    """Print the kill matrix, or with --attacks the table of hostile submissions; return 1 if a goal is missed."""
    from autograder.sandbox.parent_limits import require_linux

    require_linux()
    if args.attacks:
        return _run_attacks(args)
    for option in ("attack", "configuration", "markdown"):
        if getattr(args, option):
            raise UserError(f"--{option} goes with --attacks")
    if args.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {args.seeds}")
    code: int = part("selftest").main(args.names, args.seeds, args.out, args.quick)
    return code


def _run_attacks(args: argparse.Namespace) -> int:
    tried = part("selftest.attacks.run")
    names, configurations = args.attack or [], args.configuration or []
    _check_known("attack", names, sorted(a.id for a in tried.ATTACKS))
    _check_known("configuration", configurations, tried.possible(), " here")
    done: int = tried.main(names, configurations, args.out, args.markdown)
    return done


def _check_known(what: str, names: Sequence[str], known: Collection[str], where: str = "") -> None:
    if unknown := [n for n in names if n not in known]:
        raise UserError(f"no {what} {unknown[0]!r}{where}; there are: {', '.join(known)}")
