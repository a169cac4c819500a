"""``python -m autograder gradescope``: the zip for Gradescope."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from autograder.cli.arguments import add_command, add_output, add_shared, check_seconds, read_seed
from autograder.homeworks.folder import load_homework
from minipeft.cli.arguments import Subparsers
from minipeft.cli.process import UserError


def add_gradescope(commands: Subparsers) -> None:
    """Add the command to the parser."""
    scope = add_command(
        commands,
        "gradescope",
        run_gradescope,
        help="the zip for Gradescope",
        description="Write the autograder.zip of a homework: the same inputs give the same bytes.",
        staff=True,
    )
    add_shared(scope, "homework")
    add_output(scope, "--out", default=Path("autograder.zip"), help="default: %(default)s")
    add_shared(scope, "--seed-file")
    scope.add_argument("--policy", type=Path, metavar="FILE", help="lateness and attempts, as JSON")
    scope.add_argument(
        "--time-limit", type=float, default=600.0, metavar="S", help="Gradescope's (default: %(default)g)"
    )


def run_gradescope(args: argparse.Namespace) -> int:
    """Write autograder.zip."""
    from autograder.course.gradescope import build
    from autograder.grading.policy import PolicyError

    homework = load_homework(args.homework)
    check_seconds("--time-limit", args.time_limit)
    seed = read_seed(args.seed_file)
    policy = args.policy.read_text("utf-8") if args.policy else "{}"
    try:
        mark = build(homework, args.out, secrets.token_hex(16) if seed is None else seed, policy, args.time_limit)
    except PolicyError as error:
        raise UserError(str(error)) from error
    print(f"{args.out}: {homework.name}, {args.out.stat().st_size / 1e6:.1f} MB, grader {mark[:16]}")
    if seed is None:
        print("a new seed was drawn: with --seed-file the same zip can be made again")
    return 0
