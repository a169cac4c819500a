"""Mistakes in hw5_intrinsic."""

from autograder.homeworks.mutant import mistakes

MUTANTS = mistakes("""
== minipeft.peft.projections:Dense._block 5.1

block-not-scaled
The entries lack the factor 1/√D: columns of P shall have length 1.
- np.random.default_rng((*self.seed, start)).standard_normal((rows, self.d)) * self.total ** (-0.5)
+ np.random.default_rng((*self.seed, start)).standard_normal((rows, self.d))

block-scaled-by-size
D is the number of all parameters, not those of this tensor.
- self.total**-0.5
+ self.size**-0.5

block-scaled-by-D
The standard deviation is 1/√D; 1/D is the variance.
- self.total**-0.5
+ self.total**-1.0

block-scaled-by-d
The columns have length 1, not the rows: D, not d, is in the factor.
- self.total**-0.5
+ self.d**-0.5

block-seed-without-start
Every block needs a seed of its own; these are all equal.
- (*self.seed, start)
+ (*self.seed, 0)

block-unseeded
P changes from call to call: it must come from its seed.
- np.random.default_rng((*self.seed, start))
+ np.random.default_rng()

block-always-full
The last block has fewer rows.
- rows = min(ROWS, self.size - start)
+ rows = ROWS

block-uniform
The entries are Gaussian, not uniform.
- np.random.default_rng((*self.seed, start)).standard_normal((rows, self.d))
+ np.random.default_rng((*self.seed, start)).uniform(-1.0, 1.0, (rows, self.d))

block-float64
The block has the dtype of `like`; float64 would promote the model.
- self._kept(values, start).astype(like.dtype)
+ self._kept(values, start)

block-kept-forgotten
`_kept` is not asked, so a sparse projection stays dense.
- self._kept(values, start)
+ values

== minipeft.peft.projections:Dense.apply 5.2

apply-first-block
Only the first block of rows is there.
- range(0, self.size, ROWS)
+ range(0, min(self.size, ROWS), ROWS)

apply-blocks-reversed
The blocks stand in the wrong order.
- array_module(x).concatenate(blocks)
+ array_module(x).concatenate(blocks[::-1])

apply-summed
Rows of different blocks are different numbers: nothing is summed here.
- array_module(x).concatenate(blocks)
+ array_module(x).concatenate(
+     [blocks[0] + 0 * b[:1] for b in blocks[:1]] + [b + blocks[0][: len(b)] for b in blocks[1:]]
+ )

apply-scaled-again
The factor 1/√D stands in the block already.
- array_module(x).concatenate(blocks)
+ array_module(x).concatenate(blocks) * self.total ** (-0.5)

apply-written
The input x is written.
- 'P x for x (d,): (size,), block by block.'
+ 'P x for x (d,): (size,), block by block.'
+ x *= 1.000001

== minipeft.peft.projections:Dense.transpose 5.2

transpose-last-block
Every block of rows adds to Pᵀ y; here only the last is left.
- result += matmul(y[None, s:s + ROWS], self._block(s, y))[0]
+ result = matmul(y[None, s:s + ROWS], self._block(s, y))[0]

transpose-first-rows
Each block meets its own rows of y, not always the first.
- y[None, s : s + ROWS]
+ y[None, : min(ROWS, self.size - s)]

transpose-mean
Pᵀ y sums over the rows; this is divided by their number.
- return result
+ return result / self.size

== minipeft.peft.projections:Dense.apply 5.2

dense-whole
P is formed as a whole: for a real model it is larger than the model.
+ P = np.concatenate([self._block(s, x) for s in range(0, self.size, ROWS)])
+ return P @ x

== minipeft.peft.projections:Dense.transpose 5.2

dense-stored
P is kept in the object; it shall be drawn again from its seed.
+ if not hasattr(self, "kept_P"):
+     self.kept_P = np.concatenate([self._block(s, y) for s in range(0, self.size, ROWS)])
+ return y @ self.kept_P

== minipeft.peft.projections:Sparse._kept 5.3

sparse-q
The share that stays is q = 1/√D, not 1/D.
- q = self.total**-0.5
+ q = 1.0 / self.total

sparse-q-d
q depends on D, the number of all parameters, not on d.
- q = self.total**-0.5
+ q = self.d**-0.5

sparse-not-rescaled
What stays is ±√(1/(D q)); without the 1/q the columns become short.
- (self.total * q) ** -0.5
+ self.total**-0.5

sparse-values-kept
The entries that stay are signs of one size, not Gaussian.
- np.sign(values)
+ values

sparse-complement
The entries with a number below q stay; these are the others.
- np.random.default_rng((*self.seed, start, 1)).random(values.shape) < q
+ np.random.default_rng((*self.seed, start, 1)).random(values.shape) >= q

sparse-unsigned
The signs are lost.
- np.sign(values)
+ np.abs(np.sign(values))

sparse-seed
The choice has a seed of its own, (*seed, start, 1).
- (*self.seed, start, 1)
+ (*self.seed, start)

== minipeft.peft.projections:walsh_hadamard 5.4

hadamard-orthonormal (also 5.5: P is made of H)
H is not normalized: its entries are ±1.
- return x
+ return x * x.dtype.type(L ** (-0.5))

hadamard-difference-sign
The differences have the wrong sign: a - b, not b - a.
- (a - b)[:, None]
+ (b - a)[:, None]

hadamard-sums-alone
The second half is the differences, not the sums again.
- (a - b)[:, None]
+ (a + b)[:, None]

hadamard-one-pass-short
There are log₂ L passes; the last one is missing.
- step < L
+ 2 * step < L

hadamard-interleaved
Sums and differences are interleaved: the rows of H come in another order.
- array_module(x).concatenate([(a + b)[:, None], (a - b)[:, None]], axis=1)
+ array_module(x).stack([a + b, a - b], axis=-1)

hadamard-matrix
H is formed as a matrix: L² steps in place of L log L.
+ H = np.ones((1, 1), dtype=x.dtype)
+ while len(H) < min(len(x), 1 << 13):
+     H = np.block([[H, H], [H, -H]])
+ if len(x) > len(H):
+     raise MemoryError("the matrix does not fit")
+ return H @ x

hadamard-in-place
The input x is written.
+ L, step = len(x), 1
+ while step < L:
+     v = x.reshape(L // (2 * step), 2, step)
+     a, b = v[:, 0].copy(), v[:, 1].copy()
+     v[:, 0], v[:, 1] = a + b, a - b
+     step *= 2
+ return x.copy()

== minipeft.peft.projections:Fastfood.apply 5.5

fastfood-no-second-H
One of the two transforms is missing.
- walsh_hadamard(G * walsh_hadamard(B * padded)[order])
+ (G * walsh_hadamard(B * padded)[order])

fastfood-no-B
The signs B are missing.
- walsh_hadamard(B * padded)
+ walsh_hadamard(padded)

fastfood-no-permutation
The permutation Π is missing.
- walsh_hadamard(B * padded)[order]
+ walsh_hadamard(B * padded)

fastfood-inverse-permutation
This is the inverse permutation: (Π v)[i] = v[order[i]].
- walsh_hadamard(B * padded)[order]
+ walsh_hadamard(B * padded)[np.argsort(order)]

fastfood-G-first
G stands between the permutation and the second transform.
- G * walsh_hadamard(B * padded)[order]
+ (G * walsh_hadamard(B * padded))[order]

fastfood-unscaled
The factor S is missing: the columns are far too long.
- walsh_hadamard(G * walsh_hadamard(B * padded)[order])[:self.size] * scale
+ walsh_hadamard(G * walsh_hadamard(B * padded)[order])[:self.size]

fastfood-cut-end
The first `size` of the L numbers are taken, not the last.
- walsh_hadamard(G * walsh_hadamard(B * padded)[order])[:self.size]
+ walsh_hadamard(G * walsh_hadamard(B * padded)[order])[self.L - self.size:]

== minipeft.peft.projections:Fastfood.transpose 5.5

fastfood-T-same-order
The transpose of taking from places is adding to places: unordered[order] = v, not v[order].
- unordered[order] = G * walsh_hadamard(padded)
+ unordered[:] = (G * walsh_hadamard(padded))[order]

fastfood-T-over-L
A factor 1/L too many: H is its own transpose, and it is its inverse that has 1/L.
- (B * walsh_hadamard(unordered))[:self.d] * scale
+ (B * walsh_hadamard(unordered))[:self.d] * scale / self.L

fastfood-T-inverse
This divides by G, as an inverse would; the transpose multiplies.
- G * walsh_hadamard(padded)
+ walsh_hadamard(padded) / G

fastfood-T-no-G
G is missing in the transpose.
- G * walsh_hadamard(padded)
+ walsh_hadamard(padded)

fastfood-T-no-B
The signs B are missing in the transpose.
- (B * walsh_hadamard(unordered))
+ walsh_hadamard(unordered)

fastfood-T-apply-again
The factors stand in the order of P; in Pᵀ it is reversed.
- unordered[order] = G * walsh_hadamard(padded)
- return (B * walsh_hadamard(unordered))[:self.d] * scale
+ return walsh_hadamard(G * walsh_hadamard(B * padded)[order])[:self.d] * scale

== minipeft.peft.intrinsic:Subspace.forward 5.6

subspace-theta0-dropped
θ₀ is missing.
- return theta0 + step.reshape(theta0.shape)
+ return 0.0 * theta0 + step.reshape(theta0.shape)

subspace-scale-dropped
λ is not used in the forward.
- step = step * scale
+ step = step * 1.0

subspace-saves-scaled
dλ is dθ · P θ_d, without λ; what was saved has it.
- ctx.save(projection, scale if ctx.needs_grad[1] else None, step if ctx.needs_grad[2] else None)
- if scale is not None:
-     step = step * scale
+ if scale is not None:
+     step = step * scale
+ ctx.save(projection, scale if ctx.needs_grad[1] else None, step if ctx.needs_grad[2] else None)

subspace-fortran
P θ_d fills the tensor row by row.
- step.reshape(theta0.shape)
+ step.reshape(theta0.shape, order="F")

subspace-theta0-written
θ₀ is written; it is frozen.
- return theta0 + step.reshape(theta0.shape)
+ theta0 += step.reshape(theta0.shape)
+ return theta0.copy()

== minipeft.peft.intrinsic:Subspace.backward 5.6

subspace-grad-unscaled
dθ_d lacks λ.
- flat if scale is None else flat * scale
+ flat

subspace-apply-for-transpose
dθ_d is Pᵀ dθ; this one is divided by the number of entries.
- projection.transpose(flat if scale is None else flat * scale)
+ projection.transpose(flat if scale is None else flat * scale) / flat.size

subspace-dscale-mean
dλ is the sum over the entries, not the mean.
- (flat * step).sum()
+ (flat * step).mean()

subspace-dscale-not-summed
λ is one number, and so is dλ: it is summed over the tensor.
- (flat * step).sum()
+ (flat * step)

subspace-dtheta0-always
θ₀ wants no gradient: return None.
- dz if ctx.needs_grad[0] else None
+ dz

subspace-ravel-K
dz is read in the order of its memory, not row by row.
- flat = dz.reshape(-1)
+ flat = dz.ravel(order="K")

== minipeft.peft.intrinsic:Projected.forward 5.7

projected-base-written
The base module itself is written.
- moved = copy.copy(self.base)
+ moved = self.base

projected-one-tensor
Only one of the module's tensors is moved.
- setattr(moved, name, Subspace.apply(theta0, self.theta_d, self.scales.get(name), projection))
+ setattr(
+     moved,
+     'weight' if 'weight' in self._projections.by_name else name,
+     Subspace.apply(theta0, self.theta_d, self.scales.get(name), projection),
+ )

projected-no-scales
The scales of SAID are not passed on.
- self.scales.get(name)
+ None

projected-cut-off
No gradient reaches θ_d: it was cut off the graph.
- self.theta_d
+ self.theta_d.detach()

== minipeft.peft.intrinsic:_crossing 5.8

crossing-no-maximum
A larger space holds the smaller one's solutions: take the running maximum.
- best = np.maximum.accumulate(means)
+ best = means

crossing-linear
The axis is logarithmic: interpolate log d.
- float(np.exp(np.log(ds[i - 1]) + share * (np.log(ds[i]) - np.log(ds[i - 1]))))
+ float(ds[i - 1] + share * (ds[i] - ds[i - 1]))

crossing-next
This is the next dimension of the list; read off between the two.
- share = (target - best[i - 1]) / (best[i] - best[i - 1])
+ share = 1.0

crossing-share-reversed
The share counts from the lower dimension, not from the upper.
- share = (target - best[i - 1]) / (best[i] - best[i - 1])
+ share = (best[i] - target) / (best[i] - best[i - 1])

crossing-none-is-last
Where no dimension reaches the target there is no answer: None.
- return None
+ return float(ds[-1])

crossing-last
The first crossing counts, not the last dimension that is above.
- i = int(above[0])
+ i = int(above[-1])

crossing-strict
Reaching the target exactly is reaching it.
- best >= target
+ best > target

crossing-first-extrapolated
Where the first dimension reaches it already, that is the answer.
- if i == 0:
-         return float(ds[0])
+ if i == 0:
+         return float(ds[0]) / 2

== minipeft.peft.intrinsic:IntrinsicConfig.apply 5.9

apply-theta-random
θ_d starts at random: the model does not start at θ₀.
- trainable(np.zeros(d), like)
+ trainable(rng.standard_normal(d), like)

apply-theta-of-d
With SAID the scales count: θ_d has d - m directions.
- d = self.d - m if self.said else self.d
+ d = self.d

apply-theta-always-fewer
The m scales are counted although DID has none.
- d = self.d - m if self.said else self.d
+ d = self.d - m

apply-scales-zero
λ starts at 0: then neither θ_d nor λ has a gradient.
- np.ones
+ np.zeros

apply-scales-always
DID has no scales; here every tensor gets one.
- trainable(np.ones(()), like) if self.said else None
+ trainable(np.ones(()), like) if True else None

apply-scales-one-axis
λ is a number, of shape (), not an array of one entry.
- np.ones(())
+ np.ones((1,))

apply-one-scale-for-all
All tensors share one λ; SAID has one for each.
- parts = {
-     id(p): (kind(p.size, d, total, (self.seed, i)), trainable(np.ones(()), like) if self.said else None)
-     for i, p in enumerate(named.values())
- }
+ one = trainable(np.ones(()), like)
+ parts = {
+     id(p): (kind(p.size, d, total, (self.seed, i)), one if self.said else None)
+     for i, p in enumerate(named.values())
+ }

apply-one-seed-for-all
Every tensor has the seed of the first: equal tensors would move alike.
- (self.seed, i)
+ (self.seed, 0)

apply-seed-ignored
The seed of the configuration is ignored.
- (self.seed, i)
+ (0, i)

apply-total-of-one-tensor
D is the number of all parameters, not of this tensor's.
- kind(p.size, d, total, (self.seed, i))
+ kind(p.size, d, p.size, (self.seed, i))

apply-d-unchecked
A d beyond the number of parameters is not refused.
- d < 1 or d > total
+ d < 1

apply-kind-unchecked
An unknown projection is not refused.
- if self.projection not in KINDS:
-     raise PeftError(f'intrinsic: projection is one of {sorted(KINDS)}, got {self.projection!r}')
+ self.projection = self.projection if self.projection in KINDS else 'dense'
+ if False:
+     raise PeftError(f'intrinsic: projection is one of {sorted(KINDS)}, got {self.projection!r}')

apply-head-projected-too
What is trained in full already was projected as well, or counted in D.
- name not in copies
+ True

apply-tied-counted-twice
A tensor that stands in two places was counted or projected twice.
- {name: p for name, p in model.named_parameters() if name not in copies}
+ {
+     f"{path}.{n}": v
+     for path, module in model.named_modules()
+     for n, v in vars(module).items()
+     if isinstance(v, Tensor) and f"{path}.{n}" not in copies
+ }

apply-first-place-only
A tensor that stands in two places is projected in the first alone.
- isinstance(v, Tensor) and id(v) in parts
+ isinstance(v, Tensor) and id(v) in parts and (f'{path}.{n}' in named)

apply-weights-only
Biases and gains are parameters, too: they lie in the subspace with the rest.
- name not in copies
+ name not in copies and name.endswith('weight')

apply-dense-always
The projection that was asked for is ignored.
- kind = KINDS[self.projection]
+ kind = KINDS["dense"]
""")

MUTANTS += mistakes("""
== minipeft.peft.projections:Fastfood.apply 5.5

fastfood-float32
float64 is computed in float32 in between.
- walsh_hadamard(G * walsh_hadamard(B * padded)[order])
+ walsh_hadamard((G * walsh_hadamard(B * padded)[order]).astype("float32").astype(x.dtype))

== minipeft.peft.intrinsic:IntrinsicConfig.apply 5.9

intrinsic-parameters-of-the-model
Parameters of the model itself are not refused.
- not path
+ False

intrinsic-value-error
The error is a ValueError, not a PeftError.
- PeftError(f"intrinsic: d must leave between 1 and {total} directions, got {d}{counted}")
+ ValueError("d")
""")
