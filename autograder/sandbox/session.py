"""The trusted side of workers: what a submission returns for each case, in a fresh process for each set of modules.

with Session(homework) as session:
    session.run(sources, cases)      what each case returned, or a `Raised` in its place
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from autograder.grading.check import Outputs, Raised
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework
from autograder.sandbox.frames import FrameError, encode
from autograder.sandbox.parent_limits import Confinement, ConfinementError
from autograder.sandbox.process import LOG_LIMIT, Lost, Process
from autograder.sandbox.workspace import Workspace, environment, lay_out, remove

START_SECONDS = 10.0  # of CPU time, for importing NumPy, the library and the submission
MOST_TIMEOUTS = 3  # in a problem; then the rest of it is not run


class Worker:
    """One worker process with one set of modules. Make it through `Session`."""

    def __init__(self, session: Session, sources: Mapping[str, str]):
        self.sources = dict(sources)
        self.layers: dict[str, Any] = {}
        self._session = session
        self._folder = session.new_folder()
        self._confine: dict[str, Any] | None = None
        self._last_id = 0
        self._ready = self._closed = False
        scratch = self._folder / "scratch"
        files = {module: str(self._write(module, text)) for module, text in sources.items()}
        names = {module: Path(file).name for module, file in files.items()}
        self._shown = {module: session.shown.get(module, names[module]) for module in files}
        scratch.mkdir()
        if session.confinement is not None:
            self._confine = session.confinement.settings(self._folder, (session.library,))
        packages = Path(np.__file__).resolve().parent.parent
        entry = str(session.library / "autograder/sandbox/entry.py")
        command = [sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", entry]
        try:
            self.process = Process([*command, str(session.library), str(packages)], scratch, environment(scratch))
        except BaseException:
            self._end_confinement()
            raise
        session.workers.append(self)
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
        except Lost as lost:
            text = self.process.log[-400:].decode("utf-8", "replace")
            raise ConfinementError(
                f"a worker {lost.raised.error} {lost.raised.message} before it began: {text!r}"
            ) from None
        if "unconfined" in reply:
            self.close()
            raise ConfinementError(f"a worker cannot be confined here: {reply['unconfined']}")
        self.layers = reply["layers"]
        came = self._request({"import": f"autograder.homeworks.{self._session.homework.name}.drivers"}, START_SECONDS)
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
        except Lost as lost:
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
        """Send a frame and return the one reply to it. Raises Lost, with the worker gone, if none comes in time."""
        try:
            reply = self.process.exchange(frame, seconds)
        except FrameError as error:
            raise Lost(self._broken(str(error))) from None
        except Lost:
            self.close()
            raise
        if not isinstance(reply, dict) or reply.get("id") != self._last_id:
            raise Lost(self._broken(f"a reply to another request than {self._last_id}"))
        return reply

    def close(self) -> None:
        """End the worker and whatever it began, and remove its folder. Harmless when called again."""
        if self._closed:
            return
        self._closed = True
        self.process.kill()
        self._end_confinement()
        self.process.drain()
        self._session.workers.remove(self)
        remove(self._folder)

    def _end_confinement(self) -> None:
        if self._confine is not None and self._session.confinement is not None:
            self._session.confinement.end(self._confine)


class Session:
    """Workers for one homework: the handout library is laid out once, and removed at the end.

    confinement: see `autograder.sandbox.parent_limits`; None runs workers unconfined, for one's own program. deadline:
    seconds after which nothing is run any more.
    """

    def __init__(self, homework: Homework, confinement: Confinement | None = None, deadline: float | None = None):
        self.homework = homework
        self.confinement = confinement
        self.layers: dict[str, Any] = {}
        self.log = ""
        self.shown = {f.module: f.stub for f in homework.files}
        self.workers: list[Worker] = []
        self._until = None if deadline is None else time.monotonic() + deadline
        self._count = 0
        self._ahead: Worker | None = None
        self._workspace = Workspace()
        self.folder = self._workspace.folder
        self.library = self.folder / "library"
        try:
            if confinement is not None:
                self.folder.chmod(0o711)  # other users pass through, and see nothing
            lay_out(homework, self.library)
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
        printed = worker.process.log.decode("utf-8", "replace").replace("\r\n", "\n")
        self.log += printed[: max(0, LOG_LIMIT - len(self.log))]

    def close(self) -> None:
        """End every worker and remove the folder. Harmless when called again."""
        for worker in list(self.workers):
            worker.close()
        self._workspace.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
