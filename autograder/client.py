"""The trusted side of the worker: its folder, its process, one reply for each request, deadlines and what it printed.

with Session(homework) as session:
    session.run(sources, cases)      what each case returned, or a `Raised` in its place
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from autograder.cases import Case
from autograder.check import Outputs, Raised
from autograder.confinement import Confinement, ConfinementError
from autograder.frames import FrameError, Reader, encode
from autograder.homework import ROOT, Homework
from autograder.strip import handout

CHUNK = 1 << 20
LOG_LIMIT = 64 * 1024  # bytes kept of what a worker prints; the rest is thrown away
MOST_PRINTED = 4 * 1024 * 1024  # bytes that one worker may print
START_SECONDS = 10.0  # of processor time, for importing NumPy, the library and the submission
IDLE_SECONDS = 4.0  # in which a worker neither computes nor wants to, after which it counts as waiting for ever
MOST_TIMEOUTS = 3  # in a problem; then the rest of it is not run
TICK = 0.02
PREFIX = "minipeft-grading-"  # of the folders in which workers live
SECONDS_TO_LOCK = 60.0  # after which a folder without a lock is nobody's
SIDE = ("__init__.py", "frames.py", "layouts.py", "worker.py", "confine.py", "drivers/__init__.py", "drivers/common.py")


class _Lost(Exception):
    """The worker gave no reply; what to say instead."""

    def __init__(self, raised: Raised):
        self.raised = raised


def processor(pid: int) -> tuple[float, bool] | None:
    """The processor time in seconds that a process has used, and whether it wants more; None where no one says."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    return (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK"), state in "RD"


def ended(status: int) -> Raised:
    """What to say of a process that ended before its reply."""
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return Raised("crash", f"crashed ({name})")
    return Raised("crash", "ended before it answered", f"exit status {status}")


class _Watch:
    """The time of one call: processor time, so that a busy machine costs no one anything; else by the clock."""

    def __init__(self, pid: int, seconds: float):
        self._pid, self._seconds = pid, seconds
        self._begun = self._moved = time.monotonic()
        self._first = self._used = (processor(pid) or (0.0, True))[0]

    def late(self) -> str:
        """Why the call must end now; "" where it may go on."""
        now = time.monotonic()
        seen = processor(self._pid)
        if seen is None:
            return "" if now - self._begun < self._seconds + IDLE_SECONDS else f"more than {self._seconds:g} s"
        used, wants = seen
        if used != self._used or wants:
            self._used, self._moved = used, now
        if used - self._first > self._seconds:
            return f"more than {self._seconds:g} s of processor time"
        if now - self._moved > IDLE_SECONDS:
            return "it waits for something that does not come"
        return "" if now - self._begun < 20 * self._seconds + IDLE_SECONDS else f"more than {20 * self._seconds:g} s"


