"""Chains of elementwise steps as one kernel each, for a GPU: ten passes over an array as one.

Each function equals the NumPy lines beside its call in `minipeft.ops` and `minipeft.optim`, which are what to read
first. On a GPU each of those lines would be a kernel of its own that reads and writes all of its operands, so the time
goes to memory and launches. The sources are CUDA C in one type T, float or double; a row belongs to one block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from minipeft.backend import Array, array_module, kernels_of
from minipeft.backend.cuda import NULL

BEGIN = """
typedef {type} T;
typedef long long Int;
#define LOWEST ((T){lowest})
#define TINY ((T){tiny})
#define EACH(i, n) (Int i = blockIdx.x * (Int)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (Int)blockDim.x)
#define KERNEL extern "C" __global__ void
"""

CURVES = """
__device__ T gelu(T x, T& slope)
{
    T cdf = (T)0.5 * ((T)1 + erf(x * (T)0.7071067811865476));
    slope = cdf + x * (T)0.3989422804014327 * exp((T)-0.5 * x * x);
    return x * cdf;
}

__device__ T gelu_tanh(T x, T& slope)
{
    T c = (T)0.7978845608028654, square = x * x;
    T h = (T)0.5 + (T)0.5 * tanh(x * c * ((T)1 + (T)0.044715 * square));
    slope = h + (T)2 * h * ((T)1 - h) * x * c * ((T)1 + (T)0.134145 * square);
    return x * h;
}

__device__ T silu(T x, T& slope)
{
    T s = (T)0.5 + (T)0.5 * tanh((T)0.5 * x);
    slope = s * ((T)1 + x * ((T)1 - s));
    return x * s;
}

__device__ T relu(T x, T& slope)
{
    slope = x > (T)0 ? (T)1 : (T)0;
    return x > (T)0 || x != x ? x : (T)0;
}

__device__ T hyperbolic(T x, T& slope)
{
    T z = tanh(x);
    slope = (T)1 - z * z;
    return z;
}
"""

NAMES = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "silu": "silu", "relu": "relu", "tanh": "hyperbolic"}

CURVE = """
KERNEL activate_{name}(const T* x, T* z, T* slope, Int n)
{
    for EACH(i, n) {
        T derivative;
        z[i] = {function}(x[i], derivative);
        if (slope) slope[i] = derivative;
    }
}

KERNEL gate_{name}(const T* g, const T* u, T* z, T* to_g, T* to_u, Int n)
{
    for EACH(i, n) {
        T derivative, value = {function}(g[i], derivative);
        z[i] = value * u[i];
        if (to_g) to_g[i] = derivative * u[i];
        if (to_u) to_u[i] = value;
    }
}
"""

ROWS = """
__device__ T block_sum(T v)
{
    __shared__ T parts[32];
    for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
    if (blockDim.x <= 32) return v;
    __syncthreads();  // another sum may still be read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    v = (T)0;
    for (int w = 0; w < blockDim.x / 32; ++w) v += parts[w];
    return v;
}

__device__ T block_max(T v)
{
    __shared__ T parts[32];
    for (int step = 16; step > 0; step >>= 1) {
        T other = __shfl_xor_sync(0xffffffffu, v, step);
        v = other > v ? other : v;
    }
    if (blockDim.x <= 32) return v;
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    for (int w = 0; w < blockDim.x / 32; ++w) v = parts[w] > v ? parts[w] : v;
    return v;
}

// One more score for a running maximum m and a running sum of e^(score - m).
__device__ void online(T score, T& m, T& sum)
{
    if (score > m) {
        sum *= exp(m - score);
        m = score;
    }
    sum += exp(score - m);
}

KERNEL normalize(const T* x, const T* gamma, const T* beta, T* z, T* x_hat, T* rstd, Int d, int centre, double eps)
{
    Int row = blockIdx.x;
    x += row * d;
    z += row * d;
    T mean = (T)0, square = (T)0;
    if (centre) {
        for (Int j = threadIdx.x; j < d; j += blockDim.x) mean += x[j];
        mean = block_sum(mean) / (T)d;
    }
    for (Int j = threadIdx.x; j < d; j += blockDim.x) square += (x[j] - mean) * (x[j] - mean);
    T r = (T)1 / sqrt(block_sum(square) / (T)d + (T)eps);
    if (threadIdx.x == 0) rstd[row] = r;
    for (Int j = threadIdx.x; j < d; j += blockDim.x) {
        T h = (x[j] - mean) * r;
        if (x_hat) x_hat[row * d + j] = h;
        z[j] = beta ? h * gamma[j] + beta[j] : h * gamma[j];
    }
}

