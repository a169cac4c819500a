"""``minipeft compare``: the comparison of all methods on one task."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from minipeft.cli.arguments import (
    Subparsers,
    add_device,
    check_output,
    default_jobs,
    positive,
    use_device,
    write_text,
)
from minipeft.cli.process import UserError, needs_extra
from minipeft.files.names import unknown_name


def add_compare(commands: Subparsers) -> None:
    """Add the command to the parser."""
    compare = commands.add_parser(
        "compare",
        help="compare every method on one task",
        description="Adapt a pretrained Transformer with every method. Show how many parameters each trains, how well "
        "it does, and what it costs.",
        epilog="Finished runs are kept in the --out folder. Run the same command again to resume.",
    )
    compare.add_argument("--task", default="digits", help="the task: digits (default), text or sentiment")
    compare.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write the results (default: minipeft-compare/TASK)"
    )
    compare.add_argument(
        "--jobs",
        type=positive,
        default=default_jobs(),
        metavar="N",
        help="how many runs at the same time (default: %(default)s)",
    )
    add_device(compare)
    compare.add_argument("--quick", action="store_true", help="take a few steps only, to check that everything works")
    compare.add_argument("--fresh", action="store_true", help="discard the finished runs in the --out folder")
    compare.add_argument("--json", action="store_true", help="print JSON instead of the table")
    compare.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> int:
    with needs_extra("compare", "lab"):
        return _compare(args)


def _compare(args: argparse.Namespace) -> int:
    import joblib  # noqa: F401  # missed now, not after the pretraining

    from minipeft.lab.experiments import compare as lab
    from minipeft.lab.framework import plots  # noqa: F401  # the same for matplotlib

    if args.task not in lab.TASKS:
        raise UserError(unknown_name("task", args.task, lab.TASKS))
    task = lab.TASKS[args.task]
    out = args.out or Path("minipeft-compare") / (args.task + ("-quick" if args.quick else ""))
    use_device(args)
    check_output("--out", out)

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    say(f"{task.name}: {task.story}")
    budget = lab.quick(task.budget) if args.quick else None
    result = lab.compare(args.task, out, budget, args.jobs, args.fresh, not args.json, args.device, say)
    figures = lab.draw_comparison(task, result["rows"], out / "compare")
    write_text(out / "compare.json", json.dumps(result, indent=2) + "\n")
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(lab.table_text(task, result["rows"]))
    if result["reused"]:
        print(f"{result['reused']} of the runs were finished before; --fresh runs them again")
    print(f"figure: {figures[0]}   rows: {out / 'compare.json'}   every run: {out / 'runs.jsonl'}")
    return 0