class Worker:
    """One worker process with one set of modules. Make it through `Session`."""

    def __init__(self, session: Session, sources: Mapping[str, str]):
        self.sources = dict(sources)
        self.layers: dict[str, Any] = {}
        self.log = bytearray()
        self._printed = 0
        self._session = session
        self._folder = session.new_folder()
        self._confine: dict[str, Any] | None = None
        self._last_id = 0
        self._ready = False
        scratch = self._folder / "scratch"
        files = {module: str(self._write(module, text)) for module, text in sources.items()}
        names = {module: Path(file).name for module, file in files.items()}
        self._shown = {module: session.shown.get(module, names[module]) for module in files}
        scratch.mkdir()
        if session.confinement is not None:
            self._confine = session.confinement.settings(self._folder, (session.library, session.packages))
        ours, theirs = os.pipe(), os.pipe()
        command = [sys.executable, "-I", "-S", "-B", "-W", "ignore", str(session.library / "autograder" / "worker.py")]
        command += [str(ours[0]), str(theirs[1]), str(session.library), str(session.packages)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(ours[0], theirs[1]),
                cwd=scratch,
                env=environment(scratch),
                start_new_session=True,
            )
        except BaseException:
            os.close(ours[1])
            os.close(theirs[0])
            if self._confine is not None and session.confinement is not None:
                session.confinement.end(self._confine)
            raise
        finally:
            os.close(ours[0])
            os.close(theirs[1])
        assert self._process.stdout is not None
        self._requests, self._replies, self._output = ours[1], theirs[0], self._process.stdout.fileno()
        for fd in (self._requests, self._replies, self._output):
            os.set_blocking(fd, False)
        self._start = encode({"files": files, "confine": self._confine})

    def _write(self, module: str, text: str) -> Path:
        package = self._session.library.joinpath(*module.split(".")).is_dir()
        place = self._folder / "submission" / (f"{module}/__init__.py" if package else f"{module}.py")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
        return place

    def start(self) -> Raised | None:
        """Wait until the submission is imported; what went wrong, where something did.

        ConfinementError where the worker could not be confined: then nothing of the submission was loaded.
        """
        if self._ready:
            return None
        try:
            reply = self._exchange(self._start, START_SECONDS)
        except _Lost as lost:
            raise ConfinementError(
                f"a worker {lost.raised.error} {lost.raised.message} before it began: {self.log[-400:].decode()!r}"
            ) from None
        if "unconfined" in reply:
            self.close()
            raise ConfinementError(f"a worker cannot be confined here: {reply['unconfined']}")
        self.layers = reply["layers"]
        came = self._request({"import": f"autograder.drivers.{self._session.homework.name}"}, START_SECONDS)
        self._ready = not isinstance(came, Raised)
        return came if isinstance(came, Raised) else None

    def call(self, case: Case) -> Outputs | Raised:
        """What the case's driver returned; a `Raised` of kind "timeout" or "crash" means that the worker is gone."""
        request = {
            "driver": case.driver,
            "arrays": dict(case.arrays),
            "layouts": dict(case.layouts),
            "params": dict(case.params),
        }
        return self._request(request, case.seconds)

    def _request(self, request: dict[str, Any], seconds: float) -> Outputs | Raised:
        self._last_id += 1
        try:
            reply = self._exchange(encode({"id": self._last_id, **request}), seconds)
        except _Lost as lost:
            return lost.raised
        if "raised" in reply:
            return self._raised(reply["raised"])
        outputs = reply.get("outputs")
        if not isinstance(outputs, dict):
            return self._broken("a reply without outputs")
        return outputs

    def _raised(self, said: Any) -> Raised:
        """An exception as the worker told it, made harmless."""
        said = said if isinstance(said, dict) else {}
        name, text, line = said.get("type"), said.get("message"), said.get("line")
        module = said.get("module")
        return Raised(
            "raised",
            name if isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w{0,60}", name, re.ASCII) else "an exception",
            text if isinstance(text, str) else "",
            self._shown.get(module, "") if isinstance(module, str) else "",
            line if type(line) is int and 0 < line < 10**6 else 0,
        )

    def _broken(self, why: str) -> Raised:
        self.close()
        return Raised("crash", "broke the protocol", why)

    def _exchange(self, frame: bytes, seconds: float) -> dict[str, Any]:
        """Send a frame and read the one reply to it. _Lost, with the worker gone, where there is none in time."""
        if self._process.poll() is not None:
            raise _Lost(ended(self._process.returncode))
        try:
            reply = self._converse(memoryview(frame), seconds)
        except FrameError as error:
            raise _Lost(self._broken(str(error))) from None
        except _Lost:
            self.close()
            raise
        if not isinstance(reply, dict) or reply.get("id") != self._last_id:
            raise _Lost(self._broken(f"a reply to another request than {self._last_id}"))
        return reply

    def _converse(self, rest: memoryview, seconds: float) -> Any:
        reader = Reader()
        watch = _Watch(self._process.pid, seconds)
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_WRITE)
            selector.register(self._replies, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(TICK):
                    if key.fd == self._requests:
                        if reader.started:
                            raise FrameError("a reply before the request was read")
                        try:
                            rest = rest[os.write(self._requests, rest[:CHUNK]) :]
                        except BrokenPipeError:  # it reads no more; what it says, or that it ended, comes below
                            rest = rest[:0]
                        if not rest:
                            selector.unregister(self._requests)
                    elif key.fd == self._output:
                        if not self._keep_output():
                            selector.unregister(self._output)
                    else:
                        chunk = os.read(self._replies, CHUNK)
                        if not chunk:
                            raise _Lost(self._after_the_end())
                        if reader.feed(chunk):
                            return reader.message
                late = watch.late()
                if late:
                    raise _Lost(Raised("timeout", "ran out of time", late))

    def _keep_output(self) -> bool:
        """Take what was printed; False at its end."""
        chunk = os.read(self._output, CHUNK)
        self.log += chunk[: max(0, LOG_LIMIT - len(self.log))]
        self._printed += len(chunk)
        if self._printed > MOST_PRINTED:
            raise _Lost(Raised("crash", "printed too much", f"more than {MOST_PRINTED >> 20} MiB"))
        return bool(chunk)

    def _after_the_end(self) -> Raised:
        """The pipe of replies was closed: how the process ended."""
        try:
            return ended(self._process.wait(1.0))
        except subprocess.TimeoutExpired:
            return Raised("crash", "closed its answers")

    def close(self) -> None:
        """Kill the worker and all of its process group, and remove its folder. Harmless when called again."""
        if self._process.stdout is None or self._process.stdout.closed:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        if self._confine is not None and self._session.confinement is not None:
            self._session.confinement.end(self._confine)
        with contextlib.suppress(BlockingIOError, _Lost):
            while len(self.log) < LOG_LIMIT and self._keep_output():
                pass
        self._process.stdout.close()
        os.close(self._requests)
        os.close(self._replies)
        shutil.rmtree(self._folder)


def sweep() -> None:
    """Remove the folders of graders that were killed: those of ours whose lock nobody holds, or that had none yet."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            known = folder.lstat()
            if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.geteuid():
                continue
            try:
                lock = os.open(folder / "lock", os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                if time.time() - known.st_mtime > SECONDS_TO_LOCK:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def locked(folder: Path) -> int:
    """The lock of a folder, which is there only when it is held: then `sweep` leaves the folder alone."""
    lock = os.open(folder / "lock.new", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / "lock.new", folder / "lock")
    return lock


def environment(scratch: Path) -> dict[str, str]:
    """All that a worker finds in its environment: the same for public and for hidden cases."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"PATH": "/usr/bin:/bin", "HOME": str(scratch), "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8", **threads}


class Session:
    """Workers for one homework: the handout library is laid out once, and removed at the end.

    confinement: see `autograder.confinement`; None runs workers as what they are, for one's own program. deadline:
    seconds after which nothing is run any more. shared: a folder of `lay_out`, for many sessions after each other.
    """

    def __init__(
        self,
        homework: Homework,
        confinement: Confinement | None = None,
        deadline: float | None = None,
        shared: Path | None = None,
    ):
        self.homework = homework
        self.confinement = confinement
        self.layers: dict[str, Any] = {}
        self.log = ""
        self.shown = {f.module: f.stub for f in homework.files}
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = locked(self.folder)
        self.library = (shared or self.folder) / "library"
        self.packages = (shared or self.folder) / "packages"
        self._until = None if deadline is None else time.monotonic() + deadline
        self._count = 0
        self._ahead: Worker | None = None
        if confinement is not None:
            self.folder.chmod(0o711)  # other users pass through, and see nothing
        try:
            if shared is None:
                lay_out(homework, self.folder)
        except BaseException:
            self.close()
            raise

    def new_folder(self) -> Path:
        """A fresh folder for one worker."""
        self._count += 1
        folder = self.folder / f"worker-{self._count}"
        folder.mkdir(mode=0o755)
        return folder

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self._until is not None and time.monotonic() > self._until

    def prepare(self, sources: Mapping[str, str]) -> None:
        """Begin a worker with these modules for the next `run`, which then need not wait for its imports."""
        if self._ahead is None:
            self._ahead = Worker(self, sources)

    def probe(self, sources: Mapping[str, str]) -> Raised | None:
        """Import these modules; what went wrong, where something did. The worker is kept for the next `run`."""
        worker = self._worker(sources)
        failure = worker.start()
        self._note(worker)
        if failure is None:
            self._ahead = worker
        else:
            self._close(worker)
        return failure

    def run(self, sources: Mapping[str, str], cases: Sequence[Case]) -> list[Outputs | Raised]:
        """What each case returned with these modules of the library replaced, in a worker of their own.

        A crash or a timeout costs its own case: the next one gets a new worker. After three timeouts, and after the
        session's deadline, the remaining cases are not run.
        """
        results: list[Outputs | Raised] = []
        timeouts = 0
        worker: Worker | None = None
        for case in cases:
            if self.over:
                results.append(Raised("timeout", "not run", "the time for the whole submission was used up"))
                continue
            if timeouts >= MOST_TIMEOUTS:
                results.append(Raised("timeout", "not run", f"{timeouts} cases before it ran out of time"))
                continue
            if worker is None:
                worker = self._worker(sources)
                failure = worker.start()
                self._note(worker)
                if failure is not None:
                    self._close(worker)
                    return [*results, *[failure] * (len(cases) - len(results))]
            came = worker.call(case)
            results.append(came)
            if isinstance(came, Raised) and came.kind != "raised":
                timeouts += came.kind == "timeout"
                self._close(worker)
                worker = None
        if worker is not None:
            self._close(worker)
        return results

    def _worker(self, sources: Mapping[str, str]) -> Worker:
        worker, self._ahead = self._ahead, None
        if worker is not None and worker.sources != dict(sources):
            worker.close()
            worker = None
        return worker or Worker(self, sources)

    def _note(self, worker: Worker) -> None:
        self.layers.update(worker.layers)

    def _close(self, worker: Worker) -> None:
        worker.close()
        room = LOG_LIMIT - len(self.log)
        self.log += worker.log.decode("utf-8", "replace")[: max(0, room)]

    def close(self) -> None:
        """End every worker and remove the folder."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        if self.folder.exists():
            shutil.rmtree(self.folder)
            os.close(self._lock)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def lay_out(homework: Homework, folder: Path) -> None:
    """Write what all workers of a homework read: ``library``, the library without the answers and the worker's own side
    of the autograder; and ``packages``, with NumPy and nothing of what else is installed beside it.
    """
    (folder / "packages").mkdir()
    numpy = Path(np.__file__).resolve().parent
    for place in (numpy, numpy.parent / "numpy.libs"):
        if place.is_dir():
            (folder / "packages" / place.name).symlink_to(place)
    library = folder / "library"
    stripped = handout(homework)
    for source in sorted((ROOT / "minipeft").rglob("*.py")):
        place = library / source.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        parts = source.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        place.write_text(stripped.get(module) or source.read_text("utf-8"), "utf-8")
    ours = Path(__file__).parent
    for name in (*SIDE, f"drivers/{homework.name}.py"):
        place = library / "autograder" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ours / name).is_file():
            shutil.copyfile(ours / name, place)
    compileall.compile_dir(library, quiet=2, workers=1)
    for path in (library, *library.rglob("*")):
        executable = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH if path.is_dir() else 0
        path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH | executable)
