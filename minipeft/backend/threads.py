"""Threads of array operations, and how many share the work."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import lru_cache, partial
from typing import Any, TypeVar

ENOUGH_BLOCKS = 16  # with fewer, starting a thread takes longer than it saves

Result = TypeVar("Result")

_thread_count: ContextVar[int] = ContextVar("thread_count", default=1)


@contextmanager
def quick_handover() -> Iterator[None]:
    """Python's lock is handed over after 10 µs inside, in all threads, and as before afterwards.

    Threads of array operations want it every 10 to 100 µs; at the usual 5 ms a thread that has just given the lock away
    takes it again before the other has woken up.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@lru_cache
def _threads(n: int) -> ThreadPoolExecutor:
    """So many threads, the same at every call, each of which uses again the memory that it has freed.

    The C library gives new threads new places to allocate in, and keeps what was freed in the old ones: with threads
    made for every step the process would grow step by step.
    """
    return ThreadPoolExecutor(n, thread_name_prefix=f"minipeft-{n}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not come along


def side_by_side(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of all calls, made at the same time, one thread each, in the context of the caller.

    None of them may call this again. What the first of them, in the order of ``calls``, raises is raised once all have
    ended.
    """
    with quick_handover():
        jobs = [_threads(len(calls)).submit(copy_context().run, call) for call in calls]
        wait(jobs)
        return [job.result() for job in jobs]


@contextmanager
def use_threads(n: int) -> Iterator[None]:
    """Let `block_threads` return up to n inside (in this thread)."""
    token = _thread_count.set(n)
    try:
        yield
    finally:
        _thread_count.reset(token)


def block_threads(blocks: Sequence[Any]) -> int:
    """Return how many threads should share the blocks: those of `use_threads`, or 1 if there are few blocks."""
    return _thread_count.get() if len(blocks) >= ENOUGH_BLOCKS else 1


def in_threads(work: Callable[[Sequence[Any]], None], items: Sequence[Any], threads: int) -> None:
    """``work`` on ``items``, cut into as many runs of neighbours as there are threads, one run a thread."""
    if threads == 1:
        work(items)
        return
    cuts = [len(items) * i // threads for i in range(threads + 1)]
    side_by_side([partial(work, items[a:b]) for a, b in itertools.pairwise(cuts)])
