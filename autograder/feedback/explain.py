"""Explain a graded submission in a process that may die: the points are known before.

explain(homework, verdicts)   the diagnoses of every problem that lost points
prints(homework, sources)     the fingerprints of a program

The process is kept for the next submission, and replaced after anything that goes wrong in it.
"""

from __future__ import annotations

import atexit
import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autograder.feedback import exchange, helper
from autograder.feedback.reasons import Diagnosis
from autograder.grading.check import Verdict
from autograder.grading.packed import packed
from autograder.homeworks.homework import ROOT, Homework
from autograder.sandbox.frames import FrameError, decode, encode
from autograder.sandbox.process import Lost, Process, Watch
from autograder.sandbox.workspace import environment

LOG = logging.getLogger("autograder")
SECONDS = 120.0  # by the clock, for all of a submission
MOST_LOST = 3  # processes that die over one submission; then its other problems get no words
FAILED = "the process that explains gave no answer"

_idle: list[Process] = []


def explain(
    homework: Homework, verdicts: Mapping[str, Verdict], seconds: float | None = None
) -> dict[str, list[Diagnosis]]:
    """Return the diagnoses of each problem, in the order of its failures.

    A problem whose explanation fails or takes too long has diagnoses that say so. Nothing is raised for it: it is
    logged for the staff.

    Args:
        homework: the homework.
        verdicts: by problem.
        seconds: for all of them, by the clock; `SECONDS` by default and at most.
    """
    until = time.monotonic() + (SECONDS if seconds is None else min(seconds, SECONDS))
    found: dict[str, list[Diagnosis]] = {}
    lost = 0
    for problem, verdict in verdicts.items():
        if verdict.not_run or not verdict.failures:
            continue
        found[problem] = [Diagnosis(f, trouble=FAILED) for f in verdict.failures]
        left = until - time.monotonic()
        if lost >= MOST_LOST or left <= 0:
            continue
        try:
            reply = _ask(verdict.frame or packed(homework.name, verdict), left)
            found[problem] = exchange.read(reply, homework.name, verdict)
        except (Lost, FrameError, ValueError, OSError) as error:
            lost += 1
            LOG.error("%s %s: no explanation: %s", homework.name, problem, _why(error))
    return found


def prints(homework: Homework, sources: Mapping[str, str]) -> list[int]:
    """Return the fingerprints of what a student wrote, see `submission.similarity`; [] if they cannot be had."""
    texts = {module: np.frombuffer(text.encode(), np.uint8) for module, text in sources.items()}
    try:
        reply = _ask(encode({"id": 0, "folder": str(homework.folder), "sources": texts}), SECONDS)
        return [int(h) for h in reply["prints"]]
    except (Lost, FrameError, KeyError, TypeError, OSError) as error:
        LOG.error("%s: no fingerprints: %s", homework.name, _why(error))
        return []


def _why(error: Exception) -> str:
    raised = error.raised if isinstance(error, Lost) else None
    return f"it {raised.error} {raised.message}" if raised else f"{type(error).__name__}: {error}"


def _ask(frame: bytes, seconds: float) -> Any:
    """Return the reply to a request. Raises Lost or FrameError if there is none; then the process has ended."""
    process = _idle.pop() if _idle else _started()
    try:
        reply = decode(process.exchange(frame, Watch(process.pid, helper.SECONDS, time.monotonic() + seconds)))
    except BaseException:
        _end(process)
        raise
    if not isinstance(reply, dict) or any(one["trouble"] for one in reply.get("found") or ()):
        _end(process)  # with all that it said
        LOG.error("no explanation:\n%s", process.log.decode("utf-8", "replace"))
    else:
        _idle.append(process)
    return reply


def _started() -> Process:
    """Return a new process that answers requests."""
    packages = Path(np.__file__).resolve().parent.parent  # where this process found NumPy
    command = [sys.executable, "-I", "-B", "-X", "utf8", str(Path(helper.__file__).resolve()), str(ROOT), str(packages)]
    return Process(command, ROOT, environment(Path(tempfile.gettempdir())))


def _end(process: Process) -> None:
    process.kill()
    process.drain()


@atexit.register
def end_all() -> None:
    """End the processes that wait for a request. (They end by themselves when their grader does.)"""
    while _idle:
        _end(_idle.pop())
