"""A process as in a container with Docker's defaults, which is what Gradescope runs a grader in: root that may not do
what Docker takes from it, half a core, 768 MB.

    with cell() as places:
        subprocess.run(command, preexec_fn=lambda: contain(places))

The capabilities and the system calls are those of Docker's default profile (docs.docker.com/engine/security/seccomp).
The kernel is the one here; of what it may have beyond Gradescope's, Landlock is taken away as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

assert sys.platform == "linux"

from autograder.sandbox.child_limits import SECCOMP_SET_MODE_FILTER, ConfineError
from autograder.sandbox.system_calls import (
    ALLOW,
    EPERM,
    ERROR,
    JUMP_ANY_BIT,
    JUMP_EQUAL,
    LOAD,
    MACHINES,
    RETURN,
    SPECIAL,
    UNKNOWN,
    Numbers,
)
from autograder.sandbox.system_calls import ENOSYS as NO_SUCH_CALL

KEPT = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}  # capabilities that Docker leaves to root
PR_CAPBSET_DROP, LAST_CAPABILITY = 24, 40
CAPABILITY_VERSION_3 = 0x20080522
MEMORY = 768 << 20
CORES = 0.5
LANDLOCK = (444, 445, 446)  # the same numbers on both machines
PERIOD = 100_000  # microseconds in which the share of a core is counted
DENIED: dict[str, Numbers] = {  # by name, the number on x86-64 and on aarch64
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "clock_adjtime": (305, 266),
    "clock_settime": (227, 112), "create_module": (174, None), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "get_mempolicy": (239, 236), "init_module": (175, 105),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18), "mbind": (237, 235),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239),
    "nfsservctl": (180, 42), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "pivot_root": (155, 41), "quotactl": (179, 60), "reboot": (169, 142),
    "request_key": (249, 218), "set_mempolicy": (238, 237), "setns": (308, 268), "settimeofday": (164, 170),
    "swapoff": (168, 225), "swapon": (167, 224), "sysfs": (139, None), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282),
    "ustat": (136, None),
}  # fmt: skip
CLONE: Numbers = (56, 220)
NAMESPACES = 0x7E020000  # CLONE_NEW…


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def denials(machine: str) -> list[tuple[int, int, int, int]]:
    """Docker's denials as a filter, in the form of `system_calls.program`."""
    _, column = MACHINES[machine]
    lines = [(LOAD, 0, 0, 0)]
    for answer, table in ((EPERM, DENIED), (NO_SUCH_CALL, UNKNOWN)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ERROR | answer)]
    for number in LANDLOCK:  # the kernel below a container may have none
        lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ERROR | NO_SUCH_CALL)]
    clone = CLONE[column]
    assert clone is not None
    lines += [(JUMP_EQUAL, 0, 3, clone), (LOAD, 0, 0, 16), (JUMP_ANY_BIT, 0, 1, NAMESPACES)]
    return [*lines, (RETURN, 0, 0, ERROR | EPERM), (RETURN, 0, 0, ALLOW)]


def contain(places: Sequence[Path] = ()) -> None:
    """Give up, for good, what root has not in a container; as root alone. places: from `cell`.

    OSError and ConfineError where it cannot be done.
    """
    for place in places:
        place.write_text(str(os.getpid()), "ascii")
    if not places:  # a control group counts the memory that is used, as a container does; this counts what is reserved
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    libc = ctypes.CDLL(None, use_errno=True)
    machine = platform.machine()
    if machine not in MACHINES:
        raise ConfineError(f"there is no table of system calls for {machine}")
    lines = denials(machine)  # put in force while there still is the capability for it, as Docker does
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    pointer = struct.pack("=HxxxxxxQ", len(lines), ctypes.addressof(code))
    if libc.syscall(SPECIAL["seccomp"][MACHINES[machine][1]], SECCOMP_SET_MODE_FILTER, 0, pointer):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
    for capability in set(range(LAST_CAPABILITY + 1)) - KEPT:
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    low = sum(1 << c for c in KEPT)
    data = (_Data * 2)(_Data(low, low, 0), _Data(0, 0, 0))
    if libc.capset(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), data):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def cell() -> Iterator[list[Path]]:
    """Control groups with half a core and 768 MB: the files that a process puts its number into. Empty where this
    machine lets nobody make such groups; they are removed at the end, when no process is in them."""
    top = Path("/sys/fs/cgroup")
    limits = {
        top / "cpu": {"cpu.cfs_period_us": f"{PERIOD}", "cpu.cfs_quota_us": f"{int(PERIOD * CORES)}"},
        top / "memory": {"memory.limit_in_bytes": f"{MEMORY}"},
    }
    if (top / "cgroup.controllers").is_file():
        limits = {top: {"cpu.max": f"{int(PERIOD * CORES)} {PERIOD}", "memory.max": f"{MEMORY}"}}
    made = []
    for folder, values in limits.items():
        with contextlib.suppress(OSError):
            group = Path(tempfile.mkdtemp(prefix="minipeft-cell-", dir=folder))
            made.append(group)
            for name, value in values.items():
                (group / name).write_text(value, "ascii")
    try:
        yield [group / "cgroup.procs" for group in made]
    finally:
        for group in made:
            with contextlib.suppress(OSError):
                group.rmdir()
