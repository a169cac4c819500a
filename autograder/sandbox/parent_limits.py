"""Decide how workers are confined: their users, what they may read and use; and remove whatever they leave.

Confinement()                     as safe as this machine allows; refuses if that is not safe enough
Confinement(must=GRADESCOPE)      another user and a seccomp filter, or nothing is graded
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autograder.homeworks.homework import ROOT
from autograder.sandbox import cgroups, readable
from autograder.sandbox.process import MOST_THREADS

if sys.platform == "linux":
    import grp
    import pwd

GRADESCOPE = (("uid", "seccomp"),)
LOCAL = (("uid", "seccomp"), ("landlock", "seccomp"))
UIDS = range(20_000, 60_000)
MEMORY = 1 << 30  # bytes of address space
LEAST_MEMORY = 400 << 20
PROCESSOR = 600  # seconds of a whole worker; each case has its own limit, kept by the client
PR_SET_CHILD_SUBREAPER = 36


class ConfinementError(RuntimeError):
    """Submissions cannot be confined here; the message says what is missing and what to do."""


def require_linux() -> None:
    """Raise ConfinementError if this is not Linux: programs of others can be confined only there."""
    if sys.platform != "linux":
        raise ConfinementError(
            f"grading needs Linux, which confines the programs that it runs; this is {sys.platform}. Grade on Linux or "
            "in a Linux container, or use `grade --trust` for a program that you would run yourself"
        )


def is_root() -> bool:
    """Return whether this process may become any other user."""
    return sys.platform != "win32" and os.geteuid() == 0


class Confinement:
    """How workers are confined; see `autograder.sandbox.child_limits` for what they do to themselves.

    Args:
        must: lists of layers, one of which has to be there in full, with the limits.
        uid: False leaves out the layer (for tests; root is refused then).
        landlock: False leaves out the layer (for tests).
        namespaces: False leaves out the namespaces, the minimal root and the control group (for tests).
        memory: bytes of address space, by default 1 GiB or half of a container's limit.
        private: folders and files that no submission may read, by default the folder of the grader and the library. If
            any user can read one of them, or a copy of the library among the packages, Landlock must be there.

    Raises:
        ConfinementError: submissions cannot be kept apart here.
    """

    def __init__(
        self,
        must: Sequence[Sequence[str]] = LOCAL,
        *,
        uid: bool = True,
        landlock: bool = True,
        namespaces: bool = True,
        memory: int | None = None,
        private: Sequence[Path] = (ROOT,),
    ):
        require_linux()
        self.must = [[*together, "limits"] for together in must]
        self.uid = uid and is_root()
        self.landlock = landlock
        self.namespaces = namespaces
        self.private = list(private)
        self.memory = memory or max(LEAST_MEMORY, min(MEMORY, container_memory() // 2))
        self._leases: dict[int, socket.socket] = {}
        self._groups: dict[str, list[Path]] = {}  # of the workers, by their folder
        self.used: set[int] = set()  # every user that a worker of this grader has been
        if not self.uid and all("uid" in together for together in self.must):
            raise ConfinementError("workers must run as another user: start the grader as root")
        if found := readable.complaint():
            raise ConfinementError(found)
        opened = [path for path in (*private, *readable.installed()) if landlock and open_to_others(path)]
        if opened:
            if not landlock_version():
                mode = 700 if opened[0].is_dir() else 600
                raise ConfinementError(
                    f"any user can read {opened[0]}, so submissions could: close it with `chmod {mode}`, or grade "
                    "where the kernel has Landlock (Linux 5.13 or later)"
                )
            self.must = [sorted({*together, "landlock"}) for together in self.must]
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)

    def settings(self, folder: Path, shared: Sequence[Path], needed: Callable[[], Sequence[str]]) -> dict[str, Any]:
        """Return the settings of the next worker. folder: with its files. shared: what all workers read.

        needed: returns the modules that it imports ahead if it cannot read the folders of Python.
        """
        for path in (folder.parent, *shared) if self.uid else ():
            if not open_to_others(path):
                raise ConfinementError(f"{path} lies where no other user can read: set TMPDIR to a folder as /tmp is")
        python, hidden = readable.standard()
        own = {p for path in (*shared, folder) for p in (path, path.resolve())}
        if inside := readable.exposed(self.private, (*python, *own)):
            raise ConfinementError(f"submissions could read {inside}: move it, or set TMPDIR to another folder")
        uid = self._lease() if self.uid else None
        if uid is not None:
            shutil.chown(folder, 0, uid)
            folder.chmod(0o750)
        shut = uid is not None and not all(map(open_to_others, python))
        limits = {"AS": self.memory, "CPU": PROCESSOR, "FSIZE": 0, "NOFILE": 64, "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0}
        root = folder.parent / "root"
        root.mkdir(exist_ok=True)
        return {
            "uid": uid,
            "parent": os.getpid(),
            "cgroup": self._group(folder),
            "namespaces": self.namespaces,
            "children": Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(),
            "root": str(root),
            "limits": {**limits, "NPROC": MOST_THREADS},
            "read": sorted({str(p) for p in (*python, *own)}),
            "hidden": [str(p) for p in hidden],
            "landlock": self.landlock,
            "must": self.must,
            "preload": list(needed()) if shut else [],
            "folder": str(folder),
        }

    def _group(self, folder: Path) -> list[str] | str:
        """Return the files by which the next worker enters its control groups, or why there are none."""
        try:
            groups = cgroups.create(self.memory, MOST_THREADS + 1) if self.namespaces else []
        except OSError as error:
            return f"no: {error.strerror or error}"
        self._groups[str(folder)] = groups
        return [str(group / cgroups.PROCESSES) for group in groups] or "no: left out"

    def end(self, settings: Mapping[str, Any]) -> None:
        """End all that a worker started. Raises ConfinementError if a process does not end."""
        uid = settings["uid"]
        if uid is not None:
            purge(uid)
            self._leases.pop(uid).close()
        cgroups.remove(self._groups.pop(settings["folder"], ()))

    def _lease(self) -> int:
        """Return a user number that no account, no process and no other grader on this machine has."""
        for _ in range(1000):
            uid = random.SystemRandom().choice(UIDS)
            claim = claimed(uid)
            if claim is not None:
                self._leases[uid] = claim
                self.used.add(uid)
                return uid
        raise ConfinementError(f"no free user number from {UIDS.start} to {UIDS.stop - 1}")


def claimed(uid: int) -> socket.socket | None:
    """Claim a user number until the socket is closed; None if an account, a process or another grader has it."""
    if sys.platform == "linux":
        with contextlib.suppress(KeyError):
            pwd.getpwuid(uid)
            return None
        with contextlib.suppress(KeyError):
            grp.getgrgid(uid)
            return None
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0minipeft-grading-{uid}")  # gone with this process, however it ends
        except OSError:
            claim.close()
            return None
        if not list(processes_of(uid)):
            return claim
        claim.close()
    return None


def landlock_version() -> int:
    """Return the version of Landlock that this kernel has; 0 for none."""
    create_ruleset, version = 444, 1
    return max(0, int(ctypes.CDLL(None).syscall(create_ruleset, None, ctypes.c_size_t(0), version)))


def container_memory() -> int:
    """Return the memory limit of this process's container in bytes, or a large number if there is none."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(name).read_text("ascii"))
    return 1 << 62


