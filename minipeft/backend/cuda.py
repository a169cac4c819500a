"""What a GPU has beside its arrays: kernels of our own, batched products without copies, TF32, the memory pool.

CuPy is imported here alone, when it is asked for. `Device` is what a backend with kernels offers: CuPy's is
`CupyDevice`, and the tests have one that runs the same kernel sources on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from minipeft.hints import install

Array = Any
TF32, FLOAT32 = 7, 1  # CuPy's COMPUTE_TYPE_TF32 and COMPUTE_TYPE_DEFAULT, which it does not export to Python
TF32_MATH, DEFAULT_MATH = 3, 0  # cuBLAS's CUBLAS_TF32_TENSOR_OP_MATH and CUBLAS_DEFAULT_MATH
NULL = np.uintp(0)  # a pointer argument that points nowhere; CuPy's None would be a missing argument


class Device(Protocol):
    """A device that runs kernels written in CUDA C."""

    def launch(self, source: str, name: str, grid: tuple[int, int], threads: int, args: Sequence[Any]) -> None:
        """Run kernel ``name`` of ``source``; args are arrays, `NULL`, or NumPy numbers of the kernel's own types."""

    def gemm_batched(
        self,
        dtype: np.dtype[Any],
        trans: tuple[int, int],
        size: tuple[int, int, int],
        a: Array,
        lda: int,
        b: Array,
        ldb: int,
        c: Array,
        ldc: int,
    ) -> None:
        """C_i = op(A_i) op(B_i) as cuBLAS has it: by columns, a, b, c arrays of addresses, size (m, n, k)."""

    def address(self, x: Array) -> int:
        """Where x begins in the device's memory."""

    def upload(self, x: np.ndarray) -> Array:
        """x in the device's memory."""

    def __hash__(self) -> int: ...


class CupyDevice:
    """The current GPU, by CuPy."""

    def __init__(self) -> None:
        self._kernel = lru_cache(maxsize=None)(_cupy_kernel)

    def launch(self, source: str, name: str, grid: tuple[int, int], threads: int, args: Sequence[Any]) -> None:
        """Compiled at its first use, and kept in CuPy's cache on disk."""
        self._kernel(source, name)(grid, (threads,), tuple(args))

    def gemm_batched(
        self,
        dtype: np.dtype[Any],
        trans: tuple[int, int],
        size: tuple[int, int, int],
        a: Array,
        lda: int,
        b: Array,
        ldb: int,
        c: Array,
        ldc: int,
    ) -> None:
        """cublasSgemmBatched or cublasDgemmBatched."""
        import cupy
        from cupy.cuda import cublas

        gemm = cublas.sgemmBatched if dtype == np.float32 else cublas.dgemmBatched
        one, zero = np.array(1, dtype), np.array(0, dtype)
        handle = cupy.cuda.device.get_cublas_handle()
        alpha, beta = one.ctypes.data, zero.ctypes.data
        gemm(handle, *trans, *size, alpha, a.data.ptr, lda, b.data.ptr, ldb, beta, c.data.ptr, ldc, a.size)

    def address(self, x: Array) -> int:
        """``x.data.ptr``."""
        pointer: int = x.data.ptr
        return pointer

    def upload(self, x: np.ndarray) -> Array:
        """``cupy.asarray``: through pinned memory, without waiting for the device."""
        import cupy

        return cupy.asarray(x)


def _cupy_kernel(source: str, name: str) -> Any:
    import cupy

    return cupy.RawModule(code=source).get_function(name)


class NoGpuError(RuntimeError):
    """There is no GPU to compute on, or no CuPy; the message says which and what to do."""


def library() -> Any:
    """The module ``cupy``; NoGpuError where it is not installed, is older than 14, or finds no GPU."""
    try:
        import cupy
    except ImportError as error:
        raise NoGpuError(f'device "cuda" needs CuPy 14 or newer; {install("gpu")}') from error
    if int(cupy.__version__.split(".")[0]) < 14:
        raise NoGpuError(f'device "cuda" needs CuPy 14 or newer, which keeps float32; found {cupy.__version__}')
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise NoGpuError(f'device "cuda": CuPy is there, but CUDA finds no GPU ({error}); use device "cpu"') from error
    if not n_devices:
        raise NoGpuError('device "cuda": CuPy is there, but CUDA finds no GPU; use device "cpu"')
    return cupy


def allow_tf32(flag: bool = True) -> None:
    """Let matrix products of float32 on a GPU round their factors to TF32 (10 bits of mantissa); off by default.

    CuPy has one switch for products of matrices and none for batches of them, which follow cuBLAS's math mode: both are
    set. Raises NoGpuError without a GPU, ValueError for one older than Ampere.
    """
    cupy = library()
    capability = int(cupy.cuda.Device().compute_capability)
    if flag and capability < 80:
        raise ValueError(f"TF32 needs a GPU of compute capability 8.0 or above, this one has {capability / 10}")
    cupy._core.set_compute_type(np.float32, TF32 if flag else FLOAT32)
    handle = cupy.cuda.device.get_cublas_handle()
    cupy.cuda.cublas.setMathMode(handle, TF32_MATH if flag else DEFAULT_MATH)


def tf32_allowed() -> bool:
    """Whether products of float32 may use TF32 (also by CUPY_TF32=1); NoGpuError without a GPU."""
    used: int = library()._core.get_compute_type(np.float32)
    return used == TF32


def free_memory() -> None:
    """Give the pool's unused blocks back to the device, so that a measurement begins from nothing."""
    library().get_default_memory_pool().free_all_blocks()


