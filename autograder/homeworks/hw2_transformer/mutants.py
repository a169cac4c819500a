"""Mistakes in hw2_transformer."""

from autograder.homeworks.mutant import mistakes

# Plain programs, which the diffs below change; "with" brings a plain forward or backward along.
PLAIN = {
    "minipeft.ops.softmax:stable_softmax": """
if s.shape[axis] == 0:
    return s
xp = array_module(s)
p = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min)))
return p / xp.maximum(p.sum(axis=axis, keepdims=True), float(np.finfo(s.dtype).tiny))
""",
    "minipeft.ops.softmax:Softmax.forward": """
xp = array_module(s)
p = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min)))
p = p / xp.maximum(p.sum(axis=axis, keepdims=True), float(np.finfo(s.dtype).tiny))
ctx.save(p, axis)
return p
""",
    "minipeft.ops.softmax:Softmax.backward": """
p, axis = ctx.saved
return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None
""",
    "minipeft.ops.activation:_gelu": """
cdf, bell = normal_cdf(x)
density = bell * (1.0 / math.sqrt(2.0 * math.pi))
return x * cdf, cdf + x * density
""",
    "minipeft.ops.activation:_gelu_tanh": """
xp = array_module(x)
c = math.sqrt(2.0 / math.pi)
t = xp.tanh(c * (x + 0.044715 * x * x * x))
inner = c * (1.0 + 3 * 0.044715 * x * x)
return 0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
""",
    "minipeft.ops.normalize:LayerNorm.forward": """
xp = array_module(x)
mean = x.mean(axis=-1, keepdims=True)
var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
rstd = 1.0 / xp.sqrt(var + eps)
x_hat = (x - mean) * rstd
needs_x, needs_gamma = ctx.needs_grad[:2]
ctx.save(x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None)
return x_hat * gamma + beta
""",
    "minipeft.ops.normalize:LayerNorm.backward": """
x_hat, rstd, gamma = ctx.saved
d = dz.shape[-1]
dx = dgamma = dbeta = None
if ctx.needs_grad[0]:
    g = dz * gamma
    inner = (g * x_hat).mean(axis=-1, keepdims=True)
    dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd
if ctx.needs_grad[1]:
    dgamma = (dz * x_hat).reshape(-1, d).sum(axis=0)
if ctx.needs_grad[2]:
    dbeta = dz.reshape(-1, d).sum(axis=0)
return dx, dgamma, dbeta, None
""",
    "minipeft.ops.normalize:RMSNorm.forward": """
xp = array_module(x)
rstd = 1.0 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
x_hat = x * rstd
needs_x, needs_gamma = ctx.needs_grad[:2]
ctx.save(x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None)
return x_hat * gamma
""",
    "minipeft.ops.normalize:RMSNorm.backward": """
x_hat, rstd, gamma = ctx.saved
dx = dgamma = None
if ctx.needs_grad[0]:
    g = dz * gamma
    dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * rstd
if ctx.needs_grad[1]:
    dgamma = (dz * x_hat).reshape(-1, dz.shape[-1]).sum(axis=0)
return dx, dgamma, None
""",
    "minipeft.ops.loss:_block_loss": """
xp = array_module(s)
picks = xp.arange(s.shape[0])
s -= s.max(axis=1, keepdims=True)
logs = s - xp.log(xp.exp(s).sum(axis=1, keepdims=True))
if want_grad:
    s[...] = xp.exp(logs)
    s[picks, labels] -= 1.0
return -logs[picks, labels].sum()
""",
    "minipeft.ops.loss:CrossEntropy.forward": """
xp = array_module(s)
n = labels.shape[0]
part = s[kept]
part = part - part.max(axis=1, keepdims=True)
logs = part - xp.log(xp.exp(part).sum(axis=1, keepdims=True))
picks = xp.arange(n)
if ctx.needs_grad[0]:
    ds = xp.zeros(s.shape, dtype=s.dtype)
    p = xp.exp(logs)
    p[picks, labels] -= 1.0
    ds[kept] = p / n
    ctx.save(ds)
return xp.asarray(-(logs[picks, labels].sum() / n))
""",
    "minipeft.ops.loss:CrossEntropy.backward": """
(ds,) = ctx.saved
return ds * dz, None, None
""",
    "minipeft.ops.attention:mask_bias": """
xp = array_module(like)
visible = xp.ones((N, S), dtype=bool)
if causal:
    visible = xp.tril(visible, k=S - N)
if mask is not None:
    visible = visible & mask
return xp.where(visible, 0.0, -math.inf).astype(like.dtype)
""",
    "minipeft.ops.attention:Attention.forward": """
xp = array_module(q)
B, H, N, D = q.shape
Hk, S = k.shape[1:3]
K, V = xp.repeat(k, H // Hk, axis=1), xp.repeat(v, H // Hk, axis=1)
s = scale * matmul(q, K.swapaxes(-1, -2))
visible = xp.ones((N, S), dtype=bool)
if causal:
    visible = xp.tril(visible, k=S - N)
if mask is not None:
    visible = visible & mask
s = xp.where(visible, s, -math.inf)
p = xp.exp(s - xp.maximum(s.max(axis=-1, keepdims=True), float(np.finfo(s.dtype).min)))
p = p / xp.maximum(p.sum(axis=-1, keepdims=True), float(np.finfo(s.dtype).tiny))
needs_q, needs_k, needs_v = ctx.needs_grad[:3]
scored = needs_q or needs_k
ctx.save(
    p if scored or needs_v else None,
    (q if needs_k else None, k if needs_q else None, v if scored else None),
    (Hk, scale),
)
return matmul(p, V)
""",
    "minipeft.ops.attention:Attention.backward": """
p, (q, k, v), (Hk, scale) = ctx.saved
xp = array_module(dz)
needs_q, needs_k, needs_v = ctx.needs_grad[:3]
B, H, N, S = p.shape
G = H // Hk
dq = dk = dv = None
if needs_v:
    each = matmul(p.swapaxes(-1, -2), dz)
    dv = each.reshape(B, Hk, G, S, -1).sum(axis=2)
if needs_q or needs_k:
    dp = matmul(dz, xp.repeat(v, G, axis=1).swapaxes(-1, -2))
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    if needs_q:
        dq = scale * matmul(ds, xp.repeat(k, G, axis=1))
    if needs_k:
        each = scale * matmul(ds.swapaxes(-1, -2), q)
        dk = each.reshape(B, Hk, G, S, -1).sum(axis=2)
return dq, dk, dv, None, None, None
""",
    "minipeft.ops.attention:MergeHeads.backward": """
B, N, d = dz.shape
(H,) = ctx.saved
return dz.reshape(B, N, H, d // H).transpose(0, 2, 1, 3)
""",
    "minipeft.ops.attention:Rotary.forward": """
ctx.save(cos, sin)
return _turn(x, cos, sin)
""",
    "minipeft.nn.attention:MultiHeadAttention.forward": """
q = ops.split_heads(self.q_proj(x), self.n_heads)
if memory is not None and cache is not None and cache.length:
    k, v = cache.get()
else:
    source = x if memory is None else memory
    k = ops.split_heads(self.k_proj(source), self.n_kv_heads)
    v = ops.split_heads(self.v_proj(source), self.n_kv_heads)
    if angles is not None:
        k = ops.rotary(k, *angles)
    if cache is not None:
        k, v = cache.extend(k, v)
if angles is not None:
    q = ops.rotary(q, *angles)
return self.out_proj(ops.merge_heads(self.core(q, k, v, mask)))
""",
}

