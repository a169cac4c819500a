"""Other ways to be right in hw6_lora."""

from autograder.homeworks.variant import programs

VARIANTS = programs("""
=== einsum
== minipeft.peft.lora:LoRALinear.forward
need = ctx.needs_grad
H = np.einsum("...k,rk->...r", x, lora_A)
ctx.save(
    x if need[1] or need[3] else None, H if need[4] else None, weight if need[0] else None, lora_A, lora_B, scale,
)
z = np.einsum("...k,dk->...d", x, weight) + scale * np.einsum("...r,dr->...d", H, lora_B)
return z if bias is None else z + bias

== minipeft.peft.lora:LoRALinear.backward
x, H, W, A, B, s = ctx.saved
need = ctx.needs_grad
dH = s * np.einsum("...d,dr->...r", dz, B)
g, h, v, u = (None if a is None else a.reshape(-1, a.shape[-1]) for a in (dz, dH, x, H))
return [
    np.einsum("...d,dk->...k", dz, W) + np.einsum("...r,rk->...k", dH, A) if need[0] else None,
    np.einsum("nd,nk->dk", g, v) if need[1] else None,
    np.einsum("nd->d", g) if need[2] else None,
    np.einsum("nr,nk->rk", h, v) if need[3] else None,
    s * np.einsum("nd,nr->dr", g, u) if need[4] else None,
    None,
]

=== H computed again in the backward
== minipeft.peft.lora:LoRALinear.forward
wants = dict(zip(("x", "W", "b", "A", "B"), ctx.needs_grad))
X = x.reshape(-1, x.shape[-1])
z = np.dot(X, weight.T)
z = z + np.dot(np.dot(X, scale * lora_A.T), lora_B.T)
if bias is not None:
    z = z + bias[np.newaxis]
cache = {"shape": x.shape, "A": lora_A, "B": lora_B}
if wants["W"] or wants["A"] or wants["B"]:
    cache["X"] = X
if wants["x"]:
    cache["W"] = weight
ctx.save(cache, wants, scale)
return z.reshape(x.shape[:-1] + (len(lora_B),))

== minipeft.peft.lora:LoRALinear.backward
cache, wants, s = ctx.saved
dZ = dz.reshape(-1, dz.shape[-1])
dx = dW = db = dA = dB = None
if wants["x"]:
    dx = (np.dot(dZ, cache["W"]) + s * np.dot(np.dot(dZ, cache["B"]), cache["A"])).reshape(cache["shape"])
if wants["W"]:
    dW = np.dot(dZ.T, cache["X"])
if wants["b"]:
    db = np.sum(dZ, axis=0)
if wants["A"]:
    dA = s * np.dot(np.dot(cache["B"].T, dZ.T), cache["X"])
if wants["B"]:
    dB = s * np.dot(dZ.T, np.dot(cache["X"], cache["A"].T))
return dx, dW, db, dA, dB, None

=== loops over rows, outer products
== minipeft.peft.lora:LoRALinear.forward
need = ctx.needs_grad
X = rows(x)
z = np.empty((len(X), weight.shape[0]), dtype=x.dtype)
for i, row in enumerate(X):
    z[i] = weight @ row + (lora_B @ (lora_A @ row)) * scale
    if bias is not None:
        z[i] += bias
ctx.save(X if any(need[i] for i in (1, 3, 4)) else None, weight if need[0] else None, lora_A, lora_B, scale, x.shape)
return z.reshape(*x.shape[:-1], -1) if len(X) else np.zeros((*x.shape[:-1], weight.shape[0]), dtype=x.dtype)

== minipeft.peft.lora:LoRALinear.backward
X, W, A, B, s, shape = ctx.saved
nx, nW, nb, nA, nB, _ = ctx.needs_grad
dZ = rows(dz)
dX = np.zeros((len(dZ), A.shape[1]), dtype=dz.dtype) if nx else None
dA, dB = np.zeros_like(A), np.zeros_like(B)
for i in range(len(dZ)):
    dh = s * (B.T @ dZ[i])
    if nx:
        dX[i] = dZ[i] @ W + dh @ A
    if nA:
        dA += np.outer(dh, X[i])
    if nB:
        dB += s * np.outer(dZ[i], A @ X[i])
return (
    dX.reshape(shape) if nx else None, sum(np.outer(g, v) for g, v in zip(dZ, X)) if nW else None,
    dZ.sum(0) if nb else None, dA if nA else None, dB if nB else None, None,
)

=== scaled factors kept, transposed views returned
== minipeft.peft.lora:LoRALinear.forward
need = ctx.needs_grad
flat = x.reshape(-1, x.shape[-1])
H = flat @ lora_A.T
z = np.add(flat @ weight.T, np.multiply(scale, H @ lora_B.T))
if bias is not None:
    np.add(z, bias, out=z)
ctx.save(
    flat if need[1] or need[3] else None, H if need[4] else None, weight if need[0] else None,
    np.array(lora_A), scale * lora_B, (x.shape, scale),
)
return z.reshape(x.shape[:-1] + weight.shape[:1])

== minipeft.peft.lora:LoRALinear.backward
X, H, W, A, sB, (shape, s) = ctx.saved
flat = dz.reshape(-1, dz.shape[-1])
grads = [None] * 6
if ctx.needs_grad[0]:
    grads[0] = np.ascontiguousarray((flat @ W + flat @ sB @ A).reshape(shape))
if ctx.needs_grad[1]:
    grads[1] = (X.T @ flat).T
if ctx.needs_grad[2]:
    grads[2] = np.ones(len(flat), dtype=dz.dtype) @ flat
if ctx.needs_grad[3]:
    grads[3] = (X.T @ (flat @ sB)).T
if ctx.needs_grad[4]:
    grads[4] = s * (H.T @ flat).T
return tuple(grads)

=== the embedding with one-hot rows
== minipeft.peft.lora_embedding:LoRAEmbedding.forward
need = ctx.needs_grad
flat = ids.ravel()
H = np.take(lora_A, flat, axis=1).T
z = np.take(table, flat, axis=0) + scale * np.matmul(H, lora_B.T)
ctx.save(flat, H if need[3] else None, lora_B if need[2] else None, scale, table.shape)
return z.reshape(*ids.shape, -1) if z.size else np.zeros((*ids.shape, table.shape[1]), dtype=z.dtype)

== minipeft.peft.lora_embedding:LoRAEmbedding.backward
flat, H, B, s, (V, d) = ctx.saved
need = ctx.needs_grad
dZ = dz.reshape(len(flat), d)
one_hot = (flat[:, None] == np.arange(V)).astype(dz.dtype)
return (
    one_hot.T @ dZ if need[0] else None, None, s * (dZ @ B).T @ one_hot if need[2] else None,
    s * dZ.T @ H if need[3] else None, None,
)

=== the embedding by add.at
== minipeft.peft.lora_embedding:LoRAEmbedding.backward
ids, H, lora_B, scale, (table_shape, A_shape) = ctx.saved
dE = dA = dB = None
dH = None if lora_B is None else scale * (dz @ lora_B)
if ctx.needs_grad[0]:
    dE = np.zeros(table_shape, dtype=dz.dtype)
    np.add.at(dE, ids, dz)
if ctx.needs_grad[2]:
    dA = np.zeros(A_shape, dtype=dz.dtype)
    np.add.at(dA.T, ids, dH)
if ctx.needs_grad[3]:
    dB = scale * np.einsum("nd,nr->dr", dz.reshape(-1, dz.shape[-1]), H.reshape(-1, H.shape[-1]))
return [dE, None, dA, dB, None]

=== drawn in other ways
== minipeft.peft.lora:LoraLayer.draw
r, k = self.lora_A.data.shape
if init == "gaussian":
    self.lora_A.data[...] = rng.normal(0.0, 1.0 / r, size=(r, k))
else:
    self.lora_A.data[...] = (2.0 * rng.random((k, r)).T - 1.0) / np.sqrt(k)
if init is False:
    self.lora_B.data[...] = rng.uniform(-1, 1, self.lora_B.shape) / np.sqrt(r)

== minipeft.peft.lora_embedding:LoraEmbedding.draw
like = self.lora_embedding_B
values = rng.standard_normal(like.shape, dtype=np.float32)
self.lora_embedding_B = Tensor(values.astype(like.dtype), requires_grad=True)
if not init:
    A = self.lora_embedding_A
    self.lora_embedding_A = trainable(rng.normal(size=A.shape), A)

=== the layer as a sum always
== minipeft.peft.lora:LoraLayer.forward
return self.base(x) + self.change(x)

== minipeft.peft.lora:LoraLayer.change
h = ops.linear(self.dropout(x), self.lora_A)
return ops.linear(h * self.scale, self.lora_B)

=== the change as products of tensors
== minipeft.peft.lora:LoraLayer.change
return self.scale * (self.dropout(x) @ ops.transpose(self.lora_A) @ ops.transpose(self.lora_B))

== minipeft.peft.lora:LoraLayer.forward
plain = type(self.base) is Linear and not (self.training and self.dropout.p > 0)
if plain:
    return LoRALinear.apply(x, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.scale)
change = self.change(x)
return change + self.base(x)

=== rank and scale by loops
== minipeft.peft.lora:LoraConfig.rank
for pattern in self.rank_pattern:
    if ends_in(pattern, path):
        return self.rank_pattern[pattern]
return self.r

== minipeft.peft.lora:LoraConfig.rank_and_scale
alpha = self.lora_alpha
for pattern, value in reversed(list(self.alpha_pattern.items())):
    if ends_in(pattern, path):
        alpha = value
r = self.rank(path)
if self.use_rslora:
    return r, float(alpha / np.sqrt(r))
return (r, alpha / float(r))

=== merged by other means
== minipeft.peft.lora:LoraLayer.delta
return np.einsum("dr,rk->dk", self.scale * self.lora_B.data, self.lora_A.data)

== minipeft.peft.lora:LoraLayer.merged
d, k = self.base.weight.shape
layer = Linear(k, d, bias=self.base.bias is not None, rng=0)
layer.weight = Tensor(np.add(self.delta(), self.base.weight.data))
if self.base.bias is not None:
    layer.bias = self.base.bias
return layer

== minipeft.peft.lora_embedding:LoraEmbedding.delta
return (self.scale * (self.lora_embedding_B.data @ self.lora_embedding_A.data)).T

== minipeft.peft.lora_embedding:LoraEmbedding.merged
V, d = self.base.weight.shape
layer = Embedding(V, d, rng=0)
table = self.base.weight.data.copy()
table += self.delta()
layer.weight = Tensor(table)
return layer

=== rows added by add.at; the mixed batch gathered first
== minipeft.peft.mixed:AddToRows.forward
z = np.array(x)
np.add.at(z, index, y)
ctx.save(np.array(index))
return z

== minipeft.peft.mixed:AddToRows.backward
index = ctx.saved[0]
dx = dz.copy() if ctx.needs_grad[0] else None
dy = np.take(dz, index, axis=0) if ctx.needs_grad[1] else None
return [dx, dy, None]

== minipeft.peft.mixed:MixedLora.forward
if len(x.data) != self.n_examples:
    raise PeftError("one name for each example")
present = [n for n in self.layers if self.rows[n].size]
z = self.base(x)
if not present:
    return z
changes = [self.layers[n].change(x[self.rows[n]]) for n in present]
together = changes[0] if len(changes) == 1 else ops.concatenate(changes, axis=0)
return AddToRows.apply(z, together, np.concatenate([self.rows[n] for n in present]))

== header
from minipeft import ops

=== biases by kind, the model layer by layer
== minipeft.peft.lora:LoraConfig.train_biases
if self.bias == "none":
    return
names = [n for n, p in peft.base_model.named_parameters() if n.split(".")[-1] == "bias" and not p.requires_grad]
if self.bias == "lora_only":
    names = [n for n in names if n.removesuffix(".base.bias") in set(paths)]
for name in names:
    peft.train_copy(name)

== minipeft.peft.lora:LoraConfig.apply
if self.r < 1:
    raise PeftError("r")
if self.lora_alpha == 0:
    raise PeftError("alpha")
if not (self.init_lora_weights is True or self.init_lora_weights is False or self.init_lora_weights == "gaussian"):
    raise PeftError("init")
if self.bias not in {"none", "all", "lora_only"}:
    raise PeftError("bias")
names = self.target_modules or ["q_proj", "v_proj"]
kinds = (Linear,) if names == "all-linear" else (Linear, Embedding)
found = match_modules(
    peft.base_model, names, kinds, layers=self.layers_to_transform, exclude=self.exclude_modules
)
for pattern in {**self.rank_pattern, **self.alpha_pattern}:
    if sum(ends_in(pattern, path) for path in found) == 0:
        raise PeftError(pattern)
made = {}
for path in found:
    module = find(peft.base_model, path)
    r, s = self.rank_and_scale(path)
    if r < 1 or r > min(module.weight.shape):
        raise PeftError(path)
    if isinstance(module, Embedding):
        made[path] = LoraEmbedding(module, r, s)
    else:
        made[path] = LoraLayer(module, r, s, self.lora_dropout)
    made[path].draw(rng, self.init_lora_weights)
for path, layer in made.items():
    peft.swap(path, layer)
self.train_biases(peft, found)

=== what is saved is copied
== minipeft.peft.lora:LoRALinear.forward
- ctx.save
+ copied(ctx)
== header
def copied(ctx):
    return lambda *values: ctx.save(*[v.copy(order="C") if hasattr(v, "strides") else v for v in values])

=== what an embedding saves is copied
== minipeft.peft.lora_embedding:LoRAEmbedding.forward
- ctx.save
+ copied(ctx)
== header
def copied(ctx):
    return lambda *values: ctx.save(*[v.copy(order="C") if hasattr(v, "strides") else v for v in values])
""")
