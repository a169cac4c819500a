"""Trying attacks by all axes: ``python -m autograder selftest --attacks``.

`sample` has a quarter of the attacks, each on a problem, by a route and with layers that its number chooses;
`everything` has all of them by all routes and all layers. Every outcome is a line of a file, so a run goes on where it
ended. Two run side by side.

"all layers" is root on this machine. "a user" is one without an account, so that Landlock and seccomp are all there is.
"a container" is root with what Docker leaves to it (`container`), on a kernel without Landlock. The latter two run from
a copy of the grader that no other user can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

assert sys.platform == "linux"

from autograder.homeworks.homework import ROOT
from autograder.sandbox.parent_limits import is_root, landlock_version, open_to_others
from autograder.selftest.attacks import LAYERS, ROUTES, Attack
from autograder.selftest.attacks.attempt import Job, Outcome
from autograder.selftest.attacks.container import cell, contain
from autograder.selftest.attacks.corpus import ATTACKS
from autograder.selftest.attacks.page import markdown, summary
from minipeft.cli.arguments import write_text

ALL, USER, CONTAINER = LAYERS
USER_ID = 61_234  # has no account
BATCH = 12  # attacks in a class
SAMPLES = 4
Key = tuple[str, str, str, str]  # attack, place, route, layers


def possible() -> tuple[list[str], list[str]]:
    """Return the layers that can be tried here, and a sentence for each that cannot."""
    found, missing = [], []
    if is_root():
        found += [ALL, CONTAINER]
        places = (Path(sys.prefix), Path(sys.executable).resolve().parent, Path(np.__file__).parent)
        shut = [p for p in places if not open_to_others(p)]
        if shut:
            missing.append(f"{USER}: not tried, since other users cannot read {shut[0]}")
    else:
        missing += [f"{name}: not tried, since that needs root" for name in (ALL, CONTAINER)]
        shut = []
    if not landlock_version():
        missing.append(f"{USER}: not tried, since this kernel has no Landlock")
    elif not shut:
        found.insert(1, USER)
    return [name for name in LAYERS if name in found], missing


def cells(attack: Attack, layers: Sequence[str]) -> list[tuple[str, str]]:
    """Return the routes and layers by which an attack is tried: Gradescope's program needs root."""
    return [
        (route, name)
        for route in ROUTES
        if route in attack.routes
        for name in layers
        if name in attack.layers and not (route == "gradescope" and name == USER)
    ]


def everything(attacks: Sequence[Attack], layers: Sequence[str]) -> list[Job]:
    """Return the attempts by all routes and layers; the problem changes from one to the next."""
    return [
        Job((a.id,), a.places[(number + turn) % len(a.places)], route, name)
        for turn, a in enumerate(attacks)
        for number, (route, name) in enumerate(cells(a, layers))
    ]


def sample(attacks: Sequence[Attack], layers: Sequence[str], number: int) -> list[Job]:
    """Return one attempt for every fourth attack: `SAMPLES` samples in a row have all of them."""
    rng = random.Random(number)
    chosen = [(a, cells(a, layers)) for a in attacks[number % SAMPLES :: SAMPLES]]
    return [Job((a.id,), rng.choice(a.places), *rng.choice(found)) for a, found in chosen if found]


def batched(jobs: Iterable[Job]) -> list[Job]:
    """Return the same attempts, those of a class taken together; the longest first."""
    alike: dict[Any, list[Job]] = {}
    by_id = {a.id: a for a in ATTACKS}
    for job in jobs:
        a = by_id[job.attacks[0]]
        key = (job.place, job.layers, a.lasts, a.everywhere) if job.route == "class" and a.group != "copies" else job
        alike.setdefault(key, []).append(job)
    found = [
        Job(tuple(j.attacks[0] for j in group[i : i + BATCH]), group[0].place, group[0].route, group[0].layers)
        for group in alike.values()
        for i in range(0, len(group), BATCH)
    ]
    return sorted(found, key=lambda job: -job.limit * len(job.attacks))


