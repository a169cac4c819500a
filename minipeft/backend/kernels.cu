// Chains of elementwise steps as one kernel each. What stands before this text: typedef float T (or double), and
// LOWEST and TINY, the lowest and the smallest positive number of T. In the kernels by row, a row belongs to one block.

typedef long long Int;
#define EACH(i, n) (Int i = blockIdx.x * (Int)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (Int)blockDim.x)
#define KERNEL extern "C" __global__ void

// Activations: f(x) is returned, f'(x) goes into slope.

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

template <T F(T, T&)> __device__ void activate(const T* x, T* z, T* slope, Int n)
{
    for EACH(i, n) {
        T derivative;
        z[i] = F(x[i], derivative);
        if (slope) slope[i] = derivative;
    }
}

template <T F(T, T&)> __device__ void gate(const T* g, const T* u, T* z, T* to_g, T* to_u, Int n)
{
    for EACH(i, n) {
        T derivative, value = F(g[i], derivative);
        z[i] = value * u[i];
        if (to_g) to_g[i] = derivative * u[i];
        if (to_u) to_u[i] = value;
    }
}

KERNEL activate_gelu(const T* x, T* z, T* slope, Int n) { activate<gelu>(x, z, slope, n); }
KERNEL activate_gelu_tanh(const T* x, T* z, T* slope, Int n) { activate<gelu_tanh>(x, z, slope, n); }
KERNEL activate_silu(const T* x, T* z, T* slope, Int n) { activate<silu>(x, z, slope, n); }
KERNEL activate_relu(const T* x, T* z, T* slope, Int n) { activate<relu>(x, z, slope, n); }
KERNEL activate_tanh(const T* x, T* z, T* slope, Int n) { activate<hyperbolic>(x, z, slope, n); }

KERNEL gate_gelu(const T* g, const T* u, T* z, T* to_g, T* to_u, Int n)
{
    gate<gelu>(g, u, z, to_g, to_u, n);
}
KERNEL gate_gelu_tanh(const T* g, const T* u, T* z, T* to_g, T* to_u, Int n)
{
    gate<gelu_tanh>(g, u, z, to_g, to_u, n);
}
KERNEL gate_silu(const T* g, const T* u, T* z, T* to_g, T* to_u, Int n)
{
    gate<silu>(g, u, z, to_g, to_u, n);
}
KERNEL gate_relu(const T* g, const T* u, T* z, T* to_g, T* to_u, Int n)
{
    gate<relu>(g, u, z, to_g, to_u, n);
}
KERNEL gate_tanh(const T* g, const T* u, T* z, T* to_g, T* to_u, Int n)
{
    gate<hyperbolic>(g, u, z, to_g, to_u, n);
}

// By row.

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

// Many arrays at once.

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
