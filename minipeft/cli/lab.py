"""``minipeft lab``: the lecture's experiments."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from minipeft.cli.arguments import Parser, Subparsers, check_output, default_jobs, positive
from minipeft.cli.process import UserError, needs_extra


def add_lab(commands: Subparsers) -> None:
    """Add the command to the parser."""
    lab = commands.add_parser(
        "lab",
        help="the lecture's experiments",
        description="Run an experiment of the lecture, print its tables and verdicts, and write a report.",
        epilog="Finished runs are kept in the --out folder; the same command takes them up again.",
    )
    lab.add_argument("name", nargs="?", metavar="NAME", help="which one, or all; without it, what there is")
    size = lab.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="about a minute; its figures mean little (the default)")
    size.add_argument("--full", action="store_true", help="the real study: minutes to hours")
    lab.add_argument(
        "--out", type=Path, default=Path("minipeft-lab"), help="folder of the results (default: %(default)s)"
    )
    lab.add_argument("--report", type=Path, help="folder of the report and its figures (default: that of --out)")
    lab.add_argument("--reasons", type=Path, help="a Markdown file with paragraphs under ## NAME, for the report")
    lab.add_argument("--jobs", type=positive, default=default_jobs(), help="runs at a time (default: %(default)s)")
    lab.add_argument("--cluster", metavar="ADDRESS", help="send the runs to the Dask scheduler there")
    lab.add_argument("--fresh", action="store_true", help="forget the finished runs in the --out folder")
    lab.add_argument("--json", action="store_true", help="print rows and verdicts as JSON")
    lab.set_defaults(run=partial(run_lab, lab))


def run_lab(parser: Parser, args: argparse.Namespace) -> int:
    parser.require_name(args)
    with needs_extra("lab", "lab"):
        return _lab(args)


def _lab(args: argparse.Namespace) -> int:
    from minipeft.lab import report, runner

    if args.name is None:
        known = {name: runner.load(name).title for name in runner.NAMES}
        print(json.dumps(known, indent=2) if args.json else "\n".join(f"{n:<20} {t}" for n, t in known.items()))
        return 0
    where = args.report or args.out
    for option, folder in (("--out", args.out), ("--report", where)):
        check_output(option, folder)
    if args.reasons is not None and not args.reasons.is_file():
        raise UserError(f"--reasons {args.reasons}: there is no such file")
    reasons = {} if args.reasons is None else report.read_reasons(args.reasons)
    mode = "full" if args.full else "quick"

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    sections = []
    try:
        for name in runner.NAMES if args.name == "all" else (args.name,):
            experiment = runner.load(name)
            if experiment.draw is not None:
                from minipeft.lab import plots  # noqa: F401  # missed now, not after the runs
            rows = runner.run(
                experiment, mode, args.out, args.jobs, args.cluster, args.fresh, progress=not args.json, say=say
            )
            sections.append(report.section(experiment, mode, rows, where, reasons.get(name, "")))
            if not args.json:
                print("\n\n".join(map(report.text, sections[-1].tables)))
                print(*(f"{v.outcome}: {v.claim}: {v.because}" for v in sections[-1].verdicts), sep="\n", flush=True)
    except runner.LabError as error:
        raise UserError(str(error)) from error
    paths = report.write(sections, where, f"minipeft lab {args.name} --{mode}")
    if args.json:
        verdicts = {s.experiment.name: [vars(v) for v in s.verdicts] for s in sections}
        rows_by_name = {s.experiment.name: s.rows for s in sections}
        print(json.dumps({"rows": rows_by_name, "verdicts": verdicts}, indent=2))
    else:
        print(f"report: {paths[0]} and {paths[1]}")
    return 0
