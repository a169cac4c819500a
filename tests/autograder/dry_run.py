"""A dry run of an autograder.zip as Gradescope would: root with a container's default capabilities, denied what its
seccomp profile denies, 768 MB of address space a process, and half a core where that can be had.

    python tests/autograder/dry_run.py ROOT SUBMISSION AUTOGRADER_ZIP

ROOT becomes what /autograder is there. Prints where the results are; exits as the grader does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

KEPT = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}  # capabilities that Docker leaves
PR_CAPBSET_DROP, LAST = 24, 40
MEMORY = 768 << 20
VERSION_3 = 0x20080522
CONTAINER = """
import sys
sys.path.insert(0, {source!r})
sys.path += {packages!r}
from autograder.gradescope import main
sys.exit(main({root!r}))
"""


class Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def contain() -> None:
    """Give up what root has not in a container."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in set(range(LAST + 1)) - KEPT:
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    low = sum(1 << c for c in KEPT)
    data = (Data * 2)(Data(low, low, 0), Data(0, 0, 0))
    if libc.capset(ctypes.byref(Header(VERSION_3, 0)), data):
        raise OSError(ctypes.get_errno(), "capset")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.nice(0)


def lay_out(root: Path, submission: Path, archive: Path) -> None:
    """The folders as Gradescope makes them."""
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(root / "source")
    (root / "source").chmod(0o700)
    shutil.copytree(submission, root / "submission")
    (root / "results").mkdir(mode=0o700)


def run(root: Path) -> subprocess.CompletedProcess[str]:
    """What run_autograder does, contained, in a fresh interpreter."""
    packages = [p for p in sys.path if p.endswith("site-packages")]
    code = CONTAINER.format(source=str(root / "source"), root=str(root), packages=packages)
    command = [sys.executable, "-I", "-B", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", preexec_fn=contain)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    lay_out(where, Path(sys.argv[2]), Path(sys.argv[3]))
    done = run(where)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    print(where / "results" / "results.json")
    sys.exit(done.returncode)
