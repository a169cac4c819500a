"""Grade a class in parallel. Each result is saved as soon as it is ready, so an interrupted run can be resumed.

`gradebook.py` says what is kept, `entries.py` what counts as a submission. The process here decides and writes; the
graders are processes of `supervisor.py`, here or on a Dask cluster, and each confines the programs that it runs.
What a grader returns is a dictionary of plain values.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from autograder.course.classpage import page
from autograder.course.entries import Entry, digest, entries
from autograder.course.export import ClassError
from autograder.course.gradebook import FAILED, GRADED, INDEX, REFUSED, SEED, TABLE, Book, table, tidy, write_text
from autograder.course.grader import DEADLINE, UNFINISHED, Rules, failed
from autograder.course.supervisor import Graders, grade_apart
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import HOMEWORK, ROOT, Homework
from autograder.sandbox.parent_limits import LOCAL, Confinement
from autograder.sandbox.workspace import remove_stale
from minipeft.hints import install

if sys.platform != "win32":
    import fcntl

SHOWN = 20  # names of one kind in the summary; the page of the class has all


@dataclass(frozen=True)
class Outcome:
    """A graded class. skipped: names of entries that are not submissions. removed: ids of submissions that are gone."""

    records: list[dict[str, Any]]
    skipped: list[str]
    removed: list[str]

    @property
    def failures(self) -> list[str]:
        """The ids of the submissions on which the grader failed."""
        return [r["id"] for r in self.records if r["status"] == FAILED]

    def summary(self, points: float) -> str:
        """Return a text that says what happened to every entry of the folder, with counts that add up."""
        scores = [r["score"] for r in self.records if r["status"] == GRADED]
        turned_down = [r for r in self.records if r["status"] == REFUSED]
        failures = f" + {len(self.failures)} failed" if self.failures else ""
        counts = f"{len(scores)} graded + {len(turned_down)} refused{failures} + {len(self.skipped)} skipped"
        mean = f"; mean {sum(scores) / len(scores):.1f} of {points:g}" if scores else ""
        lines = [f"{len(self.records) + len(self.skipped)} entries = {counts}{mean}"]
        why = ((r["file"], r["note"]) for r in turned_down)
        reasons = [note if note.startswith(f"'{file}'") else f"{file}: {note}" for file, note in why]
        lines += shortened("refused, with 0 points:", reasons)
        lines += shortened("the grader failed on these: see staff/ID.txt, and go on with --resume:", self.failures)
        stopped = [r["id"] for r in self.records if r["note"] == UNFINISHED]
        lines += shortened("stopped at the time limit, with the points until then:", stopped)
        lines += shortened("skipped, not submissions:", self.skipped)
        lines += shortened("no longer handed in, so their pages were removed:", self.removed)
        return "\n".join(lines)


def shortened(head: str, items: Sequence[str]) -> list[str]:
    """Return a headline and at most `SHOWN` items; nothing if there are no items."""
    rest = len(items) - SHOWN
    more = [f"  and {rest} more, which index.html names"] if rest > 0 else []
    return [head, *(f"  {' '.join(item.split())}" for item in items[:SHOWN]), *more] if items else []


def grader_version(homework: Homework) -> str:
    """Return a hash of the homework, the grader and the library."""
    total = hashlib.sha256(homework.name.encode() + b"\0" + (homework.folder / "homework.toml").read_bytes())
    for part in ("autograder", "minipeft"):
        for file in sorted((ROOT / part).rglob("*.py")):
            if "__pycache__" not in file.parts:
                total.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:16]


def key(entry: Entry, homework: Homework, version: str, rules: Rules) -> dict[str, Any]:
    """Return what a grade depends on. If any of it has changed, the submission is graded again."""
    return {
        "digest": digest(entry, homework),
        "grader": version,
        "deadline": rules.deadline,
        "trust": rules.trust,
    }


Finished = Iterator[tuple[Entry, dict[str, Any]]]


def by_processes(todo: Sequence[Entry], rules: Rules, jobs: int) -> Finished:
    """Yield each submission with its result as it finishes, from ``jobs`` processes."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(min(jobs, len(todo))) as pool, Graders() as graders:
        waiting = {pool.submit(graders.grade, e, rules): e for e in todo}
        for future in as_completed(list(waiting)):
            yield waiting.pop(future), future.result()


