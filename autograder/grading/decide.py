"""The process that decides about submissions: it has the cases, what is right and what came, and nothing else.

What is right comes from the key process (`key`), which sees no submission; files are read, and words and pages made, by
the process that asks (`apart`), which sees no output of a submission. So little is imported here: `tests` count it.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autograder.grading.check import Outputs, Raised, Verdict, graded, judge
from autograder.grading.packed import TEXTS, packed, plain, told
from autograder.homeworks.case import Case, from_data
from autograder.homeworks.homework import ROOT, Handout, from_raw
from autograder.sandbox.frames import FrameError, decode, encode, receive, send
from autograder.sandbox.parent_limits import Confinement, ConfinementError
from autograder.sandbox.process import Lost, Process, Watch
from autograder.sandbox.session import Session, Stalled
from autograder.sandbox.worker import python
from autograder.sandbox.workspace import environment

MOST_TOLD = 80 << 20  # bytes: a case and what is right for it
PR_SET_PDEATHSIG = 1
Given = Sequence[tuple[Case, Outputs]]


class Decision:
    """One submission: its processes, and its verdicts as they are asked for.

    Args:
        handout: of the homework.
        sources: the submission, by module.
        broken: modules that are no Python, and why.
        given: returns the cases of a problem, each with what is right.
        session: how it is run, see `Session`.

    failed: by module, why it cannot be imported; under "" if no file could be blamed.
    """

    def __init__(
        self,
        handout: Handout,
        sources: Mapping[str, str],
        broken: Mapping[str, Raised],
        given: Callable[[str], Given],
        **session: Any,
    ):
        self.homework, self.given = handout.homework, given
        self.session = Session(handout, **session)
        try:
            self.sources, self.failed = load(self.session, sources)
        except BaseException:
            self.close()
            raise
        self.broken = {**broken, **self.failed}

    def verdict(self, name: str) -> Verdict:
        """Return the verdict on a problem."""
        problem, given, broken = self.homework.problem(name), self.given(name), self.broken
        failure = next((broken[t.module] for t in problem.targets if t.module in broken), broken.get(""))
        if failure is None:
            return graded(self.homework, problem, self.sources, given, self.session.run, self.session.attempts)
        verdict = judge(problem, [(case, right, failure) for case, right in given])
        named = [self.session.shown[t.module] for t in problem.targets if t.module in broken]
        verdict.not_run = f"Not run: {named[0] if named else 'the submission'} cannot be imported, see above."
        return verdict

    def state(self) -> tuple[dict[str, Any], str, bool]:
        """Return what kept the workers apart, what the submission has printed, and whether it has used up its time."""
        return dict(self.session.layers), self.session.log, self.session.used_up

    def close(self) -> None:
        """End every process of the submission."""
        self.session.close()


def load(session: Session, sources: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Raised]]:
    """Import the submission in a worker.

    Returns the sources, with the stub instead of each file that cannot be imported; and what went wrong by module,
    under "" if no file could be blamed.
    """
    blank, names = session.handout.stubs, session.shown
    sources = dict(sources)
    broken: dict[str, Raised] = {}
    while (failure := session.probe(sources)) is not None:
        left = [m for m in sources if m not in broken and sources[m] != blank[m]]
        named = [m for m in left if names[m] == failure.file]
        guilty = named or [m for m in left if session.probe({**blank, m: sources[m]}) is not None]
        if not guilty:
            return sources, {**broken, "": failure}
        for m in guilty:
            broken[m] = failure
            sources[m] = blank[m]
    return sources, broken


class NoLimit(Watch):
    """Wait as long as it takes: for a process of ours, which ends with this one."""

    def late(self) -> str:
        """Return "": it may go on."""
        return ""


class Key:
    """The key process, and what it has told: for one homework and seed, and any number of submissions."""

    def __init__(self, folder: str, seed: str | int):
        scratch = Path(tempfile.gettempdir())
        self.asked = (folder, seed)
        self._process = Process(python(ROOT, "autograder.grading.key"), scratch, environment(scratch))
        self._told: dict[str, Given] = {}

    @cached_property
    def handout(self) -> Handout:
        """The homework, and what the processes of a submission read."""
        folder, seed = self.asked
        said = self._ask({"homework": folder, "seed": seed})
        library, stubs, backward = ({n: x.tobytes().decode() for n, x in part.items()} for part in said["parts"])
        needed = cache(lambda: list(self._ask({"needed": True})["needed"]))
        return Handout(from_raw(said["homework"], Path(folder)), library, stubs, backward, needed)

    def given(self, problem: str) -> Given:
        """Return the cases of a problem, each with what is right."""
        if problem not in self._told:
            count = self._ask({"problem": problem})["cases"]
            listed = (self._ask({"problem": problem, "case": i}) for i in range(count))
            self._told[problem] = [(from_data(one["case"]), one["right"]) for one in listed]
            if len(self._told) == len(self.handout.homework.problems):
                self.close()
        return self._told[problem]

    def _ask(self, message: dict[str, Any]) -> Any:
        try:
            watch = NoLimit(self._process.pid, math.inf)
            return decode(self._process.exchange(encode(message), watch, MOST_TOLD))
        except Lost as lost:
            self.close()
            why = f"{lost.raised.error} {lost.raised.message}\n{self._process.log.decode('utf-8', 'replace')}"
            raise RuntimeError(f"what is right cannot be computed: the key process {why}") from None

    def close(self) -> None:
        """End the process. What it has told stays."""
        self._process.kill()
        self._process.drain()


class Decider:
    """What the process keeps: the key for the next submission, and the decision about this one."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self.decision: Decision | None = None

    def begin(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Begin with a submission; return why files of it cannot be imported."""
        about = (asked["homework"], asked["seed"])
        if self.key is None or self.key.asked != about:
            self.forget()
            self.key = Key(*about)
        private = [Path(place) for place in asked["confinement"]["private"]]
        confinement = Confinement(**{**asked["confinement"], "private": private})
        sources = {module: text.tobytes().decode() for module, text in asked["sources"].items()}
        broken = {module: Raised(*said) for module, said in asked["broken"].items()}
        how = {"confinement": confinement, "deadline": asked["until"] and asked["until"] - time.monotonic()}
        self.decision = Decision(self.key.handout, sources, broken, self.key.given, **how)
        return {"failed": {module: told(failure) for module, failure in self.decision.failed.items()}}

    def verdict(self, problem: str) -> bytes:
        """Return a frame with a verdict, and with its failures as a frame for the process that explains."""
        assert self.decision is not None
        verdict = self.decision.verdict(problem)
        layers, log, used_up = self.decision.state()
        rest = {"layers": layers, "log": np.frombuffer(log.encode(), np.uint8), "used up": used_up}
        try:
            frame = packed(self.decision.homework.name, verdict) if verdict.failures and not verdict.not_run else b""
        except FrameError:
            frame = b""  # then it is explained without values
        rest["frame"] = np.frombuffer(frame, np.uint8)
        for longest in TEXTS:
            try:
                return encode({"verdict": plain(verdict, longest), **rest})
            except FrameError:
                pass
        return encode({"verdict": plain(verdict, 0), **rest})

    def answer(self, message: Mapping[str, Any]) -> bytes:
        """Return the reply to a message, as a frame: {"begin": …}, {"problem": "6.1"} or {"end": true}."""
        try:
            if "begin" in message:
                return encode(self.begin(message["begin"]))
            if "problem" in message:
                return self.verdict(message["problem"])
            self.close()
            return encode({})
        except (ConfinementError, Stalled) as error:
            self.close()
            return encode({"stalled" if isinstance(error, Stalled) else "unconfined": str(error)})
        except Exception:
            self.close()
            self.forget()
            return encode({"failure": traceback.format_exc()})

    def close(self) -> None:
        """End the processes of the submission."""
        if self.decision is not None:
            self.decision.close()
            self.decision = None

    def forget(self) -> None:
        """End the key process, if there is one."""
        if self.key is not None:
            self.key.close()
            self.key = None


def end_with(parent: int) -> None:
    """End this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def serve(requests: int, replies: int) -> None:
    """Answer until the process that asks ends. A SIGTERM ends the submission's processes, too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    decider = Decider()
    try:
        while (data := receive(requests)) is not None:
            message = decode(data)
            end_with(message["parent"])
            send(replies, decider.answer(message))
    finally:
        decider.close()
        decider.forget()
