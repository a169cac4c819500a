"""Start, ask and end the processes of a session: workers with a submission, and the trusted worker."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograder.grading.check import Outputs, Raised
from autograder.homeworks.homework import ROOT
from autograder.sandbox.frames import LONGEST_MESSAGE, FrameError, decode, encode
from autograder.sandbox.parent_limits import ConfinementError
from autograder.sandbox.process import MOST_REPLIED, Lost, Process, Watch, children, usage
from autograder.sandbox.workspace import copy_library, environment, remove

if TYPE_CHECKING:
    from autograder.sandbox.session import Session

START_SECONDS = 10.0  # of CPU time, for importing NumPy, the library and the submission
TRUSTED_SECONDS = 20.0  # of CPU time, for a driver and what it makes of the submission's replies
TRUSTED_REPLIED = 25 << 20  # bytes: a message for the submission inside a message


def python(library: Path, module: str) -> list[str]:
    """Return the command of a process that serves requests with a module of the autograder in ``library``."""
    packages = Path(np.__file__).resolve().parent.parent
    entry = library / "autograder" / "sandbox" / "entry.py"
    return [sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", str(entry), str(library), str(packages), module]


def raised(said: Any, shown: Mapping[str, str]) -> Raised:
    """Return an exception from a worker's description of it, made harmless. shown: file names, by module."""
    said = said if isinstance(said, dict) else {}
    name, text, line, module = (said.get(key) for key in ("type", "message", "line", "module"))
    return Raised(
        "raised",
        name if isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w{0,60}", name, re.ASCII) else "an exception",
        text[:LONGEST_MESSAGE] if isinstance(text, str) else "",
        shown.get(module, "") if isinstance(module, str) else "",
        line if type(line) is int and 0 < line < 10**6 else 0,
    )