KERNEL normalize_backward(const T* dz, const T* x_hat, const T* rstd, const T* gamma, T* dx, Int d, int centre)
{
    Int row = blockIdx.x;
    dz += row * d;
    x_hat += row * d;
    T mean = (T)0, inner = (T)0;
    for (Int j = threadIdx.x; j < d; j += blockDim.x) {
        T g = dz[j] * gamma[j];
        mean += g;
        inner += g * x_hat[j];
    }
    mean = centre ? block_sum(mean) / (T)d : (T)0;
    inner = block_sum(inner) / (T)d;
    for (Int j = threadIdx.x; j < d; j += blockDim.x)
        dx[row * d + j] = (dz[j] * gamma[j] - mean - x_hat[j] * inner) * rstd[row];
}

// Row b, h, n of scores (B, H, N, S), in place. Visible: not after the query (causal), and where the mask says so.
KERNEL softmax(T* s, Int S, Int H, Int N, int causal, const bool* mask, Int mb, Int mh, Int mn, Int ms)
{
    Int row = blockIdx.x, n = row % N, h = row / N % H, b = row / N / H;
    s += row * S;
    bool masked = mask;
    mask += b * mb + h * mh + n * mn;
    Int end = causal ? S - N + n + 1 : S;
    T m = LOWEST, sum = (T)0;
    for (Int j = threadIdx.x; j < end; j += blockDim.x)
        if (!masked || mask[j * ms]) online(s[j], m, sum);
    T top = block_max(m);
    sum = block_sum(sum * exp(m - top));
    T scale = (T)1 / (sum > TINY || sum != sum ? sum : TINY);
    for (Int j = threadIdx.x; j < S; j += blockDim.x)
        s[j] = j < end && (!masked || mask[j * ms]) ? exp(s[j] - top) * scale : (T)0;
}

KERNEL softmax_backward(const T* p, T* dp, Int S)
{
    p += blockIdx.x * S;
    dp += blockIdx.x * S;
    T inner = (T)0;
    for (Int j = threadIdx.x; j < S; j += blockDim.x) inner += p[j] * dp[j];
    inner = block_sum(inner);
    for (Int j = threadIdx.x; j < S; j += blockDim.x) dp[j] = p[j] * (dp[j] - inner);
}

// A row of logits (R, V) becomes c times its gradient, softmax - onehot; its loss is the log of the sum - its label's.
KERNEL cross_entropy(T* s, const Int* labels, T* losses, Int V, int want, double c)
{
    Int row = blockIdx.x, label = labels[row];
    s += row * V;
    T m = LOWEST, sum = (T)0;
    for (Int j = threadIdx.x; j < V; j += blockDim.x) online(s[j], m, sum);
    T top = block_max(m);
    sum = block_sum(sum * exp(m - top));
    if (threadIdx.x == 0) losses[row] = log(sum) + top - s[label];
    if (!want) return;
    __syncthreads();  // the label's logit was read
    T scale = (T)c / sum;
    for (Int j = threadIdx.x; j < V; j += blockDim.x)
        s[j] = exp(s[j] - top) * scale - (j == label ? (T)c : (T)0);
}
"""

MANY = """
// All parameters by one launch: row blockIdx.y of the table has the addresses of x, g, m, v, and the number of entries.
KERNEL adamw(const Int* table, const double* decays, double rate, double lr, double beta1, double beta2, double eps)
{
    const Int* row = table + 5 * blockIdx.y;
    T *x = (T*)row[0], *m = (T*)row[2], *v = (T*)row[3];
    const T* g = (const T*)row[1];
    T keep = (T)(1.0 - lr * decays[blockIdx.y]);
    for EACH(i, row[4]) {
        T gi = g[i];
        T mi = m[i] * (T)beta1 + gi * (T)(1.0 - beta1);
        T vi = v[i] * (T)beta2 + gi * gi * (T)(1.0 - beta2);
        m[i] = mi;
        v[i] = vi;
        x[i] = x[i] * keep - mi / (sqrt(vi) + (T)eps) * (T)rate;
    }
}

