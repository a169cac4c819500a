"""Serve as the process that explains. It has limits; if it dies, points and results stand.

    python -I -B helper.py ROOT PACKAGES

It runs no code of a submission, but reads arrays and programs that a submission chose. `explain` is the other side.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import resource

MEMORY = 1536 * 1024 * 1024  # bytes of address space
SECONDS = 30.0  # of processor time for one request


def limit() -> None:
    """Limit this process's memory, where the system can. It writes no file and leaves no core."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time() -> None:
    """Let the kernel end this process when the next request takes too long."""
    if sys.platform != "win32":
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime + SECONDS) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


@lru_cache(maxsize=1)
def homework(folder: str) -> Any:
    """Return the homework of a folder."""
    from autograder.homeworks.folder import load_homework

    return load_homework(Path(folder))


def answered(request: Mapping[str, Any]) -> bytes:
    """Return the reply to a request, as a frame."""
    from autograder.feedback import exchange
    from autograder.feedback.diagnose import diagnoses
    from autograder.sandbox.frames import encode
    from autograder.submission.similarity import fingerprints, regions

    if "explain" in request:
        message = request["explain"]
        return exchange.answer(diagnoses(message["homework"], exchange.unpacked(message)))
    sources = {module: text.tobytes().decode() for module, text in request["sources"].items()}
    return encode({"id": 0, "prints": sorted(fingerprints(regions(homework(request["folder"]), sources)))})


def main() -> None:
    """Answer requests until there are no more."""
    from autograder.sandbox.child import watched
    from autograder.sandbox.entry import take_pipes
    from autograder.sandbox.frames import send

    requests, replies = take_pipes()
    limit()
    limit_time()
    for request in watched(requests):
        send(replies, answered(request))
        limit_time()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    sys.path.append(sys.argv[2])
    main()
