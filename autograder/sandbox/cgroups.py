"""Create a control group for each worker, without the grader: the kernel counts and limits its memory and threads.

Root can create groups, and so can users to whom the machine delegated one (systemd: ``Delegate=yes``). If a grader is
killed, the next one removes its groups.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

TOP = Path("/sys/fs/cgroup")
PREFIX = "minipeft-worker-"
PROCESSES = "cgroup.procs"
SECONDS_TO_JOIN = 60.0  # after which a group without a process belongs to nobody
SECONDS_TO_REMOVE = 1.0  # a group is busy for a moment after its last process has ended


def create(memory: int, tasks: int) -> list[Path]:
    """Create groups with at most so many bytes and tasks, one for each hierarchy. Raises OSError if it cannot."""
    made: list[Path] = []
    try:
        for folder, names in _parents():
            made.append(Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder)))
            for name in names:
                (made[-1] / name).write_text(str(tasks if name == "pids.max" else memory), "ascii")
    except OSError:
        remove(made)
        raise
    return made


def remove(groups: Sequence[Path]) -> None:
    """Remove groups whose processes have ended. One that stays busy is left to `remove_stale`."""
    until = time.monotonic() + SECONDS_TO_REMOVE
    for group in groups:
        while group.is_dir():
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            if time.monotonic() > until:
                break
            time.sleep(0.002)


def remove_stale() -> None:
    """Remove the groups of graders that were killed: those without a process that are not new."""
    with contextlib.suppress(OSError):
        for folder, _ in _parents():
            for group in folder.glob(f"{PREFIX}*"):
                with contextlib.suppress(OSError):  # in use, or another grader removes it
                    if time.time() - group.stat().st_mtime > SECONDS_TO_JOIN:
                        group.rmdir()


def _parents() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the folders in which groups can be created, with the files of their limits. Raises OSError if none can."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines())
    own = {controller: path.lstrip("/") for _, names, path in lines for controller in names.split(",")}
    if (TOP / "cgroup.controllers").is_file():  # version 2, in which a group has processes or groups with limits
        here = TOP / own.get("", "")
        for folder in (here, here.parent) if here != TOP else (TOP,):
            with contextlib.suppress(FileNotFoundError):
                if {"memory", "pids"} <= set((folder / "cgroup.subtree_control").read_text("ascii").split()):
                    yield folder, ("memory.max", "pids.max")
                    return
        raise FileNotFoundError("no cgroup with limits of memory and tasks")
    for controller, name in (("memory", "memory.limit_in_bytes"), ("pids", "pids.max")):
        here = TOP / controller / own.get(controller, "")
        yield here if here.is_dir() else TOP / controller, (name,)
