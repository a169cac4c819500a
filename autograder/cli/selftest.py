"""``python -m autograder selftest``: is the grader right, and is it safe?"""

from __future__ import annotations

import argparse

from autograder.cli.arguments import add_command, add_output, add_shared, part
from autograder.homeworks.folder import homeworks
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
    selftest.add_argument(
        "--leave-out", action="store_true", help="only: is the cause of each mutant named by a grader that lacks it?"
    )
    selftest.add_argument(
        "--attacks",
        nargs="?",
        const="sample",
        choices=("sample", "all"),
        help="try the hostile submissions instead: a quarter of them, in a minute, or all by all routes and layers",
    )
    selftest.add_argument("--attack", action="append", metavar="NAME", help="only this one of them; can be repeated")
    selftest.add_argument(
        "--sample", type=int, metavar="N", help="which sample of attacks (default: another one each day)"
    )
    add_output(selftest, "--markdown", help="write the table of attacks as Markdown, too")


def run_selftest(args: argparse.Namespace) -> int:
    """Print the kill matrix, or with --attacks the table of hostile submissions; return 1 if a goal is missed."""
    from autograder.sandbox.parent_limits import require_linux

    require_linux()
    if args.attacks:
        return _run_attacks(args)
    if args.leave_out:
        named: int = part("selftest.leave_out").main(args.names or homeworks())
        return named
    for option in ("attack", "sample", "markdown"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option} goes with --attacks")
    if args.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {args.seeds}")
    code: int = part("selftest").main(args.names, args.seeds, args.out, args.quick)
    return code


def _run_attacks(args: argparse.Namespace) -> int:
    tried = part("selftest.attacks.run")
    names = args.attack or []
    known = sorted(a.id for a in tried.ATTACKS)
    if unknown := [n for n in names if n not in known]:
        raise UserError(f"no attack {unknown[0]!r}; there are: {', '.join(known)}")
    done: int = tried.main(names, args.attacks == "all", args.out, args.markdown, args.sample)
    return done
