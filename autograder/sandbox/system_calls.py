"""The system calls that a confined worker may make, and the seccomp filter that allows them and no others.

Two workers that run at the same time must have no way to tell each other anything. So there is no lock on a file, no
futex that another process can wait for, no clock and no number of another process, and no count of what the machine
does. What a filter cannot see is a path: `stat` and `readlink` reach what the mount namespace has (`namespaces`).
"""

from __future__ import annotations

Numbers = tuple[int | None, int | None]  # of a system call, on each machine; None where it has none
Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value
Test = tuple[int, str, tuple[int, ...]]  # argument; "any" or "none" of these bits, or "one of" these values; values

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_…, column of the tables below
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL_PROCESS, ALLOW, ERROR = 0x80000000, 0x7FFF0000, 0x00050000
EPERM, EAGAIN, ENOSYS = 1, 11, 38
X32 = 0x40000000

SPECIAL: dict[str, Numbers] = {"seccomp": (317, 277)}
ALLOWED: dict[str, Numbers] = {  # by name, the number on x86-64 and on aarch64
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "lseek": (8, 62),
    "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "stat": (4, None),
    "lstat": (6, None), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "getdents64": (217, 61),
    "getdents": (78, None),
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214),
    "sched_yield": (24, 124), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "arch_prctl": (158, None), "exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "alarm": (37, None),
    "setitimer": (38, 103), "getitimer": (36, 102),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None),
    "getrandom": (318, 278), "getrlimit": (97, 163), "getrusage": (98, 165), "uname": (63, 160), "getcpu": (309, 168),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "epoll_wait": (232, None), "eventfd2": (290, 19),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "pause": (34, None),
}  # fmt: skip
UNKNOWN: dict[str, Numbers] = {"clone3": (435, 435)}  # glibc then takes clone, whose flags can be seen

OWN_PID = -1  # stands for the number of the process
CLONE_THREAD, CLONE_NAMESPACES = 0x10000, 0x7E020000
OPEN_WRITES = 0o3 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC: the same numbers on both machines
QUERIES = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
DESCRIPTOR = (0, 1030, 1, 2, 3)  # F_DUPFD F_DUPFD_CLOEXEC F_GETFD F_SETFD F_GETFL: no lock, lease, owner or signal
F_SETFL, O_ASYNC = 4, 0o20000
FUTEX_PRIVATE = 128  # the futex is of this process only
SHARED_WAIT = (0, 9, 256 | 9)  # FUTEX_WAIT, FUTEX_WAIT_BITSET, the latter with FUTEX_CLOCK_REALTIME
OF_A_PROCESS = 0x80000000  # the sign of a clock's number: the CPU clock of a process or thread that it names
OWN_CLOCKS: tuple[Test, ...] = ((0, "none", (OF_A_PROCESS,)),)
CHECKED: dict[str, tuple[Numbers, dict[tuple[Test, ...], int]]] = {  # the answer by tests that must all hold, or EPERM
    "clone": ((56, 220), {((0, "any", (CLONE_THREAD,)), (0, "none", (CLONE_NAMESPACES,))): ALLOW}),
    "open": ((2, None), {((1, "none", (OPEN_WRITES,)),): ALLOW}),
    "openat": ((257, 56), {((2, "none", (OPEN_WRITES,)),): ALLOW}),
    "ioctl": ((16, 29), {((1, "one of", QUERIES),): ALLOW}),
    "fcntl": (
        (72, 25),
        {((1, "one of", DESCRIPTOR),): ALLOW, ((1, "one of", (F_SETFL,)), (2, "none", (O_ASYNC,))): ALLOW},
    ),
    "futex": (  # pthread_join waits for a shared one, which the kernel wakes: told to try again, it does
        (202, 98),
        {((1, "any", (FUTEX_PRIVATE,)),): ALLOW, ((1, "one of", SHARED_WAIT),): ERROR | EAGAIN},
    ),
    "clock_gettime": ((228, 113), {OWN_CLOCKS: ALLOW}),
    "clock_getres": ((229, 114), {OWN_CLOCKS: ALLOW}),
    "clock_nanosleep": ((230, 115), {OWN_CLOCKS: ALLOW}),
    "sched_getaffinity": ((204, 123), {((0, "one of", (0, OWN_PID)),): ALLOW}),
    "prlimit64": ((302, 261), {((0, "one of", (0,)),): ALLOW}),
    "tgkill": ((234, 131), {((0, "one of", (OWN_PID,)),): ALLOW}),
}


def program(machine: str, pid: int) -> list[Instruction]:
    """Return the filter for a machine: classic Berkeley packet filter code over (number, architecture, arguments).

    Raises KeyError for a machine without tables.
    """
    architecture, column = MACHINES[machine]
    lines: list[Instruction] = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL_PROCESS)]
    lines.append((LOAD, 0, 0, 0))
    if machine == "x86_64":
        lines += [(JUMP_AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL_PROCESS)]
    for answer, table in ((ALLOW, ALLOWED), (ERROR | ENOSYS, UNKNOWN)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, answer)]
    for numbers, answers in CHECKED.values():
        number = numbers[column]
        if number is not None:
            inside = [line for tests, answer in answers.items() for line in checks(tests, answer, pid)]
            inside.append((RETURN, 0, 0, ERROR | EPERM))
            lines += [(JUMP_EQUAL, 0, len(inside), number), *inside]
    return [*lines, (RETURN, 0, 0, ERROR | EPERM)]


def checks(tests: tuple[Test, ...], answer: int, pid: int) -> list[Instruction]:
    """Return code that gives the answer if all tests hold, and goes on behind itself otherwise."""
    lines: list[Instruction] = [(RETURN, 0, 0, answer)]
    for argument, how, values in reversed(tests):
        past = len(lines)  # instructions to jump over if the test fails
        test: list[Instruction] = [(LOAD, 0, 0, 16 + 8 * argument)]  # the low half: an int or these flags fill no more
        if how == "one of":
            for left in range(len(values) - 1, -1, -1):
                value = values[len(values) - 1 - left]
                test.append((JUMP_EQUAL, left, 0 if left else past, pid if value == OWN_PID else value))
        elif how == "any":
            test.append((JUMP_ANY_BIT, 0, past, values[0]))
        else:
            test.append((JUMP_ANY_BIT, past, 0, values[0]))
        lines = test + lines
    return lines
