"""Grade a class in parallel. Each result is saved as soon as it is ready, so an interrupted run can be resumed.

`gradebook.py` says what is kept, `entries.py` what counts as a submission. The process here decides and writes; the
graders are processes of its own, which end with it, or of a Dask cluster, and each confines the programs that it runs.
What a grader returns is a dictionary of plain values.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from autograder.course.classpage import page
from autograder.course.entries import Entry, digest, entries
from autograder.course.export import ClassError
from autograder.course.gradebook import INDEX, SEED, TABLE, Book, table, tidy, write_text
from autograder.feedback import report
from autograder.feedback.results import clean, notes, refused, results
from autograder.grading.grade import grade
from autograder.homeworks.homework import HOMEWORK, ROOT, Homework, load_homework
from autograder.sandbox.parent_limits import LOCAL, Confinement
from autograder.sandbox.workspace import remove_stale
from autograder.submission.intake import IntakeError, take
from autograder.submission.similarity import fingerprints, regions
from minipeft.hints import install

if sys.platform != "win32":
    import fcntl

DEADLINE = 300.0  # seconds for one submission
GRADED, REFUSED = "graded", "refused"
SHOWN = 20  # names of one kind in the summary; the page of the class has all


@dataclass(frozen=True)
class Rules:
    """What is the same for all submissions. homework: its name or its folder. trust: do not confine programs."""

    homework: str
    seed: str
    trust: bool = False
    deadline: float = DEADLINE


@dataclass(frozen=True)
class Outcome:
    """A class graded. skipped: names of entries that are not submissions. removed: ids of submissions that are gone."""

    records: list[dict[str, Any]]
    skipped: list[str]
    removed: list[str]

    def summary(self, points: float) -> str:
        """Return what happened to every entry of the folder as text, with counts that add up."""
        scores = [r["score"] for r in self.records if r["status"] == GRADED]
        turned_down = [r for r in self.records if r["status"] == REFUSED]
        counts = f"{len(scores)} graded + {len(turned_down)} refused + {len(self.skipped)} skipped"
        mean = f"; mean {sum(scores) / len(scores):.1f} of {points:g}" if scores else ""
        lines = [f"{len(self.records) + len(self.skipped)} entries = {counts}{mean}"]
        why = ((r["file"], r["note"]) for r in turned_down)
        reasons = [note if note.startswith(f"'{file}'") else f"{file}: {note}" for file, note in why]
        lines += shortened("refused, with 0 points:", reasons)
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


def key(entry: Entry, version: str, rules: Rules) -> dict[str, Any]:
    """Return what a grade depends on. If any of it has changed, the submission is graded again."""
    return {"digest": digest(entry), "grader": version, "deadline": rules.deadline, "trust": rules.trust}


def grade_one(entry: Entry, rules: Rules) -> dict[str, Any]:
    """Grade a submission in this process. Returns {"record": …, "results": …, "report": …, "staff": …}."""
    homework = load_homework(rules.homework)
    record: dict[str, Any] = {"id": entry.id, "homework": homework.name, **identity(entry)}
    title = f"{homework.title}: {entry.name}"
    try:
        submission = take(entry.path, homework)
    except IntakeError as error:
        text = clean(str(error))
        record |= {"score": 0.0, "problems": {}, "reasons": {}, "layers": {}, "prints": []}
        return {
            "record": {**record, "status": REFUSED, "note": text},
            "results": refused(homework, text),
            "report": report.refusal(homework.title, text),
            "staff": report.refusal(title, text),
        }
    confinement = None if rules.trust else Confinement(LOCAL, private=(ROOT, entry.path.parent))
    done = grade(homework, submission, rules.seed, confinement=confinement, deadline=rules.deadline)
    made = results(done, hidden=True)
    made.pop("execution_time", None)  # the same grade has the same bytes
    told = {part.problem.id: [r.text for r in part.reasons] for part in report.parts(done, True) if part.reasons}
    record |= {
        "score": made["score"],
        "problems": {t["number"]: t["score"] for t in made["tests"]},
        "reasons": told,
        "layers": dict(done.layers),
        "prints": sorted(fingerprints(regions(homework, submission.sources))),
        "status": GRADED,
        "note": clean(" ".join(notes(done, hidden=True))),
    }
    return {
        "record": record,
        "results": made,
        "report": report.html(done, True),
        "staff": report.html(done, False, title),
    }


def identity(entry: Entry) -> dict[str, Any]:
    """Return the part of a record that says whose the submission is."""
    return {"file": entry.file, "name": entry.name, "students": [asdict(s) for s in entry.students]}


Finished = Iterator[tuple[Entry, dict[str, Any]]]


def by_processes(todo: Sequence[Entry], rules: Rules, jobs: int) -> Finished:
    """Yield each submission with its result as it finishes, from ``jobs`` processes.

    Raises ClassError if a grader is killed, by the kernel for its memory or by hand.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(
        min(jobs, len(todo)), mp_context=get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
    ) as pool:
        waiting = {pool.submit(grade_one, e, rules): e for e in todo}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise ClassError("a grader was killed; what is graded is kept: go on with --resume") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def end_with(parent: int) -> None:
    """End this process, a grader, when its parent ends, however that happens."""
    if sys.platform == "linux":
        from autograder.sandbox.child_limits import PR_SET_PDEATHSIG

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def by_cluster(todo: Sequence[Entry], rules: Rules, address: str) -> Finished:
    """Yield the same from the Dask cluster at ``address``, whose workers have the autograder and see the submissions.

    If a worker dies, another takes over. Raises ClassError if there is no cluster, and if several workers died on the
    same submission.
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
        waiting = {client.submit(grade_one, e, rules, pure=False, retries=3): e for e in todo}
        for future in distributed.as_completed(list(waiting)):
            one = waiting.pop(future)
            try:
                done = future.result()
            except lost as error:
                text = f"the workers that were given {one.id} died"
                raise ClassError(f"{text}; what is graded is kept: go on with --resume") from error
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

    seed: of the cases; by default the one in ``out``, or a new one. resume: go on in an ``out`` that has grades of this
    homework; fresh: forget them. order: in which the submissions are begun (for tests).

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
        keys = {e.id: key(e, version, rules) for e in found}
        todo = order([e for e in found if not book.has(e.id, keys[e.id])])
        if todo:
            finished = by_cluster(todo, rules, cluster) if cluster else by_processes(todo, rules, jobs)
            quiet = None if progress else True  # None: a bar on a terminal alone
            with tqdm(
                total=len(found), initial=len(found) - len(todo), desc=homework.name, unit="", disable=quiet
            ) as bar:
                for entry, done in finished:
                    book.keep(done, keys[entry.id])
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