class PeakMemory:
    """Bytes of the memory pool: what arrays use now and used at most, and what the pool holds from the device."""

    def __init__(self, used: int):
        self.used = self.peak = used
        self.held = 0

    def add(self, n: int) -> None:
        """Count n bytes more (or less) in use."""
        self.used += n
        self.peak = max(self.peak, self.used)


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Follow the pool's use inside (in this thread): ``peak`` grows with every allocation, ``held`` is set at the end.

    NoGpuError without a GPU.
    """
    cupy = library()
    pool = cupy.get_default_memory_pool()
    count = PeakMemory(pool.used_bytes())
    try:
        with _hook(cupy, count):
            yield count
    finally:
        count.held = pool.total_bytes()


def _hook(cupy: Any, count: PeakMemory) -> Any:
    class Hook(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = f"minipeft.PeakMemory {id(count)}"  # CuPy takes each name once: one may stand inside another

        def malloc_postprocess(self, device_id: int, size: int, mem_size: int, mem_ptr: int, pmem_id: int) -> None:
            count.add(mem_size)

        def free_postprocess(self, device_id: int, mem_size: int, mem_ptr: int, pmem_id: int) -> None:
            count.add(-mem_size)

    return Hook()


def describe() -> dict[str, Any]:
    """The GPU for `minipeft info`: its name, compute capability, memory, pool and TF32; NoGpuError without one."""
    cupy = library()
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    pool = cupy.get_default_memory_pool()
    return {
        "name": properties["name"].decode(),
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "memory bytes": properties["totalGlobalMem"],
        "pool used bytes": pool.used_bytes(),
        "pool held bytes": pool.total_bytes(),
        "tf32": tf32_allowed(),
    }


ADDRESSES = """
extern "C" __global__ void addresses(const long long* offsets, long long a, long long b, long long c, long long n,
                                     long long* out)
{
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < 3 * n) out[i] = offsets[i] + (i < n ? a : i < 2 * n ? b : c);
}
"""


def batched_matmul(device: Device, xp: Any, a: Array, b: Array, out: Array | None) -> Array:
    """``a @ b`` for more than two axes, where CuPy's own would copy: (..., m, k), (..., k, n) -> (..., m, n).

    CuPy's matmul makes every operand C-contiguous first, so it copies each view of heads, each transpose and each
    ``out`` that is none. cuBLAS reads any matrix whose rows or columns are contiguous: one kernel writes the addresses
    of all of them, once for each place in memory, and one call multiplies. Only what has neither is copied.
    """
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    m, k = a.shape[-2:]
    n = b.shape[-1]
    if out is None:
        out = xp.empty((*shape, m, n), dtype=a.dtype)
    elif out.shape != (*shape, m, n) or out.dtype != a.dtype:
        raise ValueError(f"matmul: out is {out.dtype} {out.shape}, the product {a.dtype} {(*shape, m, n)}")
    if b.shape[-2] != k or a.dtype != b.dtype:
        raise ValueError(f"matmul: {a.dtype} {a.shape} does not go with {b.dtype} {b.shape}")
    if not out.size:
        return out
    if not k:
        out.fill(0)
        return out
    a, trans_a, lda = _columns(xp, a)
    b, trans_b, ldb = _columns(xp, b)
    c, trans_c, ldc = _columns(xp, out)
    strides = tuple(_batch_strides(x, shape) for x in (a, b, c))
    table = _addresses(device, xp, shape, strides, *(device.address(x) for x in (a, b, c)))
    if trans_c:  # out by rows: cuBLAS, which goes by columns, computes outᵀ = bᵀ aᵀ
        factors, sizes = (table[1], ldb, table[0], lda), (n, m, k)
        trans = (1 - trans_b, 1 - trans_a)
    else:
        factors, sizes = (table[0], lda, table[1], ldb), (m, n, k)
        trans = (trans_a, trans_b)
    device.gemm_batched(a.dtype, trans, sizes, *factors, table[2], ldc)
    if c is not out:
        out[...] = c
    return out


def _columns(xp: Any, x: Array) -> tuple[Array, int, int]:
    """x, whether cuBLAS has to transpose it (rows are contiguous), and the step between its rows or columns."""
    row, column = (s // x.itemsize for s in x.strides[-2:])
    m, n = x.shape[-2:]
    if (column == 1 or n == 1) and (row >= n or m == 1):
        return x, 1, max(row, n)
    if (row == 1 or m == 1) and (column >= m or n == 1):
        return x, 0, max(column, m)
    return xp.ascontiguousarray(x), 1, n


def _batch_strides(x: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Bytes from one matrix to the next along each axis of the broadcast batch."""
    missing = len(shape) - (x.ndim - 2)
    own = zip(x.shape[:-2], x.strides[:-2], strict=True)
    return (0,) * missing + tuple(0 if size == 1 else stride for size, stride in own)


@lru_cache(maxsize=4096)
def _addresses(
    device: Any, xp: Any, shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], a: int, b: int, c: int
) -> Array:
    """(3, count) addresses of the matrices of a, b and c, which begin there.

    Kept, since the memory pool hands out the same addresses step after step; an entry owns none of that memory.
    """
    count = math.prod(shape)
    table = xp.empty((3, count), dtype=np.int64)
    arguments = (_offsets(device, shape, strides), *map(np.int64, (a, b, c, count)), table)
    device.launch(ADDRESSES, "addresses", (-(-3 * count // 256), 1), 256, arguments)
    return table


@lru_cache(maxsize=256)
def _offsets(device: Any, shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> Array:
    """(3, count) bytes from the first matrix to each, for the three operands; the layouts of a model are few."""
    axes = np.indices(shape).reshape(len(shape), -1)  # (axes, count)
    return device.upload(np.array(strides, dtype=np.int64) @ axes)