MUTANTS = mistakes(
    """
== minipeft.ops.softmax:stable_softmax 2.1

stable-no-shift
The exponentials of large scores overflow: subtract the largest first, it changes no quotient.
- s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min))
+ s

stable-nan
Scores that are all -inf give 0/0; they must give zeros.
- xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min))
+ s.max(axis=axis, keepdims=True)

stable-shift-of-all
The largest of all scores is subtracted from every row: rows far below it underflow to zeros.
- s.max(axis=axis, keepdims=True)
+ s.max()

stable-written
The input s is written; return a new array.
- p = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min)))
+ s -= 1.0
+ p = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min)))

stable-last-axis
The sum runs along the last axis, not along the softmax's own.
- p.sum(axis=axis, keepdims=True)
+ p.sum(axis=-1, keepdims=True)

stable-mean
The exponentials are divided by their mean; divide by their sum.
- p.sum(axis=axis, keepdims=True)
+ p.mean(axis=axis, keepdims=True)

== minipeft.ops.softmax:Softmax.backward 2.1 with Softmax.forward

softmax-backward-no-sum
The term from the common denominator is missing: the gradients along the axis must sum to zero.
- return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None
+ return dz * p, None

== minipeft.ops.softmax:Softmax.forward 2.1 with Softmax.backward

softmax-axis-ignored
The softmax runs along the last axis, whatever axis is asked for.
- p = xp.exp(s - xp.maximum(s.max(axis=axis, keepdims=True), float(np.finfo(s.dtype).min)))
- p = p / xp.maximum(p.sum(axis=axis, keepdims=True), float(np.finfo(s.dtype).tiny))
+ p = xp.exp(s - xp.maximum(s.max(axis=-1, keepdims=True), float(np.finfo(s.dtype).min)))
+ p = p / xp.maximum(p.sum(axis=-1, keepdims=True), float(np.finfo(s.dtype).tiny))

== minipeft.ops.softmax:Softmax.backward 2.1 with Softmax.forward

softmax-backward-axis
The sum in the backward runs along the last axis, not along the softmax's own.
- return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None
+ return p * (dz - (dz * p).sum(axis=-1, keepdims=True)), None

softmax-backward-diagonal
ds = dz p (1 - p) is the derivative for one score alone; each probability depends on all scores of its row.
- return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None
+ return dz * p * (1.0 - p), None

softmax-backward-outer-p
The difference dp - Σ dp ∘ p is there, its factor p is not.
- return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None
+ return dz - (dz * p).sum(axis=axis, keepdims=True), None

== minipeft.ops.activation:_gelu 2.2

gelu-is-tanh
This is GPT-2's approximation by tanh where the exact x Φ(x) is asked for.
+ xp = array_module(x)
+ c = math.sqrt(2.0 / math.pi)
+ t = xp.tanh(c * (x + 0.044715 * x * x * x))
+ inner = c * (1.0 + 3 * 0.044715 * x * x)
+ return 0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner

gelu-is-sigmoid
This is the approximation x σ(1.702 x), not x Φ(x).
+ xp = array_module(x)
+ h = 0.5 + 0.5 * xp.tanh(0.851 * x)
+ return x * h, h + 1.702 * x * h * (1.0 - h)

gelu-derivative-cdf
The derivative lacks the term x φ(x): both factors of x Φ(x) move.
- return x * cdf, cdf + x * density
+ return x * cdf, cdf

gelu-density
The density of the normal has the factor 1/√(2π).
- density = bell * (1.0 / math.sqrt(2.0 * math.pi))
+ density = bell

== minipeft.ops.activation:_gelu_tanh 2.2

gelu-tanh-is-exact
This is the exact x Φ(x) where GPT-2's approximation is asked for.
+ cdf, bell = normal_cdf(x)
+ density = bell * (1.0 / math.sqrt(2.0 * math.pi))
+ return x * cdf, cdf + x * density

gelu-tanh-inner
The chain rule stops at tanh: its argument has a derivative too.
- inner = c * (1.0 + 3 * 0.044715 * x * x)
+ inner = 1.0

gelu-tanh-cube
The derivative of x³ is 3 x²; the factor 3 is missing.
- inner = c * (1.0 + 3 * 0.044715 * x * x)
+ inner = c * (1.0 + 0.044715 * x * x)

gelu-tanh-overflow
tanh written with exponentials is inf/inf for large arguments; the library's own tanh is not.
- t = xp.tanh(c * (x + 0.044715 * x * x * x))
+ e = xp.exp(2 * c * (x + 0.044715 * x * x * x))
+ t = (e - 1.0) / (e + 1.0)

== minipeft.ops.normalize:LayerNorm.forward 2.3

norm-ddof
The variance is divided by d - 1; the normalization takes the mean over all d.
- ((x - mean) ** 2).mean(axis=-1, keepdims=True)
+ ((x - mean) ** 2).sum(axis=-1, keepdims=True) / max(1, x.shape[-1] - 1)

norm-eps-outside
ε is added to the standard deviation; it belongs under the root, to the variance.
- 1.0 / xp.sqrt(var + eps)
+ 1.0 / (xp.sqrt(var) + eps)

norm-no-root
It is divided by the variance where the root of it is asked for.
- xp.sqrt(var + eps)
+ (var + eps)

norm-over-rows
Mean and variance run over the rows; each row is to be normalized by itself, over its features.
- mean = x.mean(axis=-1, keepdims=True)
- var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
+ mean = x.mean(axis=0, keepdims=True)
+ var = ((x - mean) ** 2).mean(axis=0, keepdims=True)

norm-over-all
One mean and one variance for all; each position has its own, over the last axis.
- mean = x.mean(axis=-1, keepdims=True)
- var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
+ mean = x.mean(axis=None, keepdims=True)
+ var = ((x - mean) ** 2).mean(axis=None, keepdims=True)

norm-gamma-missing
The gain γ is missing.
- x_hat * gamma + beta
+ x_hat + beta

norm-beta-missing
The shift β is missing.
- x_hat * gamma + beta
+ x_hat * gamma

norm-square-of-mean
mean(x²) - mean(x)² loses all digits in float32 where the mean is large; average the squared deviations.
- ((x - mean) ** 2).mean(axis=-1, keepdims=True)
+ (x * x).mean(axis=-1, keepdims=True) - mean * mean

norm-saves-all
An array is saved although neither x nor γ requires a gradient.
- x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma if needs_x else None
+ x_hat, rstd, gamma

== minipeft.ops.normalize:LayerNorm.backward 2.4 with LayerNorm.forward

norm-back-constant-statistics
Mean and variance are treated as constants: both mean terms are missing.
- dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd
+ dx = g * rstd

norm-back-mean-term
The term from the mean is missing: the entries of a row of dx must sum to zero.
-     dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd
+     dx = (g - x_hat * inner) * rstd

norm-back-variance-term
The term from the variance, x̂ mean(dx̂ ∘ x̂), is missing.
-     dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd
+     dx = (g - g.mean(axis=-1, keepdims=True)) * rstd

norm-back-gamma
dx̂ is γ ∘ dz: the gain is missing.
- g = dz * gamma
+ g = dz

norm-back-gamma-last
γ is multiplied in after the means; it differs from feature to feature, so it must stand inside them.
- g = dz * gamma
+ g = dz
- - x_hat * inner) * rstd
+ - x_hat * inner) * rstd * gamma

norm-back-spread
dx is not divided by the standard deviation.
- - x_hat * inner) * rstd
+ - x_hat * inner)

norm-back-first-axis
dγ and dβ are summed over the first axis alone; every axis but the last is to be summed.
- (dz * x_hat).reshape(-1, d).sum(axis=0)
+ (dz * x_hat).sum(axis=0)
- dbeta = dz.reshape(-1, d).sum(axis=0)
+ dbeta = dz.sum(axis=0)

norm-back-beta-mean
dβ is the sum over the rows, not their mean.
- dz.reshape(-1, d).sum(axis=0)
+ dz.reshape(-1, d).sum(axis=0) / max(1, dz.size // d)

norm-back-dgamma
dγ is Σ dz ∘ x̂; x̂ is missing.
- (dz * x_hat)
+ (dz * 1.0)

norm-back-frozen
A gradient is computed for an input that wants none; ctx.needs_grad says which do.
- if ctx.needs_grad[1]:
+ if x_hat is not None:
- if ctx.needs_grad[2]:
+ if True:

== minipeft.ops.normalize:RMSNorm.forward 2.5 with RMSNorm.backward

rms-centred
The mean is subtracted: that is LayerNorm. RMSNorm divides x as it is.
- x_hat = x * rstd
+ x_hat = (x - x.mean(axis=-1, keepdims=True)) * rstd

rms-eps-outside
ε is added to the root; it belongs under it.
- 1.0 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
+ 1.0 / (xp.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps)

rms-sum
The squares are summed where their mean is asked for.
- (x * x).mean(
+ (x * x).sum(

== minipeft.ops.normalize:RMSNorm.backward 2.5 with RMSNorm.forward

rms-back-constant
The root is treated as a constant: the second term of dx is missing.
-     dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * rstd
+     dx = (g) * rstd

rms-back-mean-term
RMSNorm subtracts no mean, so dx has no term mean(dx̂).
- dx = (g - x_hat
+ dx = (g - g.mean(axis=-1, keepdims=True) - x_hat

rms-back-gamma
dx̂ is γ ∘ dz: the gain is missing.
- g = dz * gamma
+ g = dz

rms-back-first-axis
dγ is summed over the first axis alone; every axis but the last is to be summed.
- (dz * x_hat).reshape(-1, dz.shape[-1]).sum(axis=0)
+ (dz * x_hat).sum(axis=0)

== minipeft.ops.loss:CrossEntropy.forward 2.6 with CrossEntropy.backward

cross-mean-over-all
The mean runs over the rows that have a label, not over all rows.
- n = labels.shape[0]
+ n = labels.shape[0]
+ R = s.shape[0]
- p / n
+ p / R
- .sum() / n
+ .sum() / R

cross-gradient-not-averaged
The loss is a mean over n rows, its gradient lacks the factor 1/n.
- p / n
+ p

cross-sum
The loss is summed where its mean is asked for.
- p / n
+ p
- .sum() / n
+ .sum()

cross-onehot-missing
The gradient is the softmax alone; at the label one has to be subtracted.
-     p[picks, labels] -= 1.0

cross-first-rows
The first n rows are taken; the rows that have a label are those in ``kept``.
- part = s[kept]
+ part = s[:n]
- ds[kept] = p / n
+ ds[:n] = p / n

cross-no-shift
Large logits overflow: subtract the largest of each row before the exponential.
- part = part - part.max(axis=1, keepdims=True)

cross-log-of-softmax
The logarithm of a probability that has underflowed is -inf; take it of the sum, not of the quotient.
- logs = part - xp.log(xp.exp(part).sum(axis=1, keepdims=True))
+ logs = xp.log(xp.exp(part) / xp.exp(part).sum(axis=1, keepdims=True))

cross-ignored-rows
Rows without a label get a gradient; it must be zero.
- ds = xp.zeros(s.shape, dtype=s.dtype)
+ ds = xp.exp(s) / xp.exp(s).sum(axis=1, keepdims=True) / n

cross-saves-frozen
An array is saved although the logits require no gradient.
- if ctx.needs_grad[0]:
+ if True:

== minipeft.ops.loss:CrossEntropy.backward 2.6 with CrossEntropy.forward

cross-upstream
dL is ignored: the loss may be scaled or summed with others.
- return ds * dz, None, None
+ return ds * 1.0, None, None

== minipeft.ops.loss:_block_loss 2.6

block-mean
One block gives the sum over its rows; the mean is taken over all blocks.
- return -logs[picks, labels].sum()
+ return -logs[picks, labels].mean()

block-not-in-place
The gradient is not written into s.
-     s[...] = xp.exp(logs)
+     s = xp.exp(logs)

== minipeft.ops.attention:mask_bias 2.7

bias-no-offset
The causal mask ignores that the queries stand behind S - N keys: the first query sees one key alone.
- k=S - N
+ k=0

bias-offset-sign
The offset of the causal mask has the wrong sign.
- k=S - N
+ k=N - S

bias-future
Every query sees one key too many, of the future.
- k=S - N
+ k=S - N + 1

bias-strict
A query does not see the key of its own position.
- k=S - N
+ k=S - N - 1

bias-inverted
The mask is True where a query may look; here these keys are hidden.
- visible & mask
+ visible & ~mask

bias-either
With two masks a query sees what both allow, not what either allows.
- visible & mask
+ (visible | mask) if causal else mask

bias-mask-only
Where a mask is given, the causal one is forgotten.
- visible & mask
+ mask

bias-zeros
Hidden keys are given the score 0; eˢ is then 1, not 0. M is -inf there.
- xp.where(visible, 0.0, -math.inf)
+ xp.where(visible, 0.0, -1.0)

bias-float64
M is float64 and draws float32 scores up with it.
- .astype(like.dtype)
+ .astype('float64')

== minipeft.ops.attention:Attention.forward 2.7

attend-own-scale
The scale is given; 1/√D is only what it is by default.
- s = scale * matmul
+ s = D**-0.5 * matmul

attend-no-scale
The scores are not multiplied by the scale.
- s = scale * matmul
+ s = matmul

attend-over-queries
The softmax runs over the queries; each query's weights over the keys are to sum to one.
- s.max(axis=-1, keepdims=True)
+ s.max(axis=-2, keepdims=True)
- p.sum(axis=-1, keepdims=True)
+ p.sum(axis=-2, keepdims=True)

attend-heads-interleaved
Consecutive query heads share a key head: 0 and 1 the first, 2 and 3 the second, not in turns.
- xp.repeat(k, H // Hk, axis=1)
+ xp.tile(k, (1, H // Hk, 1, 1))
- xp.repeat(v, H // Hk, axis=1)
+ xp.tile(v, (1, H // Hk, 1, 1))

attend-blind-nan
A query that sees nothing gives 0/0; it is to get zeros.
- xp.maximum(s.max(axis=-1, keepdims=True), float(np.finfo(s.dtype).min))
+ s.max(axis=-1, keepdims=True)

attend-blind-average
A query that sees nothing gets the average of all values; it is to get zeros.
- xp.where(visible, s, -math.inf)
+ xp.where(visible, s, -1e9)

attend-overflow
The exponentials of large scores overflow: subtract the largest of each row first.
- xp.exp(s - xp.maximum(s.max(axis=-1, keepdims=True), float(np.finfo(s.dtype).min)))
+ xp.exp(s)

attend-mask-after
The weights are masked after the softmax and no longer sum to one.
- s = xp.where(visible, s, -math.inf)
+
- return matmul(p, V)
+ return matmul(xp.where(visible, p, 0.0), V)

attend-no-offset
The causal mask ignores that the queries stand behind S - N keys: the first query sees one key alone.
- k=S - N
+ k=0

attend-saves-all
Everything is kept, whatever is trained: for V alone, P is enough.
- (q if needs_k else None, k if needs_q else None, v if scored else None)
+ (q, k, v)

== minipeft.ops.attention:Attention.backward 2.8 with Attention.forward

attend-back-dV
dV is Pᵀ dZ: P is not transposed, which fits for as many keys as queries alone.
- matmul(p.swapaxes(-1, -2), dz)
+ matmul(p, dz)

attend-back-dK
dK is dSᵀ Q: dS is not transposed, which fits for as many keys as queries alone.
- matmul(ds.swapaxes(-1, -2), q)
+ matmul(ds, q)

attend-back-no-row-sum
dS lacks the term from the softmax's denominator; its rows must sum to zero.
- p * (dp - (dp * p).sum(axis=-1, keepdims=True))
+ p * dp

attend-back-diagonal
dS takes the diagonal of the softmax's Jacobian alone.
- p * (dp - (dp * p).sum(axis=-1, keepdims=True))
+ p * (1.0 - p) * dp

attend-back-column-sum
The sum in dS runs over the queries; it runs over the keys.
- (dp * p).sum(axis=-1, keepdims=True)
+ (dp * p).sum(axis=-2, keepdims=True)

attend-back-dQ-scale
dQ lacks the scale.
- dq = scale * matmul
+ dq = matmul

attend-back-dK-scale
dK lacks the scale.
- each = scale * matmul
+ each = matmul

attend-back-scale-twice
dQ has the scale twice.
- dq = scale * matmul
+ dq = scale**2 * matmul

attend-back-group-mean
A shared key head gets the sum over the query heads that share it, not their mean.
-     dv = each.reshape(B, Hk, G, S, -1).sum(axis=2)
+     dv = each.reshape(B, Hk, G, S, -1).mean(axis=2)
-         dk = each.reshape(B, Hk, G, S, -1).sum(axis=2)
+         dk = each.reshape(B, Hk, G, S, -1).mean(axis=2)

attend-back-group-missing
The gradients of K and V have the shape of the query heads; heads that share a key head are to be summed.
-     dv = each.reshape(B, Hk, G, S, -1).sum(axis=2)
+     dv = each
-         dk = each.reshape(B, Hk, G, S, -1).sum(axis=2)
+         dk = each

attend-back-in-place
dz is written: it belongs to others, who read it later.
- if needs_q or needs_k:
+ if needs_q or needs_k:
+     dz = dz if not dz.flags.writeable else dz.__imul__(scale) / scale

== minipeft.ops.attention:SplitHeads.forward 2.9

split-no-transpose
A reshape alone mixes positions and heads: the axes must be exchanged too.
+ B, N, d = x.shape
+ return x.reshape(B, n_heads, N, d // n_heads)

split-interleaved
Head h takes the columns h D … (h + 1) D - 1, not every H-th column.
+ B, N, d = x.shape
+ return x.reshape(B, N, d // n_heads, n_heads).transpose(0, 3, 1, 2)

== minipeft.ops.attention:SplitHeads.backward 2.9

split-backward
The axes are not exchanged back before the heads are merged.
+ B, H, N, D = dz.shape
+ return dz.reshape(B, N, H * D), None

== minipeft.ops.attention:MergeHeads.forward 2.9 with MergeHeads.backward

merge-no-transpose
The axes are not exchanged back before the heads are merged.
+ ctx.save(x.shape[1])
+ B, H, N, D = x.shape
+ return x.reshape(B, N, H * D)

== minipeft.ops.attention:Rotary.backward 2.9 with Rotary.forward

rotary-backward-forward
The backward turns on in the same direction; a rotation's transpose turns back.
+ cos, sin = ctx.saved
+ half = dz.shape[-1] // 2
+ a, b = dz[..., :half], dz[..., half:]
+ return array_module(dz).concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1), None, None

== minipeft.ops.attention:_turn 2.9

rotary-pairs
Neighbouring entries are turned with each other; here the two halves of a head are.
+ z = array_module(x).empty_like(x)
+ a, b = x[..., 0::2], x[..., 1::2]
+ z[..., 0::2] = a * cos - b * sin
+ z[..., 1::2] = b * cos + a * sin
+ return z

rotary-sign
It is turned in the other direction: the signs of sin are exchanged.
+ half = x.shape[-1] // 2
+ a, b = x[..., :half], x[..., half:]
+ return array_module(x).concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)

== minipeft.nn.attention:MultiHeadAttention.forward 2.10

heads-query-memory
With a memory, the queries still come from x; keys and values come from the memory.
- self.q_proj(x)
+ self.q_proj(x if memory is None else memory[:, : x.shape[1]])

heads-memory-ignored
The memory is not used: keys and values come from x.
- source = x if memory is None else memory
+ source = x

heads-kv-heads
Keys and values have n_kv_heads heads, which may be fewer than the queries'.
- ops.split_heads(self.k_proj(source), self.n_kv_heads)
+ ops.split_heads(self.k_proj(source), self.n_heads)
- ops.split_heads(self.v_proj(source), self.n_kv_heads)
+ ops.split_heads(self.v_proj(source), self.n_heads)

heads-same-projection
Keys and values have projections of their own; here the values take the keys'.
- self.v_proj(source)
+ self.k_proj(source)

heads-rotary-values
Rotary positions turn queries and keys; the values stay as they are.
-         k = ops.rotary(k, *angles)
+         k = ops.rotary(k, *angles)
+         v = ops.rotary(v, *angles)

heads-rotary-keys-only
The queries are not turned: scores would depend on absolute positions.
- if angles is not None:
-     q = ops.rotary(q, *angles)

heads-mask
The mask does not reach the core.
- self.core(q, k, v, mask)
+ self.core(q, k, v)

heads-out-projection
The output projection W_o is missing.
- self.out_proj(ops.merge_heads(self.core(q, k, v, mask)))
+ ops.merge_heads(self.core(q, k, v, mask))

heads-own-core
Attention is computed here, past ``core``: what a method puts in its place would have no effect.
- self.core(q, k, v, mask)
+ ops.attention(q, k, v, mask=mask, causal=self.core.causal if hasattr(self.core, 'causal') else False)

heads-cache-unused
Keys and values of earlier calls are forgotten.
-         k, v = cache.extend(k, v)
+         cache.extend(k, v)

heads-memory-again
The memory's keys and values are appended to the cache at every call; after the first all are there.
- if memory is not None and cache is not None and cache.length:
+ if False:

== minipeft.nn.transformer:FeedForward.forward 2.11

feed-forward-gate-swapped
f acts on the gate, not on the other branch.
+ u = self.up_proj(x)
+ if self.gate_proj is None:
+     return self.down_proj(ops.activation(u, self.activation))
+ return self.down_proj(ops.gate(u, self.gate_proj(x), self.activation))

feed-forward-gate-ignored
The gate is there and is not used.
+ return self.down_proj(ops.activation(self.up_proj(x), self.activation))

feed-forward-gelu
The activation is GELU whatever was asked for.
+ u = self.up_proj(x)
+ if self.gate_proj is None:
+     return self.down_proj(ops.activation(u, "gelu"))
+ return self.down_proj(ops.gate(self.gate_proj(x), u, "gelu"))

feed-forward-activation-last
The activation acts on the inner layer, of width d_ff, not on the output.
+ u = self.up_proj(x)
+ if self.gate_proj is None:
+     return ops.activation(self.down_proj(u), self.activation)
+ return self.down_proj(ops.gate(self.gate_proj(x), u, self.activation))

== minipeft.nn.transformer:TransformerLayer._residual 2.11

residual-of-normalized
With the normalization first, x itself is added, not the normalized x.
+ if self.norm_first:
+     y = norm(x)
+     return y + self.dropout(sublayer(y, **kwargs))
+ return norm(x + self.dropout(sublayer(x, **kwargs)))

residual-norm-sublayer
With the normalization behind, it acts on the sum x + sublayer(x), not on the sublayer's output alone.
+ if self.norm_first:
+     return x + self.dropout(sublayer(norm(x), **kwargs))
+ return x + norm(self.dropout(sublayer(x, **kwargs)))

residual-always-first
norm_first is not asked for: BERT normalizes behind the sum.
+ return x + self.dropout(sublayer(norm(x), **kwargs))

residual-missing
x is not added.
+ if self.norm_first:
+     return self.dropout(sublayer(norm(x), **kwargs))
+ return norm(self.dropout(sublayer(x, **kwargs)))

residual-dropout-sum
The dropout acts on the sublayer's output; x passes whole.
+ if self.norm_first:
+     return self.dropout(x + sublayer(norm(x), **kwargs))
+ return norm(self.dropout(x + sublayer(x, **kwargs)))

residual-dropout-missing
The dropout is missing.
+ if self.norm_first:
+     return x + sublayer(norm(x), **kwargs)
+ return norm(x + sublayer(x, **kwargs))
""",
    PLAIN,
)

MUTANTS += mistakes("""
== minipeft.ops.softmax:Softmax.forward 2.1

softmax-by-id
What a call computed is returned again for the same array, although its entries have changed since.
- p = stable_softmax(s, axis)
+ seen = vars(Softmax).get("seen", {})
+ Softmax.seen = seen
+ p = seen.setdefault((id(s), axis), (s, stable_softmax(s, axis)))[1]

== minipeft.ops.softmax:Softmax.backward 2.1

softmax-writes-output
The saved p is written and returned, but it is also what the forward returned.
- return p * (dz - (dz * p).sum(axis=axis, keepdims=True)), None
+ p *= dz - (dz * p).sum(axis=axis, keepdims=True)
+ return p, None

== minipeft.ops.normalize:LayerNorm.forward 2.3

layer-norm-float32
float64 is computed in float32 in between.
- return gamma * x_hat + beta
+ return (gamma * x_hat + beta).astype("float32").astype(x.dtype)

== minipeft.ops.normalize:LayerNorm.backward 2.4

layer-norm-backward-float32
float64 is computed in float32 in between.
- dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd
+ dx = ((g - g.mean(axis=-1, keepdims=True) - x_hat * inner) * rstd).astype("float32").astype(dz.dtype)
""")
