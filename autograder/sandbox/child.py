"""The worker: the process that runs a submission. It has no case, no expected value and no seed.

`entry` starts it. The first frame tells which modules of the library are the student's and how to be confined; every
further one is a call of a driver. Each gets exactly one reply: the outputs, copied at once to plain arrays, or the
exception with the line in the student's file.
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
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from autograder.homeworks import driver as common
from autograder.sandbox.frames import FrameError, Reader, encode, normalized
from autograder.sandbox.layouts import laid_out

PACKAGE = "minipeft"
CHUNK = 1 << 20  # bytes
LONGEST_MESSAGE = 2000  # characters of an exception's text


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
    """An exception as plain values: its type, its text, the module and line of the student's that it went through."""
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
    return {"type": type(error).__name__, "message": text[:LONGEST_MESSAGE], "module": module, "line": line}


def read_frame(fd: int) -> Any:
    """The next message; None where there are no more."""
    reader = Reader()
    while True:
        chunk = os.read(fd, CHUNK)
        if not chunk:
            return None
        if reader.feed(chunk):
            return reader.message


def write_all(fd: int, data: bytes) -> None:
    """Write every byte."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def call(mp: Any, drivers: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver of a request returns, as plain values."""
    layouts = request["layouts"]
    arrays = {name: laid_out(x, layouts.get(name, "plain")) for name, x in request["arrays"].items()}
    with np.errstate(all="ignore"):
        driver = getattr(drivers, request["driver"], None) or getattr(common, request["driver"])
        outputs: dict[str, Any] = normalized(driver(mp, arrays, request["params"]))
    return outputs


def received(requests: int) -> Iterator[Any]:
    """Yield the messages until there are no more."""
    while (message := read_frame(requests)) is not None:
        yield message


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


def serve(requests: int, replies: int) -> None:
    """Answer until there are no more requests. The first reply is given before anything of the student's is loaded."""
    start = read_frame(requests)
    files: dict[str, str] = start["files"]
    layers: dict[str, Any] = {}
    confined = start["confine"] is not None
    if confined:
        confine = importlib.import_module("autograder.sandbox.child_limits")
        try:
            layers = confine.enter(start["confine"], keep=(requests, replies))
        except (confine.ConfineError, OSError) as error:
            write_all(replies, encode({"id": 0, "unconfined": str(error)}))
            return
    write_all(replies, encode({"id": 0, "layers": layers}))
    sys.meta_path.insert(0, StudentModules(files))
    mp = drivers = None
    for request in received(requests) if confined else watched(requests):  # Linux itself ends a confined worker
        try:
            if "import" in request:
                mp = importlib.import_module(PACKAGE)
                for name in files:
                    importlib.import_module(name)
                drivers = importlib.import_module(request["import"])
                outputs: dict[str, Any] = {}
            else:
                outputs = call(mp, drivers, request)
            reply = encode({"id": request["id"], "outputs": outputs})
        except FrameError as error:
            reply = encode({"id": request["id"], "raised": {**raised(error, {}), "type": "TooLarge"}})
        except BaseException as error:
            reply = encode({"id": request["id"], "raised": raised(error, files)})
        write_all(replies, reply)
