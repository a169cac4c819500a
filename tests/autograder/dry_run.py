"""A dry run of an autograder.zip as Gradescope would: root with a container's default capabilities, denied what its
seccomp profile denies, 768 MB, and half a core where that can be had.

    python tests/autograder/dry_run.py ROOT SUBMISSION AUTOGRADER_ZIP

ROOT becomes what /autograder is there. Prints where the results are; exits as the grader does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from autograder.selftest.attacks.container import cell, contain

CONTAINER = """
import sys
sys.path.insert(0, {source!r})
sys.path += {packages!r}
from autograder.course.gradescope import main
sys.exit(main({root!r}))
"""


def lay_out(root: Path, submission: Path, archive: Path) -> None:
    """The folders as Gradescope makes them."""
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(root / "source")
    (root / "source").chmod(0o700)
    shutil.copytree(submission, root / "submission")
    (root / "results").mkdir(mode=0o700)


def run(root: Path) -> subprocess.CompletedProcess[str]:
    """What run_autograder does, contained, in a fresh interpreter that finds no other copy of the library (-S)."""
    packages = [p for p in sys.path if p.endswith("site-packages")]
    code = CONTAINER.format(source=str(root / "source"), root=str(root), packages=packages)
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    with cell() as places:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", preexec_fn=lambda: contain(places)
        )


if __name__ == "__main__":
    where = Path(sys.argv[1])
    lay_out(where, Path(sys.argv[2]), Path(sys.argv[3]))
    done = run(where)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    print(where / "results" / "results.json")
    sys.exit(done.returncode)
