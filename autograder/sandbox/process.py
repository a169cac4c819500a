"""Run a Python process that answers frames: one reply to each request, with a time limit, and with its output kept.

Requests go to its standard input, replies come from its standard output, and what the program prints comes from its
standard error. Each pipe has a thread, because Windows has no other way to wait for a pipe. The threads put what they
read into one short queue, so a process that writes without end has to wait.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from autograder.grading.check import Raised
from autograder.sandbox.frames import Collector, FrameError

CHUNK = 1 << 16  # bytes
CHUNKS = 8  # in the queue
LOG_LIMIT = 64 * 1024  # bytes of output that are kept
MOST_PRINTED = 4 * 1024 * 1024  # bytes that one process may print
MOST_THREADS = 64  # of one process
IDLE_SECONDS = 4.0  # without CPU use, after which a process is considered hung
BY_THE_CLOCK = 3.0  # how many times its CPU seconds a call may take if the system does not tell the CPU time
MOST_REPLIED = 16 << 20  # bytes
STACK = 256 * 1024  # bytes, of a thread that copies: a container may count what is never used
TICK = 0.02  # seconds
MOST_UNSEEN = 5 * TICK  # seconds of waiting that are counted at once: if it was longer, the grader did not run either
PATIENCE = 0.5  # seconds for the last output of a process that was killed
ASKED, REPLY, OUTPUT = "asked", "reply", "output"
CRASHES = {0xC0000005: "access violation", 0xC000001D: "illegal instruction", 0xC00000FD: "stack overflow"}  # Windows


class Lost(Exception):
    """The process did not reply; ``raised`` is the result to report instead."""

    def __init__(self, raised: Raised):
        self.raised = raised


def children(pid: int) -> list[int]:
    """Return the children of a process. A worker in a PID namespace of its own is the only child of one that waits."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    return []


def states(pid: int) -> str:
    """Return a letter for each thread of a process: R if it runs or wants to, D if it waits for the disk."""
    found = ""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            found += (task / "stat").read_text("utf-8").rpartition(")")[2].split()[0]
    return found


