"""A class graded to its end; graded again, killed with -9 at random moments and resumed; graded on a Dask cluster, one
worker of which is killed. The same grades.csv, and nothing left.

    python tests/autograder/kill_and_resume.py FOLDER HOMEWORK WORK [--kills 20] [--jobs 2] [--cluster] [--seed 0]
        [--deadline 300] [--make 500]

FOLDER holds the class (`mock_class.py`), or is made with attacks in it. WORK/whole, the grades of an undisturbed run,
is made if it does not exist; WORK/killed or WORK/cluster is made from scratch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mock_class import make

from autograder.homeworks.folder import load_homework

SECRET = "a secret"
SECONDS_TO_DIE = 10.0

Processes = set[tuple[int, str]]  # a number, and when it began: numbers come again


def descendants(pid: int) -> Processes:
    """A process and all that descend from it."""
    began, children = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", name, "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                began[int(name)] = fields[19]
                children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = set(), [pid]
    while todo:
        one = todo.pop()
        if one in began:
            found.add((one, began[one]))
            todo += children.get(one, [])
    return found


def alive(processes: Processes) -> Processes:
    """Those that are there still, and are no zombies."""
    found = set()
    for pid, began in processes:
        with contextlib.suppress(OSError):
            fields = Path("/proc", str(pid), "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if fields[19] == began and fields[0] not in "ZX":
                found.add((pid, began))
    return found


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process tree: its proportional share of what it holds (Pss), and that with shared pages counted by
    each process (Rss)."""
    total = Counter()
    for one, _ in descendants(pid):
        with contextlib.suppress(OSError):
            for line in Path("/proc", str(one), "smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in ("Pss", "Rss"):
                    total[name] += int(rest.split()[0]) * 1024
    return total["Pss"], total["Rss"]


def high_water(pid: int) -> int:
    """The most bytes that one process had so far; 0 if it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path("/proc", str(pid), "status").read_text("utf-8").split("VmHWM:")[1].split()[0]) << 10
    return 0


def graders(pid: int) -> list[int]:
    """The processes below one that decide about a submission."""
    found = []
    for one, _ in descendants(pid):
        with contextlib.suppress(OSError):
            if b"course.grader" in Path("/proc", str(one), "cmdline").read_bytes():
                found.append(one)
    return found


class Peak:
    """The most memory that a process tree was seen to use; own: that of its first process, graders: of its children."""

    def __init__(self, pid: int, every: float = 0.5):
        self.pss = self.rss = self.own = self.graders = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid, every), daemon=True)
        self._thread.start()

    def _watch(self, pid: int, every: float) -> None:
        while not self._over.wait(every):
            pss, rss = memory(pid)
            self.pss, self.rss = max(self.pss, pss), max(self.rss, rss)
            self.own = max(self.own, high_water(pid))
            self.graders = max([self.graders, *map(high_water, graders(pid))])

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


class Run:
    """How a class is graded here: the command, and the folders. more: options of grade-all."""

    def __init__(self, folder: Path, homework: str, work: Path, *more: str, deadline: float = 300.0):
        self.folder, self.homework, self.work, self.deadline = folder, homework, work, deadline
        self.more = (*more, "--deadline", str(deadline))
        work.mkdir(parents=True, exist_ok=True)
        self.scratch = work / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.scratch.chmod(0o755)
        (work / "seed").write_text(SECRET + "\n")

    def environment(self) -> dict[str, str]:
        """With a folder for temporary files that nobody else uses, so that what is left is seen."""
        return {**os.environ, "TMPDIR": str(self.scratch)}

    def start(self, out: Path, *more: str) -> subprocess.Popen[bytes]:
        """grade-all as a process of its own."""
        command = [sys.executable, "-m", "autograder", "grade-all", str(self.folder), "--homework", self.homework]
        command += ["--out", str(out), "--seed-file", str(self.work / "seed"), "--resume", *self.more, *more]
        log = (self.work / "log").open("ab")
        try:
            return subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log)
        finally:
            log.close()

    def left(self) -> list[str]:
        """What is in the folder for temporary files, and what grade-all was writing."""
        names = [p.name for p in self.scratch.iterdir()]
        return sorted(names + [str(p) for p in self.work.glob("*/**/.*") if p.is_file()])


def lines(out: Path) -> Counter[str]:
    """How often each submission is in the log of the grades."""
    found: Counter[str] = Counter()
    log = out / "graded.jsonl"
    for line in log.read_text("utf-8").splitlines() if log.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError, KeyError):  # the first line names the homework
            found[json.loads(line)["id"]] += 1
    return found


def rows(out: Path, deadline: float) -> dict[str, Any]:
    """What became of the submissions, how long the longest took, and which took over a tenth more than the deadline."""
    records = [json.loads(line) for line in (out / "graded.jsonl").read_text("utf-8").splitlines()[1:]]
    seconds = {r["id"]: r.get("seconds", 0.0) for r in records}
    return {
        "rows": dict(Counter(r["status"] for r in records)),
        "failed": [r["id"] for r in records if r["status"] == "failed"][:20],
        "longest_seconds": max(seconds.values()),
        "late": sorted(name for name, s in seconds.items() if s > 1.1 * deadline),
        "largest_record_kb": round(max(len(json.dumps(r)) for r in records) / 1e3, 1),
    }


def finish(process: subprocess.Popen[bytes], run: Run) -> None:
    """Wait for grade-all, which must end well."""
    if process.wait() not in (0, 1):  # 1: the grader failed on a submission, which `rows` names
        raise RuntimeError(f"grade-all ended with {process.returncode}: {(run.work / 'log').read_text()[-2000:]}")


def whole(run: Run) -> dict[str, Any]:
    """The class graded to its end, undisturbed: seconds and peak memory."""
    begun = time.monotonic()
    process = run.start(run.work / "whole")
    peak = Peak(process.pid)
    try:
        finish(process, run)
    finally:
        peak.stop()
    graded = lines(run.work / "whole")
    return {
        "submissions": len(graded),
        "seconds": round(time.monotonic() - begun, 1),
        **rows(run.work / "whole", run.deadline),
        "peak_mb_of_grade_all": round(peak.own / 1e6),
        "peak_mb_of_a_grader": round(peak.graders / 1e6),
        "peak_mb": round(peak.pss / 1e6),
        "peak_mb_with_shared_pages_counted_again": round(peak.rss / 1e6),
        "left": run.left(),
    }


def killed(run: Run, kills: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Graded again, and killed at moments drawn so that all kills fall into about ``seconds``, then to the end."""
    rng = random.Random(seed)
    out = run.work / "killed"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    seen, survivors, when = [], 0, []
    for _ in range(kills):
        process = run.start(out)
        delay = rng.uniform(0.2, 2 * seconds / kills)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        if process.returncode is not None:
            finish(process, run)
            break  # it came to its end before
        tree = descendants(process.pid)
        process.kill()
        process.wait()
        until = time.monotonic() + SECONDS_TO_DIE
        while alive(tree) and time.monotonic() < until:
            time.sleep(0.05)
        survivors += len(alive(tree))
        when.append(round(delay, 1))
        seen.append(sum(lines(out).values()))
    finish(run.start(out), run)
    return {
        "kills": len(when),
        "after_seconds": when,
        "graded_by_then": seen,
        "seconds": round(time.monotonic() - begun, 1),
        "survivors": survivors,
        **compared(run, out),
    }


@contextlib.contextmanager
def cluster_of_two(run: Run) -> Iterator[Any]:
    """A Dask scheduler with two worker processes, each of which confines what it runs."""
    import dask
    from dask.distributed import LocalCluster

    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(run.scratch)
    place = str(run.work / "dask")
    try:
        with (
            dask.config.set({"temporary-directory": place}),  # locks of its own, which stay
            LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        ):
            yield cluster
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def on_cluster(run: Run, after: float = 0.4) -> dict[str, Any]:
    """Graded on a Dask cluster, one worker of which is killed when that share is done."""
    out = run.work / "cluster"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    of = sum(lines(run.work / "whole").values())
    with cluster_of_two(run) as cluster:
        process = run.start(out, "--cluster", cluster.scheduler_address)
        while process.poll() is None and sum(lines(out).values()) < after * of:
            time.sleep(0.1)
        victim = next(iter(cluster.workers.values())).pid
        tree, done = descendants(victim), sum(lines(out).values())
        os.kill(victim, signal.SIGKILL)
        finish(process, run)
        survivors = len(alive(tree))
    return {
        "killed_after": done,
        "seconds": round(time.monotonic() - begun, 1),
        "survivors": survivors,
        **compared(run, out),
    }


def compared(run: Run, out: Path) -> dict[str, Any]:
    """The grades beside those of the undisturbed run; what is graded twice, or lost; what is left."""
    expected, got = lines(run.work / "whole"), lines(out)
    return {
        "same_grades": (out / "grades.csv").read_bytes() == (run.work / "whole" / "grades.csv").read_bytes(),
        "twice": sorted(name for name, n in got.items() if n > 1),
        "lost": sorted(set(expected) - set(got)),
        "left": run.left(),
    }


def held(found: Mapping[str, Any]) -> bool:
    """Whether everything is as it must be."""
    wrong = [found.get(name) for name in ("survivors", "twice", "lost", "left", "failed", "late")]
    return found.get("same_grades", True) and not any(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("homework")
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=300.0)
    parser.add_argument("--make", type=int, metavar="N", help="make a class of N with attacks in it, if there is none")
    args = parser.parse_args()
    if args.make and not args.folder.exists():
        make(args.folder, load_homework(args.homework), args.make, args.seed, Path(f"{args.folder}-scenes"))
    run = Run(args.folder, args.homework, args.work, "--jobs", str(args.jobs), deadline=args.deadline)
    kept = args.work / "whole.json"
    if not kept.is_file():
        kept.write_text(json.dumps(whole(run)))
    undisturbed = json.loads(kept.read_text())
    print("whole:", json.dumps(undisturbed), flush=True)
    found = on_cluster(run) if args.cluster else killed(run, args.kills, 0.9 * undisturbed["seconds"], args.seed)
    print("on a cluster:" if args.cluster else "killed:", json.dumps(found))
    return 0 if held(undisturbed) and held(found) else 1


if __name__ == "__main__":
    sys.exit(main())
