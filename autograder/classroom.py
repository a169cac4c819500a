"""A whole class: every submission graded once, side by side, kept as it is finished, and gone on with after any end.

    OUT/graded.jsonl          a line for each finished submission, appended when its other files are there
    OUT/students/ID/          results.json and report.html, as the student may see them
    OUT/staff/ID.html         the same with everything told
    OUT/grades.csv            one row a submission, the same bytes whatever the order in which they were graded
    OUT/index.html            the class: scores, problems, what goes wrong most often, programs that look alike
    OUT/seed                  the secret that the cases are drawn from, for the owner's eyes alone

The process here decides and writes; the graders are processes of its own, which end with it, or of a Dask cluster, and
each confines the programs that it runs. What a grader returns is a dictionary of plain values.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from autograder import report
from autograder.classpage import page
from autograder.client import sweep
from autograder.confine import PR_SET_PDEATHSIG
from autograder.confinement import LOCAL, Confinement
from autograder.grade import grade
from autograder.homework import ROOT, Homework, load_homework
from autograder.intake import IGNORED, IntakeError, take
from autograder.results import clean, points, refused, results, write
from autograder.similarity import fingerprints, regions

DEADLINE = 300.0  # seconds for one submission
GRADED, REFUSED = "graded", "refused"
METADATA = "submission_metadata.yml"
LOG, SEED = "graded.jsonl", "seed"


class ClassError(ValueError):
    """A class cannot be graded as asked; the message says what was expected."""


@dataclass(frozen=True)
class Handed:
    """A submission of the class: its id (a name of a folder), where it lies, whose it is as far as is known."""

    id: str
    path: Path
    name: str = ""


@dataclass(frozen=True)
class Rules:
    """What all submissions are graded by. trust: unconfined, for programs that one would run oneself."""

    homework: str
    seed: str
    trust: bool = False
    deadline: float = DEADLINE


def handed_in(folder: Path) -> list[Handed]:
    """What lies in a folder: its folders, zips and Python files, or the submissions of a Gradescope export.

    ClassError for a folder that is not there or has none.
    """
    if not folder.is_dir():
        raise ClassError(f"{folder} is no folder; expected one with a folder, a zip or a file for each submission")
    names = _exported(folder / METADATA)
    found = []
    for path in sorted(folder.iterdir()):
        if path.name in (*IGNORED, METADATA) or path.name.startswith("."):
            continue
        if path.is_symlink() or not (path.is_dir() or path.suffix in (".zip", ".py")):
            continue
        found.append(Handed(_id(path), path, names.get(path.name if path.is_dir() else path.stem, "")))
    ids = [h.id for h in found]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ClassError(f"two submissions would have one name: {', '.join(twice)}; rename one of each")
    if not found:
        raise ClassError(f"{folder} holds no submission: no folder, no zip and no Python file")
    return found


def _id(path: Path) -> str:
    """A name that is safe as a file's: letters, digits, ``-``, ``_`` and ``.``."""
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9_.@-]", "_", stem).strip(".")[:100] or "submission"


def _exported(path: Path) -> dict[str, str]:
    """The names of students by folder in a Gradescope export; only lines of the form that it writes are read."""
    names: dict[str, list[str]] = {}
    current = ""
    if not path.is_file():
        return {}
    for line in path.read_text("utf-8", "replace").splitlines():
        if match := re.fullmatch(r"([^\s:#][^:]*):\s*", line):
            current = match[1]
        elif match := re.fullmatch(r"\s*-?\s*:name:\s*(.+?)\s*", line):
            names.setdefault(current, []).append(match[1].strip("'\""))
    return {folder: clean(", ".join(who), 200) for folder, who in names.items()}


