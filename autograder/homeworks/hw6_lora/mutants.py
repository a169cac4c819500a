"""Mistakes in hw6_lora."""

from autograder.homeworks.mutant import Mutant, mistakes

# Plain programs, which the diffs below change; "with" brings a plain forward or backward along.
PLAIN = {
    "minipeft.peft.lora:LoRALinear.forward": """
needs_x, needs_W, _, needs_A, needs_B, _ = ctx.needs_grad
X = rows(x)
H = X @ lora_A.T
z = X @ weight.T + (H * scale) @ lora_B.T
if bias is not None: z += bias
ctx.save(
    x if needs_A or needs_W else None, H if needs_B else None, weight if needs_x else None,
    lora_A if needs_x else None, lora_B if needs_x or needs_A else None, (scale, x.shape),
)
return z.reshape(*x.shape[:-1], weight.shape[0])
""",
    "minipeft.peft.lora:LoRALinear.backward": """
x, H, weight, lora_A, lora_B, (scale, x_shape) = ctx.saved
needs_x, needs_W, needs_b, needs_A, needs_B, _ = ctx.needs_grad
dZ = rows(dz)
dx = dW = db = dA = dB = None
if needs_x or needs_A:
    dH = (dZ @ lora_B) * scale
if needs_x:
    dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
if needs_W: dW = dZ.T @ rows(x)
if needs_b:
    db = dZ.sum(axis=0)
if needs_A:
    dA = dH.T @ rows(x)
if needs_B:
    dB = (dZ.T @ H) * scale
return dx, dW, db, dA, dB, None
""",
    "minipeft.peft.lora_embedding:LoRAEmbedding.forward": """
needs_E, _, needs_A, needs_B, _ = ctx.needs_grad
H = lora_A.T[ids]
z = table[ids]
z += scale * (H @ lora_B.T)
ctx.save(
    ids if needs_E or needs_A else None,
    H if needs_B else None,
    lora_B if needs_A else None,
    scale,
    (table.shape, lora_A.shape),
)
return z
""",
    "minipeft.peft.lora_embedding:LoRAEmbedding.backward": """
ids, H, lora_B, scale, (table_shape, A_shape, *_) = ctx.saved
needs_E, _, needs_A, needs_B, _ = ctx.needs_grad
dZ = rows(dz)
dE = dA = dB = None
flat = ids.reshape(-1) if ids is not None else None
if needs_E:
    dE = np.zeros(table_shape, dtype=dz.dtype)
    np.add.at(dE, flat, dZ)
if needs_A:
    by_token = np.zeros((A_shape[1], A_shape[0]), dtype=dz.dtype)
    np.add.at(by_token, flat, scale * (dZ @ lora_B))
    dA = by_token.T.copy()
if needs_B:
    dB = scale * (dZ.T @ rows(H))
return dE, None, dA, dB, None
""",
}

