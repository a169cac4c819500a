"""``python -m autograder grade-all``: a class."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from autograder.cli.arguments import add_command, add_output, add_shared, check_seconds, read_seed
from autograder.homeworks.folder import load_homework
from minipeft.cli.arguments import Subparsers, default_jobs, positive
from minipeft.cli.process import UserError


def add_grade_all(commands: Subparsers) -> None:
    """Add the command to the parser."""
    every = add_command(
        commands,
        "grade-all",
        run_grade_all,
        help="grade a class",
        description="Grade every submission of a folder, or of a Gradescope export, on hidden cases.",
        epilog="Every entry of FOLDER has a row in grades.csv; what cannot be graded is refused with the reason. "
        "If the grader fails on a submission, its row is empty and OUT/staff/ID.txt says why. "
        "Each submission is kept as soon as it is graded; after any end --resume goes on.",
        staff=True,
    )
    every.add_argument("folder", type=Path, metavar="FOLDER", help="a folder, a zip or a file for each submission")
    add_shared(every, "--homework")
    add_output(every, "--out", "FOLDER", default=Path("grades"), help="default: %(default)s")
    every.add_argument(
        "-j", "--jobs", type=positive, default=default_jobs(), help="side by side (default: %(default)s)"
    )
    every.add_argument("--cluster", metavar="ADDRESS", help="send them to the Dask scheduler there")
    add_shared(every, "--seed-file")
    again = every.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on in an --out folder that has grades already")
    again.add_argument("--fresh", action="store_true", help="forget the grades in the --out folder")
    every.add_argument(
        "--deadline", type=float, default=300.0, metavar="S", help="seconds for one (default: %(default)g)"
    )
    every.add_argument("--trust", action="store_true", help="run them unconfined: only what you would run yourself")
    add_shared(every, "--json", help="print the records as JSON")


def run_grade_all(args: argparse.Namespace) -> int:
    """Grade a class, and print the summary and where the grades are."""
    from autograder.course.classroom import grade_all
    from autograder.course.export import ClassError
    from autograder.sandbox.parent_limits import Confinement

    if not args.trust:
        Confinement(private=[args.seed_file] if args.seed_file else [])  # refuse before anything is written
    homework = load_homework(args.homework)
    check_seconds("--deadline", args.deadline)
    try:
        done = grade_all(
            args.folder,
            homework,
            args.out,
            seed=read_seed(args.seed_file),
            jobs=args.jobs,
            cluster=args.cluster,
            resume=args.resume,
            fresh=args.fresh,
            trust=args.trust,
            deadline=args.deadline,
            progress=not args.json,
        )
    except ClassError as error:
        raise UserError(str(error)) from error
    if args.json:
        print(json.dumps(done.records))
        print(done.summary(homework.points), file=sys.stderr)
        return int(bool(done.failures))
    print(done.summary(homework.points))
    print(f"grades: {args.out / 'grades.csv'}   the class: {args.out / 'index.html'}")
    return int(bool(done.failures))
