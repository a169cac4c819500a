"""Other ways to be right in hw2_transformer."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== einsum
== minipeft.ops.attention:Attention.forward
B, H, N, D = q.shape
Hk, S = k.shape[1:3]
Q = q.reshape(B, Hk, H // Hk, N, D)
s = np.einsum("bhgnd,bhsd->bhgns", Q, k) * scale
bias = mask_bias(q, N, S, causal, mask)
if bias is not None:
    s = s + np.broadcast_to(bias, (B, H, N, S)).reshape(s.shape)
s = stable_softmax(s)
needs = ctx.needs_grad[:3]
if any(needs):
    if any(needs[:2]):
        ctx.save(s, Q if needs[1] else None, k if needs[0] else None, v, scale)
    else:
        ctx.save(s)
return np.einsum("bhgns,bhse->bhgne", s, v).reshape(B, H, N, -1)

== minipeft.ops.attention:Attention.backward
p = ctx.saved[0]
B, Hk, G, N, S = p.shape
dZ = dz.reshape(B, Hk, G, N, -1)
grads = [None] * 6
if ctx.needs_grad[2]:
    grads[2] = np.einsum("bhgns,bhgne->bhse", p, dZ)
if len(ctx.saved) > 1:
    _, Q, k, v, scale = ctx.saved
    dp = np.einsum("bhgne,bhse->bhgns", dZ, v)
    ds = p * (dp - np.einsum("bhgns,bhgns->bhgn", dp, p)[..., None])
    if ctx.needs_grad[0]:
        grads[0] = scale * np.einsum("bhgns,bhsd->bhgnd", ds, k).reshape(B, Hk * G, N, -1)
    if ctx.needs_grad[1]:
        grads[1] = scale * np.einsum("bhgns,bhgnd->bhsd", ds, Q)
return grads

=== one-head-at-a-time
== minipeft.ops.attention:Attention.forward
B, H, N, D = q.shape
Hk, S = k.shape[1:3]
z = np.zeros((B, H, N, v.shape[-1]), dtype=q.dtype)
p = np.zeros((B, H, N, S), dtype=q.dtype)
visible = np.ones((B, H, N, S), dtype=bool)
if causal:
    visible &= np.arange(S)[None, :] <= np.arange(N)[:, None] + (S - N)
if mask is not None:
    visible &= mask
for b in range(B):
    for h in range(H):
        g = h // (H // Hk)
        s = scale * (q[b, h] @ k[b, g].T)
        s[~visible[b, h]] = -1e30
        e = np.exp(s - s.max(axis=1, keepdims=True)) * visible[b, h]
        total = e.sum(axis=1, keepdims=True)
        p[b, h] = np.divide(e, total, out=np.zeros_like(e), where=total > 0)
        z[b, h] = p[b, h] @ v[b, g]
if ctx.needs_grad[0] or ctx.needs_grad[1]:
    ctx.save(p, q, k, v, scale)
elif ctx.needs_grad[2]:
    ctx.save(p, None, None, None, k.shape[1])
return z

== minipeft.ops.attention:Attention.backward
p, q, k, v, scale = ctx.saved
B, H, N, S = p.shape
Hk = scale if k is None else k.shape[1]
dq = np.zeros_like(q) if ctx.needs_grad[0] else None
dk = np.zeros_like(k) if ctx.needs_grad[1] else None
dv = np.zeros((B, Hk, S, dz.shape[-1]), dtype=dz.dtype) if ctx.needs_grad[2] else None
for b in range(B):
    for h in range(H):
        g = h // (H // Hk)
        if dv is not None:
            dv[b, g] += p[b, h].T @ dz[b, h]
        if k is not None:
            dp = dz[b, h] @ v[b, g].T
            ds = scale * p[b, h] * (dp - (dp * p[b, h]).sum(axis=1, keepdims=True))
            if dq is not None:
                dq[b, h] = ds @ k[b, g]
            if dk is not None:
                dk[b, g] += ds.T @ q[b, h]
return dq, dk, dv, None, None, None

== minipeft.ops.attention:mask_bias
rows, columns = np.indices((N, S))
allowed = columns <= rows + (S - N) if causal else np.ones((N, S), dtype=bool)
if mask is not None:
    allowed = np.logical_and(mask, allowed)
bias = np.zeros(allowed.shape, dtype=like.dtype)
bias[~allowed] = -np.inf
return bias

=== computed-anew
== minipeft.ops.attention:Attention.forward
p = _weights(q, k, mask, causal, scale)
if ctx.needs_grad[0] or ctx.needs_grad[1]:
    ctx.save(q, k, v, mask, causal, scale)
elif ctx.needs_grad[2]:
    ctx.save(p, k.shape[1])
return p @ np.repeat(v, q.shape[1] // k.shape[1], axis=1)

== minipeft.ops.attention:Attention.backward
dq = dk = None
if len(ctx.saved) == 2:
    p, Hk = ctx.saved
else:
    q, k, v, mask, causal, scale = ctx.saved
    p, Hk = _weights(q, k, mask, causal, scale), k.shape[1]
B, H, N, S = p.shape
G = H // Hk
dv = None
if ctx.needs_grad[2]:
    dv = (np.swapaxes(p, 2, 3) @ dz).reshape(B, Hk, G, S, dz.shape[-1]).sum(2)
if len(ctx.saved) > 2:
    dp = dz @ np.repeat(v, G, axis=1).swapaxes(2, 3)
    ds = dp * p
    ds = (ds - p * ds.sum(axis=3, keepdims=True)) * scale
    if ctx.needs_grad[0]:
        dq = ds @ np.repeat(k, G, axis=1)
    if ctx.needs_grad[1]:
        dk = (ds.swapaxes(2, 3) @ q).reshape(B, Hk, G, S, -1).sum(2)
return [dq, dk, dv, None, None, None]

== header
def _weights(q, k, mask, causal, scale):
    N, S = q.shape[2], k.shape[2]
    s = (q @ np.repeat(k, q.shape[1] // k.shape[1], axis=1).swapaxes(2, 3)) * scale
    hidden = np.zeros(s.shape, dtype=bool)
    if causal:
        hidden |= ~np.tri(N, S, S - N, dtype=bool)
    if mask is not None:
        hidden |= ~mask
    s[hidden] = np.finfo(s.dtype).min / 2
    s -= s.max(axis=3, keepdims=True)
    e = np.exp(s)
    e[hidden] = 0
    total = e.sum(axis=3, keepdims=True)
    total[total == 0] = 1
    return e / total

=== softmax-in-logarithms
== minipeft.ops.softmax:stable_softmax
with np.errstate(all="ignore"):
    top = np.logaddexp.reduce(s, axis=axis, keepdims=True)
    return np.where(np.isneginf(top), 0.0, np.exp(s - top)).astype(s.dtype)

== minipeft.ops.softmax:Softmax.forward
top = np.logaddexp.reduce(s, axis=axis, keepdims=True)
p = np.where(np.isneginf(top), 0.0, np.exp(s - top)).astype(s.dtype)
ctx.save(p, axis)
return p.copy()

== minipeft.ops.softmax:Softmax.backward
p, axis = ctx.saved
weighted = dz * p
return weighted - p * weighted.sum(axis, keepdims=True), None

== minipeft.ops.loss:CrossEntropy.forward
chosen = s[kept]
total = np.logaddexp.reduce(chosen, axis=1)
loss = np.mean(total - np.take_along_axis(chosen, labels[:, None], axis=1)[:, 0])
if ctx.needs_grad[0]:
    ctx.save(s.shape, kept, labels, np.exp(chosen - total[:, None]))
return np.asarray(loss, dtype=s.dtype)

== minipeft.ops.loss:CrossEntropy.backward
shape, kept, labels, p = ctx.saved
ds = np.zeros(shape, dtype=p.dtype)
p = p.copy()
p[np.arange(len(labels)), labels] -= 1
ds[kept] = p * (float(dz) / len(labels))
return [ds, None, None]

=== row-by-row
== minipeft.ops.softmax:stable_softmax
last = np.moveaxis(s, axis, -1)
z = np.zeros(last.shape, dtype=s.dtype)
for i in np.ndindex(*last.shape[:-1]):
    top = last[i].max()
    if top > -np.inf:
        e = np.exp(last[i] - top)
        z[i] = e / e.sum()
return np.moveaxis(z, -1, axis)

== minipeft.ops.loss:_block_loss
loss = 0.0
for row, label in zip(s, labels):
    shifted = row - row.max()
    total = array_module(s).exp(shifted).sum()
    loss = loss + array_module(s).log(total) - shifted[label]
    if want_grad:
        row[:] = array_module(s).exp(shifted) / total
        row[label] -= 1
return loss

== minipeft.ops.normalize:LayerNorm.forward
xp = array_module(x)
flat = x.reshape(-1, x.shape[-1])
z, hats, scales = xp.empty_like(flat, order="C"), xp.empty_like(flat, order="C"), []
for i, row in enumerate(flat):
    centred = row - row.mean()
    scales.append(1.0 / ((centred @ centred / row.size + eps) ** 0.5))
    hats[i] = centred * scales[-1]
    z[i] = gamma * hats[i] + beta
if ctx.needs_grad[0] or ctx.needs_grad[1]:
    ctx.save(hats, scales, gamma if ctx.needs_grad[0] else None, x.shape)
elif ctx.needs_grad[2]:
    ctx.save(x.shape)
return z.reshape(x.shape)

== minipeft.ops.normalize:LayerNorm.backward
xp = array_module(dz)
shape = ctx.saved[-1]
flat = dz.reshape(-1, shape[-1])
dx = dgamma = dbeta = None
if ctx.needs_grad[0]:
    hats, scales, gamma, _ = ctx.saved
    dx = xp.empty(flat.shape, dtype=dz.dtype)
    for i, row in enumerate(flat):
        g = row * gamma
        dx[i] = (g - g.mean() - hats[i] * (g @ hats[i] / g.size)) * scales[i]
    dx = dx.reshape(shape)
if ctx.needs_grad[1]:
    dgamma = xp.einsum("rd,rd->d", flat, ctx.saved[0])
if ctx.needs_grad[2]:
    dbeta = flat.sum(axis=0)
return dx, dgamma, dbeta, None

=== norms-from-x
== minipeft.ops.normalize:LayerNorm.forward
xp = array_module(x)
z = (x - x.mean(-1, keepdims=True)) / xp.sqrt(x.var(-1, keepdims=True) + eps) * gamma + beta
needs = ctx.needs_grad
if needs[0] or needs[1]:
    ctx.save(x, gamma if needs[0] else None, eps)
return z.astype(x.dtype)

== minipeft.ops.normalize:LayerNorm.backward
dx = dgamma = dbeta = None
axes = tuple(range(dz.ndim - 1))
if ctx.saved:
    xp = array_module(dz)
    x, gamma, eps = ctx.saved
    d = x.shape[-1]
    std = xp.sqrt(x.var(-1, keepdims=True) + eps)
    hat = (x - x.mean(-1, keepdims=True)) / std
    if ctx.needs_grad[0]:
        g = dz * gamma
        dx = (d * g - g.sum(-1, keepdims=True) - hat * (g * hat).sum(-1, keepdims=True)) / (d * std)
    if ctx.needs_grad[1]:
        dgamma = (dz * hat).sum(axis=axes)
if ctx.needs_grad[2]:
    dbeta = dz.sum(axis=axes)
return [dx, dgamma, dbeta, None]

== minipeft.ops.normalize:RMSNorm.forward
xp = array_module(x)
root = (xp.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1] + eps) ** 0.5
if ctx.needs_grad[0] or ctx.needs_grad[1]:
    ctx.save(x, gamma if ctx.needs_grad[0] else None, root)
return x / root * gamma

== minipeft.ops.normalize:RMSNorm.backward
x, gamma, root = ctx.saved
dx = dgamma = None
if ctx.needs_grad[0]:
    g = dz * gamma
    dx = g / root - x * (g * x).mean(-1, keepdims=True) / root**3
if ctx.needs_grad[1]:
    dgamma = (dz * x / root).sum(axis=tuple(range(x.ndim - 1)))
return dx, dgamma, None

=== double-inside
== minipeft.ops.normalize:RMSNorm.forward
w = x.astype("float64")
rstd = ((w * w).mean(axis=-1, keepdims=True) + eps) ** -0.5
hat = (w * rstd).astype(x.dtype)
if ctx.needs_grad[0] or ctx.needs_grad[1]:
    ctx.save({"hat": hat, "rstd": rstd.astype(x.dtype), "gamma": gamma if ctx.needs_grad[0] else None})
return hat * gamma

== minipeft.ops.normalize:RMSNorm.backward
kept = ctx.saved[0]
hat = kept["hat"]
dx = dgamma = None
if kept["gamma"] is not None:
    g = kept["gamma"] * dz
    along = (g * hat).sum(axis=-1, keepdims=True) / hat.shape[-1]
    dx = kept["rstd"] * (g - along * hat)
if ctx.needs_grad[1]:
    dgamma = (hat * dz).reshape(-1, hat.shape[-1]).sum(0)
return (dx, dgamma, None)

== minipeft.ops.activation:_gelu
h = np.array([0.5 * (1.0 + math.erf(float(v) / math.sqrt(2.0))) for v in x.reshape(-1)]).reshape(x.shape)
wide = x.astype("float64")
slope = h + wide * np.exp(-0.5 * wide * wide) / math.sqrt(2.0 * math.pi)
return (wide * h).astype(x.dtype), slope.astype(x.dtype)

== minipeft.ops.activation:_gelu_tanh
a = math.sqrt(2 / math.pi)
u = a * (x + 0.044715 * x**3)
t = np.tanh(u)
sech2 = (1.0 / np.cosh(np.clip(u, -300, 300).astype("float64")) ** 2).astype(x.dtype)
return [x * (0.5 + 0.5 * t), 0.5 * (1 + t) + (0.5 * x * sech2 * a * (1 + 0.134145 * x * x))]

=== heads-by-pieces
== minipeft.ops.attention:SplitHeads.forward
return np.stack(np.split(x, n_heads, axis=2), axis=1)

== minipeft.ops.attention:SplitHeads.backward
return np.concatenate([dz[:, h] for h in range(dz.shape[1])], axis=-1), None

== minipeft.ops.attention:MergeHeads.forward
ctx.save(x.shape)
return np.concatenate(list(np.moveaxis(x, 1, 0)), axis=-1)

== minipeft.ops.attention:MergeHeads.backward
B, H, N, D = ctx.saved[0]
return (np.moveaxis(dz.reshape(B, N, H, D), 2, 1).copy(),)

== minipeft.ops.attention:Rotary.forward
ctx.save(cos, sin)
half = x.shape[-1] // 2
turned = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin)
return np.concatenate([turned.real, turned.imag], axis=-1).astype(x.dtype)

== minipeft.ops.attention:Rotary.backward
cos, sin = ctx.saved
half = dz.shape[-1] // 2
dx = np.empty_like(dz, order="C")
dx[..., :half] = dz[..., :half] * cos + dz[..., half:] * sin
dx[..., half:] = dz[..., half:] * cos - dz[..., :half] * sin
return dx, None, None

== minipeft.ops.attention:_merged
B, H, N, D = x.shape
return np.einsum("bhnd->bnhd", x).reshape(B, N, -1)

== minipeft.ops.attention:_turn
first, second = np.split(x, 2, axis=-1)
return np.concatenate((first * cos - second * sin, first * sin + second * cos), axis=-1)

=== modules-in-another-order
== minipeft.nn.attention:MultiHeadAttention.forward
def split(projection, source, n):
    y = projection(source)
    return ops.split_heads(y, n)


if memory is None:
    memory_given, memory = False, x
else:
    memory_given = True
filled = memory_given and cache is not None and cache.length > 0
if not filled:
    v = split(self.v_proj, memory, self.n_kv_heads)
    k = split(self.k_proj, memory, self.n_kv_heads)
    if angles is not None:
        k = ops.rotary(k, angles[0], angles[1])
    if cache is not None:
        cache.extend(k, v)
if cache is not None:
    k, v = cache.get()
q = split(self.q_proj, x, self.n_heads)
if angles is not None:
    q = ops.rotary(q, angles[0], angles[1])
mixed = self.core(q, k, v, mask=mask)
return self.out_proj(ops.merge_heads(mixed))

=== layers-written-out
== minipeft.nn.transformer:FeedForward.forward
gated = self.gate_proj is not None
if gated:
    inner = ops.activation(self.gate_proj(x), self.activation) * self.up_proj(x)
else:
    inner = ops.activation(self.up_proj(x), self.activation)
return self.down_proj(inner)

== minipeft.nn.transformer:TransformerLayer._residual
given = norm(x) if self.norm_first else x
total = self.dropout(sublayer(given, **kwargs)) + x
return total if self.norm_first else norm(total)

=== products-with-ones
== minipeft.ops.softmax:stable_softmax
t = np.moveaxis(s, axis, -1)
t = np.exp(t - np.max(t, axis=-1, initial=np.finfo(s.dtype).min)[..., None])
total = t @ np.ones(t.shape[-1], dtype=s.dtype)
total[total == 0] = 1
return np.moveaxis(t / total[..., None], -1, axis)

== minipeft.ops.activation:_gelu
h, bell = normal_cdf(x)
z, slope = np.empty_like(x), np.empty_like(x)
np.multiply(h, x, out=z)
np.add(h, bell * x * 0.3989422804014327, out=slope)
return z, slope

== minipeft.ops.loss:_block_loss
xp = array_module(s)
total = xp.exp(s - s.max(axis=1, keepdims=True)).sum(axis=1)
logz = xp.log(total) + s.max(axis=1)
onehot = (xp.arange(s.shape[1]) == labels[:, None]).astype(s.dtype)
loss = logz.sum() - (s * onehot).sum()
if want_grad:
    s[:] = xp.exp(s - logz[:, None]) - onehot
return loss

=== gamma is always kept
== minipeft.ops.normalize:LayerNorm.forward
centred = x - x.mean(axis=-1, keepdims=True)
rstd = 1.0 / array_module(x).sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
x_hat = centred * rstd
needs_x, needs_gamma, _, _ = ctx.needs_grad
ctx.save(x_hat if needs_x or needs_gamma else None, rstd if needs_x else None, gamma)
return gamma * x_hat + beta

=== the forward of a module
== minipeft.nn.transformer:TransformerLayer._residual
if self.norm_first:
    return x + self.dropout.forward(sublayer.forward(norm.forward(x), **kwargs))
return norm.forward(x + self.dropout.forward(sublayer.forward(x, **kwargs)))
""")
