"""Serve as the worker, the process that runs a submission. It has no case, no expected value and no seed.

`entry` starts it. The first frame names the modules that the student wrote and the limits; the next one asks to import
them. After that come calls: of functions of the submission (`remote`), or of a driver, which returns outputs.
Each frame gets exactly one reply. The reply to an exception names the line in the student's file.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial, reduce
from types import ModuleType
from typing import Any

import numpy as np

from autograder.sandbox.frames import LONGEST_MESSAGE, FrameError, decode, encode, receive, send
from autograder.sandbox.remote import ENGINE, Remote, replaced
from autograder.sandbox.values import name_of

PACKAGE = "minipeft"


class StudentModules(importlib.abc.MetaPathFinder):
    """Finds the named modules in the student's files, before the library's own, and no specializations."""

    def __init__(self, files: Mapping[str, str]):
        self.files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == f"{PACKAGE}.fast":
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)  # an empty package
        if fullname not in self.files:
            return None
        file = self.files[fullname]
        package = file.endswith("__init__.py")
        places = list(path or [])
        where = [os.path.join(p, fullname.rpartition(".")[2]) for p in places] if package else None
        return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=where)


def raised(error: BaseException, files: Mapping[str, str]) -> dict[str, Any]:
    """Return an exception as plain values: its type, its text, and the module and line of the student's."""
    module, line = "", 0
    names = {file: name for name, file in files.items()}
    if isinstance(error, SyntaxError) and error.filename in names:
        module, line = names[error.filename], error.lineno or 0
    else:
        for frame, number in traceback.walk_tb(error.__traceback__):  # reads no file: some cannot be read any more
            if frame.f_code.co_filename in names:
                module, line = names[frame.f_code.co_filename], number
    if not module and isinstance(error, ImportError) and error.name in files:
        module = str(error.name)
    try:
        text = str(error)
    except Exception:
        text = ""
    own = name_of(type(error))  # of the library, or ""
    return {
        "type": type(error).__name__,
        "class": own,
        "message": text[:LONGEST_MESSAGE],
        "module": module,
        "line": line,
    }


def received(requests: int) -> Iterator[Any]:
    """Yield the messages until there are no more."""
    while (data := receive(requests)) is not None:
        yield decode(data)


def watched(requests: int) -> Iterator[Any]:
    """Yield the messages, read by a thread that ends the process once the grader is gone, even out of a loop."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        try:
            for message in received(requests):
                messages.put(message)
        finally:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield messages.get()


class Served:
    """What a worker does with the messages after the first: imports, calls of drivers, calls of single functions."""

    def __init__(self, files: Mapping[str, str], messages: Iterator[Any], replies: int):
        self.files, self.messages, self.replies = files, messages, replies
        self.mp: Any = None
        self.drivers: Any = None
        self.remote: Remote | None = None
        self.case: Any = None
        self.undo = ExitStack()

    def load(self, drivers: str) -> None:
        """Import the library, the submission and, if it is named, a module of drivers."""
        self.mp = importlib.import_module(PACKAGE)
        for name in self.files:
            importlib.import_module(name)
        self.drivers = importlib.import_module(drivers) if drivers else None
        np.ones((512, 512)) @ np.ones((512, 512))  # BLAS takes its memory now; for small matrices it takes none
        self.remote = Remote(
            self.exchange,
            self.mp,
            1,
            None,
            self.function,
            lambda error: raised(error, self.files),
            ENGINE in self.files,
        )

    def begin(self, case: Any, supplied: Sequence[str]) -> None:
        """Begin a case. supplied: functions of the submission in whose place the trusted worker is asked."""
        assert self.remote is not None
        self.remote.forget()
        self.case = case
        self.undo.close()
        for name in supplied:
            self.undo.callback(replaced(name, partial(self.stand_in, name)))

    def stand_in(self, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        """Return what asks the trusted worker in place of a function."""
        remote = self.remote
        assert remote is not None
        return lambda *args, **kwargs: remote.ask({"call": name}, args, kwargs)

    def exchange(self, message: Mapping[str, Any]) -> Any:
        """Ask the trusted worker; return its next message."""
        send(self.replies, encode(message))
        return next(self.messages)

    def function(self, name: str) -> Callable[..., Any]:
        """Return a function of the submission; LookupError if there is none of that name."""
        module, _, path = name.partition(":")
        if module not in self.files:
            raise LookupError(f"{name} is not in the submission")
        place: Any = sys.modules[module]
        found: Any = reduce(getattr, path.split("."), place)
        return found.__func__ if isinstance(getattr(found, "__self__", None), type) else found  # called with its class

    def reply(self, request: Mapping[str, Any]) -> bytes:
        """Return the reply to a message, as a frame."""
        number = request.get("id")
        try:
            if "import" in request:
                self.load(request["import"])
                outputs: dict[str, Any] = {}
            elif "driver" in request:
                common = importlib.import_module("autograder.homeworks.driver")
                outputs = common.run(self.mp, self.drivers, request)
            else:
                assert self.remote is not None
                if request["case"] != self.case:
                    self.begin(request["case"], request["supplied"])
                return encode(self.remote.answer(request))
            return encode({"id": number, "outputs": outputs})
        except FrameError as error:
            told = {**raised(error, {}), "type": "TooLarge"}
        except BaseException as error:
            told = raised(error, self.files)
        return encode({"id": number, "done": True, "raised": told})


def serve(requests: int, replies: int) -> None:
    """Answer until there are no more requests. The first reply is sent before any file of the student is loaded."""
    start = decode(receive(requests) or b"")
    layers: dict[str, Any] = {}
    confined = start["confine"] is not None
    if confined:
        confine = importlib.import_module("autograder.sandbox.child_limits")
        try:
            layers = confine.enter(start["confine"], keep=(requests, replies))
        except (confine.ConfineError, OSError) as error:
            send(replies, encode({"id": 0, "unconfined": str(error)}))
            return
    send(replies, encode({"id": 0, "layers": layers}))
    sys.meta_path.insert(0, StudentModules(start["files"]))
    messages = received(requests) if confined else watched(requests)  # Linux itself ends a confined worker
    served = Served(start["files"], messages, replies)
    for request in messages:
        send(replies, served.reply(request))
