"""Is the grader right? The reference, the stubs, every mutant and every variant graded, over seeds and BLAS threads.

    python -m autograder selftest [NAMES] [--seeds N] [--quick] [--out DIR]

The reference must get all points; the untouched stub, and functions that return None, none; every mutant must lose
points, in its own problem alone, and be told its own hint; every variant must keep all points. What holds in one seed
must hold in all, with one thread as with two, and in the worker as in this process. Guessing must earn at most a
hundredth of a homework's points: see `autograder.selftest.guesses`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.mutant import check_mutants
from autograder.selftest import guesses
from autograder.selftest.matrix import as_json, describe, html, summarize, table
from autograder.selftest.rows import Row, run
from minipeft.cli.arguments import write_text


def main(
    names: list[str],
    seeds: int = 20,
    out: Path | None = None,
    quick: bool = False,
    say: Callable[[str], None] = print,
    jobs: int | None = None,
) -> int:
    """Run the self-test, print what came of it, and write ``selftest.json`` and ``selftest.html`` to ``out``.

    Returns 0 where every goal is met, else 1. quick: two seeds, one number of threads.
    """
    names = names or homeworks()
    for name in names:
        check_mutants(load_homework(name))
    if quick:
        seeds = min(seeds, 2)
    start = time.perf_counter()
    rows: list[Row] = []
    jobs = jobs or min(2, os.cpu_count() or 1)
    for row in run(names, seeds, (1,) if quick else (1, 2), jobs, worker=not quick):
        if sys.stderr.isatty():
            print(f"\r{row.homework} {row.kind} {row.id}"[:78].ljust(78), end="", file=sys.stderr, flush=True)
        rows.append(row)
    if sys.stderr.isatty():
        print("\r" + " " * 78 + "\r", end="", file=sys.stderr)
    missed = summarize(rows).missed
    for name in names:
        for line in describe([r for r in rows if r.homework == name]):
            say(line)
    say("")
    say(table(names, rows))
    for homework in map(load_homework, names):
        had = list(guesses.guessed(homework, 0))
        missed += guesses.missed(homework, had)
        say("")
        say(guesses.table(homework, had))
    seconds = time.perf_counter() - start
    say(f"{seeds} seeds, {seconds:.1f} s")
    for line in missed:
        say(f"MISSED  {line}")
    if out is not None:
        write_text(out / "selftest.json", as_json(names, rows, seconds))
        write_text(out / "selftest.html", html(names, rows, seconds))
        say(f"written to {out}")
    return 1 if missed else 0
