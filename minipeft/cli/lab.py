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
        help="run the lecture's experiments",
        description="Run an experiment of the lecture, print its tables and conclusions, and write a report.",
        epilog="Finished runs are kept in the --out folder. Run the same command again to resume.",
    )
    lab.add_argument("name", nargs="?", metavar="NAME", help="the experiment, or all; without a name, list them")
    size = lab.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="a small version of about a minute, whose numbers mean little (default)"
    )
    size.add_argument("--full", action="store_true", help="the full study, which takes minutes to hours")
    lab.add_argument(
        "--out",
        type=Path,
        default=Path("minipeft-lab"),
        metavar="FOLDER",
        help="where to write the results (default: %(default)s)",
    )
    lab.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="where to write the report and its figures (default: the --out folder)",
    )
    lab.add_argument(
        "--reasons",
        type=Path,
        metavar="FILE",
        help="a Markdown file with remarks for the report, under a heading ## NAME each",
    )
    lab.add_argument(
        "--jobs",
        type=positive,
        default=default_jobs(),
        metavar="N",
        help="how many runs at the same time (default: %(default)s)",
    )
    lab.add_argument("--cluster", metavar="ADDRESS", help="run on the Dask cluster whose scheduler has this address")
    lab.add_argument("--fresh", action="store_true", help="discard the finished runs in the --out folder")
    lab.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    lab.set_defaults(run=partial(run_lab, lab))


def run_lab(parser: Parser, args: argparse.Namespace) -> int:
    parser.require_name(args)
    with needs_extra("lab", "lab"):
        return _lab(args)


def _lab(args: argparse.Namespace) -> int:
    from minipeft.lab import experiments
    from minipeft.lab.framework import report, runner

    if args.name is None:
        known = {name: experiments.load(name).title for name in experiments.NAMES}
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
        for name in experiments.NAMES if args.name == "all" else (args.name,):
            experiment = experiments.load(name)
            if experiment.draw is not None:
                from minipeft.lab.framework import plots  # noqa: F401  # missed now, not after the runs
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