TEXT = """
== minipeft.peft.lora:LoRALinear.forward 6.1

scale-missing
The low-rank term lacks the factor s.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = X @ weight.T + H @ lora_B.T

scale-inverse
The low-rank term is divided by s.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = X @ weight.T + (H / scale) @ lora_B.T

scale-squared
The factor s stands at A and at B; it belongs to the product once.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = X @ weight.T + scale * (H * scale) @ lora_B.T

scale-on-all
The frozen layer's own output is scaled by s, too.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = (X @ weight.T + H @ lora_B.T) * scale

base-missing
Only the change is there: W₀ x is missing.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = (H * scale) @ lora_B.T

change-subtracted
The change is subtracted.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = X @ weight.T - (H * scale) @ lora_B.T

bias-dropped
The bias of the frozen layer is missing.
- if bias is not None: z += bias

bias-twice
The bias is added twice: once with the frozen layer, once more with the change.
- if bias is not None: z += bias
+ if bias is not None: z += 2.0 * bias

bias-scaled
The bias is scaled by s; LoRA does not touch it.
- if bias is not None: z += bias
+ if bias is not None: z += bias * scale

bias-always
The bias may be None.
- if bias is not None: z += bias
+ z += bias

bias-written
The bias is written: it is used as the place of the sum.
- if bias is not None: z += bias
+ if bias is not None:
+     bias += z[0] * 0.0 + 1.0; z += bias - 1.0

x-scaled-in-place (also 6.2: its cases run the forward, too)
x is multiplied by s in place: others still need it.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ H = H * scale; X *= scale
+ z = X @ weight.T / scale + H @ lora_B.T

flat-output
z keeps the rows of the matrix; it must have the axes of x.
- return z.reshape(*x.shape[:-1], weight.shape[0])
+ return z

merged-in-the-forward (also 6.2: its cases run the forward, too)
W₀ + s B A is formed, an array as large as W₀ at every call; (x Aᵀ) Bᵀ needs none.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = X @ (weight + scale * (lora_B @ lora_A)).T

float64-scale (also 6.2: its cases run the forward, too)
float32 inputs gave float64: a NumPy number or array of that type took part.
- z = X @ weight.T + (H * scale) @ lora_B.T
+ z = X @ weight.T + (H * np.full((1, 1), scale)) @ lora_B.T

keeps-everything
Everything is kept: also what only unwanted gradients would use.
- return z.reshape(*x.shape[:-1], weight.shape[0])
+ return [ctx.save(x, H, weight, lora_A, lora_B, (scale, x.shape)), z.reshape(*x.shape[:-1], -1)][1]

== minipeft.peft.lora:LoRALinear.backward 6.2 with LoRALinear.forward

dH-lacks-scale
dA and the change's part of dx lack the factor s.
-     dH = (dZ @ lora_B) * scale
+     dH = dZ @ lora_B

dB-lacks-scale
dB lacks the factor s.
-     dB = (dZ.T @ H) * scale
+     dB = dZ.T @ H

dB-scale-twice
dB has the factor s twice: H is X Aᵀ without s.
-     dB = (dZ.T @ H) * scale
+     dB = (dZ.T @ H) * scale * scale

dA-scale-twice
dA has the factor s twice.
-     dA = dH.T @ rows(x)
+     dA = scale * dH.T @ rows(x)

dx-low-rank-only
dx lacks the path through W₀: a frozen weight still passes the gradient on.
-     dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
+     dx = (dH @ lora_A).reshape(x_shape)

dx-base-only
dx lacks the path through A and B.
-     dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
+     dx = (dZ @ weight).reshape(x_shape)

dx-change-unscaled
In dx, the path through A and B lacks the factor s.
-     dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
+     dx = (dZ @ weight + (dZ @ lora_B) @ lora_A).reshape(x_shape)

dA-transposed
dA is the transpose of what it must be: A is (r, k).
-     dA = dH.T @ rows(x)
+     dA = rows(x).T @ dH

dB-transposed
dB is the transpose of what it must be: B is (d, r).
-     dB = (dZ.T @ H) * scale
+     dB = (H.T @ dZ) * scale

dB-of-dH
dB is made of dZ and H = X Aᵀ; this one multiplies by B Bᵀ on the way.
-     dB = (dZ.T @ H) * scale
+     dB = ((dZ @ lora_B) @ lora_B.T).T @ H * scale if lora_B is not None else dZ.T @ H

dA-mean
dA is averaged over the rows where it must be summed.
-     dA = dH.T @ rows(x)
+     dA = dH.T @ rows(x) / len(dZ)

dB-mean
dB is averaged over the rows where it must be summed.
-     dB = (dZ.T @ H) * scale
+     dB = dZ.T @ H * scale / len(dZ)

dA-first-example
dA is of the first example alone: sum over every axis before the last.
- dZ = rows(dz)
+ dZ = rows(dz)
+ n = len(dZ) // len(dz) if dz.ndim > 1 and len(dz) else len(dZ)
-     dA = dH.T @ rows(x)
+     dA = dH[:n].T @ rows(x)[:n]

db-mean
db is the sum of dZ over the rows, not its mean.
-     db = dZ.sum(axis=0)
+     db = dZ.mean(axis=0)

dx-flat
dx must have the shape of x, not of the matrix of its rows.
-     dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
+     dx = dZ @ weight + dH @ lora_A

dW-always
A gradient of W₀ is computed though W₀ is frozen.
- if needs_W: dW = dZ.T @ rows(x)
+ dW = dZ.T

all-gradients
Gradients are returned for inputs that want none.
- dZ = rows(dz)
+ dZ = rows(dz)
+ needs_b = True

dz-scaled-in-place
dz is multiplied by s in place: others still need it.
- dZ = rows(dz)
+ dZ = rows(dz)
+ dZ *= scale
-     dH = (dZ @ lora_B) * scale
+     dH = dZ @ lora_B
-     dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
+     dx = (dZ @ weight / scale + dH @ lora_A).reshape(x_shape)
-     dB = (dZ.T @ H) * scale
+     dB = dZ.T @ H

dx-change-formed
W₀ + s B A is formed, an array as large as W₀ at every call; (x Aᵀ) Bᵀ needs none.
-     dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
+     dx = (dZ @ (weight + scale * (lora_B @ lora_A))).reshape(x_shape)

loops-over-entries
Far too slow: entry by entry, where a matrix product does it.
-     dx = (dZ @ weight + dH @ lora_A).reshape(x_shape)
+     base = np.array([[sum(g * w for g, w in zip(p, q)) for q in weight.T.tolist()] for p in dZ.tolist()])
+     dx = (base.reshape(len(dZ), weight.shape[1]).astype(dZ.dtype) + dH @ lora_A).reshape(x_shape)
-     dA = dH.T @ rows(x)
+     dA = np.array(
+         [[sum(float(g) * float(v) for g, v in zip(p, q)) for q in rows(x).T.tolist()] for p in dH.T.tolist()]
+     ).reshape(dH.shape[1], -1)

== minipeft.peft.lora_embedding:LoRAEmbedding.forward 6.3 with LoRAEmbedding.backward

embedding-scale
The embedding's change lacks the factor s.
- z += scale * (H @ lora_B.T)
+ z += H @ lora_B.T

embedding-table-missing
The frozen row E₀[ids] is missing.
- z = table[ids]
+ z = table[ids] * 0.0

embedding-table-written
E₀ is written: the change is added to the table itself.
- z = table[ids]
- z += scale * (H @ lora_B.T)
+ z = table
+ z += scale * (lora_A.T @ lora_B.T); z = z[ids]

embedding-keeps-table
The table is kept, though no gradient needs it.
- (table.shape, lora_A.shape)
+ (table.shape, lora_A.shape, table)

== minipeft.peft.lora_embedding:LoRAEmbedding.backward 6.4 with LoRAEmbedding.forward

embedding-repeats-lost
Of an id that comes several times only one gradient arrives in dA.
-     np.add.at(by_token, flat, scale * (dZ @ lora_B))
+     by_token[flat] += scale * (dZ @ lora_B)

embedding-repeats-lost-E
Of an id that comes several times only one gradient arrives in dE.
-     np.add.at(dE, flat, dZ)
+     dE[flat] += dZ

embedding-dA-scale
dA of the embedding lacks the factor s.
-     np.add.at(by_token, flat, scale * (dZ @ lora_B))
+     np.add.at(by_token, flat, dZ @ lora_B)

embedding-dB-scale
dB of the embedding lacks the factor s.
-     dB = scale * (dZ.T @ rows(H))
+     dB = dZ.T @ rows(H)

embedding-dA-transposed
dA of the embedding is (r, V), not (V, r).
-     dA = by_token.T.copy()
+     dA = by_token

embedding-dE-always
A gradient of the whole table is made though it is frozen.
- if needs_E:
+ if flat is not None:

embedding-dE-scale
dE is the sum of dZ where the id came; s belongs to the change alone.
-     np.add.at(dE, flat, dZ)
+     np.add.at(dE, flat, dZ * scale)

== minipeft.peft.lora:LoraLayer.draw 6.5

draw-both-zero
A and B are both zero: no gradient would ever reach either.
- self.lora_A = trainable(A, self.lora_A)
+ self.lora_A = trainable(A * 0.0, self.lora_A)

draw-both-random
B is random: the model would not start as the pretrained one.
- init is False
+ True

draw-reversed
A is zero and B random, the wrong way round.
- self.lora_A = trainable(A, self.lora_A)
+ self.lora_B = trainable(rng.uniform(-bound, bound, self.lora_B.shape), self.lora_B)

draw-bound-r
The bound of A is 1/√k, k the number of its columns, not of its rows.
- bound = k**-0.5
+ bound = r**-0.5

draw-variance
A's bound is 1/k, much smaller than 1/√k.
- bound = k**-0.5
+ bound = 1 / k

draw-he
A's bound is √(6/k), He's for ReLU; here it is 1/√k.
- bound = k**-0.5
+ bound = (6 / k) ** 0.5

draw-gaussian-unit
With "gaussian", A has standard deviation 1/r, not 1.
- rng.standard_normal((r, k)) / r
+ rng.standard_normal((r, k))

draw-gaussian-variance
With "gaussian", 1/r² is the variance: the standard deviation is 1/r.
- rng.standard_normal((r, k)) / r
+ rng.standard_normal((r, k)) / r**2

draw-always-gaussian
A is uniform unless "gaussian" is asked for.
- rng.uniform(-bound, bound, (r, k))
+ rng.standard_normal((r, k)) * (3 * k) ** (-0.5)

draw-positive
A is uniform from 0 on, where it must lie on both sides of 0.
- rng.uniform(-bound, bound, (r, k))
+ rng.uniform(0.0, bound, (r, k))

draw-own-generator
A is drawn from a generator made here: every layer gets the same numbers.
- rng.uniform(-bound, bound, (r, k))
+ np.random.default_rng(0).uniform(-bound, bound, (r, k))

draw-fresh
A is not drawn from the generator that was passed in: a seed does not give it back.
- rng.uniform(-bound, bound, (r, k))
+ np.random.default_rng().uniform(-bound, bound, (r, k))

draw-frozen
A is not trainable any more.
- self.lora_A = trainable(A, self.lora_A)
+ self.lora_A = Tensor(A.astype(self.lora_A.dtype))

draw-float64
A became float64: it keeps its dtype.
- self.lora_A = trainable(A, self.lora_A)
+ self.lora_A = Tensor(A, requires_grad=True)

== minipeft.peft.lora_embedding:LoraEmbedding.draw 6.5

draw-embedding-reversed
Of an embedding B is random and A zero: an id looks up a column of A.
- self.lora_embedding_B = trainable(rng.standard_normal(self.lora_embedding_B.shape), self.lora_embedding_B)
+ self.lora_embedding_A = trainable(rng.standard_normal(self.lora_embedding_A.shape), self.lora_embedding_A)

== minipeft.peft.lora:LoraLayer.forward 6.6

layer-dropout-on-all
Dropout acts on the frozen layer's input, too.
- return base(x) + self.change(x)
+ x = self.dropout(x)
+ self.dropout, kept = (Dropout(0.0), self.dropout)
+ z = base(x) + self.change(x)
+ self.dropout = kept
+ return z

layer-dropout-ignored
In training mode no dropout acts.
- self.training and self.dropout.p
+ False

layer-base-class
A base of another class than Linear is not called: its weight alone is used.
- self.training and self.dropout.p or type(base) is not Linear
+ self.training and self.dropout.p

layer-scale-one (also 6.11: the model is made of such layers)
The layer calls LoRALinear without its scale.
- self.scale
+ 1.0

layer-no-bias (also 6.11: the model is made of such layers)
The layer drops the bias of its base.
- base.bias
+ None

== minipeft.peft.lora:LoraLayer.change 6.6

change-scale (also 6.9: MixedLora adds such changes)
The change lacks the factor s.
- ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B) * self.scale
+ ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B)

change-no-dropout
The change is made without dropout on x.
- self.dropout(x)
+ x

change-dropout-late
Dropout acts behind A, on r numbers, where it must act on x.
- ops.linear(ops.linear(self.dropout(x), self.lora_A), self.lora_B)
+ ops.linear(self.dropout(ops.linear(x, self.lora_A)), self.lora_B)

== minipeft.peft.lora:LoraConfig.rank_and_scale 6.7

scale-rslora-ignored
use_rslora is ignored: then s is α / √r.
- (r**0.5 if self.use_rslora else r)
+ r

scale-rslora-always
s is α / r; α / √r only with use_rslora.
- (r**0.5 if self.use_rslora else r)
+ r**0.5

scale-is-inverse
s is α / r, not r / α.
- alpha / (r**0.5 if self.use_rslora else r)
+ (r**0.5 if self.use_rslora else r) / alpha

scale-is-alpha
s is α without the division by r.
- alpha / (r**0.5 if self.use_rslora else r)
+ alpha * 1.0

scale-of-the-default-rank
The scale divides by the configuration's r, where a pattern gives this module another.
- (r**0.5 if self.use_rslora else r)
+ (self.r**0.5 if self.use_rslora else self.r)

alpha-pattern-ignored
alpha_pattern is ignored.
- next((v for p, v in self.alpha_pattern.items() if ends_in(p, path)), self.lora_alpha)
+ self.lora_alpha

== minipeft.peft.lora:LoraConfig.rank 6.7

rank-pattern-ignored (also 6.11: the model has such patterns)
rank_pattern is ignored.
- next((v for p, v in self.rank_pattern.items() if ends_in(p, path)), self.r)
+ self.r

rank-pattern-last
Of several patterns that fit, the last is taken, not the first.
- self.rank_pattern.items()
+ reversed(self.rank_pattern.items())

rank-pattern-anywhere
A pattern is searched anywhere in the path; the path must end in it, from one of its dots on.
- ends_in(p, path)
+ ends_in(f".*({p}).*", path)

rank-pattern-by-name
A pattern is compared as a name; it is a regular expression.
- ends_in(p, path)
+ path.endswith(p)

== minipeft.peft.lora:LoraLayer.delta 6.8

delta-scale (also 6.11: the model is merged)
ΔW lacks the factor s.
- matmul(self.lora_B.data, self.lora_A.data) * self.scale
+ matmul(self.lora_B.data, self.lora_A.data)

delta-transposed
ΔW is (k, d), the transpose of W₀'s shape.
- matmul(self.lora_B.data, self.lora_A.data)
+ matmul(self.lora_A.data.T, self.lora_B.data.T)

delta-with-base
ΔW is the change alone; W₀ is added here already.
- matmul(self.lora_B.data, self.lora_A.data) * self.scale
+ matmul(self.lora_B.data, self.lora_A.data) * self.scale + self.base.weight.data

delta-AB
A B is another product than B A, of another shape.
- matmul(self.lora_B.data, self.lora_A.data)
+ np.resize(self.lora_A.data @ self.lora_A.data.T, self.base.weight.shape)

== minipeft.peft.lora:LoraLayer.merged 6.8

merged-in-place
W₀ itself is written: nothing could take the change back to the bit.
- self.base.weight.data + self.delta()
+ self.base.weight.data.__iadd__(self.delta())

merged-without-bias
The merged layer has lost the bias.
- self.base.bias
+ None

merged-twice
The change is in the merged weight twice.
- self.base.weight.data + self.delta()
+ self.base.weight.data + self.delta() + self.delta()

merged-minus
Merging adds the change; subtracting it is how it is taken out.
- self.base.weight.data + self.delta()
+ self.base.weight.data - self.delta()

merged-is-the-base
The merged layer is the base without the change.
- self.base.weight.data + self.delta()
+ self.base.weight.data.copy()

merged-keeps-the-branch
The merged layer still adds the low-rank branch, or is no plain Linear.
- return Linear.from_weight(Tensor(self.base.weight.data + self.delta(), requires_grad=True), self.base.bias)
+ import copy
+ layer = Linear.from_weight(Tensor(self.base.weight.data + self.delta(), requires_grad=True), self.base.bias)
+ other = copy.copy(self)
+ other.base = layer
+ other.weight, other.bias = (layer.weight, layer.bias)
+ other.in_features, other.out_features = (layer.in_features, layer.out_features)
+ return other

== minipeft.peft.lora_embedding:LoraEmbedding.delta 6.8

embedding-delta-scale
ΔE lacks the factor s.
- matmul(self.lora_embedding_A.data.T, self.lora_embedding_B.data.T) * self.scale
+ matmul(self.lora_embedding_A.data.T, self.lora_embedding_B.data.T)

embedding-delta-transposed
ΔE is (d, V); the table is (V, d).
- matmul(self.lora_embedding_A.data.T, self.lora_embedding_B.data.T)
+ matmul(self.lora_embedding_B.data, self.lora_embedding_A.data)

== minipeft.peft.lora_embedding:LoraEmbedding.merged 6.8

embedding-merged-in-place
E₀ itself is written.
- self.weight.data + self.delta()
+ self.weight.data.__iadd__(self.delta())

== minipeft.peft.mixed:AddToRows.forward 6.9

rows-in-place
x is written.
- z = x.copy()
+ z = x

rows-replaced
The rows are replaced by y; y must be added.
- z[index] += y
+ z[index] = y

rows-in-order
y goes to the first rows, whatever the index says.
- z[index] += y
+ z[: len(y)] += y

== minipeft.peft.mixed:AddToRows.backward 6.9

rows-dy-whole
dy has the gradient of the first rows, not of those of the index.
- dz[index]
+ dz[: len(index)].copy()

rows-dx-masked
dx is zero where y was added; x passes there as well.
+ (index,) = ctx.saved
+ dx = dz.copy()
+ if index is not None:
+     dx[index] = 0.0
+ return dx if ctx.needs_grad[0] else None, None if index is None else dz[index], None

== minipeft.peft.mixed:MixedLora.forward 6.9

mixed-all-rows
Each change is computed for the whole batch; its own examples are enough.
- layer.change(x[index])
+ layer.change(x)[index]

mixed-base-each
The base's product is made again for every adapter.
- z = AddToRows.apply(z, layer.change(x[index]), index)
+ z = AddToRows.apply(z, layer(x[index]) - self.base(x[index]), index)

mixed-wrong-rows
The change of the first examples is added to the adapter's own.
- layer.change(x[index])
+ layer.change(x[: len(index)])

mixed-one-adapter
All examples get the change of one adapter.
- for name, layer in self.layers.items():
-     if len(self.rows[name]):
-         index = to_device(self.rows[name], device_of(x.data))
-         z = AddToRows.apply(z, layer.change(x[index]), index)
+ only = next(iter(self.layers.values()))
+ for name, layer in ((n, only) for n in self.layers):
+     if len(self.rows[name]):
+         index = to_device(self.rows[name], device_of(x.data))
+         z = AddToRows.apply(z, layer.change(x[index]), index)

mixed-unchecked
Another number of examples than there are names is not refused.
- x.shape[0] != self.n_examples
+ x.shape[0] > 10**9

== minipeft.peft.lora:LoraConfig.train_biases 6.10

biases-lora-only-is-all (also 6.11: apply calls it)
"lora_only" trains the biases of wrapped layers alone; here all are trained.
- self.bias == "lora_only" and name.startswith(wrapped)
+ self.bias == "lora_only"

biases-all-is-lora-only
"all" trains every bias of the model.
- self.bias == "all" or (self.bias == "lora_only" and name.startswith(wrapped))
+ self.bias != "none" and name.startswith(wrapped)

biases-always (also 6.11: apply calls it)
Biases are trained though bias is "none".
- self.bias == 'lora_only'
+ self.bias != 'all'

biases-never (also 6.11: apply calls it)
No bias is trained, whatever the option says.
- self.bias == 'all' or (self.bias == 'lora_only' and name.startswith(wrapped))
+ False and (self.bias == 'lora_only' and name.startswith(wrapped))

biases-of-the-base (also 6.11: apply calls it)
The base's own biases are trained; it must keep them, so train copies.
- peft.train_copy(name)
+ {n: p for n, p in peft.base_model.named_parameters()}[name].requires_grad_(True)

biases-taken-again
A bias that is trained already was copied once more.
- n.endswith('.bias') and n not in taken
+ n.endswith('.bias')

== minipeft.peft.lora:LoraConfig.apply 6.11

apply-biases-forgotten
The biases that the option names are not trained.
- self.train_biases(peft, paths)
+ pass

apply-not-drawn
A and B are left at zero: no gradient reaches either.
- layer.draw(rng, self.init_lora_weights)
+ pass

apply-random-B
The layers are drawn with a random B: the model does not start as the base.
- layer.draw(rng, self.init_lora_weights)
+ layer.draw(rng, False)

apply-rank-unchecked
A rank beyond min(d, k) is not refused.
- 1 <= self.rank(path) <= min(d, k)
+ 1 <= self.rank(path) <= 10 ** 9

apply-alpha-zero
An α of 0 is not refused: nothing would be learnt.
- check_not_zero(self, "lora_alpha")
+ pass

apply-pattern-unchecked
A pattern that matches none of the targets is not refused.
- not any((ends_in(pattern, path) for path in paths))
+ False

apply-default-rank
Every module gets the configuration's own r and α, patterns or not.
- r, scale = self.rank_and_scale(path)
+ r, scale = self.r, self.lora_alpha / self.r

apply-excluded
exclude_modules is ignored.
- self.exclude_modules
+ None

apply-all-layers
layers_to_transform is ignored.
- self.layers_to_transform
+ None

apply-keys-too
Where no target is named, queries and values are adapted, nothing else.
- ['q_proj', 'v_proj']
+ ['q_proj', 'k_proj', 'v_proj']

apply-unknown-bias
An unknown option is not refused.
- self.bias not in ('none', 'all', 'lora_only')
+ False

apply-first-only
Only the first of the target modules is adapted.
- base = find(model, path)
+ if path != paths[0]:
+     continue
+ base = find(model, path)

apply-base-trained
The base's weights are trained beside A and B.
- peft.swap(path, layer)
+ peft.swap(path, layer)
+ base.weight.requires_grad_(True)
"""

