"""A stand-in for Windows: what Windows lacks is taken from our code, in this process and in every one that it starts.

    python tests/windows.py -m autograder check hw6_lora
    python tests/windows.py program.py

Our code (minipeft, autograder, homework, the program that runs) sees ``sys.platform == "win32"``. It finds no module or
name of POSIX and no /proc, starts no program but Python, and gets the errors of Windows for a rename onto a file, a
folder opened as a file, an open file removed, a link, and `select` on a pipe. Python's own library and other packages
keep what they have here, since on Windows they do the same in other ways. Text is ASCII unless the code names its
encoding, which is stricter than cp1252. What it cannot show: the console, backslashes in paths, bugs of Windows.
"""

import builtins
import errno
import io
import os
import runpy
import selectors
import signal
import stat
import subprocess
import sys
import types
import warnings
from importlib import import_module

OURS = {"minipeft", "autograder", "homework", "conftest", "test_public", "__main__"}
OURS_OR_FOR_US = OURS | {"shutil", "pathlib"}
MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "pty", "tty", "syslog", "posix"}
NAMES = {
    "os": """fork forkpty killpg set_blocking get_blocking geteuid getuid getegid getgid getgroups getresuid getresgid
        setuid setgid setgroups setresuid setresgid setsid getsid getpgid getpgrp setpgid sysconf sched_getaffinity
        sched_yield chown lchown fchown fchmod mkfifo mknod uname nice getpriority setpriority WNOHANG O_NOFOLLOW
        O_NONBLOCK O_CLOEXEC O_DIRECTORY O_PATH O_SYNC O_DSYNC O_TMPFILE pidfd_open memfd_create statvfs ttyname
        posix_spawn posix_fadvise pread pwrite preadv sendfile wait WIFEXITED WIFSIGNALED WTERMSIG""",
    "signal": """SIGKILL SIGALRM SIGHUP SIGXCPU SIGXFSZ SIGPROF SIGVTALRM SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGQUIT
        SIGSTOP SIGCONT SIGTSTP SIGBUS ITIMER_REAL ITIMER_PROF ITIMER_VIRTUAL setitimer getitimer alarm pause
        siginterrupt pthread_sigmask pthread_kill sigwait""",
    "socket": "AF_UNIX",
    "select": "poll epoll",
    "selectors": "PollSelector EpollSelector",
    "time": "clock_gettime clock_getres tzset CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID",
    "sys": "",
}
OTHERWISE = {"sys": {"platform": "win32"}, "os": {"name": "nt", "O_BINARY": 0x8000}}
POSIX_ONLY = ("pass_fds", "start_new_session", "preexec_fn", "user", "group", "extra_groups", "umask", "process_group")
PLACES = ("/proc", "/sys", "/dev/shm")
ACCESS_VIOLATION = 0xC0000005
IN_USE = "The process cannot access the file because it is being used by another process"


def caller(depth=2):
    """The top-level package of the frame that called the caller; "" for this file."""
    found = sys._getframe(depth).f_globals
    return "" if found is globals() else found.get("__name__", "").partition(".")[0]


def hide(name):
    """Let our code miss the names of `NAMES` in a module, and find those of `OTHERWISE`."""
    module, hidden, other = import_module(name), set(NAMES[name].split()), OTHERWISE.get(name, {})

    class Windows(types.ModuleType):
        def __getattribute__(self, attribute):
            if (attribute in hidden or attribute in other) and caller() in OURS:
                if attribute in other:
                    return other[attribute]
                raise AttributeError(f"module {name!r} has no attribute {attribute!r} on Windows")
            return types.ModuleType.__getattribute__(self, attribute)

    module.__class__ = Windows


def hide_modules():
    """Let our code import no module of POSIX, and `msvcrt`."""
    real = builtins.__import__

    def importing(name, globals=None, locals=None, fromlist=(), level=0):
        if name in MODULES and (globals or {}).get("__name__", "").partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = importing
    sys.modules["msvcrt"] = types.ModuleType("msvcrt")  # subprocess, which looks for it, was imported before
    sys.modules["msvcrt"].setmode = lambda fd, flags: os.fstat(fd) and flags


def is_open(path, dir_fd=None):
    """Whether this process has the file open."""
    try:
        there = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return False
    for name in os.listdir("/dev/fd") if stat.S_ISREG(there.st_mode) else ():
        try:
            if os.path.samestat(os.fstat(int(name)), there):
                return True
        except OSError:  # the descriptor of the list itself
            continue
    return False


