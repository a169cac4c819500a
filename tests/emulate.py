"""The kernels of a GPU, compiled for the host and run there, with real threads of a block taking turns.

A header gives CUDA's words a meaning in C++: each thread of a block is a context of its own (ucontext), which runs
until it waits for the others, in __syncthreads or a shuffle of its warp. So what one thread reads of another is what
it would read on a GPU if the waits are right, and a wait that some thread never comes to is an error. Blocks run one
by one.
The device "emulated" is the strict stand-in with these kernels, and with a batched product that follows cuBLAS's rules.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import strict

from minipeft.backend import Backend
from minipeft.backend.cuda import NULL

COMPILER = next((c for c in ("g++", "clang++") if shutil.which(c)), None)

HEADER = r"""
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>
#include <ucontext.h>
using std::exp; using std::erf; using std::tanh; using std::sqrt; using std::log;
#define __global__
#define __device__ static
#define __shared__ static
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

static const int STACK = 1 << 16;
static std::function<void()> body;
static ucontext_t scheduler;
static std::vector<ucontext_t> context;
static std::vector<char> stacks, done;
static std::vector<long> waits[2];  // how often each thread came to a wait of the block, of its warp
static std::vector<double> passed;
static bool diverged;

static void wait_for(int kind, int first, int last)
{
    int me = threadIdx.x;
    long mine = ++waits[kind][me];
    for (;;) {
        bool all = true;
        for (int t = first; t < last; ++t) {
            if (waits[kind][t] < mine) all = false;
            if (waits[kind][t] < mine && done[t]) diverged = true;
        }
        if (all || diverged) return;
        swapcontext(&context[me], &scheduler);
    }
}
static void __syncthreads() { wait_for(0, 0, blockDim.x); }
template <class V> static V __shfl_xor_sync(unsigned mask, V v, int step)
{
    if (mask != 0xffffffffu || blockDim.x % 32) diverged = true;
    int me = threadIdx.x, first = me / 32 * 32;
    passed[me] = v;
    wait_for(1, first, first + 32);
    V other = (V)passed[me ^ step];
    wait_for(1, first, first + 32);
    return other;
}
static void enter() { int me = threadIdx.x; body(); done[me] = 1; swapcontext(&context[me], &scheduler); }
static int run(int gx, int gy, int threads)
{
    gridDim = {gx, gy, 1}; blockDim = {threads, 1, 1}; diverged = false;
    context.resize(threads); stacks.resize((size_t)threads * STACK); passed.resize(threads);
    for (int block = 0; block < gx * gy && !diverged; ++block) {
        blockIdx = {block % gx, block / gx, 0};
        done.assign(threads, 0);
        for (auto& w : waits) w.assign(threads, 0);
        for (int t = 0; t < threads; ++t) {
            getcontext(&context[t]);
            context[t].uc_stack.ss_sp = &stacks[(size_t)t * STACK];
            context[t].uc_stack.ss_size = STACK;
            makecontext(&context[t], enter, 0);
        }
        for (int left = threads; left > 0;) {
            left = 0;
            for (int t = 0; t < threads; ++t)
                if (!done[t]) {
                    threadIdx = {t, 0, 0};
                    swapcontext(&scheduler, &context[t]);
                    left += !done[t];
                }
        }
    }
    return diverged;
}
"""

# cuBLAS: matrices by columns, op(A) (m, k) with lda >= its rows in memory, op(B) (k, n), C (m, n).
GEMM = r"""
template <class T> static int gemm(int ta, int tb, int m, int n, int k, T* const* A, int lda, T* const* B, int ldb,
                                   T* const* C, int ldc, int count)
{
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 1;
    for (int i = 0; i < count; ++i)
        for (int r = 0; r < m; ++r)
            for (int c = 0; c < n; ++c) {
                T sum = 0;
                for (long j = 0; j < k; ++j)
                    sum += A[i][ta ? j + (long)r * lda : r + j * lda] * B[i][tb ? c + j * ldb : j + (long)c * ldb];
                C[i][r + (long)c * ldc] = sum;
            }
    return 0;
}
#define GEMM_OF(T) extern "C" int gemm_##T(int ta, int tb, int m, int n, int k, T* const* A, int lda, T* const* B, \
    int ldb, T* const* C, int ldc, int count) { return gemm<T>(ta, tb, m, n, k, A, lda, B, ldb, C, ldc, count); }
