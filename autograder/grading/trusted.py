"""Serve as the trusted worker: run drivers with the library, and call a submission when a target is called.

Its messages go through the grader, which passes those of a submission on unread. It holds the library with its answers
and the case that it runs, but no seed, no other case and no score. Only this process reads what a submission sends. So
it is confined like a worker with a submission, and the grader replaces it when it ends.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from autograder.grading.packed import size_of
from autograder.grading.reference import reference_library
from autograder.homeworks import driver
from autograder.sandbox.frames import LONGEST_MESSAGE, FrameError, Opaque, decode, encode, receive, send
from autograder.sandbox.remote import ENGINE, Remote, replaced
from autograder.sandbox.values import ProtocolError, name_of, named

HOME = "autograder.homeworks."  # of what a driver hands over
# not imported, since some need packages that may be missing
UNUSED = tuple(f"minipeft.{name}" for name in ("__main__", "bench", "cli", "lab"))
MOST_ASKED = 24 << 20  # bytes of a message for a submission's process
TOLD = {"type": 80, "class": 200, "message": LONGEST_MESSAGE, "module": 200}  # characters of each text of an exception
FORWARD, BACKWARD = "forward", "backward"


class Gone(BaseException):
    """The submission's process is gone. This is not an Exception, so that no driver catches it."""


class Trusted:
    """The state of the worker: the library, and one conversation with each process of the submission."""

    def __init__(self, requests: int, replies: int):
        self.requests, self.replies = requests, replies
        self.mp: Any = None
        self.drivers: Any = None
        self.modules: list[str] = []
        self.cases = 0
        self.supplied: dict[str, Callable[..., Any]] = {}
        self.remotes: dict[str, Remote] = {}

    def message(self) -> Any:
        """Return the next message of the grader or of the submission; end with the grader."""
        data = receive(self.requests)
        if data is None:
            os._exit(0)
        return data

    def exchange(self, place: str, message: Mapping[str, Any]) -> Any:
        """Send a message to a process of the submission through the grader; return its next message."""
        frame = np.frombuffer(encode({**message, "case": self.cases, "supplied": list(self.supplied)}), np.uint8)
        if frame.nbytes > MOST_ASKED:
            raise FrameError(f"{frame.nbytes} bytes for a submission's process: at most {MOST_ASKED}")
        send(self.replies, encode({"for": place, "frame": frame}))
        if decode(self.message())["lost"]:
            raise Gone
        try:
            return decode(self.message())
        except FrameError as error:
            raise ProtocolError(str(error)) from None

    def function(self, name: str) -> Callable[..., Any]:
        """Return the library's function that a submission may call in place of its own; LookupError for another."""
        return self.supplied[name]

    def remote(self, place: str) -> Remote:
        """Return the conversation with a process of the submission."""
        if place not in self.remotes:
            self.remotes[place] = Remote(
                partial(self.exchange, place), self.mp, 0, HOME, self.function, described, ENGINE in self.modules
            )
        return self.remotes[place]

    def stand_in(self, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        """Return what calls the submission's function in place of the library's.

        A backward runs in another process than the forward: so it knows nothing but what was saved.
        """
        place = BACKWARD if name.endswith(".backward") else FORWARD

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.remote(place).ask({"call": name}, args, kwargs)

        return call

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run the driver of a case with the submission's functions in place of the library's."""
        self.cases += 1
        self.remotes.clear()
        self.supplied.clear()
        with ExitStack() as undo:
            for name in request["supplied"]:
                self.supplied[name] = named(name)
            for name in request["targets"]:
                undo.callback(replaced(name, partial(self.stand_in, name)))
            try:
                outputs = driver.run(self.mp, self.drivers, {**request, "memory": 0})
            except Gone:
                return {"lost": True}
            except Exception as error:
                return {"raised": described(error)}
        declared = request["declared"]
        return {"outputs": {name: bounded(x, declared[name]) for name, x in outputs.items() if name in declared}}

    def serve(self) -> None:
        """Answer until the grader ends."""
        start = decode(self.message())
        if start["confine"] is not None:
            limits = importlib.import_module("autograder.sandbox.child_limits")
            try:
                limits.enter(start["confine"], keep=(self.requests, self.replies))
            except (limits.ConfineError, OSError) as error:
                send(self.replies, encode({"unconfined": str(error)}))
                return
        with reference_library().active() as self.mp:
            self.drivers = importlib.import_module(f"autograder.homeworks.{start['homework']}.drivers")
            self.modules = start["modules"]
            names = (m.name for m in pkgutil.walk_packages(self.mp.__path__, f"{self.mp.__name__}."))
            for name in (*(n for n in names if not n.startswith(UNUSED)), *self.modules):
                importlib.import_module(name)  # the grader now removes the files
            send(self.replies, encode({"ready": True}))
            while True:
                send(self.replies, encode(self.run(decode(self.message()))))


def bounded(x: Any, most: int) -> Any:
    """Return an output, or what it is if it has more bytes than ``most``."""
    try:
        if size_of(x) <= most:
            return x
    except (FrameError, RecursionError):
        pass
    return Opaque(f"array of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__)


def described(error: BaseException) -> dict[str, Any]:
    """Return an exception as plain values: what the submission said of it, or what a driver raised."""
    said = getattr(error, "said", None)
    if not isinstance(said, dict):
        name = "TooLarge" if isinstance(error, FrameError) else type(error).__name__
        said = {"type": name, "class": name_of(type(error)), "message": str(error)}
    texts = {key: x[:most] if isinstance(x := said.get(key), str) else "" for key, most in TOLD.items()}
    line = said.get("line")
    return {**texts, "line": line if type(line) is int and 0 < line < 10**6 else 0}


def serve(requests: int, replies: int) -> None:
    """Answer until the grader ends."""
    Trusted(requests, replies).serve()