// The sum of squares of each array of the table, by parts: out[blockIdx.y][blockIdx.x].
KERNEL squares(const Int* table, double* out)
{
    __shared__ double parts[1024];
    const Int* row = table + 2 * blockIdx.y;
    const T* g = (const T*)row[0];
    double sum = 0;
    for EACH(i, row[1]) sum += (double)g[i] * (double)g[i];
    parts[threadIdx.x] = sum;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[blockIdx.y * (Int)gridDim.x + blockIdx.x] = parts[0];
}

KERNEL scale(const Int* table, double c)
{
    const Int* row = table + 2 * blockIdx.y;
    T* g = (T*)row[0];
    for EACH(i, row[1]) g[i] *= (T)c;
}
"""

_BODY = CURVES + "".join(CURVE.replace("{name}", n).replace("{function}", f) for n, f in NAMES.items()) + ROWS + MANY


def source(dtype: Any) -> str:
    """All kernels for float32 or float64, as CUDA C."""
    name = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    info = np.finfo(dtype)
    return BEGIN.format(type=name, lowest=repr(float(info.min)), tiny=repr(float(info.tiny))) + _BODY


SOURCES = {np.dtype(d): source(d) for d in ("float32", "float64")}
THREADS = 256


def _launch(x: Array, name: str, grid: tuple[int, int], threads: int, *args: Any) -> None:
    if grid[0] and grid[1]:
        kernels_of(x).launch(SOURCES[x.dtype], name, grid, threads, args)


def _by_entry(x: Array, name: str, *args: Any) -> None:
    blocks = min(-(-x.size // THREADS), 65535)
    _launch(x, name, (blocks, 1), THREADS, *args, np.int64(x.size))


def _by_row(x: Array, name: str, n_rows: int, width: int, *args: Any) -> None:
    """One block a row: a warp for short rows, more where each thread would go through eight entries or more."""
    threads = 32
    while threads < 1024 and threads * 8 <= width:
        threads *= 2
    if width:
        _launch(x, name, (n_rows, 1), threads, *args)


def _solid(x: Array) -> Array:
    return x if x.flags.c_contiguous else array_module(x).ascontiguousarray(x)


def _or_null(x: Array | None) -> Any:
    return NULL if x is None else x


def activation(x: Array, name: str, want_slope: bool) -> tuple[Array, Array | None]:
    """f(x) and, where wanted, f'(x), for x of any shape."""
    xp = array_module(x)
    x = _solid(x)
    z = xp.empty(x.shape, dtype=x.dtype)
    slope = xp.empty(x.shape, dtype=x.dtype) if want_slope else None
    _by_entry(x, f"activate_{name}", x, z, _or_null(slope))
    return z, slope


def gate(g: Array, u: Array, name: str, want_g: bool, want_u: bool) -> tuple[Array, Array | None, Array | None]:
    """f(g) u and, where wanted, its derivatives u f'(g) and f(g)."""
    xp = array_module(g)
    g, u = _solid(g), _solid(u)
    z = xp.empty(g.shape, dtype=g.dtype)
    to_g = xp.empty(g.shape, dtype=g.dtype) if want_g else None
    to_u = xp.empty(g.shape, dtype=g.dtype) if want_u else None
    _by_entry(g, f"gate_{name}", g, u, z, _or_null(to_g), _or_null(to_u))
    return z, to_g, to_u


def norm(
    x: Array, gamma: Array, beta: Array | None, eps: float, centre: bool, keep: bool
) -> tuple[Array, Array, Array]:
    """z, x̂ and 1/√(var + ε) of rows x (R, d): (R, d), (R, d), (R, 1); without ``keep`` x̂ is z."""
    xp = array_module(x)
    x, gamma, beta = _solid(x), _solid(gamma), None if beta is None else _solid(beta)
    n, d = x.shape
    z = xp.empty(x.shape, dtype=x.dtype)
    x_hat = xp.empty(x.shape, dtype=x.dtype) if keep else None
    rstd = xp.empty((n, 1), dtype=x.dtype)
    shift, hat = _or_null(beta), _or_null(x_hat)
    _by_row(x, "normalize", n, d, x, gamma, shift, z, hat, rstd, np.int64(d), np.int32(centre), np.float64(eps))
    return z, z if x_hat is None else x_hat, rstd