def digest(path: Path) -> str:
    """The content of a submission as one number: names and bytes of every regular file."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
    for file in files[:1000]:
        total.update(str(file.relative_to(path.parent)).encode() + b"\0")
        with file.open("rb") as source:
            while block := source.read(1 << 20):
                total.update(hashlib.sha256(block).digest())
    return total.hexdigest()


def grader_version() -> str:
    """A hash of the grader, the library and the homeworks: what a grade was made with."""
    total = hashlib.sha256()
    for part in ("autograder", "minipeft", "homework"):
        for file in sorted((ROOT / part).rglob("*")):
            if file.suffix in (".py", ".toml") and "__pycache__" not in file.parts:
                total.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:16]


def grade_one(handed: Handed, rules: Rules) -> dict[str, Any]:
    """One submission, in this process: {"record", "results", "report", "staff"}; no exception of the student's."""
    homework = load_homework(rules.homework)
    record: dict[str, Any] = {"id": handed.id, "name": handed.name, "digest": digest(handed.path)}
    empty: dict[str, Any] = {"score": 0.0, "problems": {}, "reasons": {}, "layers": {}, "prints": []}
    try:
        submission = take(handed.path, homework)
    except IntakeError as error:
        text = clean(str(error))
        body = [f"<h1>{report.esc(homework.title)}</h1>", f"<p>{report.esc(text)}</p>", "<p>Nothing was graded.</p>"]
        told_so = report.page(homework.title, body)
        return {
            "record": {**record, **empty, "status": REFUSED, "note": text},
            "results": refused(homework, text),
            "report": told_so,
            "staff": told_so,
        }
    confinement = None if rules.trust else Confinement(LOCAL, private=(ROOT, handed.path.parent))
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
        "note": clean(" ".join(done.notes)),
    }
    title = f"{homework.title}: {handed.name or handed.id}"
    return {
        "record": record,
        "results": made,
        "report": report.html(done, True),
        "staff": report.html(done, False, title),
    }


class Book:
    """What has been graded in a folder; one writer."""

    def __init__(self, out: Path):
        self.out = out
        self.log = out / LOG
        self.records: dict[str, dict[str, Any]] = {}
        self._ends_well = True
        if self.log.is_file():
            text = self.log.read_text("utf-8")
            self._ends_well = not text or text.endswith("\n")
            for line in text.splitlines():
                try:
                    record = json.loads(line)
                    self.records[record["id"]] = record
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue  # the line that was being written when it ended

    def keep(self, done: dict[str, Any], version: str) -> None:
        """A finished submission: its files first, then its line."""
        record = {**done["record"], "grader": version}
        folder = self.out / "students" / record["id"]
        folder.mkdir(parents=True, exist_ok=True)
        (self.out / "staff").mkdir(exist_ok=True)
        write(folder / "results.json", done["results"])
        write_text(folder / "report.html", done["report"])
        write_text(self.out / "staff" / f"{record['id']}.html", done["staff"])
        line = json.dumps(record, sort_keys=True) + "\n"
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line if self._ends_well else "\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._ends_well = True
        self.records[record["id"]] = record


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """A text in place in one stroke."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


Finished = Iterator[tuple[Handed, dict[str, Any]]]


def by_processes(handed: Sequence[Handed], rules: Rules, jobs: int) -> Finished:
    """Each submission and what came of it, as they finish, ``jobs`` processes at a time.

    ClassError where a grader is killed, by the kernel for its memory or by hand.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(
        min(jobs, len(handed)), mp_context=get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
    ) as pool:
        waiting = {pool.submit(grade_one, h, rules): h for h in handed}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise ClassError("a grader was killed; what is graded is kept: go on with --resume") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def end_with(parent: int) -> None:
    """End this process, a grader, when its parent does, however that ends: nobody else would tell it to."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def by_cluster(handed: Sequence[Handed], rules: Rules, address: str) -> Finished:
    """The same on the Dask cluster at ``address``, whose workers have the autograder and see the submissions.

    What a worker had when it died is given to another. ClassError where there is no cluster, and where one submission
    was at hand each time that several workers died.
    """
    try:
        distributed: Any = import_module("dask.distributed")
    except ModuleNotFoundError as error:
        raise ClassError('--cluster needs Dask; install it with `pip install "minipeft[cluster]"`') from error
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ClassError(f"no Dask scheduler answers at {address}: {error}") from error
    lost = import_module("distributed").KilledWorker
    with client:
        waiting = {client.submit(grade_one, h, rules, pure=False, retries=3): h for h in handed}
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
    """Hold the folder of grades, until any end of the process. ClassError where another grade-all does."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClassError(
                f"another grade-all is writing in {out}: wait for its end, or take another --out"
            ) from None
        yield
    finally:
        os.close(folder)