def by_cluster(todo: Sequence[Entry], rules: Rules, address: str) -> Finished:
    """Yield the same from the Dask cluster at ``address``, whose workers have the autograder and see the submissions.

    If a worker dies, another takes over. Raises ClassError if there is no cluster.
    """
    try:
        distributed: Any = import_module("dask.distributed")
    except ModuleNotFoundError as error:
        raise ClassError(f"--cluster needs Dask; {install('cluster')}") from error
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ClassError(f"no Dask scheduler answers at {address}: {error}") from error
    lost = import_module("distributed").KilledWorker
    with client:
        waiting = {client.submit(grade_apart, e, rules, pure=False, retries=3): e for e in todo}
        for future in distributed.as_completed(list(waiting)):
            one = waiting.pop(future)
            try:
                done = future.result()
            except lost as error:
                done = failed(one, load_homework(rules.homework), f"the workers that were given it died: {error}")
            future.release()  # else it is graded again when the worker that holds it dies
            yield one, done


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder of grades inside the block. Raises ClassError if another grade-all holds it."""
    if sys.platform == "win32":
        yield
    else:
        folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = f"another grade-all is writing in {out}: wait for its end, or choose another --out"
                raise ClassError(text) from None
            yield
        finally:
            os.close(folder)


def grade_all(
    folder: Path,
    homework: Homework,
    out: Path,
    *,
    seed: str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    trust: bool = False,
    deadline: float = DEADLINE,
    progress: bool = True,
    order: Callable[[list[Entry]], list[Entry]] = list,
) -> Outcome:
    """Grade every submission of a folder. The records are in the order of their ids.

    seed: of the cases; by default the one in ``out``, or a new one. resume: continue in an ``out`` that has grades of
    this homework. fresh: remove them. order: the order in which submissions are started (for tests).

    Raises ClassError, and ConfinementError if programs of others cannot be confined here.
    """
    from tqdm import tqdm

    found, skipped = entries(folder, out)
    if not trust:
        Confinement(LOCAL, private=(ROOT, folder))  # here and now, not in the middle
    if not fresh:
        Book(out).check(homework, resume)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)  # submissions may run as users of this machine
    with alone(out):
        book = Book(out)
        if fresh and book.log.is_file():
            book.forget()
            book = Book(out)
        else:
            book.check(homework, resume or fresh)  # again: now nobody else writes there
        tidy(out)
        book.begin(homework)
        place = homework.name if homework.folder.parent == HOMEWORK else str(homework.folder)
        rules = Rules(place, _seed(out / SEED, seed), trust, deadline)
        version = grader_version(homework)
        keys: dict[str, dict[str, Any]] = {}
        for entry in found:
            try:
                keys[entry.id] = key(entry, homework, version, rules)
            except Exception:
                book.keep(failed(entry, homework, traceback.format_exc()), {})
        todo = order([e for e in found if e.id in keys and not book.has(e.id, keys[e.id])])
        if todo:
            finished = by_cluster(todo, rules, cluster) if cluster else by_processes(todo, rules, jobs)
            quiet = None if progress else True  # None: a bar on a terminal alone
            with tqdm(
                total=len(found), initial=len(found) - len(todo), desc=homework.name, unit="", disable=quiet
            ) as bar:
                for entry, done in finished:
                    try:
                        book.keep(done, keys[entry.id])
                    except (ValueError, TypeError, LookupError):  # not OSError: that is the disk, and everybody's
                        book.keep(failed(entry, homework, traceback.format_exc()), keys[entry.id])
                    bar.update(1)
        remove_stale()  # what graders left that were killed
        records = [book.records[e.id] for e in found]
        write_text(out / TABLE, table(homework, records))
        write_text(out / INDEX, page(homework, records, skipped))
        removed = book.stale(e.id for e in found)
        book.drop(removed)
    return Outcome(records, skipped, removed)


def _seed(path: Path, given: str | None) -> str:
    """Return the seed of a folder of grades: the one that it has, else the given one or a new one."""
    if path.is_file():
        kept = path.read_text("utf-8").strip()
        if given is not None and given != kept:
            raise ClassError(f"{path} holds another seed than the one given: one class, one seed (or --fresh)")
        return kept
    seed = given or secrets.token_hex(16)
    write_text(path, seed + "\n", 0o600)
    return seed