GEMM_OF(float)
GEMM_OF(double)
"""

TYPES = {
    "int": (ctypes.c_int, np.int32),
    "double": (ctypes.c_double, np.float64),
    "Int": (ctypes.c_longlong, np.int64),
    "long long": (ctypes.c_longlong, np.int64),
}


def parameters(source: str) -> dict[str, list[tuple[str, str]]]:
    """The kernels of a source: (type, name) of each parameter; pointers keep their type with a star."""
    plain = re.sub(r"//[^\n]*", "", source.replace('extern "C" __global__ void', "KERNEL"))
    found = {}
    for name, listed in re.findall(r"\bKERNEL\s+(\w+)\(([^)]*)\)", plain):
        pairs = [re.match(r"(.*?[\s*])(\w+)$", p.strip(), re.S) for p in listed.split(",")]
        found[name] = [(p.group(1).replace("const", "").strip(), p.group(2)) for p in pairs]
    return found


def wrappers(source: str) -> str:
    """A function launch_NAME(grid, threads, arguments) for each kernel of a source."""
    lines = []
    for name, listed in parameters(source).items():
        declared = "".join(f", {'const ' if '*' in kind else ''}{kind} {n}" for kind, n in listed)
        given = ", ".join(f"({kind}){n}" for kind, n in listed)
        lines.append(
            f'extern "C" int launch_{name}(int gx, int gy, int threads{declared})'
            f" {{ body = [=] {{ {name}({given}); }}; return run(gx, gy, threads); }}"
        )
    return "\n".join(lines)


@cache
def compiled(source: str) -> ctypes.CDLL:
    """A source as a library of the host, kept from run to run by its text."""
    assert COMPILER is not None
    text = HEADER + source + (wrappers(source) or GEMM)
    folder = Path(tempfile.gettempdir()) / "minipeft-emulated"
    folder.mkdir(exist_ok=True)
    library = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            (Path(work) / "kernels.cpp").write_text(text, encoding="utf-8")
            flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w"]
            subprocess.run([COMPILER, *flags, "kernels.cpp", "-o", "kernels.so"], cwd=work, check=True)
            (Path(work) / "kernels.so").replace(library)
    return ctypes.CDLL(str(library))


class Emulator:
    """What `CupyDevice` does, on the host; as strict as a launch on a GPU is about its arguments."""

    def __init__(self) -> None:
        self.launches: list[str] = []

    def launch(self, source, name, grid, threads, args):
        """Run a kernel; each argument must have the type that the kernel declares, as nothing converts it on a GPU."""
        listed = parameters(source)[name]
        assert len(listed) == len(args), f"{name} takes {len(listed)} arguments, got {len(args)}"
        assert 1 <= threads <= 1024
        assert 1 <= grid[0] < 2**31
        assert 1 <= grid[1] < 2**16
        values = []
        for (kind, label), arg in zip(listed, args, strict=True):
            if kind.endswith("*"):
                element = kind[:-1].strip()
                null = isinstance(arg, np.uintp) and arg == NULL
                dtype = {"T": args[0].dtype if element == "T" else None, "Int": np.int64, "bool": np.bool_}
                expected = {**dtype, "long long": np.int64, "double": np.float64}[element]
                assert null or arg.dtype == expected, f"{name}: {label} is {kind}, got {arg.dtype}"
                values.append(ctypes.c_void_p(0 if null else self.address(arg)))
            else:
                ctype, numpy_type = TYPES[kind]
                assert type(arg) is numpy_type, f"{name}: {label} is {kind}, got {type(arg).__name__}"
                values.append(ctype(arg.item()))
        self.launches.append(name)
        if getattr(compiled(source), f"launch_{name}")(*grid, threads, *values):
            raise RuntimeError(f"{name}: a thread waits for others that never come")

    def gemm_batched(self, dtype, trans, size, a, lda, b, ldb, c, ldc):
        """A batched product by plain loops."""
        self.launches.append("gemm_batched")
        gemm = getattr(compiled(""), f"gemm_{np.ctypeslib.as_ctypes_type(dtype).__name__[2:]}")
        where = [ctypes.c_void_p(self.address(x)) for x in (a, b, c)]
        if gemm(*trans, *size, where[0], lda, where[1], ldb, where[2], ldc, a.size):
            raise ValueError(f"cuBLAS would refuse trans {trans}, size {size}, steps {lda}, {ldb}, {ldc}")

    def address(self, x):
        """Where x begins."""
        return x._data.ctypes.data

    def upload(self, x):
        """A copy on the device."""
        return strict.from_host(x)


device = Emulator()
backend = Backend("emulated", strict.strict_xp, strict.StrictArray, strict.from_host, strict.to_host, device)