def tidy(out: Path) -> None:
    """Remove the files that were being written when a grade-all was killed."""
    for folder in (out, out / "staff", *(out / "students").glob("*")):
        for path in folder.glob(".*"):
            if re.fullmatch(r"\..+\.(json|html|csv)\.[a-z0-9_]{8}|\.seed\.[a-z0-9_]{8}", path.name) and path.is_file():
                path.unlink()


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
    order: Callable[[list[Handed]], list[Handed]] = list,
) -> list[dict[str, Any]]:
    """Grade every submission of a folder; the records in the order of their ids.

    seed: of the cases; by default the one in ``out``, or a new one. resume: go on in an ``out`` that has grades;
    fresh: forget them. order: in which the submissions are begun (for tests). Raises ClassError, and ConfinementError
    where programs of others cannot be kept apart here.
    """
    from tqdm import tqdm

    handed = handed_in(folder)
    if not trust:
        Confinement(LOCAL, private=(ROOT, folder))  # here and now, not in the middle
    if (out / LOG).exists() and not (resume or fresh):
        raise ClassError(f"{out} holds grades already: --resume goes on with them, --fresh forgets them")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)  # submissions may run as users of this machine
    with alone(out):
        if fresh and (out / LOG).is_file():
            for name in ("students", "staff"):
                shutil.rmtree(out / name, ignore_errors=True)
            for name in (LOG, SEED, "grades.csv", "index.html"):
                (out / name).unlink(missing_ok=True)
        tidy(out)
        rules = Rules(homework.name, _seed(out / SEED, seed), trust, deadline)
        version = grader_version()
        book = Book(out)
        todo = order([h for h in handed if not _is_done(book.records.get(h.id), h, version)])
        if todo:
            finished = by_cluster(todo, rules, cluster) if cluster else by_processes(todo, rules, jobs)
            quiet = None if progress else True  # None: a bar on a terminal alone
            with tqdm(
                total=len(handed), initial=len(handed) - len(todo), desc=homework.name, unit="", disable=quiet
            ) as bar:
                for _, done in finished:
                    book.keep(done, version)
                    bar.update(1)
        sweep()  # what graders left that were killed
        records = [book.records[h.id] for h in handed]
        write_text(out / "grades.csv", table(homework, records))
        write_text(out / "index.html", page(homework, records))
    return records


def _seed(path: Path, given: str | None) -> str:
    """The seed of a folder of grades: the one that it has, else the given one or a new one."""
    if path.is_file():
        kept = path.read_text("utf-8").strip()
        if given is not None and given != kept:
            raise ClassError(f"{path} holds another seed than the one given: one class, one seed (or --fresh)")
        return kept
    seed = given or secrets.token_hex(16)
    write_text(path, seed + "\n", 0o600)
    return seed


def _is_done(record: dict[str, Any] | None, handed: Handed, version: str) -> bool:
    """Whether this very submission was graded by this very grader."""
    return record is not None and record["grader"] == version and record["digest"] == digest(handed.path)


def table(homework: Homework, records: Sequence[dict[str, Any]]) -> str:
    """grades.csv: what no spreadsheet takes for a formula, in the order of the ids."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "name", "status", "score", "of", *(p.id for p in homework.problems), "note"])
    for r in sorted(records, key=lambda r: r["id"]):
        scores = [f"{r['problems'].get(p.id, 0.0):g}" for p in homework.problems]
        row = [r["id"], r["name"], r["status"], f"{r['score']:g}", f"{points(homework.points):g}", *scores, r["note"]]
        writer.writerow([_harmless(str(cell)) for cell in row])
    return text.getvalue()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in tuple("=+-@\t") and not re.fullmatch(r"-?[0-9.]+", cell) else cell
