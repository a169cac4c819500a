"""A stand-in for Windows: what Windows lacks is taken from our code, in this process and in every one that it starts.

    python tests/windows.py -m autograder check hw6_lora
    python tests/windows.py program.py

Our code (minipeft, autograder, homework, what is run) sees ``sys.platform == "win32"``. It finds no module and no name
of POSIX, no /proc, starts no program but Python, and gets the errors of Windows for a rename onto a file, a folder
opened as a file, an open file removed, a link, `select` on a pipe. Python's own library and other packages keep what
they have here: they would take other ways on Windows. Text is ASCII unless a program names its encoding, which is
stricter than cp1252. What cannot be shown here: the console, backslashes in paths, and Windows' own bugs.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import types
import warnings

OURS = {"minipeft", "autograder", "homework", "conftest", "test_public", "__main__"}
MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "pty", "tty", "syslog", "posix", "_posixsubprocess"}
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
}
POSIX_ONLY = ("pass_fds", "start_new_session", "preexec_fn", "user", "group", "extra_groups", "umask", "process_group")
PLACES = ("/proc", "/sys", "/dev/shm")
ACCESS_VIOLATION = 0xC0000005


def ours(depth: int = 2) -> bool:
    """Whether the frame that called the caller of this function is of our code."""
    found = sys._getframe(depth).f_globals
    return found is not globals() and found.get("__name__", "").partition(".")[0] in OURS


def hide(module: types.ModuleType, names: set[str], other: dict[str, object]) -> None:
    """Let our code miss ``names`` in a module, and find ``other`` in it."""

    class Windows(types.ModuleType):
        def __getattribute__(self, name: str) -> object:
            if name in names and ours():
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r} on Windows")
            if name in other and ours():
                return other[name]
            return types.ModuleType.__getattribute__(self, name)

    module.__class__ = Windows


def no_posix_modules() -> None:
    real = builtins.__import__

    def importing(name, globals=None, locals=None, fromlist=(), level=0):
        if name in MODULES and str((globals or {}).get("__name__", "")).partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = importing
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.setmode = lambda fd, flags: os.fstat(fd) and flags  # type: ignore[attr-defined]
    real_subprocess = subprocess  # was imported before: it would take msvcrt for a sign of Windows
    assert real_subprocess
    sys.modules["msvcrt"] = msvcrt


def denied(code: int, text: str, path: object) -> OSError:
    return OSError(code, text, str(path))


def is_open(path: object, dir_fd: int | None = None) -> bool:
    """Whether this process has the file open."""
    try:
        there = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)  # type: ignore[arg-type]
    except OSError:
        return False
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            if os.path.samestat(os.fstat(int(name)), there) and stat.S_ISREG(there.st_mode):
                return True
        except OSError:
            continue
    return False


def files_of_windows() -> None:
    real_unlink, real_rename, real_replace, real_open, real_io = os.unlink, os.rename, os.replace, os.open, io.open
    real_stat = os.stat
    watching = OURS | {"shutil", "pathlib"}

    def watched() -> bool:
        return sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] in watching

    def unlink(path, *, dir_fd=None):
        if watched() and is_open(path, dir_fd):
            raise denied(errno.EACCES, "The process cannot access the file because it is being used", path)
        real_unlink(path, dir_fd=dir_fd)

    def rename(source, target, **fds):
        if watched() and os.path.lexists(target):
            raise denied(errno.EEXIST, "Cannot create a file when that file already exists", target)
        if watched() and is_open(source):
            raise denied(errno.EACCES, "The process cannot access the file because it is being used", source)
        real_rename(source, target, **fds)

    def replace(source, target, **fds):
        if watched():
            if os.path.isdir(target):
                raise denied(errno.EACCES, "Access is denied", target)
            for path in (source, target):
                if is_open(path):
                    raise denied(errno.EACCES, "The process cannot access the file because it is being used", path)
        real_replace(source, target, **fds)

    def opened(path, flags, mode=0o777, *, dir_fd=None):
        if watched() and os.path.isdir(path) and dir_fd is None and sys._getframe(1).f_globals["__name__"] != "shutil":
            raise denied(errno.EACCES, "Permission denied", path)
        return real_open(path, flags, mode, dir_fd=dir_fd)

    def io_opened(file, *args, **options):
        if isinstance(file, (str, os.PathLike)) and str(file).startswith(PLACES) and watched():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(file))
        return real_io(file, *args, **options)

    def status(path, *args, **options):
        if watched() and isinstance(path, (str, os.PathLike)) and str(path).startswith(PLACES):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return real_stat(path, *args, **options)

    def no_link(*args, **options):
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    os.unlink = os.remove = unlink
    os.stat = status
    os.rename, os.replace, os.open, os.symlink = rename, replace, opened, no_link
    io.open = builtins.open = io_opened


def no_select_on_pipes() -> None:
    base = selectors._BaseSelectorImpl  # type: ignore[attr-defined]
    real = base.register

    def register(self, fileobj, events, data=None):
        key = real(self, fileobj, events, data)
        frame = sys._getframe(1)
        while frame.f_globals["__name__"] == "selectors":
            frame = frame.f_back
        if frame.f_globals["__name__"] != "subprocess" and not stat.S_ISSOCK(os.fstat(key.fd).st_mode):
            raise OSError(10038, "An operation was attempted on something that is not a socket")
        return key

    base.register = register


class Popen(subprocess.Popen):
    """`subprocess.Popen` as on Windows: no argument of POSIX, no signal as exit status, Python under the stand-in."""

    def __init__(self, args, *positional, **options):
        if ours():
            for name in POSIX_ONLY:
                if options.get(name):
                    raise ValueError(f"{name} is not supported on Windows platforms")
        options.pop("creationflags", None)
        command = [args] if isinstance(args, (str, os.PathLike)) else list(args)
        if os.fspath(command[0]) != sys.executable:
            raise FileNotFoundError(errno.ENOENT, "The system cannot find the file specified", str(command[0]))
        env = dict(os.environ if options.get("env") is None else options["env"])
        if "SYSTEMROOT" not in env:
            raise OSError(87, "The parameter is incorrect: Python cannot start without SYSTEMROOT")
        env["LC_ALL"] = "C"
        options["env"] = env
        super().__init__(wrapped(command), *positional, **options)

    def _handle_exitstatus(self, *args, **options):
        super()._handle_exitstatus(*args, **options)
        if self.returncode is not None and self.returncode < 0:
            crash = -self.returncode in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)
            self.returncode = ACCESS_VIOLATION if crash else 1


def wrapped(command: list[object]) -> list[str]:
    """The command of a Python that runs under this file, too."""
    words = [os.fspath(word) for word in command]  # type: ignore[call-overload]
    at = 1
    options = []
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c"):
        options += words[at : at + 2] if words[at] in ("-X", "-W") else words[at : at + 1]
        at = 1 + len(options)
    utf8 = ["-X", "utf8=0"] if "utf8" not in options else []
    return [words[0], *options, *utf8, __file__, *words[at:]]


def install() -> None:
    """Make this process one of Windows, as far as our code sees."""
    hide(sys, set(), {"platform": "win32"})
    for name, names in NAMES.items():
        hide(__import__(name), set(names.split()), {"name": "nt", "O_BINARY": 0x8000} if name == "os" else {})
    assert socket
    no_posix_modules()
    files_of_windows()
    no_select_on_pipes()
    subprocess.Popen = Popen  # type: ignore[misc]


def main(arguments: list[str]) -> None:
    """Run ``-m MODULE``, ``-c PROGRAM`` or a file, with the arguments after it."""
    import runpy

    install()
    if arguments[0] == "-m":
        sys.argv = [arguments[1], *arguments[2:]]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    warnings.simplefilter("default")
    main(sys.argv[1:])