def usage(pid: int) -> tuple[float, bool, int] | None:
    """Return what a process and its children use: CPU seconds so far, whether one wants more, the most threads of one.

    Returns None if the system does not tell.
    """
    seconds, wants, threads = 0.0, False, 0
    if sys.platform == "linux":
        with contextlib.suppress(OSError, UnicodeDecodeError, ValueError):
            for one in (pid, *children(pid)):
                state, *fields = Path(f"/proc/{one}/stat").read_text("utf-8").rpartition(")")[2].split()
                seconds += (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")
                wants |= state in "RD" or (int(fields[16]) > 1 and not {"R", "D"}.isdisjoint(states(one)))
                threads = max(threads, int(fields[16]))
    return (seconds, wants, threads) if threads else None


def ended(status: int) -> Raised:
    """Describe how a process ended before its reply."""
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return Raised("crash", f"crashed ({name})")
    if status in CRASHES:
        return Raised("crash", f"crashed ({CRASHES[status]})")
    return Raised("crash", "ended before it answered", f"exit status {status}")


class Watch:
    """The time limits of one case, which do not depend on the load of the machine.

    A process may use ``seconds`` of CPU time. It may wait for IDLE_SECONDS at a time, and for ``seconds`` more in all.
    Time in which it wants a processor and gets none does not count, nor does time in which the grader does not run.

    Args:
        pid: of the process.
        seconds: of CPU time.
        until: the moment (`time.monotonic`) after which nothing runs any more.
    """

    def __init__(self, pid: int, seconds: float, until: float = math.inf):
        self._pid, self._seconds, self._until = pid, seconds, until
        self.waited = 0.0  # seconds; all that the process took, if the system does not tell its CPU time
        self.threads = 1
        self.first = (usage(pid) or (0.0, True, 1))[0]
        self.resume()

    def resume(self) -> None:
        """Start to wait for the process. Time before this call does not count."""
        self._seen, self._idle = time.monotonic(), 0.0
        self.used = (usage(self._pid) or (0.0, True, 1))[0]

    def late(self) -> str:
        """Return why the case must end now; "" if it may go on."""
        now = time.monotonic()
        step, self._seen = min(now - self._seen, MOST_UNSEEN), now
        if now > self._until:
            return "the time for the whole submission was used up"
        seen = usage(self._pid)
        if seen is None:
            self.waited += step
            limit = BY_THE_CLOCK * self._seconds + IDLE_SECONDS
            return "" if self.waited < limit else f"more than {limit:g} s"
        used, wants, self.threads = seen
        if used != self.used or wants:
            self.used, self._idle = used, 0.0
        else:
            self._idle += step
            self.waited += step
        if used - self.first > self._seconds:
            return f"more than {self._seconds:g} s of processor time"
        if self._idle > IDLE_SECONDS or self.waited > self._seconds + IDLE_SECONDS:
            return "it waits for something that does not come"
        return ""


class Process:
    """A process with its three pipes. ``log`` holds what it printed, cut at LOG_LIMIT."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]):
        self.log = bytearray()
        self._printed = 0
        self._requests: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()
        self._came: queue.Queue[tuple[str, bytes]] = queue.Queue(CHUNKS)
        self._open = {REPLY, OUTPUT}
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(
            command,
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=folder,
            env=environment,
            start_new_session=sys.platform != "win32",
        )
        self.pid = self._popen.pid
        stdin, stdout, stderr = self._popen.stdin, self._popen.stdout, self._popen.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._threads = [
            threading.Thread(target=self._write, args=(stdin,), daemon=True),
            threading.Thread(target=self._read, args=(REPLY, stdout), daemon=True),
            threading.Thread(target=self._read, args=(OUTPUT, stderr), daemon=True),
        ]
        usual = threading.stack_size(STACK)
        try:
            for thread in self._threads:
                thread.start()
        finally:
            threading.stack_size(usual)

    def exchange(self, frame: bytes | memoryview, watch: Watch, most: int = MOST_REPLIED) -> bytearray:
        """Send a frame and return the bytes of the one that is the reply, unread; ``most``: how many it may have.

        Raises Lost if no reply comes in time, FrameError if what comes is no reply. The process is then of no more use.
        """
        if self._popen.poll() is not None:
            raise Lost(ended(self._popen.returncode))
        reply = Collector(most)
        asked = False
        watch.resume()
        self._requests.put(frame)
        while True:
            with contextlib.suppress(queue.Empty):
                kind, chunk = self._next(TICK)
                if kind == ASKED:
                    asked = True
                elif kind == REPLY:
                    if not chunk:
                        raise Lost(self._after_the_end())
                    if not asked:
                        raise FrameError("a reply before the request was read")
                    if reply.feed(chunk):
                        return reply.data
                elif self._printed > MOST_PRINTED:
                    raise Lost(Raised("crash", "printed too much", f"more than {MOST_PRINTED >> 20} MiB"))
            if late := watch.late():
                raise Lost(Raised("timeout", "ran out of time", late))
            if watch.threads > MOST_THREADS:
                raise Lost(Raised("crash", "started too many threads", f"more than {MOST_THREADS}"))

    def kill(self) -> None:
        """End the process and, except on Windows, all of its process group."""
        left = children(self.pid)
        if sys.platform != "win32":
            for one, end in ((self.pid, os.killpg), *((child, os.kill) for child in left)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(one, signal.SIGKILL)
        self._popen.kill()
        self._popen.wait()
        for child in left:  # they come to this process, if it is the one that orphans come to
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)

    def drain(self, patience: float = PATIENCE) -> None:
        """Keep the rest of what a process that ends prints, for so many seconds at most, and end the threads."""
        self._requests.put(None)
        until = time.monotonic() + patience  # a child that it left behind may hold the pipes open
        while self._open and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._next(left)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _next(self, seconds: float) -> tuple[str, bytes]:
        """Return what comes next and its kind; b"" for the end of a pipe. Raises queue.Empty if nothing comes."""
        kind, chunk = self._came.get(timeout=seconds)
        if kind == OUTPUT:
            self.log += chunk[: max(0, LOG_LIMIT - len(self.log))]
            self._printed += len(chunk)
        if not chunk:
            self._open.discard(kind)
        return kind, chunk

    def _write(self, pipe: IO[bytes]) -> None:
        """Write requests. The last byte goes after ASKED: a reply that is queued before ASKED was given too early."""
        with pipe:
            while (frame := self._requests.get()) is not None:
                with contextlib.suppress(OSError):  # it reads no more; its reply, or its end, is read elsewhere
                    rest = memoryview(frame)[:-1]
                    while rest:
                        rest = rest[pipe.write(rest) :]
                self._came.put((ASKED, b""))
                with contextlib.suppress(OSError):
                    pipe.write(frame[-1:])
                frame = rest = memoryview(b"")  # a large message is not kept until the next one

    def _read(self, kind: str, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := pipe.read(CHUNK):
                self._came.put((kind, chunk))
        self._came.put((kind, b""))

    def _after_the_end(self) -> Raised:
        """Describe how the process ended, after its pipe of replies was closed."""
        try:
            return ended(self._popen.wait(1.0))
        except subprocess.TimeoutExpired:
            return Raised("crash", "closed its answers")
