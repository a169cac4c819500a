"""Freed memory stays with the process: the next training step takes it again.

The arrays of a step have the sizes of those of the step before. By default glibc hands large blocks back to the system
when they are freed, and a new block costs a page fault for every 4 kB that are touched first: a tenth to a quarter of a
step of a small Transformer (`minipeft bench allocator`).
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt(3)
LARGEST = 32 << 20  # bytes: the largest M_MMAP_THRESHOLD that every version of glibc takes


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks of up to 32 MB, in the whole process and from now on; `give_back` returns them.

    Returns False, and changes nothing, without glibc (macOS, Windows, musl), and where the environment has a setting of
    its own (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``).
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    library = None if chosen else _glibc()
    if library is None:
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    return all(library.mallopt(name, value) == 1 for name, value in settings)


def give_back() -> None:
    """Return free memory to the system; without glibc, do nothing."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
