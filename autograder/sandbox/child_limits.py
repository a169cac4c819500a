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

assert sys.platform == "linux"

LAYERS = ("uid", "limits", "seccomp", "landlock")

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FLAG_TSYNC = 1, 1
SIGKILL = 9

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_…, column of the tables below
Numbers = tuple[int | None, int | None]  # of a system call, on each machine; None where it has none
SPECIAL: dict[str, Numbers] = {"seccomp": (317, 277)}
ALLOWED: dict[str, Numbers] = {  # by name, the number on x86-64 and on aarch64
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "lseek": (8, 62),
    "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "stat": (4, None),
    "lstat": (6, None), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "getdents64": (217, 61),
    "getdents": (78, None), "fadvise64": (221, 223),
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "set_tid_address": (218, 96), "rseq": (334, 293), "membarrier": (324, 283),
    "arch_prctl": (158, None), "exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "alarm": (37, None),
    "setitimer": (38, 103), "getitimer": (36, 102),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "getrandom": (318, 278), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "uname": (63, 160), "getcpu": (309, 168),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25), "pipe": (22, None), "pipe2": (293, 59),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "epoll_wait": (232, None), "eventfd2": (290, 19),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "pause": (34, None),
}  # fmt: skip
CLONE_THREAD = 0x10000
OWN_PID = -1  # stands for the number of the process
OPEN_WRITES = 0o3 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC: the same numbers on both machines
QUERIES = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
CHECKED: dict[
    str, tuple[Numbers, int, str, tuple[int, ...]]
] = {  # numbers, argument, how: "any" of the bits must be set, or "none", or the value must be "one of" these
    "clone": ((56, 220), 0, "any", (CLONE_THREAD,)),
    "open": ((2, None), 1, "none", (OPEN_WRITES,)),
    "openat": ((257, 56), 2, "none", (OPEN_WRITES,)),
    "ioctl": ((16, 29), 1, "one of", QUERIES),
    "prlimit64": ((302, 261), 0, "one of", (0,)),
    "tgkill": ((234, 131), 0, "one of", (OWN_PID,)),
}
UNKNOWN: dict[str, Numbers] = {"clone3": (435, 435)}  # glibc then takes clone, whose flags can be seen
EPERM, ENOSYS = 1, 38


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


# seccomp: a program of the classic Berkeley packet filter over (number, architecture, arguments) of a system call

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL_PROCESS, ALLOW, ERROR = 0x80000000, 0x7FFF0000, 0x00050000
X32 = 0x40000000


def program(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """The filter for a machine as (code, jump if true, jump if false, value); KeyError for a machine without tables."""
    architecture, column = MACHINES[machine]
    lines = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL_PROCESS), (LOAD, 0, 0, 0)]
    if machine == "x86_64":
        lines += [(JUMP_AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL_PROCESS)]
    for answer, table in ((ALLOW, ALLOWED), (ERROR | ENOSYS, UNKNOWN)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, answer)]
    for numbers, argument, how, values in CHECKED.values():
        number = numbers[column]
        if number is None:
            continue
        inside = [(LOAD, 0, 0, 16 + 8 * argument)]  # the low half, little-endian: all that an int or these flags fill
        for value in values:
            if how == "one of":
                inside += [(JUMP_EQUAL, 0, 1, pid if value == OWN_PID else value), (RETURN, 0, 0, ALLOW)]
            elif how == "any":
                inside += [(JUMP_ANY_BIT, 0, 1, value), (RETURN, 0, 0, ALLOW)]
            else:
                inside += [(JUMP_ANY_BIT, 1, 0, value), (RETURN, 0, 0, ALLOW)]
        inside.append((RETURN, 0, 0, ERROR | EPERM))
        lines += [(JUMP_EQUAL, 0, len(inside), number), *inside]
    return [*lines, (RETURN, 0, 0, ERROR | EPERM)]


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
