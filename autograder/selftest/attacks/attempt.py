"""Attacks, tried as the staff would meet them: handed in, graded by a command, and everything looked at afterwards.

This is a process of its own, started by `run` as the user, with the layers and from the copy of the grader that are
tried. It reads jobs, one a line, tries each in a child, and answers each with a line. What must hold:

- the grader ends as it should, in time, and no deciding process grows beyond `PARENT`, whatever was sent;
- the attacked problem has at most the points that it may have, those beside it have all of theirs;
- results.json is valid; what a student reads holds nothing that the submission chose, nor the seed;
- no page has markup and no cell a formula of the submission's; a class has one row for each entry;
- no process, no file and no shared memory is left, when the next grader has begun.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import ctypes
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

assert sys.platform == "linux"

from autograder.cli import main as command
from autograder.course.gradescope import main as gradescope
from autograder.homeworks.strip import replace_bodies, stubs
from autograder.sandbox.workspace import remove_stale
from autograder.selftest.attacks import MARK, PLACES, Attack
from autograder.selftest.attacks.checks import CONTROLS, look, read
from autograder.selftest.attacks.corpus import ATTACKS
from autograder.selftest.attacks.scene import HONEST, Scene, hand_in, scene, write

LIMIT, SHORT = 60.0, 10.0  # seconds for a submission; for attacks that last until these are over
HALF_A_CORE = 4.0  # how many times longer the latter is in a container
ENDING = 3.0  # seconds that processes have to end after their grader
SLACK = 30.0  # seconds beyond them, for starting on a busy machine
PARENT = 300 << 20  # bytes that a deciding process may have
KNOWN = ("/tmp/minipeft-x", "/tmp/minipeft-escaped", "/dev/shm/minipeft-x", "/dev/shm/big", "/dev/shm/out")
IPC_KEY = 0x1234
CANARY = Attack("canary", "values", "reaches its goal, which must be told", body="won = True")  # tries this file
CHILD_SUBREAPER = 36


@dataclass
class Outcome:
    """What became of an attack: what went wrong ([] for nothing), and the seconds and bytes that its job took."""

    attack: str
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Job:
    """Attacks that are tried together: several only in a class."""

    attacks: tuple[str, ...]
    place: str
    route: str
    layers: str

    def chosen(self) -> list[Attack]:
        """Return the attacks."""
        return [a for a in (*ATTACKS, CANARY) if a.id in self.attacks]

    @property
    def limit(self) -> float:
        """Return the seconds for one submission."""
        if not any(a.lasts for a in self.chosen()):
            return LIMIT
        return SHORT * (HALF_A_CORE if self.layers == "a container" else 1.0)

    @property
    def bound(self) -> float:
        """Return the seconds for all of it."""
        return 1.1 * self.limit * max(1.0, len(self.attacks) / 2) + SLACK


# in the child


def tried(job: Job, folder: Path) -> list[Outcome]:
    """Try a job in this process; its outcomes."""
    attacks = job.chosen()
    where = scene(PLACES[job.place], folder, any(a.everywhere for a in attacks), job.layers == "a container")
    tempfile.tempdir = None
    os.environ["TMPDIR"] = str(folder / "tmp")
    found = [Outcome(a.id) for a in attacks]
    handed = [hand_in(a, where) for a in attacks]
    begun = time.monotonic()
    shared: list[str] = []
    try:
        ROUTES[job.route](job, where, attacks, handed, found)
    except BaseException as error:  # the grader itself failed: that is what an attack wants
        at = traceback.extract_tb(error.__traceback__)[-1]
        shared.append(
            f"the grader raised {type(error).__name__}: {str(error)[:200]} ({Path(at.filename).name}, {at.lineno})"
        )
    seconds = round(time.monotonic() - begun, 2)
    if seconds > job.bound:
        shared.append(f"it took {seconds:.0f} s, of {job.limit:g}")
    until = time.monotonic() + ENDING
    remove_stale()  # as the next grader does, if this one was ended at its deadline
    while os.listdir(folder / "tmp") and time.monotonic() < until:  # what it started needs a moment to end
        time.sleep(0.1)
        remove_stale()
    for name in ("open", "tmp"):
        if left := sorted(os.listdir(folder / name)):
            shared.append(f"files are left in {name}: {left[:3]}")
    shared += [f"{path} was written" for path in KNOWN if os.path.lexists(path)]
    for kind in ("shm", "msg", "sem"):
        with contextlib.suppress(OSError):
            rows = Path("/proc/sysvipc", kind).read_text("utf-8").splitlines()[1:]
            shared += [f"{kind} is left" for row in rows if int(row.split()[0]) == IPC_KEY]
    for outcome in found:
        outcome.wrong += shared
        outcome.seconds = seconds
    return found


def one(job: Job, where: Scene, attacks: Sequence[Attack], handed: Sequence[Path], found: Sequence[Outcome]) -> None:
    """Route `grade`, and with --full what staff reads."""
    (attack,), (path,), (outcome,) = attacks, handed, found
    full = job.route == "staff"
    document, texts = graded(where, path, job.limit, outcome.wrong, full)
    look(attack, where, document, outcome.wrong)
    read(texts, where, outcome.wrong, student=not full)
    if not full:
        second(attack, where, " ".join(texts), job.limit, outcome.wrong)


def ended(arguments: list[str]) -> int:
    """Run a command in a process that may end itself at its deadline; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = command(arguments)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def graded(
    where: Scene, path: Path, limit: float, wrong: list[str], full: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Grade a submission by the command; results.json, and all that can be read."""
    out = {n: where.folder / "results" / n for n in ("results.json", "report.html", "report.md")}
    options = ["--homework", where.homework.folder, "--seed-file", where.folder / "seed", "--deadline", limit]
    files = ["--out", out["results.json"], "--html", out["report.html"], "--markdown", out["report.md"]]
    begun = time.monotonic()
    code = ended([*map(str, ("grade", path, *options, *files)), *(["--full"] if full else [])])
    in_time = time.monotonic() - begun < limit
    document = json.loads(out["results.json"].read_text("utf-8"))
    if code and in_time and document["extra_data"].get("attempt") is not False:
        wrong.append(f"grade ended with {code}")
    texts = [p.read_text("utf-8") for n, p in out.items() if n != "results.json" and p.is_file()]
    return document, [json.dumps(document, ensure_ascii=False), *texts]


def on_gradescope(
    job: Job, where: Scene, attacks: Sequence[Attack], handed: Sequence[Path], found: Sequence[Outcome]
) -> None:
    """Route of Gradescope: the folder as it lays it down, and the program that it starts."""
    (attack,), (path,), (outcome,) = attacks, handed, found
    root = where.folder / "autograder"
    homework = root / "source" / "homework"
    homework.mkdir(parents=True)
    os.rename(where.homework.folder, homework / where.homework.name)
    settings = {"homework": where.homework.name, "time_limit": job.limit / 0.8, "grader_sha256": "0" * 64}
    for name, text in (("settings.json", json.dumps(settings)), ("policy.json", "{}"), ("seed", where.secret)):
        (root / "source" / name).write_text(text, "utf-8")
    (root / "source").chmod(0o700)
    (root / "submission_metadata.json").write_text("{}", "utf-8")
    (root / "submission_metadata.json").chmod(0o600)
    (root / "results").mkdir(mode=0o700)
    if path.is_dir():
        os.rename(path, root / "submission")
    else:
        (root / "submission").mkdir()
        os.rename(path, root / "submission" / path.name)
    if code := gradescope(str(root)):
        outcome.wrong.append(f"Gradescope's program ended with {code}")
    document = json.loads((root / "results" / "results.json").read_text("utf-8"))
    look(attack, where, document, outcome.wrong)
    read([json.dumps(document, ensure_ascii=False)], where, outcome.wrong)


def in_class(
    job: Job, where: Scene, attacks: Sequence[Attack], handed: Sequence[Path], found: Sequence[Outcome]
) -> None:
    """Route `grade-all`: all of them and an honest one, two at a time."""
    out = where.folder / "grades"
    entries = os.listdir(where.handed)
    options = ["--homework", where.homework.folder, "--seed-file", where.folder / "seed", "--deadline", job.limit]
    code = command([*map(str, ("grade-all", where.handed, "--out", out, "-j", 2, *options))])
    shared = [f"grade-all ended with {code}"] if code else []
    rows = list(csv.DictReader(io.StringIO((out / "grades.csv").read_text("utf-8-sig"))))
    if len(rows) != len(entries):
        shared.append(f"{len(entries)} entries have {len(rows)} rows")
    why = out / "staff" / f"{HONEST}.txt"
    if why.is_file():
        shared.append(f"the grader failed on an honest submission: {why.read_text('utf-8')[:200]}")
    elif [r["score"] for r in rows if r["id"] == HONEST] != [f"{where.homework.points:g}"]:
        shared.append("an honest submission lost points")
    for row in rows:
        for name, cell in row.items():
            if re.search(r'(^|[;,\t|"])\s*[=+@-](?![0-9.]+$)', cell or ""):
                shared.append(f"a formula in the column {name} of {row['id']}: {cell[:40]}")
    for outcome, attack, path in zip(found, attacks, handed, strict=True):
        outcome.wrong += shared
        student, staff = out / "students" / attack.id, out / "staff" / f"{attack.id}.html"
        if path.stem != attack.id or attack.id == "names-collide":
            continue  # its name is the attack: what counts is its row
        if not student.is_dir():
            outcome.wrong.append("it has no results")
            continue
        document = json.loads((student / "results.json").read_text("utf-8"))
        look(attack, where, document, outcome.wrong)
        texts = [json.dumps(document, ensure_ascii=False), (student / "report.html").read_text("utf-8")]
        read(texts, where, outcome.wrong)
        read([staff.read_text("utf-8")], where, outcome.wrong, student=False)
        second(attack, where, " ".join(texts), job.limit, outcome.wrong)
    index, table = (out / "index.html").read_text("utf-8"), (out / "grades.csv").read_text("utf-8")
    pages: list[str] = []
    read([index], where, pages, student=False)
    pages += [f"grades.csv has {mark!r}" for mark in CONTROLS if mark in table]
    lines = [len(line) for line in (out / "graded.jsonl").read_text("utf-8").splitlines()]
    if max(lines) > 1 << 20:
        pages.append(f"a record of {max(lines) >> 10} KiB")
    alike = index.partition("look alike")[2].partition("<h2>")[0]
    for outcome, attack in zip(found, attacks, strict=True):
        outcome.wrong += pages
        if attack.group == "copies" and attack.id not in alike:
            outcome.wrong.append("it is not among the programs that look alike")


ROUTES = {"grade": one, "staff": one, "class": in_class, "gradescope": on_gradescope}


def second(attack: Attack, where: Scene, told: str, limit: float, wrong: list[str]) -> None:
    """Hand in what was told about a prerequisite."""
    found = re.search(rf"{MARK}([A-Za-z0-9+/=]{{40,}})\.", told)
    if attack.id != "tell-prerequisite" or found is None:
        return
    text = zlib.decompress(base64.b64decode(found.group(1))).decode()
    own, files = where.needed, stubs(where.homework)
    name = next(f.stub for f in where.homework.files if f.module == own.module)
    margin = len(text) - len(text.lstrip(" "))
    files[name] = replace_bodies(files[name], {own.name: "\n".join(line[margin:] for line in text.splitlines())})
    document, _ = graded(where, write(files, where.folder / "handed-next"), limit, wrong)
    wrong.append(f"students are told {len(text)} characters; handed in, they have {document['score']:g} points")


# in the parent


def peak(pid: int) -> int:
    """Return the most bytes that a process had so far; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
        return int(status.split("VmHWM:")[1].split()[0]) << 10
    return 0


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and not buried."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text("ascii").split())
    return found


def deciding(pid: int) -> list[int]:
    """Return a process and those below it that grade, too: what they hold depends on what a submission sends."""
    found = [pid]
    for child in children(pid):
        with contextlib.suppress(OSError):
            if re.search(rb"attacks\.attempt|course\.grader", Path(f"/proc/{child}/cmdline").read_bytes()):
                found += deciding(child)
    return found


@contextlib.contextmanager
def folder_for_anything() -> Iterator[str]:
    """Make a folder, and remove it with whatever is in it, however deep."""
    name = tempfile.mkdtemp(prefix="minipeft-attack-")
    try:
        yield name
    finally:
        subprocess.run(["rm", "-rf", name], check=False)


def attempt(job: Job) -> list[Outcome]:
    """Try a job in a child of this process; its outcomes."""
    with folder_for_anything() as name:
        folder = Path(name)
        folder.chmod(0o755)
        answer, said = folder / "answer", folder / "said"
        pid = os.fork()
        if pid == 0:
            os.setsid()
            nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(said, os.O_WRONLY | os.O_CREAT)
            for old, new in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(old, new)
            try:
                answer.write_text(json.dumps([vars(o) for o in tried(job, folder)]), "utf-8")
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        begun, most, done = time.monotonic(), 0, 0
        while not done and time.monotonic() - begun < job.bound + SLACK:
            most = max([most, *map(peak, deciding(pid))])
            time.sleep(0.02)
            done, status = os.waitpid(pid, os.WNOHANG)
        wrong = []
        if not done:
            wrong.append(f"unfinished after {time.monotonic() - begun:.0f} s")
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        elif os.WIFSIGNALED(status):
            wrong.append(f"the grader was ended by signal {os.WTERMSIG(status)}")
        if most > PARENT:
            wrong.append(f"the grader grew to {most >> 20} MiB")
        if bury():
            wrong.append("processes are left")
        try:
            found = [Outcome(**o) for o in json.loads(answer.read_text("utf-8"))]
        except (OSError, ValueError):
            text = said.read_text("utf-8", "replace")[-300:]
            found = [Outcome(a, [] if wrong else [f"no answer: {text}"], time.monotonic() - begun) for a in job.attacks]
        for outcome in found:
            outcome.wrong += wrong
            outcome.bytes = most
        return found


def bury(seconds: float = ENDING) -> bool:
    """End what the child has left, which is this process's now; whether something was still running."""
    until = time.monotonic() + seconds
    left = False
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        alive = children(os.getpid())
        if not alive:
            return left
        if time.monotonic() > until:
            left = True
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def serve() -> None:
    """Try what is asked for, a line at a time."""
    ctypes.CDLL(None).prctl(CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    for line in sys.stdin:
        asked = json.loads(line)
        job = Job(tuple(asked.pop("attacks")), **asked)
        print(json.dumps([vars(o) for o in attempt(job)]), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve()
