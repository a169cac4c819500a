"""Mistakes in hw7_vision."""

from autograder.homeworks.mutant import mistakes

MUTANTS = mistakes("""
== minipeft.peft.lnlora:LNLoRALinear.forward 7.1

ln-on-the-base-path
The frozen layer sees x itself; only the low-rank path is normalized.
- z = matmul(X, weight.T)
+ z = matmul(N, weight.T)

ln-missing (also 7.2: H is what dB is made of)
The low-rank path lacks its LayerNorm.
- H = matmul(N, lora_A.T)
+ H = matmul(X, lora_A.T)

ln-scale-missing
The low-rank term lacks the factor s.
- matmul(H, lora_B.T) * scale
+ matmul(H, lora_B.T)

ln-bias-scaled
The bias belongs to the frozen layer: it is not scaled by s.
- z += bias
+ z += bias * scale

ln-bias-dropped
The bias of the frozen layer is missing.
- z += bias
+ z += 0.0

ln-no-bias-fails
The bias may be None.
- if bias is not None:
-             z += bias
+ z += bias

ln-eps (also 7.2: the statistics are what the gradient is made of)
ε stands inside the root, as 1e-5; with small inputs its place and size are seen.
- LayerNorm.forward(inner, X, gamma, beta, EPS)
+ LayerNorm.forward(inner, X, gamma, beta, 1e-12)

ln-gamma-ignored (also 7.2: N and γ are what the gradients are made of)
γ and β of the LayerNorm are not used.
- LayerNorm.forward(inner, X, gamma, beta, EPS)
+ LayerNorm.forward(inner, X, gamma * 0 + 1, beta * 0, EPS)

ln-x-centred-in-place (also 7.2: a driver that is read-only there raises)
The input x is written.
- X = rows(x)
+ X = rows(x)
+ X[...] = X - 0.25

ln-float64 (also 7.2: unused: the forward alone)
A float64 number promotes float32 arrays; take Python's floats.
- z += matmul(H, lora_B.T) * scale
+ z += (matmul(H, lora_B.T) * np.float64(scale)).astype(z.dtype)
+ z = z + np.zeros(1)

== minipeft.peft.lnlora:LNLoRALinear.backward 7.2

ln-dx-low-rank-only
dx lacks the path through W₀: frozen does not mean that nothing passes.
- dX += matmul(dZ, weight)
+ dX = dX * 1.0

ln-dx-base-only
dx lacks the path through the LayerNorm and A.
- dX += matmul(dZ, weight)
+ dX = matmul(dZ, weight)

ln-dx-unnormalized
The gradient of the low-rank path goes to x without the LayerNorm's backward.
- dX += matmul(dZ, weight)
+ dX = matmul(dZ, weight) + matmul(dH, lora_A)

ln-dA-of-x
dA is made of N = LN(x), what A was multiplied with; this one has lost γ and β.
- dA = matmul(dH.T, N)
+ dA = matmul(dH.T, N - N.mean(axis=1, keepdims=True))

ln-dA-no-scale
dH, and so dA, dγ, dβ and the LayerNorm's part of dx, lack the factor s.
- dH = matmul(dZ, lora_B) * scale
+ dH = matmul(dZ, lora_B)

ln-dB-no-scale
dB lacks the factor s.
- matmul(dZ.T, H) * scale
+ matmul(dZ.T, H)

ln-dB-twice
dB has the factor s twice.
- matmul(dZ.T, H)
+ matmul(dZ.T, H) * scale

ln-dgamma-mean
dγ and dβ are sums over the rows, not means.
- dX, dgamma, dbeta, _ = LayerNorm.backward(inner, matmul(dH, lora_A))
+ dX, dgamma, dbeta, _ = LayerNorm.backward(inner, matmul(dH, lora_A))
+ dgamma, dbeta = (None if g is None else g / len(dZ) for g in (dgamma, dbeta))

ln-frozen-W
W₀ is frozen: where it wants no gradient, none is computed and None returned.
- dW = matmul(dZ.T, rows(x)) if needs_W else None
+ dW = matmul(dZ.T, N if N is not None else H.repeat(1, 1))

ln-dz-written
The cotangent dz is written.
- dZ = rows(dz)
+ dZ = rows(dz)
+ dZ *= 1.5
+ dZ /= 1.5000001

== minipeft.peft.lnlora:LNLoraLayer.__init__ 7.3

layer-B-random
B is random: the model does not start as the pretrained one.
- trainable(np.zeros((d, r)), base.weight)
+ trainable(rng.standard_normal((d, r)), base.weight)

layer-A-zero
A is zero as well as B: neither would ever receive a gradient.
- rng.uniform(-(k**-0.5), k**-0.5, (r, k))
+ np.zeros((r, k))

layer-A-bound
A is uniform in ±1/√k, k its number of columns; this is another bound.
- rng.uniform(-(k**-0.5), k**-0.5, (r, k))
+ rng.uniform(-(r**-0.5), r**-0.5, (r, k))

layer-A-gaussian
A is uniform in ±1/√k, not Gaussian.
- rng.uniform(-(k**-0.5), k**-0.5, (r, k))
+ rng.standard_normal((r, k)) * (3 * k) ** -0.5

layer-A-unseeded
A is not drawn from the generator that was passed in.
- rng.uniform(-(k**-0.5), k**-0.5, (r, k))
+ np.random.default_rng().uniform(-(k**-0.5), k**-0.5, (r, k))

layer-gamma-zero
γ starts at 1.
- trainable(np.ones(k), base.weight)
+ trainable(np.zeros(k), base.weight)

layer-scale
s is α / r.
- config.lora_alpha / r
+ config.lora_alpha / r**0.5

layer-scale-inverse
s is α / r, not r / α.
- config.lora_alpha / r
+ r / config.lora_alpha

layer-shapes-swapped
A is (r, k) and B (d, r); the norm has the width of the input, k.
- trainable(np.ones(k), base.weight)
+ trainable(np.ones(d), base.weight)

layer-rank-unchecked
A rank beyond min(d, k) must be refused.
- r > min(d, k)
+ r > d * k

layer-base-trained
The base's weight is frozen and stays the array that it was.
- self.base = base
+ self.base = base
+ base.weight.requires_grad_(True)

== minipeft.peft.fact:FactorizedLinear.forward 7.4

fact-UV-swapped (also 7.5: H is what dΣ is made of)
x meets U first: U (r, d), then Σ, then V (d, r).
- H = matmul(Xb, U.T)
+ H = matmul(Xb, V)

fact-sigma-not-transposed (also 7.5: G is what dV is made of)
Rows are multiplied by Σᵀ: y = V Σ U x. Σ is not symmetric.
- sigma.swapaxes(-1, -2)
+ sigma

fact-scale-missing
The change lacks the factor s.
- _joined(matmul(G, V.T)) * scale
+ _joined(matmul(G, V.T))

fact-first-block-only (also 7.5: G is what dV is made of)
All blocks take Σ of the first.
- G = matmul(H, sigma.swapaxes(-1, -2))
+ G = matmul(H, (sigma * 0 + sigma[:1]).swapaxes(-1, -2))

fact-mean-of-blocks (also 7.5: G is what dV is made of)
The blocks of the input are summed, not averaged.
- G = G.sum(axis=0, keepdims=True)
+ G = G.mean(axis=0, keepdims=True)

fact-blocks-interleaved
Block b is the columns b d … (b + 1) d - 1, not every m-th column.
- z += _joined(matmul(G, V.T)) * scale
+ z += matmul(G, V.T).transpose(1, 2, 0).reshape(z.shape[0], -1) * scale

fact-bias-scaled
The bias belongs to the frozen layer: it is not scaled.
- z += bias
+ z += bias * scale

fact-bias-needed
The bias may be None.
- if bias is not None:
-             z += bias
+ z += bias

fact-base-missing
The frozen layer's own product is missing.
- z = matmul(X, weight.T)
+ z = matmul(X, weight.T) * 0.0

fact-x-written (also 7.5: its cases run the forward, too)
The input x is written.
- X = rows(x)
+ X = rows(x)
+ X *= 2.0
+ X *= 0.25

== minipeft.peft.fact:FactorizedLinear.backward 7.5

fact-dV-not-summed
V is shared by the blocks: dV is the sum over them.
- matmul(dY.swapaxes(-1, -2), G).sum(axis=0)
+ matmul(dY.swapaxes(-1, -2), G)[0]

fact-dV-transposed
dV is (d, r), dYᵀ G.
- matmul(dY.swapaxes(-1, -2), G)
+ matmul(G.swapaxes(-1, -2), dY)

fact-dS-transposed
dΣ is dGᵀ H; this is its transpose.
- dS = matmul(dG.swapaxes(-1, -2), H)
+ dS = matmul(H.swapaxes(-1, -2), dG)

fact-dS-summed
Every block has a Σ of its own: dΣ is not summed over the blocks.
- dS = matmul(dG.swapaxes(-1, -2), H)
+ dS = matmul(dG.swapaxes(-1, -2), H)
+ dS = dS * 0 + dS.sum(axis=0)

fact-dU-first-block
U is shared by the blocks: dU is the sum over them.
- matmul(dH.swapaxes(-1, -2), _blocks(rows(x), d)).sum(axis=0)
+ matmul(dH.swapaxes(-1, -2), _blocks(rows(x), d))[0]

fact-dU-no-sigma
dH is dG Σ; with Σᵀ the wrong rows of U are moved.
- dH = matmul(dG, sigma)
+ dH = matmul(dG, sigma.swapaxes(-1, -2))

fact-dH-not-summed
All blocks of the output read the same x: their dH are summed.
- dH = dH.sum(axis=0, keepdims=True)
+ dH = dH[:1]

fact-no-scale
The gradients of the change lack the factor s.
- dY = _blocks(dZ, d) * scale
+ dY = _blocks(dZ, d)

fact-dx-base-only
dx lacks the path through the change.
- dX += _joined(matmul(dH, U))
+ dX += 0.0

fact-dx-change-only
dx lacks the path through W₀: frozen does not mean that nothing passes.
- dX = matmul(dZ, weight)
+ dX = matmul(dZ, weight) * 0.0

fact-dW-always
W₀ wants no gradient: return None and compute none.
- dW = matmul(dZ.T, rows(x)) if needs_W else None
+ dW = matmul(dZ.T, rows(x)) if needs_W else None
+ dW = matmul(dZ.T, dZ[:, :1]) if dW is None else dW

fact-db-mean
db is the sum over the rows, not the mean.
- column_sum(dZ)
+ column_sum(dZ) / len(dZ)

== minipeft.peft.fact:Core.forward 7.6

core-columns-from-0 (also 7.8: every matrix of the model would have the first blocks)
The columns of P from `first` on belong to this matrix.
- self.P[:, self.first : self.first + self.m]
+ self.P[:, : self.m]

core-C-last-axis
P sums over the first axis of C, not over another.
- ops.reshape(self.C, r, r * r)
+ ops.reshape(ops.transpose(self.C, 2, 0, 1), r, r * r)

core-transposed
Σ_b is Σ_p P[p, b] C[p]; this is its transpose.
- return ops.reshape(ops.matmul(columns, ops.reshape(self.C, r, r * r)), self.m, r, r)
+ return ops.swapaxes(ops.reshape(ops.matmul(columns, ops.reshape(self.C, r, r * r)), self.m, r, r), 1, 2)

core-cut-off
No gradient reaches C: it was cut off the graph.
- ops.reshape(self.C, r, r * r)
+ ops.reshape(self.C.detach(), r, r * r)

== minipeft.peft.fact:FacTLayer.delta 7.7

delta-no-scale
ΔW lacks the factor s.
- matmul(matmul(self.fact_V.data, sigma), self.fact_U.data) * self.scale
+ matmul(matmul(self.fact_V.data, sigma), self.fact_U.data)

delta-axis
The blocks are joined along the wrong axis.
- axis = 0 if self.base.out_features > self.base.in_features else 1
+ axis = 1 if self.base.out_features > self.base.in_features else 0

delta-transposed
Each block is V Σ U, (d, d); this is its transpose.
- blocks[b]
+ blocks[b].T

delta-reversed
The blocks stand in reversed order.
- range(blocks.shape[0])
+ reversed(range(blocks.shape[0]))

delta-added
ΔW is the change alone, without W₀, which stays untouched.
- return array_module(blocks).concatenate([blocks[b] for b in range(blocks.shape[0])], axis=axis)
+ return self.base.weight.data + np.concatenate([blocks[b] for b in range(blocks.shape[0])], axis=axis)

== minipeft.peft.fact:FacTConfig.apply 7.8

apply-U-own
U and V are shared by all matrices; here each has its own U.
- FacTLayer(find(model, path), U, V, Core(own, C, P, first, m), self.scale)
+ FacTLayer(find(model, path), trainable(U.data, like), V, Core(own, C, P, first, m), self.scale)

apply-V-random
V starts at zero, so that the model starts as the pretrained one.
- trainable(np.zeros((d, r)), like)
+ trainable(rng.uniform(-bound, bound, (d, r)), like)

apply-first-stays
Every matrix takes the next blocks of the tensor; here all take the first.
- first += m
+ first += 0

apply-scale-one
The scale of the configuration is not used.
- self.scale
+ 1.0

apply-tk-as-tt
FacT-TK ("tk") has one C and one P for all matrices, not a Σ for each.
- self.factorization == 'tk'
+ self.factorization == 'tucker'

apply-C-own
C is shared by all matrices; here each has its own.
- Core(own, C, P, first, m)
+ Core(own, None if C is None else trainable(C.data, like), P, first, m)

apply-anything-goes
A factorization other than tt and tk must be refused.
- self.factorization not in ('tt', 'tk')
+ not self.factorization

apply-rank-unchecked
A rank beyond d must be refused.
- r > d
+ r > 10 ** 9
""")

MUTANTS += mistakes("""
== minipeft.peft.lnlora:LNLoRALinear.forward 7.1

ln-float32
float64 is computed in float32 in between.
- H = matmul(N, lora_A.T)
+ H = matmul(N, lora_A.T).astype("float32").astype(x.dtype)

== minipeft.peft.fact:FacTConfig.apply 7.8

fact-U-zero
U starts at zero as V does, so no gradient ever reaches either.
- trainable(rng.uniform(-bound, bound, (r, d)), like)
+ trainable(np.zeros((r, d)), like)

fact-sizes
A matrix that does not divide into blocks is not refused.
- d not in (D, k) or D % d or k % d
+ False

fact-value-error
The error is a ValueError, not a PeftError.
- PeftError(f"FacT: rank r={r} exceeds d={d}; choose a smaller r")
+ ValueError("r")
""")