def no_place(path):
    if isinstance(path, (str, os.PathLike)) and str(path).startswith(PLACES):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))


def change_files():
    """Let functions for files raise what they raise on Windows, if our code, pathlib or shutil calls them."""
    real_unlink, real_rename, real_replace, real_open = os.unlink, os.rename, os.replace, os.open
    real_stat, real_io_open = os.stat, io.open

    def unlink(path, *, dir_fd=None):
        if caller() in OURS_OR_FOR_US and is_open(path, dir_fd):
            raise PermissionError(errno.EACCES, IN_USE, str(path))
        real_unlink(path, dir_fd=dir_fd)

    def rename(source, target, **fds):
        if caller() in OURS_OR_FOR_US:
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
            if is_open(source):
                raise PermissionError(errno.EACCES, IN_USE, str(source))
        real_rename(source, target, **fds)

    def replace(source, target, **fds):
        if caller() in OURS_OR_FOR_US:
            if os.path.isdir(target):
                raise PermissionError(errno.EACCES, "Access is denied", str(target))
            if is_open(source) or is_open(target):
                raise PermissionError(errno.EACCES, IN_USE, str(source), None, str(target))
        real_replace(source, target, **fds)

    def opened(path, flags, mode=0o777, *, dir_fd=None):
        if caller() in OURS | {"pathlib"} and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    def status(path, *args, **options):
        if caller() in OURS_OR_FOR_US:
            no_place(path)
        return real_stat(path, *args, **options)

    def file_opened(file, *args, **options):
        if caller() in OURS_OR_FOR_US:
            no_place(file)
        return real_io_open(file, *args, **options)

    def no_link(*args, **options):
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    os.unlink = os.remove = unlink
    os.rename, os.replace, os.open, os.stat, os.symlink = rename, replace, opened, status, no_link
    io.open = builtins.open = file_opened


def change_selectors():
    """Let a selector of our code take nothing but sockets."""
    base = selectors._BaseSelectorImpl
    real = base.register

    def register(self, fileobj, events, data=None):
        key = real(self, fileobj, events, data)
        depth = 1
        while caller(depth + 1) == "selectors":
            depth += 1
        if caller(depth + 1) in OURS and not stat.S_ISSOCK(os.fstat(key.fd).st_mode):
            raise OSError(10038, "An operation was attempted on something that is not a socket")
        return key

    base.register = register


class Popen(subprocess.Popen):
    """As on Windows: no argument of POSIX, no signal as exit status. A Python that it starts has the stand-in too."""

    def __init__(self, args, *positional, **options):
        for name in POSIX_ONLY:
            if options.get(name):
                raise ValueError(f"{name} is not supported on Windows platforms")
        command = [args] if isinstance(args, (str, os.PathLike)) else list(args)
        if os.fspath(command[0]) != sys.executable:
            raise FileNotFoundError(errno.ENOENT, "The system cannot find the file specified", str(command[0]))
        env = dict(os.environ if options.get("env") is None else options["env"])
        if "SYSTEMROOT" not in env:
            raise OSError(87, "The parameter is incorrect: Python does not start without SYSTEMROOT")
        options["env"] = {**env, "LC_ALL": "C"}
        super().__init__(wrapped(list(map(os.fspath, command))), *positional, **options)

    def _handle_exitstatus(self, *args, **options):
        super()._handle_exitstatus(*args, **options)
        if self.returncode is not None and self.returncode < 0:
            crashed = -self.returncode in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)
            self.returncode = ACCESS_VIOLATION if crashed else 1


def wrapped(words):
    """The command of a Python that runs under this file."""
    at = 1
    while words[at].startswith("-") and words[at] not in ("-m", "-c"):
        at += 2 if words[at] in ("-X", "-W") else 1
    utf8 = [] if "utf8" in words[:at] else ["-X", "utf8=0"]
    return [*words[:at], *utf8, __file__, *words[at:]]


def main(arguments):
    """Run ``-m MODULE``, ``-c PROGRAM`` or a file, with the arguments after it."""
    for name in NAMES:
        hide(name)
    hide_modules()
    change_files()
    change_selectors()
    subprocess.Popen = Popen
    kind, rest = (arguments[0], arguments[1:]) if arguments[0] in ("-m", "-c") else ("", arguments)
    sys.argv = ["-c", *rest[1:]] if kind == "-c" else rest
    sys.path[0] = os.path.dirname(os.path.abspath(rest[0])) if not kind else os.getcwd()
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    warnings.simplefilter("default")  # a file that is not closed cannot be removed on Windows
    main(sys.argv[1:])