def norm_backward(dz: Array, x_hat: Array, rstd: Array, gamma: Array, centre: bool) -> Array:
    """dx of rows, (R, d)."""
    dz, gamma = _solid(dz), _solid(gamma)
    n, d = dz.shape
    dx = array_module(dz).empty(dz.shape, dtype=dz.dtype)
    _by_row(dz, "normalize_backward", n, d, dz, x_hat, rstd, gamma, dx, np.int64(d), np.int32(centre))
    return dx


def softmax(s: Array, causal: bool, mask: Array | None) -> None:
    """Softmax of each row of s (B, H, N, S), contiguous, in place; mask boolean, broadcastable, True where seen."""
    if not s.flags.c_contiguous:
        raise ValueError("softmax works in place on rows: s must be contiguous")
    _, H, N, S = s.shape
    strides = [0, 0, 0, 0] if mask is None else [0 if n == 1 else k for n, k in zip(mask.shape, mask.strides)]
    sizes = (np.int64(S), np.int64(H), np.int64(N), np.int32(causal))
    _by_row(s, "softmax", s.size // max(S, 1), S, s, *sizes, _or_null(mask), *map(np.int64, strides))


def softmax_backward(p: Array, dp: Array) -> None:
    """ds = p (dp - Σ_row dp p), written into dp; p and dp (R, S), contiguous."""
    if not (p.flags.c_contiguous and dp.flags.c_contiguous):
        raise ValueError("softmax_backward works in place on rows: p and dp must be contiguous")
    _by_row(p, "softmax_backward", p.shape[0], p.shape[1], p, dp, np.int64(p.shape[1]))


def cross_entropy(s: Array, labels: Array, want_grad: bool, scale: float = 1.0) -> Array:
    """The loss of each row of logits s (R, V), contiguous, (R,); s becomes ``scale`` times its gradient, if wanted."""
    if not s.flags.c_contiguous:
        raise ValueError("cross_entropy works in place on rows: the logits must be contiguous")
    xp = array_module(s)
    n, V = s.shape
    losses = xp.empty((n,), dtype=s.dtype)
    labels = labels if labels.dtype == np.int64 else labels.astype(np.int64)
    _by_row(s, "cross_entropy", n, V, s, _solid(labels), losses, np.int64(V), np.int32(want_grad), np.float64(scale))
    return losses


def _table(arrays: Sequence[Sequence[Array]]) -> tuple[Array, tuple[int, int]]:
    """Addresses and the number of entries, a row for arrays of one size; and a grid that covers them."""
    kernels = kernels_of(arrays[0][0])
    rows = [[*map(kernels.address, line), line[0].size] for line in arrays]
    largest = max(row[-1] for row in rows)
    return kernels.upload(np.array(rows, dtype=np.int64)), (max(1, min(-(-largest // THREADS), 1024)), len(rows))


def adamw(
    tensors: Sequence[tuple[Array, Array, Array, Array]],
    decays: Sequence[float],
    lr: float,
    betas: Sequence[float],
    eps: float,
    step: int,
) -> None:
    """The update of `AdamW` for all (x, g, m, v) of one dtype in one launch, in place; each contiguous."""
    x = tensors[0][0]
    table, grid = _table(tensors)
    c2 = math.sqrt(1.0 - betas[1] ** step)
    rate = lr * c2 / (1.0 - betas[0] ** step)
    numbers = map(np.float64, (rate, lr, *betas, c2 * eps))
    _launch(x, "adamw", grid, THREADS, table, _constants(kernels_of(x), tuple(decays)), *numbers)


@lru_cache(maxsize=64)
def _constants(kernels: Any, values: tuple[float, ...]) -> Array:
    """Numbers that stay the same from step to step, uploaded once."""
    return kernels.upload(np.array(values, dtype=np.float64))


def squares(arrays: Sequence[Array]) -> Array:
    """Σ x² over all entries of arrays of one dtype, contiguous, in float64: a scalar that stays on the device."""
    table, grid = _table([(x,) for x in arrays])
    out = array_module(arrays[0]).empty(grid[::-1], dtype=np.float64)
    _launch(arrays[0], "squares", grid, THREADS, table, out)
    return out.sum()


def scale(arrays: Sequence[Array], c: float) -> None:
    """x *= c for all arrays of one dtype, in one launch for those that are contiguous."""
    solid = [x for x in arrays if x.flags.c_contiguous and x.size]
    for x in arrays:
        if not x.flags.c_contiguous:
            x *= c
    if not solid:
        return
    table, grid = _table([(x,) for x in solid])
    _launch(solid[0], "scale", grid, THREADS, table, np.float64(c))
