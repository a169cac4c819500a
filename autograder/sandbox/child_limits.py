"""Confine a worker before it imports a submission, so that it can compute and answer, and little else.

Our code has started the interpreter and imported NumPy. Then the worker enters, in this order: a control group,
namespaces and a minimal root, if they are available; limits of resources; another user (as root); no capabilities and
no new privileges; Landlock, which allows reading Python, NumPy, the handout library and the submission; a seccomp
filter, which allows the system calls that computing needs. None of them can be undone. The worker can then write
nothing to disk, start no process, open no socket and signal no other process.

Linux only; the calls use ctypes, for x86-64 and aarch64. This file is copied to the worker, so it imports only parts of
the autograder that the worker has too.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autograder.sandbox import namespaces
from autograder.sandbox.system_calls import MACHINES, SPECIAL, program

assert sys.platform == "linux"

LAYERS = (
    *("uid", "limits", "seccomp", "landlock"),
    *("cgroup", "user_ns", "mount_ns", "root", "ipc_ns", "net_ns", "uts_ns", "pid_ns"),  # where they can be had
)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITY_VERSION_3 = 0x20080522
READ_FILE, READ_DIR = 1 << 2, 1 << 3  # of Landlock
SECCOMP_SET_MODE_FILTER, SECCOMP_FLAG_TSYNC = 1, 1
SIGKILL = 9


class ConfineError(RuntimeError):
    """A required layer is not available; the message says which and why."""


def enter(settings: Mapping[str, Any], keep: Sequence[int]) -> dict[str, Any]:
    """Confine this process for good, and return the answer of each layer: "yes", or "no: " and the reason.

    Landlock's answer is its version. With a PID namespace this returns in a new process, for which the old one waits.

    Args:
        settings: from `parent_limits.Confinement.settings`.
        keep: the descriptors that stay open besides 0, 1 and 2.

    Raises:
        ConfineError: none of the settings' "must" is there in full, or the process is still root.
    """
    layers: dict[str, Any] = dict.fromkeys(LAYERS, "no: left out")
    close_all_but(keep)
    libc = ctypes.CDLL(None, use_errno=True)
    if (threads := len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1) != 1:
        raise ConfineError(f"{threads} threads are running already: set OMP_NUM_THREADS=1")
    layers["cgroup"] = _tried(join, settings["cgroup"])
    if settings["namespaces"]:
        layers.update(_namespaces(libc, settings))
    if layers["root"] != "yes":
        preload(settings["preload"])
    limits = dict(settings["limits"])
    if settings["uid"] is None and layers["user_ns"] != "yes":
        del limits["NPROC"]  # this would count all processes of the user
    layers["limits"] = _tried(limit, limits)
    ruleset, version = -1, "no: left out"
    if settings["landlock"]:
        ruleset, version = landlock_ruleset(libc, settings["read"], settings["hidden"])
    layers["uid"] = _tried(become, settings["uid"]) if settings["uid"] is not None else "no: not asked for, or not root"
    if 0 in os.getresuid():
        raise ConfineError(f"the worker is still root: uid {layers['uid']}; start the grader as an ordinary user")
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    namespaces.checked(libc.capset(header, bytes(24)), "capset")
    _prctl(libc, PR_SET_DUMPABLE, 0)
    _prctl(libc, PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != settings["parent"]:
        raise ConfineError("the parent process exited before the sandbox was set up")
    if layers["pid_ns"] == "yes":
        namespaces.first_process(libc)
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)
    layers["landlock"] = version if ruleset < 0 else _tried(landlock, libc, ruleset, version)
    layers["seccomp"] = _tried(seccomp, libc)
    if not any(all(_is_there(layers[name]) for name in together) for together in settings["must"]):
        wanted = " or ".join(" and ".join(together) for together in settings["must"])
        raise ConfineError(f"expected {wanted}; got {', '.join(f'{k} {v}' for k, v in layers.items())}")
    return layers


def _namespaces(libc: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Enter the namespaces that are available, and return the answer of each."""
    layers: dict[str, Any] = {"user_ns": "no: not needed as root"}
    if settings["uid"] is None:
        layers["user_ns"] = _tried(namespaces.user, libc)
    for name, flag in namespaces.SIMPLE.items():
        layers[name] = _tried(namespaces.unshare, libc, flag)
    layers["mount_ns"] = layers["root"] = _tried(namespaces.unshare, libc, namespaces.CLONE_NEWNS)
    if layers["mount_ns"] == "yes":
        layers["root"] = _tried(namespaces.minimal_root, libc, settings["root"], settings["read"], settings["hidden"])
    layers["pid_ns"] = "no: this kernel does not list the children of a process"
    if settings["children"]:
        layers["pid_ns"] = _tried(namespaces.unshare, libc, namespaces.CLONE_NEWPID)
    return layers


def join(groups: Sequence[str] | str) -> str:
    """Enter the control groups, and verify it. groups: a string if there are none, which says why."""
    if isinstance(groups, str):
        return groups
    for file in groups:
        Path(file).write_text(str(os.getpid()), "ascii")
    lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    for file in groups:
        if not any(line.endswith(f"/{Path(file).parent.name}") for line in lines):
            raise ConfineError(f"this process is not in {Path(file).parent}")
    return "yes"


def preload(names: Sequence[str]) -> None:
    """Import what cannot be read later: "module" or "module:name"."""
    for name in names:
        module, _, attribute = name.partition(":")
        with contextlib.suppress(ImportError):  # this Python was built without it
            getattr(importlib.import_module(module), attribute or "__name__", None)  # some load their parts late


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
    """Set limits, soft and hard, if they are lower than those in force, and verify them."""
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
        if resource.getrlimit(which) != (value, value):
            raise ConfineError(f"the limit {name} is {resource.getrlimit(which)}, not {value}")
    return "yes"


def become(uid: int) -> str:
    """Become another user, with a group of the same number and no other, and verify it."""
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
        raise ConfineError(f"expected the user and the group {uid}, got {os.getresuid()} and {os.getresgid()}")
    return "yes"


# Landlock


def landlock_ruleset(libc: Any, read: Sequence[str], hidden: Sequence[str]) -> tuple[int, Any]:
    """Return a ruleset that leaves only these folders to read, without the hidden ones, and its version.

    Returns -1 and "no: …" if the kernel has no Landlock.
    """
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
    for path, access in rules(read, hidden):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        done = libc.syscall(445, ruleset, 1, struct.pack("=Qi", access, fd), 0)
        os.close(fd)
        if done != 0:
            return -1, f"no: {path}: {os.strerror(ctypes.get_errno())}"
    return ruleset, version


def rules(read: Sequence[str], hidden: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each path of the ruleset and what is allowed below it: rules add up, so the hidden folders get none."""
    for folder in read:
        if not any(os.path.dirname(path) == folder for path in hidden):
            yield folder, READ_FILE | READ_DIR
            continue
        yield folder, READ_DIR  # Python lists it to find a module
        for entry in os.scandir(folder):
            if entry.path not in hidden and os.path.exists(entry.path):
                yield entry.path, READ_FILE | READ_DIR if entry.is_dir() else READ_FILE


def landlock(libc: Any, ruleset: int, version: int) -> int:
    """Put a ruleset in force."""
    done = libc.syscall(446, ruleset, 0)
    os.close(ruleset)
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return version


def seccomp(libc: Any) -> str:
    """Put the filter in force for all threads."""
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
