"""The command line: ``python -m autograder check | submit | grade | grade-all | gradescope | validate | …``."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.homework import HomeworkError, load_homework
from minipeft.cli.arguments import Parser, check_output, check_output_file, default_jobs, positive, write_text
from minipeft.cli.process import UserError, run_command

if TYPE_CHECKING:
    from autograder.grade import Graded

HOMEWORK = "a homework: its name, or its folder"
STAFF = {"grade", "grade-all", "gradescope", "handout", "selftest", "strip"}  # they need the library's answers


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="python -m autograder", description="Homework: checked, handed in, graded.")
    commands = parser.add_commands()

    check = commands.add_parser(
        "check",
        help="your own program on the public cases",
        description="Run the files of a homework's folder on the public cases and say what is wrong.",
    )
    check.add_argument("homework", metavar="HOMEWORK", help=HOMEWORK)
    check.add_argument("--problem", action="append", metavar="ID", help="only this problem (may be given again)")
    add_reports(check)
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=run_check)

    submit = commands.add_parser(
        "submit",
        help="make the zip to hand in",
        description="Put exactly the files of a homework into a zip, and say what is not written yet.",
    )
    submit.add_argument("homework", metavar="HOMEWORK", help=HOMEWORK)
    submit.add_argument("--out", type=Path, metavar="FILE", help="the zip (default: HOMEWORK.zip in this folder)")
    submit.add_argument("--json", action="store_true", help="print JSON")
    submit.set_defaults(run=run_submit)

    grade = commands.add_parser(
        "grade",
        help="grade one submission on hidden cases",
        description="Grade a folder, a zip or a single file on cases drawn from a secret seed.",
        epilog="--seed is seen by every user of the machine while it runs; a secret belongs into a --seed-file.",
    )
    grade.add_argument("submission", type=Path, metavar="SUBMISSION", help="a folder, a zip or one of the files")
    grade.add_argument("--homework", required=True, metavar="HOMEWORK", help=HOMEWORK)
    grade.add_argument("--out", type=Path, metavar="FILE", help="where to write results.json, after every problem")
    seed = grade.add_mutually_exclusive_group()
    seed.add_argument("--seed", help="of the cases (default: a random one)")
    seed.add_argument("--seed-file", type=Path, metavar="FILE", help="a file that holds the seed")
    grade.add_argument("--full", action="store_true", help="tell everything, as for public cases: for staff")
    grade.add_argument("--deadline", type=float, metavar="S", help="seconds for the whole (default: none)")
    kept = grade.add_mutually_exclusive_group()
    kept.add_argument("--trust", action="store_true", help="run the submission unconfined: only what you would run")
    kept.add_argument("--gradescope", action="store_true", help="only as another user and behind a seccomp filter")
    add_reports(grade)
    grade.add_argument("--json", action="store_true", help="print results.json")
    grade.set_defaults(run=run_grade)

    every = commands.add_parser(
        "grade-all",
        help="grade a class",
        description="Grade every submission of a folder, or of a Gradescope export, on hidden cases.",
        epilog="Every entry of FOLDER has a row in grades.csv; what cannot be graded is refused with the reason. "
        "Each submission is kept as soon as it is graded; after any end --resume goes on.",
    )
    every.add_argument("folder", type=Path, metavar="FOLDER", help="a folder, a zip or a file for each submission")
    every.add_argument("--homework", required=True, metavar="HOMEWORK", help=HOMEWORK)
    every.add_argument("--out", type=Path, default=Path("grades"), metavar="FOLDER", help="default: %(default)s")
    every.add_argument(
        "-j", "--jobs", type=positive, default=default_jobs(), help="side by side (default: %(default)s)"
    )
    every.add_argument("--cluster", metavar="ADDRESS", help="send them to the Dask scheduler there")
    every.add_argument("--seed-file", type=Path, metavar="FILE", help="a file that holds the seed (default: a new one)")
    again = every.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on in an --out folder that has grades already")
    again.add_argument("--fresh", action="store_true", help="forget the grades in the --out folder")
    every.add_argument(
        "--deadline", type=float, default=300.0, metavar="S", help="seconds for one (default: %(default)g)"
    )
    every.add_argument("--trust", action="store_true", help="run them unconfined: only what you would run yourself")
    every.add_argument("--json", action="store_true", help="print the records as JSON")
    every.set_defaults(run=run_grade_all)

    scope = commands.add_parser(
        "gradescope",
        help="the zip for Gradescope",
        description="Write the autograder.zip of a homework: the same inputs give the same bytes.",
    )
    scope.add_argument("homework", metavar="HOMEWORK", help=HOMEWORK)
    scope.add_argument("--out", type=Path, default=Path("autograder.zip"), metavar="FILE", help="default: %(default)s")
    scope.add_argument("--seed-file", type=Path, metavar="FILE", help="a file that holds the seed (default: a new one)")
    scope.add_argument("--policy", type=Path, metavar="FILE", help="lateness and attempts, as JSON")
    scope.add_argument(
        "--time-limit", type=float, default=600.0, metavar="S", help="Gradescope's (default: %(default)g)"
    )
    scope.set_defaults(run=run_gradescope)

    validate = commands.add_parser(
        "validate",
        help="is this a results.json, or an autograder.zip?",
        description="Say what is wrong with a results.json or an autograder.zip.",
    )
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    validate.add_argument("--json", action="store_true", help="print JSON")
    validate.set_defaults(run=run_validate)

    strip = commands.add_parser(
        "strip",
        help="write the stubs of homeworks",
        description="Write the stubs of these homeworks, or of all, out of the library.",
    )
    strip.add_argument("names", nargs="*", metavar="HOMEWORK", help="names of homeworks (default: all)")
    strip.add_argument("--check", action="store_true", help="only say which are not what the library gives")
    strip.set_defaults(run=run_strip)

    handout = commands.add_parser(
        "handout",
        help="what students get: a homework beside the library without its answers",
        description="Write a folder with a homework, the library without the answers, and `check` and `submit`.",
    )
    handout.add_argument("homework", metavar="HOMEWORK", help=HOMEWORK)
    handout.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    handout.set_defaults(run=run_handout)

    selftest = commands.add_parser(
        "selftest",
        help="is the grader right?",
        description="Grade the reference, the stubs, every mutant and every variant over many seeds.",
    )
    selftest.add_argument("names", nargs="*", metavar="HOMEWORK", help="names of homeworks (default: all)")
    selftest.add_argument("--seeds", type=int, default=20, metavar="N", help="how many seeds (default: %(default)s)")
    selftest.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the result as JSON and HTML")
    selftest.add_argument("--quick", action="store_true", help="two seeds, one number of threads")
    selftest.add_argument("--attacks", action="store_true", help="try the hostile submissions instead")
    selftest.add_argument("--attack", action="append", metavar="NAME", help="only this one of them; can be repeated")
    selftest.add_argument(
        "--configuration",
        action="append",
        metavar="NAME",
        help="only in this one: all layers, no Landlock, a container",
    )
    selftest.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of attacks as Markdown, too")
    selftest.set_defaults(run=run_selftest)

    plug = commands.add_parser(
        "try",
        help="train a small model with your own module",
        description="Plug the filled files of a homework into the library and train a real, small model.",
    )
    plug.add_argument("homework", metavar="HOMEWORK", help=HOMEWORK)
    plug.add_argument("--quick", action="store_true", help="a few steps only")
    plug.set_defaults(run=run_try)
    return parser


def add_reports(command: argparse.ArgumentParser) -> None:
    """The options for reports as files."""
    command.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML page, too")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown, too")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when all is right, 1 when something is not, 2 for a mistake of the user's."""
    return run_command("autograder", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    from autograder.confinement import ConfinementError
    from autograder.intake import IntakeError
    from minipeft.files.errors import FileError

    def run() -> int:
        if args.command in STAFF:
            part("handout")
        check_outputs(args)
        code: int = args.run(args)
        return code

    mistakes = (HomeworkError, IntakeError, ConfinementError, FileError)
    return run_command(f"autograder {args.command}", run, mistakes)


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError, before anything is run, unless what the options name can be written."""
    folders = ("grade-all", "handout", "selftest")  # of --out; the other commands write a file
    for option in ("out", "html", "markdown"):
        path = getattr(args, option, None)
        if path is not None and option == "out" and args.command in folders:
            check_output("--out", path)
        else:
            check_output_file(f"--{option}", path)


def run_check(args: argparse.Namespace) -> int:
    """check: the public cases, everything told."""
    from autograder.intake import take
    from autograder.public import check

    homework = load_homework(args.homework)
    chosen = [homework.problem(name) for name in args.problem or ()]
    done = check(homework, take(homework.folder, homework), args.problem, differences=True)
    if chosen:
        done.homework = replace(homework, problems=tuple(chosen))
    show(done, args, hidden=False)
    if done.log and not args.json:
        print(f"\nprinted by your program:\n{printable(done.log)}")
    return 0 if all(v.share == 1.0 for v in done.verdicts.values()) else 1


def run_submit(args: argparse.Namespace) -> int:
    """submit: the zip, and what is still missing."""
    from autograder.submit import pack

    homework = load_homework(args.homework)
    packed = pack(homework, homework.folder, args.out or Path(f"{homework.name}.zip"))
    if args.json:
        made = {"path": str(packed.path), "unwritten": dict(packed.unwritten), "warnings": packed.warnings}
        print(json.dumps(made))
        return 0
    print(f"{packed.path} holds {', '.join(sorted(f.stub for f in homework.files))}")
    for problem in homework.problems:
        missing = packed.unwritten.get(problem.id)
        print(f"  {problem.id}  {'not written: ' + ', '.join(missing) if missing else 'written'}")
    for warning in packed.warnings:
        print(printable(warning))
    return 0


def run_grade(args: argparse.Namespace) -> int:
    """grade: hidden cases, results.json."""
    from autograder.confinement import GRADESCOPE, LOCAL, Confinement, ConfinementError
    from autograder.grade import grade
    from autograder.intake import IntakeError, take
    from autograder.results import not_run, refused, results, write

    homework = load_homework(args.homework)
    if args.deadline is not None and not args.deadline > 0:
        raise UserError(f"--deadline must be a number of seconds above 0, got {args.deadline}")
    if not os.path.lexists(args.submission):
        raise UserError(f"no file or folder {str(args.submission)!r}: expected a submission")
    seed = args.seed_file.read_text("utf-8").strip() if args.seed_file else (args.seed or secrets.token_hex(16))
    made: dict[str, Any] = not_run(homework)

    def keep(document: dict[str, Any]) -> None:
        if args.out is not None:
            write(args.out, document)

    keep(made)
    try:
        submission = take(args.submission, homework)
    except IntakeError as error:
        made = refused(homework, str(error))
        keep(made)
        print(json.dumps(made) if args.json else made["output"])
        return 1

    def progress(done: Graded) -> None:
        keep(results(done, hidden=not args.full))

    try:
        confinement = None if args.trust else Confinement(GRADESCOPE if args.gradescope else LOCAL)
        done = grade(homework, submission, seed, confinement=confinement, deadline=args.deadline, progress=progress)
    except ConfinementError:
        keep(not_run(homework, "This could not be graded: the grader is not set up right. Tell the course staff."))
        raise
    print(f"confined: {', '.join(f'{k} {v}' for k, v in done.layers.items()) or 'not at all'}", file=sys.stderr)
    keep(results(done, hidden=not args.full))
    show(done, args, hidden=not args.full)
    return 0


def run_grade_all(args: argparse.Namespace) -> int:
    """grade-all: a class."""
    from autograder.classroom import grade_all
    from autograder.confinement import require_linux
    from autograder.export import ClassError

    if not args.trust:
        require_linux()
    homework = load_homework(args.homework)
    if not args.deadline > 0:
        raise UserError(f"--deadline must be a number of seconds above 0, got {args.deadline}")
    try:
        done = grade_all(
            args.folder,
            homework,
            args.out,
            seed=args.seed_file.read_text("utf-8").strip() if args.seed_file else None,
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
        return 0
    print(done.summary(homework.points))
    print(f"grades: {args.out / 'grades.csv'}   the class: {args.out / 'index.html'}")
    return 0


def run_gradescope(args: argparse.Namespace) -> int:
    """gradescope: the zip."""
    from autograder.gradescope import build
    from autograder.policy import PolicyError

    homework = load_homework(args.homework)
    if not args.time_limit > 0:
        raise UserError(f"--time-limit must be a number of seconds above 0, got {args.time_limit}")
    seed = args.seed_file.read_text("utf-8").strip() if args.seed_file else secrets.token_hex(16)
    policy = args.policy.read_text("utf-8") if args.policy else "{}"
    try:
        mark = build(homework, args.out, seed, policy, args.time_limit)
    except PolicyError as error:
        raise UserError(str(error)) from error
    print(f"{args.out}: {homework.name}, {args.out.stat().st_size / 1e6:.1f} MB, grader {mark[:16]}")
    if args.seed_file is None:
        print("a new seed was drawn: with --seed-file the same zip can be made again")
    return 0


def run_validate(args: argparse.Namespace) -> int:
    """validate: any results.json, any autograder.zip."""
    from autograder.gradescope import complaints as of_zip
    from autograder.results import Complaint, validate

    found = {str(p): [Complaint(t) for t in of_zip(p)] if p.suffix == ".zip" else validate(p) for p in args.files}
    wrong = any(c.error for complaints in found.values() for c in complaints)
    if args.json:
        rows = {p: [{"error": c.error, "text": c.text} for c in complaints] for p, complaints in found.items()}
        print(json.dumps(rows))
        return int(wrong)
    for path, complaints in found.items():
        for c in complaints:
            print(f"{path}: {'error' if c.error else 'warning'}: {printable(c.text)}")
        if not any(c.error for c in complaints):
            print(f"{path}: valid")
    return int(wrong)


def run_strip(args: argparse.Namespace) -> int:
    """strip: the stubs, or what has drifted."""
    code: int = part("strip").main(args.names, check=args.check)
    return code


def run_handout(args: argparse.Namespace) -> int:
    """handout: what students get."""
    homework = load_homework(args.homework)
    build = part("handout").build
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"{args.out} is there already: --out takes a new or an empty folder")
    build(homework, args.out)
    print(f"{args.out} holds {homework.name}; its README.md says how to install, check and hand in")
    return 0


def run_selftest(args: argparse.Namespace) -> int:
    """selftest: the kill matrix."""
    from autograder.confinement import require_linux

    require_linux()
    if args.attacks:
        tried = part("attacks.run")
        names, configurations = args.attack or [], args.configuration or []
        known = {a.id for a in tried.ATTACKS}
        if unknown := [n for n in names if n not in known]:
            raise UserError(f"no attack {unknown[0]!r}; there are: {', '.join(sorted(known))}")
        if unknown := [n for n in configurations if n not in tried.possible()]:
            raise UserError(f"no configuration {unknown[0]!r} here; there are: {', '.join(tried.possible())}")
        done: int = tried.main(names, configurations, args.out, args.markdown)
        return done
    for option in ("attack", "configuration", "markdown"):
        if getattr(args, option):
            raise UserError(f"--{option} goes with --attacks")
    if args.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {args.seeds}")
    code: int = part("selftest").main(args.names, args.seeds, args.out, args.quick)
    return code


def run_try(args: argparse.Namespace) -> int:
    """try: a real model with the student's module."""
    code: int = part("plugin").main(load_homework(args.homework).folder, args.quick)
    return code


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


def printable(text: str) -> str:
    """Text of a submission as a terminal may show it."""
    from autograder.results import clean

    return clean(text)


def show(done: Graded, args: argparse.Namespace, hidden: bool) -> None:
    """A graded submission for people, or as JSON; and the reports that were asked for as files."""
    from autograder import report
    from autograder.results import results

    if args.html is not None:
        write_text(args.html, report.html(done, hidden))
    if args.markdown is not None:
        write_text(args.markdown, report.markdown(done, hidden))
    if args.json:
        print(json.dumps(results(done, hidden=hidden), allow_nan=False))
        return
    for remark in done.remarks:
        print(f"{remark.file}, line {remark.line}: {printable(remark.text)}")
    print(report.text(done, hidden, colour=shows_colours()))


def shows_colours() -> bool:
    """Return whether standard output is a terminal that knows escape sequences; the old console of Windows does not."""
    return sys.stdout.isatty() and (sys.platform != "win32" or "WT_SESSION" in os.environ)
