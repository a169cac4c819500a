"""What a worker does to itself before it imports a submission: then it can compute, and answer, and little else.

The interpreter has started and NumPy is imported, by code that is ours. Now, in this order: limits of resources;
another user (as root); no new privileges; Landlock, which leaves Python, NumPy, the handout library and the submission
to read; a seccomp filter, which leaves the system calls that computing needs. There is no way back from any of them.
Nothing can be written to disk, no process started, no socket opened, no signal sent.

Linux only; the calls go through ctypes, for x86-64 and aarch64. The worker has this file, so it imports nothing else of
the autograder.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
import resource
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from autograder.sandbox.system_calls import MACHINES, SPECIAL, program

assert sys.platform == "linux"

LAYERS = ("uid", "limits", "seccomp", "landlock")

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FLAG_TSYNC = 1, 1
SIGKILL = 9


class ConfineError(RuntimeError):
    """A layer that must be there cannot be had; the message says which and why."""


def enter(settings: Mapping[str, Any], keep: Sequence[int]) -> dict[str, Any]:
    """Confine this process for good; by layer, "yes" (Landlock: its version), or "no: " and the reason.

    settings: "uid" (None: stay who we are), "parent" (pid), "limits" (by name without RLIMIT_), "read" (folders),
    "landlock" (False: leave it out), "must" (lists of layers, one of which has to be there in full), "preload"
    ("module" or "module:name"). keep: the descriptors that stay open besides 0, 1 and 2. ConfineError where none of
    "must" is there.
    """
    for name in settings["preload"]:
        module, _, attribute = name.partition(":")
        with contextlib.suppress(ImportError):  # this Python was built without it
            getattr(importlib.import_module(module), attribute or "__name__", None)  # some load their parts late
    layers: dict[str, Any] = dict.fromkeys(LAYERS, "no")
    close_all_but(keep)
    libc = ctypes.CDLL(None, use_errno=True)
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads != 1:
        raise ConfineError(f"{threads} threads are running already: set OMP_NUM_THREADS=1")
    layers["limits"] = _tried(limit, settings["limits"])
    ruleset, version = -1, "no: left out"
    if settings["landlock"]:
        ruleset, version = landlock_ruleset(libc, settings["read"])
    layers["uid"] = _tried(become, settings["uid"]) if settings["uid"] is not None else "no: not asked for, or not root"
    _prctl(libc, PR_SET_DUMPABLE, 0)
    _prctl(libc, PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != settings["parent"]:
        raise ConfineError("the parent process exited before the sandbox was set up")
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)
    layers["landlock"] = version if ruleset < 0 else _tried(landlock, libc, ruleset, version)
    layers["seccomp"] = _tried(seccomp, libc)
    if not any(all(_is_there(layers[name]) for name in together) for together in settings["must"]):
        wanted = " or ".join(" and ".join(together) for together in settings["must"])
        raise ConfineError(f"expected {wanted}; got {', '.join(f'{k} {v}' for k, v in layers.items())}")
    return layers


def _is_there(answer: Any) -> bool:
    return not str(answer).startswith("no")


def _tried(layer: Any, *args: Any) -> Any:
    try:
        return layer(*args)
    except (OSError, ValueError, ConfineError) as error:
        return f"no: {error}"


def _prctl(libc: Any, option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def close_all_but(keep: Sequence[int]) -> None:
    """Close every descriptor but 0, 1, 2 and those in ``keep``."""
    below = 3
    for fd in sorted(keep):
        os.closerange(below, fd)
        below = fd + 1
    os.closerange(below, 4096)


def limit(limits: Mapping[str, int]) -> str:
    """Set limits, soft and hard, where they are lower than what holds already."""
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    return "yes"


def become(uid: int) -> str:
    """Be another user, with a group of the same number and no other, and be sure of it."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        pass
    else:
        raise ConfineError("the way back to root is open")
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid) or os.getgroups():
        raise ConfineError("the user is another, the groups are not")
    return "yes"


# Landlock


def landlock_ruleset(libc: Any, read: Sequence[str]) -> tuple[int, Any]:
    """A ruleset that leaves only these folders to read, and its version; -1 and "no: …" where the kernel has none."""
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return -1, f"no: {os.strerror(ctypes.get_errno())}"
    known = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)  # how many kinds of access to files it knows
    everything = (1 << known) - 1
    network = 0b11 if version >= 4 else 0
    scope = 0b11 if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", everything, network, scope)[:size]
    ruleset = libc.syscall(444, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return -1, f"no: {os.strerror(ctypes.get_errno())}"
    for folder in read:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        rule = struct.pack("=Qi", 1 << 2 | 1 << 3, fd)  # READ_FILE, READ_DIR
        done = libc.syscall(445, ruleset, 1, rule, 0)
        os.close(fd)
        if done != 0:
            return -1, f"no: {folder}: {os.strerror(ctypes.get_errno())}"
    return ruleset, version


def landlock(libc: Any, ruleset: int, version: int) -> int:
    """Put a ruleset in force."""
    done = libc.syscall(446, ruleset, 0)
    os.close(ruleset)
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return version


def seccomp(libc: Any) -> str:
    """Put the filter in force, for every thread there is."""
    machine = platform.machine()
    if machine not in MACHINES or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise ConfineError(f"there is no table of system calls for {machine}")
    lines = program(machine, os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    pointer = struct.pack("=HxxxxxxQ", len(lines), ctypes.addressof(code))
    number = SPECIAL["seccomp"][MACHINES[machine][1]]
    if libc.syscall(number, SECCOMP_SET_MODE_FILTER, SECCOMP_FLAG_TSYNC, pointer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        os.kill(os.getpid(), 0)
    except PermissionError:
        return "yes"
    raise ConfineError("the filter is in place and filters nothing")