def open_to_others(path: Path) -> bool:
    """Return whether any user may enter the folder or read the file: the way to it and itself."""
    path = path.resolve()
    own = stat.S_IXOTH if path.is_dir() else stat.S_IROTH
    return all(p.stat().st_mode & stat.S_IXOTH for p in path.parents) and bool(path.stat().st_mode & own)


def processes_of(uid: int) -> Iterator[tuple[int, bool]]:
    """Return the processes that have this user in any of its roles, and whether each is a zombie."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                status = Path("/proc", name, "status").read_text("utf-8", "replace")
                fields = dict(line.split(":", 1) for line in status.split("\n") if line.startswith(("Uid:", "State:")))
                if str(uid) in fields["Uid"].split():
                    yield int(name), "Z" in fields["State"].split()[0]


def purge(uid: int, seconds: float = 10.0) -> None:
    """End every process of a user, and wait for their children that became ours.

    Killing one process after another would lose the race with a program that forks and exits. So a shell becomes that
    user and kills all that it may, which the kernel does at once.
    """
    until = time.monotonic() + seconds
    while True:
        if any(processes_of(uid)):  # also if all are zombies: one that is listed alive may have forked and exited since
            subprocess.run(["/bin/sh", "-c", "kill -9 -1"], user=uid, group=uid, extra_groups=(), env={}, cwd="/")
        ours = alive = 0
        for pid, zombie in processes_of(uid):
            alive += not zombie
            with contextlib.suppress(ChildProcessError):  # orphans are ours, since we are their reaper
                if sys.platform == "linux":
                    os.waitpid(pid, os.WNOHANG)
                ours += 1
        if not alive and not ours:
            return
        if time.monotonic() > until:
            raise ConfinementError(f"{alive} processes of user {uid} do not die")
        time.sleep(0.002)
