"""Other ways to be right in hw7_vision."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== LayerNorm by hand
== minipeft.peft.lnlora:LNLoRALinear.forward
needs_x, needs_W, needs_b, needs_g, needs_beta, needs_A, needs_B, _ = ctx.needs_grad
mean = x.mean(axis=-1, keepdims=True)
rstd = 1.0 / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + EPS)
x_hat = (x - mean) * rstd
N = gamma * x_hat + beta
z = np.einsum("...k,dk->...d", x, weight) + scale * np.einsum("...k,rk,dr->...d", N, lora_A, lora_B)
low = needs_x or needs_g or needs_beta or needs_A
ctx.save(
    x if needs_W else None, N if needs_A or needs_B else None, x_hat if needs_x or needs_g else None,
    rstd if needs_x else None, gamma if needs_x else None, weight if needs_x else None,
    lora_A if low or needs_B else None, lora_B if low else None, scale,
)
return z if bias is None else z + bias

== minipeft.peft.lnlora:LNLoRALinear.backward
x, N, x_hat, rstd, gamma, W, A, B, s = ctx.saved
needs_x, needs_W, needs_b, needs_g, needs_beta, needs_A, needs_B, _ = ctx.needs_grad
flat = lambda a: a.reshape(-1, a.shape[-1])
dx = dW = db = dg = dbeta = dA = dB = None
if needs_B:
    dB = s * flat(dz).T @ (flat(N) @ A.T)
if needs_A:
    dA = s * (flat(dz) @ B).T @ flat(N)
if needs_x or needs_g or needs_beta:
    dN = s * (dz @ B) @ A
    axes = tuple(range(dN.ndim - 1))
    if needs_g:
        dg = (dN * x_hat).sum(axis=axes)
    if needs_beta:
        dbeta = dN.sum(axis=axes)
    if needs_x:
        g = dN * gamma
        dx = rstd * (g - g.mean(-1, keepdims=True) - x_hat * (g * x_hat).mean(-1, keepdims=True)) + dz @ W
if needs_W:
    dW = np.tensordot(dz, x, axes=(tuple(range(dz.ndim - 1)),) * 2)
if needs_b:
    db = dz.sum(axis=tuple(range(dz.ndim - 1)))
return [dx, dW, db, dg, dbeta, dA, dB, None]

=== everything kept
== minipeft.peft.lnlora:LNLoRALinear.forward
inner = Context(True, True, True, False)
X = rows(x)
N = LayerNorm.forward(inner, X, gamma, beta, EPS)
H = N @ lora_A.T
z = X @ weight.T + (H * scale) @ lora_B.T
if bias is not None:
    z = z + bias[None]
wants_low = any(ctx.needs_grad[i] for i in (0, 3, 4))
ctx.save(*(
    v if keep else None
    for v, keep in (
        (x, ctx.needs_grad[1]), (N, True), (H, True), (weight, ctx.needs_grad[0]), (lora_A, wants_low),
        (lora_B, wants_low or ctx.needs_grad[5]),
    )
), (scale, x.shape), *inner.saved)
return z.reshape(*x.shape[:-1], len(weight))

=== the change formed as a matrix
== minipeft.peft.fact:FactorizedLinear.forward
m, r = sigma.shape[:2]
blocks = [V @ sigma[b] @ U for b in range(m)]
tall = weight.shape[0] > weight.shape[1]
change = np.concatenate(blocks, axis=0 if tall else 1)
ctx.save(x, weight if ctx.needs_grad[0] else None, U, V, sigma, scale, tall)
z = x @ weight.T + scale * (x @ change.T)
return z if bias is None else z + bias

== minipeft.peft.fact:FactorizedLinear.backward
x, W, U, V, S, s, tall = ctx.saved
nx, nW, nb, nU, nV, nS, _ = ctx.needs_grad
m, d = S.shape[0], U.shape[1]
X, dZ = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
dC = s * dZ.T @ X
dU, dV, dS = np.zeros_like(U), np.zeros_like(V), np.zeros_like(S)
change = []
for b in range(m):
    part = dC[b * d : (b + 1) * d] if tall else dC[:, b * d : (b + 1) * d]
    dV += part @ U.T @ S[b].T
    dS[b] = V.T @ part @ U.T
    dU += S[b].T @ V.T @ part
    change.append(V @ S[b] @ U)
dx = None
if nx:
    dx = (dZ @ (W + s * np.concatenate(change, axis=0 if tall else 1))).reshape(x.shape)
return (
    dx, dZ.T @ X if nW else None, dZ.sum(0) if nb else None, dU if nU else None, dV if nV else None,
    dS if nS else None, None,
)

=== a loop over the blocks
== minipeft.peft.fact:FactorizedLinear.forward
needs_x, needs_W, _, needs_U, needs_V, needs_S, _ = ctx.needs_grad
d, m = U.shape[1], sigma.shape[0]
X = x.reshape(-1, x.shape[-1])
outputs = weight.shape[0] > weight.shape[1]
z = X @ weight.T
for b in range(m):
    part = X if outputs else X[:, b * d : (b + 1) * d]
    y = scale * (((part @ U.T) @ sigma[b].T) @ V.T)
    if outputs:
        z[:, b * d : (b + 1) * d] += y
    else:
        z = z + y
if bias is not None:
    z = z + bias
inner = needs_x or needs_U or needs_S
ctx.save(
    x if needs_W or needs_U or needs_S or needs_V else None, weight if needs_x else None,
    U if needs_x or needs_V or needs_S else None, V if inner else None,
    sigma if needs_x or needs_U or needs_V else None, (scale, d, m, outputs, x.shape),
)
return z.reshape(*x.shape[:-1], -1)

== minipeft.peft.fact:FactorizedLinear.backward
x, W, U, V, sigma, (scale, d, m, outputs, x_shape) = ctx.saved
nx, nW, nb, nU, nV, nS, _ = ctx.needs_grad
dZ = dz.reshape(-1, dz.shape[-1])
X = None if x is None else x.reshape(-1, x.shape[-1])
dU = dV = dS = dX = 0
dSs = []
if nx:
    dX = dZ @ W
for b in range(m):
    cut = slice(b * d, (b + 1) * d)
    dY = scale * (dZ[:, cut] if outputs else dZ)
    part = None if X is None else (X if outputs else X[:, cut])
    if nV:
        dV = dV + dY.T @ (part @ U.T @ sigma[b].T)
    if V is not None:
        dG = dY @ V
        if nS:
            dSs.append(dG.T @ (part @ U.T))
        if nU or nx:
            dH = dG @ sigma[b]
            if nU:
                dU = dU + dH.T @ part
            if nx and outputs:
                dX = dX + dH @ U
            elif nx:
                dX[:, cut] += dH @ U
return (
    dX.reshape(x_shape) if nx else None, dZ.T @ X if nW else None, dZ.sum(axis=0) if nb else None,
    dU if nU else None, dV if nV else None, np.stack(dSs) if nS else None, None,
)

=== einsum in the forward
== minipeft.peft.fact:FactorizedLinear.forward
needs_x, needs_W, _, needs_U, needs_V, needs_S, _ = ctx.needs_grad
d, m = U.shape[1], sigma.shape[0]
X = rows(x)
Xb = np.moveaxis(X.reshape(len(X), -1, d), 1, 0)
H = np.einsum("bnd,rd->bnr", Xb, U)
G = np.einsum("bnr,bqr->bnq", np.broadcast_to(H, (m, *H.shape[1:])), sigma)
if X.shape[1] != d:
    G = G.sum(axis=0, keepdims=True)
Y = np.einsum("bnq,dq->nbd", G, V).reshape(len(X), -1)
z = X @ weight.T + scale * Y + (0.0 if bias is None else bias)
low = needs_x or needs_U or needs_S
ctx.save(
    x if needs_W or needs_U else None, H if needs_S else None, G if needs_V else None, weight if needs_x else None,
    U if needs_x else None, V if low else None, sigma if needs_x or needs_U else None, (scale, d, x.shape),
)
return z.reshape(*x.shape[:-1], weight.shape[0])

=== the layer by other means
== minipeft.peft.lnlora:LNLoraLayer.__init__
d, k = base.weight.shape
r = config.r
if r > d or r > k:
    raise PeftError("the rank is too large")
self.base, self.scale = base, config.lora_alpha / r
bound = 1.0 / np.sqrt(k)
self.lora_A = trainable(2.0 * bound * rng.random((r, k)) - bound, base.weight)
self.lora_B = trainable(np.zeros((d, r)), base.weight)
self.norm_bias = trainable(np.zeros(k), base.weight)
self.norm_weight = trainable(np.zeros(k) + 1.0, base.weight)

=== the core as a sum
== minipeft.peft.fact:Core.forward
if self.sigma is not None:
    return self.sigma
r = self.C.shape[0]
blocks = []
for b in range(self.first, self.first + self.m):
    total = None
    for p in range(r):
        term = self.C[p] * self.P[p, b]
        total = term if total is None else total + term
    blocks.append(ops.reshape(total, 1, r, r))
return ops.concatenate(blocks, axis=0)

=== the core as one product, transposed
== minipeft.peft.fact:Core.forward
if self.P is None:
    return self.sigma
r = self.C.shape[0]
flat = ops.transpose(ops.reshape(self.C, r, r * r))  # (r², r)
blocks = ops.matmul(flat, self.P)  # (r², number of blocks)
mine = ops.transpose(blocks)[self.first : self.first + self.m]
return ops.reshape(mine, self.m, r, r)

=== the change in one array
== minipeft.peft.fact:FacTLayer.delta
with no_grad():
    sigma = self.core().data
D, k = self.base.weight.shape
d = min(D, k)
change = np.empty((D, k), dtype=self.base.weight.dtype)
for b in range(len(sigma)):
    block = self.scale * (self.fact_V.data @ (sigma[b] @ self.fact_U.data))
    if D > k:
        change[b * d : (b + 1) * d] = block
    else:
        change[:, b * d : (b + 1) * d] = block
return change

=== the model's tensor by two loops
== minipeft.peft.fact:FacTConfig.apply
check_fields(self, r=1)
if self.factorization != "tt" and self.factorization != "tk":
    raise PeftError("tt or tk")
paths = match_modules(peft.base_model, self.target_modules)
layers = [find(peft.base_model, p) for p in paths]
d = min(min(layer.weight.shape) for layer in layers)
ms = []
for layer in layers:
    D, k = layer.weight.shape
    if D % d or k % d or min(D, k) != d:
        raise PeftError("does not divide")
    ms.append(max(D, k) // d)
if self.r > d:
    raise PeftError("rank")
r, like = self.r, layers[0].weight
V = trainable(np.zeros((d, r)), like)
U = trainable(rng.standard_normal((r, d)) * 0.1, like)
shared = (None, None)
if self.factorization == "tk":
    shared = (
        trainable(rng.standard_normal((r, r, r)) * 0.1, like), trainable(rng.standard_normal((r, sum(ms))) * 0.1, like)
    )
for i, (path, layer) in enumerate(zip(paths, layers)):
    own = trainable(rng.standard_normal((ms[i], r, r)) * 0.1, like) if shared[0] is None else None
    peft.swap(path, FacTLayer(layer, U, V, Core(own, *shared, sum(ms[:i]), ms[i]), self.scale))
""")
