"""``python -m autograder grade``: one submission on hidden cases."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.cli.arguments import add_command, add_output, add_reports, add_shared, check_seconds, read_seed
from autograder.cli.show import show
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT, Homework
from minipeft.cli.arguments import Subparsers
from minipeft.cli.process import UserError

if TYPE_CHECKING:
    from autograder.grading.grade import Graded


def add_grade(commands: Subparsers) -> None:
    """Add the command to the parser."""
    grade = add_command(
        commands,
        "grade",
        run_grade,
        help="grade one submission on hidden cases",
        description="Grade a folder, a zip or a single file on cases drawn from a secret seed.",
        epilog="The seed is in a file because every user of the machine can read a command line.",
        staff=True,
    )
    grade.add_argument("submission", type=Path, metavar="SUBMISSION", help="a folder, a zip or one of the files")
    add_shared(grade, "--homework")
    add_output(grade, "--out", help="where to write results.json, after every problem")
    add_shared(grade, "--seed-file")
    grade.add_argument("--full", action="store_true", help="tell everything, as for public cases: for staff")
    grade.add_argument("--deadline", type=float, metavar="S", help="seconds by the clock (default: none)")
    kept = grade.add_mutually_exclusive_group()
    kept.add_argument("--trust", action="store_true", help="run the submission unconfined: only what you would run")
    kept.add_argument("--gradescope", action="store_true", help="only as another user and behind a seccomp filter")
    add_reports(grade)
    add_shared(grade, "--json", help="print results.json")


def run_grade(args: argparse.Namespace) -> int:
    """Grade a submission; keep results.json up to date after every problem, whatever ends the grading."""
    from autograder.course.supervisor import limit
    from autograder.feedback.results import failed_results, not_run, results, write

    homework = load_homework(args.homework)
    if args.deadline is not None:
        check_seconds("--deadline", args.deadline)
    if not os.path.lexists(args.submission):
        raise UserError(f"no file or folder {str(args.submission)!r}: expected a submission")
    seed = read_seed(args.seed_file)
    if seed is None:
        seed = secrets.token_hex(16)

    def keep(document: dict[str, Any]) -> None:
        if args.out is not None:
            write(args.out, document)

    def progress(done: Graded) -> None:
        keep(results(done, hidden=not args.full))

    keep(not_run(homework))
    try:
        if args.deadline is not None:  # the session ends at the deadline; this, a little later, ends everything else
            faulthandler.dump_traceback_later(limit(args.deadline), exit=True, file=2)
        return _grade(args, homework, seed, keep, progress)
    except Exception:
        keep(failed_results())
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


def _grade(
    args: argparse.Namespace,
    homework: Homework,
    seed: str,
    keep: Callable[[dict[str, Any]], None],
    progress: Callable[[Graded], None],
) -> int:
    from autograder.feedback.results import refused
    from autograder.grading.grade import grade
    from autograder.sandbox.parent_limits import GRADESCOPE, LOCAL, Confinement
    from autograder.sandbox.session import Stalled
    from autograder.submission.intake import IntakeError, take

    try:
        submission = take(args.submission, homework)
    except IntakeError as error:
        made = refused(homework, str(error))
        keep(made)
        print(json.dumps(made) if args.json else made["output"])
        return 1
    private = [ROOT, args.submission.resolve().parent, *([args.seed_file] if args.seed_file else [])]
    must = GRADESCOPE if args.gradescope else LOCAL
    confinement: dict[str, Any] | None = None if args.trust else {"must": must, "private": private}
    if confinement is not None:
        Confinement(**confinement)  # refuse before anything is started
    try:
        done = grade(homework, submission, seed, confinement=confinement, deadline=args.deadline, progress=progress)
    except Stalled as error:
        raise UserError(str(error)) from error
    print(f"confined: {', '.join(f'{k} {v}' for k, v in done.layers.items()) or 'not at all'}", file=sys.stderr)
    progress(done)
    show(done, args, hidden=not args.full)
    return 0