MUTANTS = [
    *mistakes(TEXT, PLAIN),
    Mutant(
        "rows-keep-x",
        "minipeft.peft.mixed:AddToRows.forward",
        "6.9",
        "x is kept for the backward, which needs nothing of it.",
        body="ctx.save(index, x)\nz = x.copy()\nz[index] += y\nreturn z",
        along={
            "AddToRows.backward": """
index, _ = ctx.saved
return dz if ctx.needs_grad[0] else None, dz[index] if ctx.needs_grad[1] else None, None
"""
        },
    ),
]

MUTANTS += mistakes("""
== minipeft.peft.lora:LoRALinear.forward 6.1

lora-by-id
x Aᵀ of a call is used again for the same x and A, although their entries have changed since.
- H = matmul(X, lora_A.T)
+ seen = vars(LoRALinear).get("seen", {})
+ LoRALinear.seen = seen
+ H = seen.setdefault((id(x), id(lora_A)), (x, lora_A, matmul(X, lora_A.T)))[2]

== minipeft.peft.lora:LoRALinear.backward 6.2

lora-float32
float64 is computed in float32 in between.
- dB = matmul(dZ.T, H) * scale
+ dB = (matmul(dZ.T, H) * scale).astype("float32").astype(dz.dtype)

== minipeft.peft.lora:LoraConfig.apply 6.11

lora-no-dropout
The option lora_dropout is not passed on.
- kind(base, r, scale, self.lora_dropout)
+ kind(base, r, scale)

lora-drawn-backwards
The layers are not drawn in the order of match_modules.
- paths = match_modules(model, targets, kinds, layers=self.layers_to_transform, exclude=self.exclude_modules)
+ paths = match_modules(model, targets, kinds, layers=self.layers_to_transform, exclude=self.exclude_modules)[::-1]

lora-value-error
The error is a ValueError, not a PeftError.
- PeftError(f"LoRA: the pattern {pattern!r} matches none of the target modules")
+ ValueError("pattern")
""")
