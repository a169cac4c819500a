"""Create the folder of a session's workers: locked while in use, and removed afterwards, even after a kill."""

from __future__ import annotations

import compileall
import contextlib
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

from autograder.homeworks.homework import ROOT, Handout
from autograder.sandbox import cgroups

if sys.platform != "win32":
    import fcntl

PREFIX = "minipeft-grading-"  # of the folders in which workers live
SECONDS_TO_LOCK = 60.0  # after which a folder without a lock belongs to nobody
SECONDS_TO_REMOVE = 2.0  # on Windows a file may be in use for a moment after its process has ended
SIDE = (  # of the autograder, in the folder that workers read
    "__init__.py",
    *(
        f"sandbox/{name}.py"
        for name in ("__init__", "entry", "child", "copies", "frames", "layouts", "remote", "values")
    ),
    *(f"sandbox/{name}.py" for name in ("child_limits", "namespaces", "system_calls")),
)


class Workspace:
    """A new folder that no other grader removes while this process lives."""

    def __init__(self) -> None:
        remove_stale()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = _locked(self.folder)

    def close(self) -> None:
        """Remove the folder. Harmless when called again."""
        if self._lock >= 0:
            os.close(self._lock)  # first: Windows removes no open file
            self._lock = -1
            remove(self.folder)


def _locked(folder: Path) -> int:
    """Create the lock of a folder and return it: a file that exists only while it is held."""
    if sys.platform == "win32":  # where nobody can remove a file that is open
        lock = os.open(folder / "lock", os.O_CREAT | os.O_EXCL)
    else:
        lock = os.open(folder / "lock.new", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(folder / "lock.new", folder / "lock")
    return lock


def remove_stale() -> None:
    """Remove the folders of graders that were killed: those of this user whose lock nobody holds, or that have none.

    So are their control groups.
    """
    if sys.platform == "linux":
        cgroups.remove_stale()
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, of another user, or another grader removes it
            known = folder.lstat()
            if not stat.S_ISDIR(known.st_mode) or not _ours(known):
                continue
            try:
                _release(folder / "lock")
            except FileNotFoundError:
                if time.time() - known.st_mtime <= SECONDS_TO_LOCK:
                    continue
            shutil.rmtree(folder, ignore_errors=True)


def _ours(known: os.stat_result) -> bool:
    return sys.platform == "win32" or known.st_uid == os.geteuid()


def _release(path: Path) -> None:
    """Raise FileNotFoundError if there is no lock, another OSError if somebody holds it."""
    if sys.platform == "win32":
        path.unlink()
    else:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(lock)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it; again for two seconds if something in it is in use."""
    until = time.monotonic() + SECONDS_TO_REMOVE
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def environment(scratch: Path) -> dict[str, str]:
    """Return the whole environment of a worker, which is the same for public and for hidden cases."""
    found = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if sys.platform == "win32":  # where Python does not start without SYSTEMROOT, nor some NumPy without PATH
        found |= {name: os.environ[name] for name in ("SYSTEMROOT", "PATH") if name in os.environ}
        found |= dict.fromkeys(("TEMP", "TMP", "USERPROFILE"), str(scratch))
    else:
        found |= {"PATH": "/usr/bin:/bin", "HOME": str(scratch), "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}
    return found


def lay_out(handout: Handout, library: Path, drivers: bool) -> Path:
    """Write what all workers of a homework read: the library without the answers, and their part of the grader.

    Returns the folder that a worker reads in which only backwards run.

    drivers: whether drivers run in a worker.
    """
    for path, text in handout.library.items():
        place = library / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
    side = Path(__file__).parent.parent
    name = handout.homework.name
    own = ("__init__", "driver", f"{name}/__init__", f"{name}/drivers") if drivers else ()
    for name in (*SIDE, *(f"homeworks/{file}.py" for file in own)):
        place = library / "autograder" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(side / name, place)
    compileall.compile_dir(library, quiet=2, workers=1)
    open_to_read(library)
    if drivers or not handout.backward:
        return library
    shutil.copytree(library, other := library.with_name("library-backward"))
    for path, text in handout.backward.items():
        (other / path).write_text(text, "utf-8")
        for compiled in (other / path).parent.glob(f"__pycache__/{Path(path).stem}.*"):
            compiled.unlink()
    return other


def copy_library(library: Path) -> None:
    """Write what the trusted worker reads: the library with its answers, and the autograder."""
    for package in ("minipeft", "autograder"):
        shutil.copytree(ROOT / package, library / package, ignore=shutil.ignore_patterns("attacks"))
    open_to_read(library)


def open_to_read(library: Path) -> None:
    """Let any user read a folder that is reached by nobody but its worker."""
    for path in (library, *library.rglob("*")):
        executable = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH if path.is_dir() else 0
        path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH | executable)
