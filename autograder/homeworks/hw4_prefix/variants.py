"""Other ways to be right in hw4_prefix."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== Prepend by concatenation
== minipeft.peft.prompt:Prepend.forward
ctx.save(len(p))
return np.concatenate([np.broadcast_to(p, (len(x), *p.shape)), x], axis=1)

== minipeft.peft.prompt:Prepend.backward
n = ctx.saved[0]
dp, dx = np.split(dz, [n], axis=1)
return (np.einsum("bpd->pd", dp) if ctx.needs_grad[0] else None), (dx if ctx.needs_grad[1] else None)

=== Prepend by a list of rows
== minipeft.peft.prompt:Prepend.forward
ctx.save(p.shape)
return np.stack([np.vstack([p, row]) for row in x])

== minipeft.peft.prompt:Prepend.backward
(P, d), = ctx.saved
dp = np.zeros((P, d), dtype=dz.dtype)
for row in dz:
    dp += row[:P]
return [dp if ctx.needs_grad[0] else None, dz[:, P:].copy() if ctx.needs_grad[1] else None]

=== a start by cases
== minipeft.peft.prompt:PromptTuningConfig._start
n, name = self.num_virtual_tokens, self.prompt_tuning_init
V, d = table.shape
if name is None:
    name = "SAMPLE_VOCAB" if is_text else "RANDOM"
if name == "RANDOM":
    std = self.init_std if self.init_std is not None else np.std(table)
    return std * rng.standard_normal((n, d))
if name not in ("TEXT", "SAMPLE_VOCAB"):
    raise PeftError("unknown")
if not is_text:
    raise PeftError("no vocabulary")
if name == "SAMPLE_VOCAB":
    return np.array(table[rng.integers(0, V, n)])
ids = list(self.prompt_tuning_init_ids or [])
if len(ids) == 0 or any(i < 0 or i >= V for i in ids):
    raise PeftError("ids")
return np.stack([table[ids[i % len(ids)]] for i in range(n)])

=== a mask of -1e9 by comparison
== minipeft.ops.attention:mask_bias
xp = array_module(like)
if mask is None and (not causal or N == 1):
    return None
hidden = xp.zeros((N, S), dtype=bool)
if causal:
    hidden = xp.arange(S)[None, :] > (xp.arange(N)[:, None] + (S - N))
if mask is not None:
    hidden = hidden | ~mask
return hidden.astype(like.dtype) * like.dtype.type(-1e9)

=== a mask by rows
== minipeft.ops.attention:mask_bias
bias = None
if causal:
    bias = np.zeros((N, S), dtype=like.dtype)
    for i in range(N):
        bias[i, S - N + i + 1 :] = -np.inf
    if not (bias != 0).any():
        bias = None
if mask is not None:
    own = np.zeros(mask.shape, dtype=like.dtype)
    own[~mask] = -np.inf
    bias = own if bias is None else own + bias
return bias

=== the prefix by concatenation
== minipeft.peft.prefix:_behind
front = np.broadcast_to(np.transpose(prefix, (1, 0, 2))[None], (x.shape[0], x.shape[1], len(prefix), x.shape[3]))
return np.concatenate([front, x], axis=2)[:, :, None]

=== attention in loops
== minipeft.peft.prefix:PrefixAttention.forward
B, H, N, D = q.shape
Hk, S, P = k.shape[1], k.shape[2], prefix.shape[1]
G = H // Hk
A = np.zeros((B, H, N, P + S), dtype=q.dtype)
z = np.empty((B, H, N, v.shape[-1]), dtype=q.dtype)
for b in range(B):
    for h in range(H):
        K = np.concatenate([prefix[0, :, h // G], k[b, h // G]])
        V = np.concatenate([prefix[1, :, h // G], v[b, h // G]])
        s = q[b, h] @ K.T * scale
        seen = np.ones((N, P + S), dtype=bool)
        if causal:
            for i in range(N):
                seen[i, P + S - N + i + 1 :] = False
        if mask is not None:
            seen[:, P:] &= mask[b, 0]
        s[~seen] = -np.inf
        e = np.exp(s - s.max(axis=1, keepdims=True))
        A[b, h] = e / e.sum(axis=1, keepdims=True)
        z[b, h] = A[b, h] @ V
nq, nk, nv, nP = ctx.needs_grad[:4]
ctx.save(
    A, q if nk or nP else None, k if nq else None, v if nq or nk or nP else None, prefix, scale, (q.shape, k.shape),
)
return z

== minipeft.peft.prefix:PrefixAttention.backward
A, q, k, v, prefix, scale, (q_shape, k_shape) = ctx.saved
nq, nk, nv, nP = ctx.needs_grad[:4]
B, H, N, D = q_shape
Hk, P = k_shape[1], prefix.shape[1]
G = H // Hk
dq, dk, dv, dP = (np.zeros(shape, dtype=dz.dtype) for shape in (q_shape, k_shape, k_shape, prefix.shape))
for b in range(B):
    for h in range(H):
        g = h // G
        a, d = A[b, h], dz[b, h]
        dV = a.T @ d
        dP[1, :, g] += dV[:P]
        dv[b, g] += dV[P:]
        if v is None:
            continue
        dA = d @ np.concatenate([prefix[1, :, g], v[b, g]]).T
        dS = scale * a * (dA - (dA * a).sum(axis=1, keepdims=True))
        if nq:
            dq[b, h] = dS @ np.concatenate([prefix[0, :, g], k[b, g]])
        if q is not None:
            dK = dS.T @ q[b, h]
            dP[0, :, g] += dK[:P]
            dk[b, g] += dK[P:]
return (
    dq if nq else None, dk if nk else None, dv if nv else None, dP if nP else None, None, None, None,
)

=== attention by einsum
== minipeft.peft.prefix:PrefixAttention.forward
B, H, N, D = q.shape
Hk, S, P = k.shape[1], k.shape[2], prefix.shape[1]
Q = q.reshape(B, Hk, -1, N, D)
front = np.einsum("bhgnd,phd->bhgnp", Q, prefix[0])
text = np.einsum("bhgnd,bhsd->bhgns", Q, k)
if causal:
    future = np.arange(S)[None] > (S - N + np.arange(N))[:, None]
    text = np.where(future, -1e30, text)
if mask is not None:
    text = np.where(mask[:, None], text, -1e30)
s = np.concatenate([front, text], axis=-1) * scale
s = s - s.max(axis=-1, keepdims=True)
A = np.exp(s)
A /= A.sum(axis=-1, keepdims=True)
A = A.astype(q.dtype)
z = np.einsum("bhgnp,phd->bhgnd", A[..., :P], prefix[1]) + np.einsum("bhgns,bhsd->bhgnd", A[..., P:], v)
nq, nk, nv, nP = ctx.needs_grad[:4]
ctx.save(
    A, Q if nk or nP else None, k if nq else None, v if nq or nk or nP else None, prefix, scale,
)
return z.reshape(B, H, N, -1)

== minipeft.peft.prefix:PrefixAttention.backward
A, Q, k, v, prefix, scale = ctx.saved
nq, nk, nv, nP = ctx.needs_grad[:4]
P = prefix.shape[1]
Z = dz.reshape(*A.shape[:4], -1)
dq = dk = dv = dP = None
if v is not None:
    dA = np.concatenate(
        [np.einsum("bhgnd,phd->bhgnp", Z, prefix[1]), np.einsum("bhgnd,bhsd->bhgns", Z, v)], axis=-1
    )
    dS = A * (dA - np.einsum("...s,...s->...", dA, A)[..., None]) * scale
if nq:
    dq = np.einsum("bhgnp,phd->bhgnd", dS[..., :P], prefix[0]) + np.einsum("bhgns,bhsd->bhgnd", dS[..., P:], k)
    dq = dq.reshape(dz.shape)
if nk:
    dk = np.einsum("bhgns,bhgnd->bhsd", dS[..., P:], Q)
if nv:
    dv = np.einsum("bhgns,bhgnd->bhsd", A[..., P:], Z)
if nP:
    dP = np.stack([
        np.einsum("bhgnp,bhgnd->phd", dS[..., :P], Q), np.einsum("bhgnp,bhgnd->phd", A[..., :P], Z)
    ])
return dq, dk, dv, dP, None, None, None

=== attention with repeated keys
== minipeft.peft.prefix:PrefixAttention.forward
B, H, N, D = q.shape
Hk, S, P = k.shape[1], k.shape[2], prefix.shape[1]
G = H // Hk
keys, values = (np.repeat(_behind(prefix[i], x)[:, :, 0], G, axis=1) for i, x in enumerate((k, v)))
s = np.matmul(q, np.swapaxes(keys, -1, -2)) * scale
if mask is not None:
    mask = np.pad(mask, ((0, 0), (0, 0), (0, 0), (P, 0)), constant_values=True)
bias = mask_bias(s, N, P + S, causal, mask)
if bias is not None:
    s = s + bias
e = np.exp(s - s.max(axis=-1, keepdims=True))
A = (e / e.sum(axis=-1, keepdims=True)).astype(q.dtype)
nq, nk, nv, nP = ctx.needs_grad[:4]
ctx.save(
    A, q if nk or nP else None, keys if nq else None, values if nq or nk or nP else None, (B, Hk, G, N, P, scale),
)
return A @ values

== minipeft.peft.prefix:PrefixAttention.backward
A, q, keys, values, (B, Hk, G, N, P, scale) = ctx.saved
needs = ctx.needs_grad[:4]
dV = np.swapaxes(A, -1, -2) @ dz
dK = np.zeros_like(dV)
if values is not None:
    dA = dz @ np.swapaxes(values, -1, -2)
    dS = A * (dA - np.sum(dA * A, axis=-1, keepdims=True))
    dK = dK if q is None else scale * (np.swapaxes(dS, -1, -2) @ q)
dK, dV = (x.reshape(B, Hk, G, *x.shape[2:]).sum(axis=2) for x in (dK, dV))
halves = [np.moveaxis(x[:, :, :P].sum(axis=0), 0, 1) for x in (dK, dV)]
grads = (scale * (dS @ keys) if needs[0] else None, dK[:, :, P:], dV[:, :, P:], np.stack(halves))
return (*(g if n else None for g, n in zip(grads, needs)), None, None, None)

=== the reparametrization by matmul
== minipeft.peft.prefix:SharedHidden.forward
x = ops.matmul(self.embedding, ops.transpose(self.weight, 1, 0)) + self.bias
return ops.activation(x, "tanh")

== minipeft.peft.prefix:ProjectedPrefix.forward
two, Hk, D = self.shape
x = ops.matmul(self.shared(), ops.transpose(self.weight, 1, 0)) + self.bias
P = x.shape[0]
return ops.swapaxes(ops.reshape(x, P, two, Hk, D), 0, 1)

=== collapsing in two steps
== minipeft.peft.prefix:collapse
cores = [m for _, m in peft.base_model.named_modules() if isinstance(m, PrefixedCore)]
cores = [m for m in cores if not isinstance(m.prefix, FlatPrefix)]
flat = [np.array(m.prefix().data) for m in cores]
for core, values in zip(cores, flat):
    core.prefix = FlatPrefix(Tensor(values, requires_grad=True))
peft.peft_config.prefix_projection = False

=== what is saved is copied
== minipeft.peft.prefix:PrefixAttention.forward
- ctx.save
+ copied(ctx)
== header
def copied(ctx):
    return lambda *values: ctx.save(*[v.copy(order="C") if hasattr(v, "strides") else v for v in values])
""")