class Server:
    """A process of `attempt` with certain layers."""

    def __init__(self, layers: str, source: Path, cell_files: Sequence[Path]):
        def become() -> None:
            if layers == USER and is_root():
                os.setgroups([])
                os.setresgid(USER_ID, USER_ID, USER_ID)
                os.setresuid(USER_ID, USER_ID, USER_ID)
            elif layers == CONTAINER:
                contain(cell_files)

        path, self._flags = [str(source)], []
        if layers != ALL:  # without the library's own place, which other users can read
            path, self._flags = [*path, str(Path(np.__file__).parent.parent)], ["-S"]
        settings = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(path)}
        self._become, self._source, self._environment = become, source, environment
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Job) -> list[Outcome]:
        """Return the outcomes of a job. A process that ends is one, and another takes its place."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, *self._flags, "-m", "autograder.selftest.attacks.attempt"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                cwd=self._source,
                env=self._environment,
                preexec_fn=self._become,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return [Outcome(**o) for o in json.loads(line)]
        status = self._process.wait()
        self._process = None
        return [Outcome(a, [f"all processes of the grader's user ended, with {status}"]) for a in job.attacks]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()


@contextlib.contextmanager
def servers(layers: str, count: int) -> Iterator[queue.SimpleQueue[Server]]:
    """Start that many servers; from a copy of the grader if it must be closed to other users."""
    with contextlib.ExitStack() as stack:
        source = ROOT
        if layers != ALL:
            source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minipeft-attack-")))
            for part in ("autograder", "minipeft", "homework"):
                shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
            if layers == USER and is_root():
                for path in (source, *source.rglob("*")):
                    os.chown(path, USER_ID, USER_ID)
        free: queue.SimpleQueue[Server] = queue.SimpleQueue()
        for _ in range(count):
            files = stack.enter_context(cell()) if layers == CONTAINER else []
            server = Server(layers, source, files)
            stack.callback(server.close)
            free.put(server)
        yield free


def kept(log: Path | None) -> dict[Key, Outcome]:
    """Return the outcomes that a file has, by what was tried."""
    found: dict[Key, Outcome] = {}
    if log is not None and log.is_file():
        for line in log.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # the line that was being written when it ended
                row = json.loads(line)
                key = (row["attack"], row.pop("place"), row.pop("route"), row.pop("layers"))
                found[key] = Outcome(**row)
    return found


def run(
    jobs: Sequence[Job], log: Path | None = None, count: int = 2, told: Callable[[str], None] = lambda line: None
) -> dict[Key, Outcome]:
    """Try these; the outcomes by what was tried.

    Args:
        jobs: from `everything` or `sample`.
        log: a file of JSON Lines with an outcome each; what it has that was held is not tried again.
        count: how many are tried side by side.
        told: called with a line after each.
    """
    had = kept(log)
    done = {k: o for k, o in had.items() if not o.wrong and any(k == _key(j) for j in jobs)}
    todo = batched(j for j in jobs if _key(j) not in done)

    def record(job: Job, outcome: Outcome) -> None:
        done[outcome.attack, job.place, job.route, job.layers] = outcome
        where = {"place": job.place, "route": job.route, "layers": job.layers}
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**vars(outcome), **where}) + "\n")
        result = "; ".join(outcome.wrong) or "held"
        figures = f"{outcome.seconds:.1f} s, {outcome.bytes >> 20} MiB"
        told(f"{outcome.attack}: {', '.join(where.values())}: {figures}: {result}")

    for layers in LAYERS:
        chosen = [j for j in todo if j.layers == layers]
        if not chosen:
            continue
        with servers(layers, count) as free, ThreadPoolExecutor(count) as pool:

            def ask(job: Job, free: queue.SimpleQueue[Server] = free) -> list[tuple[Job, Outcome]]:
                server = free.get()
                try:
                    found = server.ask(job)
                    if len(found) > 1 and any(o.wrong for o in found):  # each alone: whose fault is it?
                        alone = [Job((a,), job.place, job.route, job.layers) for a in job.attacks]
                        found = [o for one in alone for o in server.ask(one)]
                    return [(job, o) for o in found]
                finally:
                    free.put(server)

            for future in as_completed([pool.submit(ask, job) for job in chosen]):
                for job, outcome in future.result():
                    record(job, outcome)
    return done


def _key(job: Job) -> Key:
    return (job.attacks[0], job.place, job.route, job.layers)


def main(
    names: Sequence[str] = (),
    every: bool = False,
    out: Path | None = None,
    page: Path | None = None,
    number: int | None = None,
) -> int:
    """Try a sample or everything and print what failed; 1 if an attack succeeded.

    Args:
        names: ids of attacks, all by default; those that are named are tried by all routes and layers.
        every: by all routes and layers.
        out: a folder for the outcomes; what it has that was held is not tried again.
        page: where to write the table as Markdown.
        number: of the sample, by default that of the day.
    """
    layers, missing = possible()
    for text in missing:
        print(text)
    attacks = [a for a in ATTACKS if not names or a.id in names]
    if every or names:
        jobs = everything(attacks, layers)
    else:
        number = int(time.time() // 86_400) if number is None else number
        jobs = sample(attacks, layers, number)
        print(f"sample {number}: {len(jobs)} of {len(attacks)} attacks; --sample {number} has the same again")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    log = None if out is None else out / "attacks.jsonl"
    found = run(jobs, log, told=lambda line: print(line, file=sys.stderr, flush=True))
    print(summary(found))
    if page is not None:
        write_text(page, markdown(attacks, found))
    return int(any(o.wrong for o in found.values()))