def address_space(pid: int) -> int:
    """Return the most bytes of address space that a process has had; 0 if the system does not tell."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path(f"/proc/{pid}/status").read_text("utf-8").split("\n")
        return 1024 * int(next(line for line in status if line.startswith("VmPeak:")).split()[1])
    return 0


class Worker:
    """One process with one set of modules. Make it through `Session`.

    Args:
        session: whose library it reads.
        sources: the submission, by module.
        memory: bytes of address space that it may have; 0 for what the confinement says.
        backward: True if only backwards run there, without an engine.
    """

    def __init__(self, session: Session, sources: Mapping[str, str], memory: int = 0, backward: bool = False):
        library = session.backward if backward else session.library
        self.layers: dict[str, Any] = {}
        self._session = session
        self._folder = session.new_folder()
        self._confine: dict[str, Any] | None = None
        self._last_id = 0
        self._closed = False
        scratch = self._folder / "scratch"
        files = {module: str(self._write(module, text)) for module, text in sources.items()}
        self._shown = {module: session.shown.get(module, Path(file).name) for module, file in files.items()}
        scratch.mkdir()
        if session.confinement is not None:
            self._confine = session.confinement.settings(self._folder, (library,), session.handout.needed)
            if memory:
                self._confine["limits"]["AS"] = memory
        try:
            self.process = Process(python(library, "autograder.sandbox.child"), scratch, environment(scratch))
        except BaseException:
            self._end_confinement()
            raise
        self._watch = Watch(self.process.pid, START_SECONDS)
        self._waited = self._spent = 0.0
        self._start = encode({"files": files, "confine": self._confine})
        self.failure: Raised | None = None  # why the submission cannot be imported, once it was tried
        self.started = False

    def _write(self, module: str, text: str) -> Path:
        package = self._session.library.joinpath(*module.split(".")).is_dir()
        place = self._folder / "submission" / (f"{module}/__init__.py" if package else f"{module}.py")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
        return place

    def start(self) -> None:
        """Wait until the submission is imported, or its import failed.

        Raises ConfinementError if the worker could not be confined. Then nothing of the submission was loaded.
        """
        if self.started:
            return
        self.started = True
        try:
            reply = self._read(self._start)
        except Lost as lost:
            text = self.process.log[-400:].decode("utf-8", "replace")
            why = f"a worker {lost.raised.error} {lost.raised.message} before it began: {text!r}"
            raise ConfinementError(why) from None
        if "unconfined" in reply:
            self.close()
            raise ConfinementError(f"a worker cannot be confined here: {reply['unconfined']}")
        self.layers = reply["layers"]
        name = f"autograder.homeworks.{self._session.homework.name}.drivers" if self._session.own else ""
        came = self.call({"import": name}, START_SECONDS)
        self.failure = came if isinstance(came, Raised) else None

    def begin(self, seconds: float) -> None:
        """Begin a case. seconds: of CPU time that the process may use for it."""
        self._waited += self._watch.waited
        self._watch = Watch(self.process.pid, seconds, self._session.until)

    def relay(self, frame: bytes | memoryview, most: int = MOST_REPLIED) -> bytearray:
        """Send a frame; return the reply as it came. Raises Lost, with the worker gone, if none comes in time."""
        try:
            return self.process.exchange(frame, self._watch, most)
        except FrameError as error:
            self.close()
            raise Lost(Raised("crash", "broke the protocol", str(error))) from None
        except Lost:
            self.close()
            raise

    def call(self, request: Mapping[str, Any], seconds: float) -> Outputs | Raised:
        """Return what a driver in the worker returned; after a `Raised` of kind "timeout" or "crash" it is gone."""
        self._last_id += 1
        self.begin(seconds)
        try:
            reply = self._read(encode({"id": self._last_id, **request}))
        except Lost as lost:
            return lost.raised
        if "raised" in reply:
            return raised(reply["raised"], self._shown)
        outputs = reply.get("outputs")
        if not isinstance(outputs, dict):
            self.close()
            return Raised("crash", "broke the protocol", "a reply without outputs")
        return outputs

    def _read(self, frame: bytes) -> dict[str, Any]:
        """Send a frame; return the message of the one reply to it. Raises Lost, with the worker gone, if none comes."""
        try:
            reply = decode(self.relay(frame))
            if isinstance(reply, dict) and reply.get("id") == self._last_id:
                return reply
            why = f"a reply to another request than {self._last_id}"
        except FrameError as error:
            why = str(error)
        self.close()
        raise Lost(Raised("crash", "broke the protocol", why))

    def address_space(self) -> int:
        """Return the most bytes of address space that the process, or its child, has had."""
        return max((address_space(pid) for pid in (self.process.pid, *children(self.process.pid))), default=0)

    def spent(self) -> float:
        """Return the seconds that the submission has used in this process: of CPU time, and waiting for nothing."""
        if not self._closed:
            seen = usage(self.process.pid)
            self._spent = self._waited + self._watch.waited + (seen[0] if seen else 0.0)
        return self._spent

    @property
    def gone(self) -> bool:
        """True if the process has been ended."""
        return self._closed

    def close(self) -> None:
        """End the worker and whatever it started, and remove its folder. Harmless when called again."""
        if self._closed:
            return
        self.spent()
        self._closed = True
        self.process.kill()
        self._end_confinement()
        self.process.drain()
        remove(self._folder)
        self._session.note(self)

    def _end_confinement(self) -> None:
        if self._confine is not None and self._session.confinement is not None:
            self._session.confinement.end(self._confine)


class Trusted:
    """The process that runs drivers with the library and its answers; see `autograder.grading.trusted`."""

    def __init__(self, session: Session):
        self._folder = session.new_folder()
        self._confinement = session.confinement
        self._confine: dict[str, Any] | None = None
        library, scratch = ROOT, self._folder / "scratch"
        scratch.mkdir()
        if self._confinement is not None:
            library = self._folder / "library"
            copy_library(library)
            self._confine = self._confinement.settings(self._folder, (), session.handout.needed)
        homework = session.homework
        modules = sorted({t.module for t in homework.targets})
        self._start = encode({"homework": homework.name, "modules": modules, "confine": self._confine})
        self._started = False
        self.process = Process(python(library, "autograder.grading.trusted"), scratch, environment(scratch))

    def begin(self, until: float) -> None:
        """Begin a case, for which the process has TRUSTED_SECONDS of CPU time."""
        self.watch = Watch(self.process.pid, TRUSTED_SECONDS, until)

    def ask(self, frame: bytes) -> dict[str, Any]:
        """Send a frame and return the message that it answers. Raises Lost if there is none; then it must be closed."""
        try:
            if not self._started:
                self._begin()
            reply: dict[str, Any] = decode(self.process.exchange(frame, self.watch, TRUSTED_REPLIED))
        except FrameError as error:
            raise Lost(Raised("crash", "the grader's own worker failed", str(error))) from None
        return reply

    def _begin(self) -> None:
        """Wait until the process is confined. Raises ConfinementError if it cannot be."""
        reply = decode(self.process.exchange(self._start, self.watch))
        if "unconfined" in reply:
            raise ConfinementError(f"the trusted worker cannot be confined here: {reply['unconfined']}")
        self._started = True
        remove(self._folder / "library")  # all is imported, and nothing that a submission asks for can read it

    def close(self) -> None:
        """End the process and remove its folder."""
        self.process.kill()
        if self._confine is not None and self._confinement is not None:
            self._confinement.end(self._confine)
        self.process.drain()
        remove(self._folder)
