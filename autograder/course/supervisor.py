"""Grade each submission in a separate process, which is ended at a limit by the clock.

with Graders() as graders:
    graders.grade(entry, rules)    what `grader.grade_one` returns, whatever happens to the process

If a grader is killed, another one grades the submission again. If that one is killed as well, the grader has failed on
this submission. At the limit, the problems graded so far count if the submission has used up the time itself. If the
machine was too slow, the grader has failed, which costs no points.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from autograder.course.entries import Entry
from autograder.course.grader import Rules, failed
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT

SPARE, LEAST_SPARE = 0.07, 1.5  # a share of the deadline, and seconds: for the reports, before a grader is ended
START_SECONDS = 120.0
TRIES = 2  # graders that are killed on one submission
REPLY_LIMIT = 1 << 25  # bytes of one result
CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from autograder.course.grader import main; main({})"

Keep = Callable[[dict[str, Any]], None]


def limit(deadline: float) -> float:
    """Return the seconds after which a grader is ended. deadline: of the submission."""
    return deadline + max(SPARE * deadline, LEAST_SPARE)


class Ended(Exception):
    """The grader ended without a result; the message says how."""


class Grader:
    """A process that grades one submission after another.

    late: True if it was ended at its limit. seconds: how long the last request took, also if it had no result.
    """

    def __init__(self) -> None:
        flags = ["-I", *(["-B"] if sys.dont_write_bytecode else [])]
        command = [sys.executable, *flags, "-c", CODE.format(os.getpid()), json.dumps([str(ROOT), *sys.path])]
        self.late = self._ready = False
        self.seconds = 0.0
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=sys.platform != "win32"
        )

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def grade(self, request: list[Any], seconds: float, keep: Keep) -> dict[str, Any]:
        """Return the result for a request; ``keep`` is called with those before it. Raises Ended if none comes."""
        if not self._ready:
            with self._limit(START_SECONDS):
                self._next()
            self._ready = True
        with self._limit(seconds):
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # it is gone: reading says how it ended
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            while True:
                kind, done = self._next()
                if kind == "done":
                    return done
                keep(done)

    @contextlib.contextmanager
    def _limit(self, seconds: float) -> Any:
        timer, begun = threading.Timer(seconds, self._end), time.monotonic()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self.seconds = time.monotonic() - begun

    def _end(self) -> None:
        self.late = True
        self._process.kill()

    def _next(self) -> tuple[str, dict[str, Any]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(REPLY_LIMIT)
        if not line.endswith(b"\n"):
            self.close()
            raise Ended(f"the grader ended with {self._process.returncode} (negative: a signal) and gave no result")
        kind, done = json.loads(line)
        return kind, done

    def close(self) -> None:
        """End the process. Harmless when called again."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what could not be written any more
                assert pipe is not None
                pipe.close()


class Graders:
    """Grading processes: one for each thread that calls `grade`."""

    def __init__(self) -> None:
        self._idle: list[Grader] = []
        self._all: list[Grader] = []
        self._closed = False
        self._lock = threading.Lock()

    def grade(self, entry: Entry, rules: Rules, keep: Keep | None = None) -> dict[str, Any]:
        """Return the result for a submission. Never raises.

        keep: called after each problem with the result so far.
        """
        request = [str(entry.path), entry.id, [list(vars(s).values()) for s in entry.students], vars(rules)]
        most = limit(rules.deadline)
        ends: list[str] = []
        while len(ends) < TRIES:
            so_far: dict[str, Any] = {}

            def take(done: dict[str, Any], so_far: dict[str, Any] = so_far) -> None:
                so_far.update(done)
                if keep is not None:
                    keep(done)

            grader = None
            try:
                grader = self._take()
                done = grader.grade(request, most, take)
                self._idle.append(grader)
                return timed(done, grader)
            except Exception as error:
                ends.append(f"{type(error).__name__}: {error}")
                if grader is not None:
                    grader.close()
                    if grader.late and so_far.get("counts"):
                        return timed(so_far, grader)
                    if grader.late:
                        done_by = "some problems were" if so_far else "no problem was"
                        ends.append(f"{done_by} graded within {most:g} s; the machine is too slow, or the grader hangs")
        return failed(entry, load_homework(rules.homework), "\n".join(ends))

    def _take(self) -> Grader:
        with self._lock:
            if self._closed:
                raise Ended("grading was interrupted")
            self._all = [one for one in self._all if one.alive]
            self._idle = [one for one in self._idle if one.alive]
            if not self._idle:
                self._all.append(Grader())
                return self._all[-1]
            return self._idle.pop()

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            self._closed = True
            for one in self._all:
                one.close()


def timed(done: dict[str, Any], grader: Grader) -> dict[str, Any]:
    """Return a result whose record says how long it took. Students do not see the time, because it varies."""
    return {**done, "record": {**done["record"], "seconds": round(grader.seconds, 1)}}


GRADERS = Graders()  # of a worker of a cluster


def grade_apart(entry: Entry, rules: Rules) -> dict[str, Any]:
    """Return the result for a submission, graded by a child of this process."""
    return GRADERS.grade(entry, rules)
