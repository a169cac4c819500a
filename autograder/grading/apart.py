"""Have a process decide about a submission, see `decide`: the same as `Decision`, on the side that reads and writes.

The process is kept for the next submission, and replaced after anything that goes wrong in it.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autograder.grading.check import Failure, Raised, Verdict
from autograder.grading.decide import NoLimit
from autograder.grading.packed import told
from autograder.homeworks.homework import ROOT, Homework
from autograder.sandbox.frames import decode, encode
from autograder.sandbox.parent_limits import ConfinementError
from autograder.sandbox.process import Lost, Process
from autograder.sandbox.session import Stalled
from autograder.sandbox.worker import python
from autograder.sandbox.workspace import environment

MOST_REPLIED = 32 << 20  # bytes: a verdict and its failures
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # so that glibc gives large messages back to the system at once
PATIENCE = 5.0  # seconds for ending the processes of a submission

_idle: list[Process] = []


class Apart:
    """A decision that another process makes. Raises RuntimeError if it fails, and then has ended.

    Args:
        homework: what was handed in.
        sources: the submission, by module.
        broken: modules that are no Python, and why.
        seed: of the cases.
        confinement: the arguments of `autograder.sandbox.parent_limits.Confinement`.
        deadline: seconds after which nothing is run any more.

    failed: by module, why it cannot be imported; under "" if no file could be blamed.
    """

    def __init__(
        self,
        homework: Homework,
        sources: Mapping[str, str],
        broken: Mapping[str, Raised],
        seed: str | int,
        confinement: Mapping[str, Any],
        deadline: float | None,
    ):
        self._state: tuple[dict[str, Any], str, bool] = ({}, "", False)
        self._process: Process | None = _idle.pop() if _idle else _started()
        texts = {module: np.frombuffer(text.encode(), np.uint8) for module, text in sources.items()}
        asked = {
            "homework": str(homework.folder),
            "seed": seed,
            "sources": texts,
            "broken": {module: told(failure) for module, failure in broken.items()},
            "confinement": {
                **confinement,
                "private": [str(Path(p).resolve()) for p in confinement.get("private", [ROOT])],
            },
            "until": None if deadline is None else time.monotonic() + deadline,  # all processes have the same clock
        }
        try:
            failed = self._ask({"begin": asked})["failed"]
        except BaseException:
            self.close()
            raise
        self.failed = {module: Raised(*said) for module, said in failed.items()}

    def verdict(self, problem: str) -> Verdict:
        """Return the verdict on a problem, with its failures as a frame."""
        reply = self._ask({"problem": problem})
        self._state = (reply["layers"], reply["log"].tobytes().decode(), bool(reply["used up"]))
        verdict = from_plain(problem, reply["verdict"])
        verdict.frame = reply["frame"].tobytes()
        return verdict

    def state(self) -> tuple[dict[str, Any], str, bool]:
        """Return what kept the workers apart, what the submission has printed, and whether it has used up its time."""
        return self._state

    def _ask(self, message: dict[str, Any]) -> Any:
        process = self._process
        assert process is not None
        try:
            frame = encode({**message, "parent": os.getpid()})
            reply = decode(process.exchange(frame, NoLimit(process.pid, math.inf), MOST_REPLIED))
        except Lost as lost:
            _ended(process)
            self._process = None
            said = process.log.decode("utf-8", "replace")
            raise RuntimeError(f"the process that decides {lost.raised.error} {lost.raised.message}\n{said}") from None
        except BaseException:  # such as Ctrl-C: it ends the processes of the submission, and itself
            os.kill(process.pid, signal.SIGTERM)
            _ended(process)
            self._process = None
            raise
        if "unconfined" in reply:
            raise ConfinementError(reply["unconfined"])
        if "stalled" in reply:
            raise Stalled(reply["stalled"])
        if "failure" in reply:
            raise RuntimeError(f"the process that decides failed:\n{reply['failure']}")
        return reply

    def close(self) -> None:
        """End the processes of the submission, and keep the one that decides."""
        if self._process is not None:
            self._ask({"end": True})
            _idle.append(self._process)
            self._process = None


def from_plain(problem: str, values: Mapping[str, Any]) -> Verdict:
    """Return the verdict that `plain` made plain."""
    failures = [Failure(c, a, o, k, r, key=key) for c, a, o, k, r, key in values["failures"]]
    names = {name: frozenset(values[name]) for name in ("inputs", "outputs")}
    return Verdict(problem, **{**values, **names, "failures": failures})


def _started() -> Process:
    scratch = Path(tempfile.gettempdir())
    return Process(python(ROOT, "autograder.grading.decide"), scratch, {**environment(scratch), **GIVES_BACK})


def _ended(process: Process) -> None:
    """End a process, which has some seconds to end those of the submission: it reads that no message comes any more."""
    process.drain(PATIENCE)
    process.kill()


@atexit.register
def end_all() -> None:
    """End the processes that wait for a submission."""
    while _idle:
        _ended(_idle.pop())
