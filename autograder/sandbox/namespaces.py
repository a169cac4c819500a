"""Hide other processes, the network and most files from a worker, by its own namespaces.

None of them is required, because they are not available everywhere: neither to root in a container, nor to users on
some systems. This file is copied to the worker, so it imports nothing else of the autograder.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

assert sys.platform == "linux"

CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID = 0x10000000, 0x20000, 0x20000000
SIMPLE = {"ipc_ns": 0x08000000, "net_ns": 0x40000000, "uts_ns": 0x04000000}  # of these a new one is all that is needed
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
PR_SET_PDEATHSIG = 1


def checked(done: int, what: str) -> None:
    """Raise OSError if a call of the C library did not return 0."""
    if done != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def unshare(libc: Any, flag: int) -> str:
    """Enter a new namespace."""
    checked(libc.unshare(flag), "unshare")
    return "yes"


def user(libc: Any) -> str:
    """Enter a new user namespace with the same user numbers, in which a user may create the other namespaces."""
    uid, gid = os.getuid(), os.getgid()
    unshare(libc, CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(text, "ascii")
    return "yes"


def minimal_root(libc: Any, at: str, read: Sequence[str], hidden: Sequence[str]) -> str:
    """Mount a new root that holds only the folders to read, so that nothing else has a path.

    Args:
        libc: the C library.
        at: an empty folder.
        read: the folders, which are the same and read-only in the new root.
        hidden: folders in them that are empty in the new root.
    """
    here = os.getcwd()
    _mount(libc, "none", "/", None, MS_REC | MS_PRIVATE)
    _mount(libc, "tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in sorted({*read, *hidden}):  # a folder before what is in it
        os.makedirs(at + path, exist_ok=True)
        if path in hidden:
            _mount(libc, "tmpfs", at + path, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755")
        else:
            _mount(libc, path, at + path, None, MS_BIND | MS_REC)
    read_only = struct.pack("=QQQQ", MS_RDONLY, 0, 0, 0)
    target = ctypes.c_char_p(os.fsencode(at))
    size = ctypes.c_size_t(len(read_only))
    checked(libc.syscall(MOUNT_SETATTR, AT_FDCWD, target, AT_RECURSIVE, read_only, size), "mount_setattr")
    os.chdir(at)
    checked(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    checked(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")
    os.chdir(here)
    return "yes"


def _mount(libc: Any, source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    made = libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else os.fsencode(kind),
        ctypes.c_ulong(flags),
        os.fsencode(options),
    )
    checked(made, f"mount {target}")


def first_process(libc: Any) -> str:
    """Continue as the first process of the new PID namespace. The old process waits for it, and ends as it ends."""
    alive, held = os.pipe()
    child = os.fork()
    if child:
        os.closerange(0, held)
        os.closerange(held + 1, 4096)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            with contextlib.suppress(OSError):  # SIGKILL has no handler
                signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
            os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(held)
    checked(libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl")
    if select.select([alive], [], [], 0)[0] or os.getpid() != 1:
        raise OSError("the process that waits for this one is gone")
    os.close(alive)
    return "yes"
