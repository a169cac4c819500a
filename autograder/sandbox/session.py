"""Compute what a submission returns for each case.

with Session(handout) as session:
    session.run(sources, given)      what each case returned, or a `Raised` in its place

A trusted worker runs the drivers, and calls the submission where a driver or the library calls one of the homework's
targets. The session passes messages on, unread; it reads only two, at the start of a submission's process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from autograder.grading.check import OWN, SUPPLIED, Outputs, Raised
from autograder.grading.packed import size_of
from autograder.homeworks.case import Case, request_of
from autograder.homeworks.homework import Handout
from autograder.sandbox.frames import encode
from autograder.sandbox.parent_limits import Confinement
from autograder.sandbox.process import LOG_LIMIT, Lost
from autograder.sandbox.worker import Trusted, Worker, raised
from autograder.sandbox.workspace import Workspace, lay_out

MOST_LOST = 3  # cases of a problem that ran out of time or crashed; then the rest of it is not run
OWN_SHARE = 0.1  # of the deadline: if a submission has used less when it passes, the machine was too slow
TRUSTED_FREE = 2.0  # seconds of CPU time of the trusted worker in a case: more is the submission's doing
SLACK = 4096  # bytes that an output may have more than twice those of the right one


class Stalled(Exception):
    """The deadline passed, but the submission had used little of the time. It is graded again and loses no points."""


class Session:
    """The processes of one submission. The handout library is laid out once, and removed at the end.

    Args:
        handout: of the homework that was handed in.
        confinement: see `autograder.sandbox.parent_limits`; None runs workers unconfined, for one's own program.
        deadline: seconds by the clock after which nothing is run any more.
        own: drivers run in the worker, too, and nothing is trusted: to check one's own program, also in a handout.
    """

    def __init__(
        self,
        handout: Handout,
        confinement: Confinement | None = None,
        deadline: float | None = None,
        own: bool = False,
    ):
        homework = handout.homework
        self.handout, self.homework, self.confinement, self.own = handout, homework, confinement, own
        self.attempts = (OWN,) if own else (SUPPLIED, OWN)  # the library's own are the faster ones
        self.layers: dict[str, Any] = {}
        self._printed, self._spent = "", 0.0
        self.shown = {f.module: f.stub for f in homework.files}
        self.deadline = math.inf if deadline is None else deadline
        self.until = time.monotonic() + self.deadline
        self._workers: dict[Any, Worker] = {}
        self._trusted: Trusted | None = None
        self._empty = self._count = 0
        self._workspace = Workspace()
        self.folder = self._workspace.folder
        self.library = self.folder / "library"
        try:
            if confinement is not None:
                self.folder.chmod(0o711)  # other users pass through, and see nothing
            self.backward = lay_out(handout, self.library, own)
            if not own:
                self._trusted = Trusted(self)
        except BaseException:
            self.close()
            raise

    def new_folder(self) -> Path:
        """Return a new folder for one process."""
        self._count += 1
        folder = self.folder / f"worker-{self._count}"
        folder.mkdir(mode=0o700)  # until it is given to the user of its process
        return folder

    @property
    def over(self) -> bool:
        """True if the deadline has passed."""
        return time.monotonic() > self.until

    def probe(self, sources: Mapping[str, str]) -> Raised | None:
        """Import these modules and return what went wrong, if something did. The worker is kept for `run`."""
        return None if self.over else self._worker("forward", sources).failure

    def run(
        self, sources: Mapping[str, str], given: Sequence[tuple[Case, Outputs]], supplied: Sequence[str] = ()
    ) -> list[Outputs | Raised]:
        """Return what came for each case, with these modules of the library replaced.

        A crash or a timeout costs its own case: the next one gets a new worker. After three of them, and after the
        session's deadline, the remaining cases are not run. Raises Stalled if the machine is to blame for the latter.

        Args:
            sources: the submission, by module.
            given: cases with what is right, which says how large an output may be.
            supplied: targets that the library computes, not the submission.
        """
        results: list[Outputs | Raised] = []
        lost = 0
        for case, right in given:
            if self.over:
                came: Outputs | Raised = Raised("timeout", "not run", "the time for the whole submission was used up")
            elif lost >= MOST_LOST:
                came = Raised("timeout", "not run", f"{MOST_LOST} cases before it ran out of time or crashed")
            else:
                declared = {name: 2 * size_of(right[name]) + SLACK for name in case.checks}
                came = self._run(case, sources, tuple(supplied), declared)
            if isinstance(came, Raised) and came.kind != "raised":
                lost += 1
                self._check_blame()
            results.append(came)
        return results

    def spent(self) -> float:
        """Return the seconds that the submission has used so far: of CPU time, and waiting for nothing."""
        return self._spent + sum(w.spent() for w in self._workers.values() if not w.gone)

    @property
    def used_up(self) -> bool:
        """True if the submission has used so much time that a deadline that passes is its own fault."""
        return self.spent() >= OWN_SHARE * self.deadline

    def _check_blame(self) -> None:
        """Raise Stalled if the deadline has passed and that is not the submission's fault."""
        if self.over and not self.used_up:
            raise Stalled(
                f"the machine was too slow: after {self.deadline:g} s the submission had used {self.spent():.1f} s, "
                "and cases were left. Grade it again, with a larger --deadline or fewer --jobs."
            )

    def _run(
        self, case: Case, sources: Mapping[str, str], supplied: tuple[str, ...], declared: Mapping[str, int]
    ) -> Outputs | Raised:
        if not self.own:
            return self._driven(case, sources, supplied, declared)
        worker = self._worker("forward", sources)
        return worker.failure or worker.call(request_of(case), case.seconds)

    def _driven(
        self, case: Case, sources: Mapping[str, str], supplied: tuple[str, ...], declared: Mapping[str, int]
    ) -> Outputs | Raised:
        """Let the trusted worker run a case; pass on what it and the submission's processes say."""
        targets = [str(t) for t in self.homework.targets if str(t) not in supplied]
        request = {**request_of(case), "targets": targets, "supplied": list(supplied), "declared": dict(declared)}
        trusted = self._trusted = self._trusted or Trusted(self)
        begun: dict[str, Worker] = {}
        failure: Raised | None = None
        try:
            trusted.begin(self.until)
            message = trusted.ask(encode(request))
            while "for" in message:
                place = message["for"]
                if place not in begun:
                    begun[place] = self._worker(place, sources, case)
                    begun[place].begin(case.seconds)
                failure = begun[place].failure
                raw = bytearray()
                if failure is None:
                    try:
                        raw = begun[place].relay(message["frame"].data)
                    except Lost as lost:
                        failure = lost.raised
                message = trusted.ask(encode({"lost": not raw}) + raw)
        except Lost as lost:  # the trusted worker itself
            trusted.close()
            self._trusted = None
            for worker in begun.values():
                worker.close()
            return failure or lost.raised
        finally:
            self._spent += max(0.0, trusted.watch.used - trusted.watch.first - TRUSTED_FREE)
            if case.memory:  # these workers are for no other case
                for worker in begun.values():
                    worker.close()
        if failure is not None:
            return failure
        return raised(message["raised"], self.shown) if "raised" in message else dict(message["outputs"])

    def _worker(self, place: str, sources: Mapping[str, str], case: Case | None = None) -> Worker:
        """Return a worker with these modules that has tried to import them; a new one if memory is short."""
        memory = 0
        if case is not None and case.memory and self.confinement is not None:
            memory = self._address_space() + sum(x.nbytes for x in case.arrays.values()) + case.memory
        made_of = (place, tuple(sorted(sources.items())), memory)
        worker = self._workers.get(made_of)
        if worker is None or worker.gone:
            worker = self._workers[made_of] = Worker(self, sources, memory, place == "backward")
        worker.start()
        self.layers.update(worker.layers)
        return worker

    def _address_space(self) -> int:
        """Return the bytes of address space that a worker takes to import the stubs and multiply two matrices."""
        if not self._empty:
            worker = Worker(self, self.handout.stubs)
            worker.start()
            self._empty = worker.address_space()
            worker.close()
        return self._empty

    def note(self, worker: Worker) -> None:
        """Keep what a worker that ends has printed, as far as there is room, and what it has used."""
        self._printed = self._with(worker)
        self._spent += worker.spent()

    def _with(self, worker: Worker) -> str:
        printed = worker.process.log.decode("utf-8", "replace").replace("\r\n", "\n")
        return self._printed + printed[: max(0, LOG_LIMIT - len(self._printed))]

    @property
    def log(self) -> str:
        """The text that the submission has printed so far, cut."""
        ended = self._printed
        return ended + "".join(self._with(w)[len(ended) :] for w in self._workers.values() if not w.gone)

    def close(self) -> None:
        """End every process and remove the folder. Harmless when called again."""
        for worker in self._workers.values():
            worker.close()
        if self._trusted is not None:
            self._trusted.close()
            self._trusted = None
        self._workspace.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
