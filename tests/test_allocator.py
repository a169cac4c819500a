"""Freed memory that stays with the process, each case in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from minipeft.backend import allocator

CODE = """
import json, resource, sys
import numpy as np
from minipeft.backend import give_back, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1])

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
counts = []
for _ in range(4):
    before = faults()
    arrays = [np.ones(2**18) for _ in range(32)]  # 64 MB, in blocks too small for huge pages
    del arrays
    counts.append(faults() - before)
before = resident()
give_back()
print(json.dumps([kept, counts[-1], before - resident()]))
"""
PAGES = 64 * 2**20 // 4096
glibc = pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc")


def run(mode, **settings):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | settings
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout)


@glibc
def test_freed_arrays_are_used_again_and_given_back_when_asked():
    kept, faults, returned = run("keep")
    assert kept is True
    assert faults < PAGES / 10
    assert returned > PAGES / 2


@glibc
def test_without_it_the_system_gives_new_memory_each_time():
    # a fixed threshold: otherwise glibc raises its own, up to 32 MB, when a block is freed
    assert run("leave", MALLOC_MMAP_THRESHOLD_=str(2**20))[1] > PAGES / 2


@glibc
def test_a_setting_of_the_environment_is_left_alone():
    kept, faults, _ = run("keep", MALLOC_MMAP_THRESHOLD_=str(2**20))
    assert kept is False
    assert faults > PAGES / 2


def test_without_glibc_nothing_is_changed(monkeypatch):
    class Musl:
        pass

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Musl())
    allocator._glibc.cache_clear()
    allocator.keep_freed_memory.cache_clear()
    try:
        assert allocator.keep_freed_memory() is False
        allocator.give_back()
    finally:
        allocator._glibc.cache_clear()
        allocator.keep_freed_memory.cache_clear()
